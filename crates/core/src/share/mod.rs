//! What concurrent batches share: fetches, shard indexes, and locks of objects.

pub(crate) mod fetches;
pub(crate) mod index_cache;
pub(crate) mod index_loads;
pub(crate) mod locks;
pub(crate) mod shared_future;
