//! What batches share: fetches, shard indexes, decoded chunks, and locks of objects.

pub(crate) mod chunk_cache;
pub(crate) mod fetches;
pub(crate) mod index_cache;
pub(crate) mod index_loads;
pub(crate) mod locks;
pub(crate) mod shared_future;
