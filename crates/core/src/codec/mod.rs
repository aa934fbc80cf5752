//! How the bytes of a chunk encode its elements: codec chains, shards, and what an element is.

pub(crate) mod blosc;
pub(crate) mod chain;
mod checksum;
pub(crate) mod element;
mod filter;
pub(crate) mod foreign;
pub(crate) mod layout;
mod lz4;
mod numcodecs;
pub(crate) mod shard_index;
pub(crate) mod stage;
mod write_order;
mod zstd;
