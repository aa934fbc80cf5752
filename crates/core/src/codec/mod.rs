//! How the bytes of a chunk encode its elements: codec chains, shards, and what an element is.

pub(crate) mod chain;
pub(crate) mod element;
pub(crate) mod foreign;
pub(crate) mod layout;
pub(crate) mod shard_index;
pub(crate) mod stage;
