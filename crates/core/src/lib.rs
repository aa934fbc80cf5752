//! The engine of zarrs-async: reads and writes batches of Zarr chunks, without Python.
//!
//! A batch is the chunks of one `read` or `write` call. A read is a line of steps; each arrow is a type:
//!
//! ```text
//! Batch ─► plan ─► unit ─► permits ─► fetch ─► decode ─► scatter
//! ```
//!
//! A write is its mirror. Read `read/mod.rs` first, then `read/plan.rs` and `read/unit.rs`.
//!
//! Folders, each with one subject; what stands higher uses what stands lower, never the other way:
//!
//! ```text
//! read     write          a batch, from its plan to its results
//!      engine             what all batches of a process share
//!      share              fetches, shard indexes, locks of objects
//!      batch              what is asked, and how each chunk went
//! store    chunk          bytes by key; one object and the caller's buffer
//! limits   copy   codec   permits and threads; selections and copies; bytes and elements
//! memory   error  stats
//! ```

mod batch;
mod chunk;
mod codec;
mod copy;
mod engine;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod memory;
#[cfg(test)]
mod model;
mod read;
mod share;
mod stats;
mod store;
#[cfg(test)]
mod testing;
mod write;

pub use batch::{Array, Batch, BatchError, Item, Settings, Spec};
pub use codec::element::{ChunkSpec, Element, Kind};
pub use codec::foreign::ForeignCodec;
pub use codec::layout::Layout;
pub use copy::buffer::{OutBuffer, Texts};
pub use copy::positions::Positions;
pub use copy::selection::{Axis, Selection};
pub use engine::{Engine, Limits};
pub use error::{Error, ErrorKind, StoreError, StoreErrorKind};
pub use read::explain::Plan;
pub use read::read;
pub use stats::{Counter, Stats};
pub use store::{
    Awaited, ForeignStore, LocalStore, Part, RemoteConfig, RemoteKind, RemoteStore, Store,
};
pub use write::write;
