//! The engine of zarrs-async: reads and writes batches of Zarr chunks, without Python.
//!
//! A batch is the chunks of one `read` or `write` call. Its journey:
//!
//! ```text
//! batch      what is asked: keys, chunk specs, selections, and the caller's buffer
//! read       which road each chunk goes: an object, or the parts of a shard
//! flight     concurrent batches that need the same bytes share them
//! dispatch   the next unit sets out when the one before was admitted
//! admit      process-wide permits: chunk, bytes, request, CPU, in this order
//! locate     a shard's index: cached, on its way, or fetched
//! store      bytes from files, from the wire, from somebody else's store
//! place      decoded, scattered into the caller's buffer
//! ```
//!
//! A write goes the same road backwards: `write` locks the object, `update` gathers, merges and
//! encodes, `store` puts. Read `read.rs` first.

mod admit;
mod batch;
mod coalesce;
mod codec;
mod element;
mod engine;
mod error;
mod explain;
mod fetches;
mod gate;
mod index_cache;
mod index_loads;
mod layout;
mod local_read;
mod locks;
#[cfg(test)]
mod model;
mod out;
mod pace;
mod place;
mod plan;
mod pool;
mod positions;
mod read;
mod read_shard;
mod runs;
mod scratch;
mod selection;
mod shard;
mod shared_future;
mod split;
mod stage;
mod stats;
mod store;
mod sync;
mod turn;
mod unit;
mod update;
mod write;

pub use batch::{Array, Batch, BatchError, Item, Settings, Spec};
pub use element::{ChunkSpec, Element, Kind};
pub use engine::{Engine, Limits};
pub use error::{Error, StoreError, StoreErrorKind};
pub use explain::Plan;
pub use layout::Layout;
pub use out::OutBuffer;
pub use positions::Positions;
pub use read::read;
pub use selection::{Axis, Selection};
pub use stats::{Counter, Stats};
pub use store::{
    Awaited, ForeignStore, LocalStore, Part, RemoteConfig, RemoteKind, RemoteStore, Store,
};
pub use write::write;
