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
//!      grid               selections of an array as a batch
//!      batch              what is asked, and how each chunk went
//! store    chunk          bytes by key; one object and the caller's buffer
//! limits   copy   codec   permits and threads; selections and copies; bytes and elements
//! memory   error  stats
//! ```
//!
//! # Example
//!
//! Writes a chunk of four bytes to a directory, and reads two of them back.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use zarrs_async_core::{
//!     Array, Axis, Batch, ChunkSpec, Element, Engine, Item, Kind, Layout, Limits, LocalStore, OutBuffer,
//!     Positions, Selection, Settings, Spec, Store, read, write,
//! };
//!
//! /// A batch of the elements of chunk `c/0` from `start` on, which lie side by side in `memory`.
//! fn batch(array: &Arc<Array>, spec: &Arc<Spec>, start: i64, memory: &mut [u8]) -> Batch {
//!     let len = memory.len();
//!     let axis = Axis {
//!         chunk: Positions::Range { start, step: 1, len },
//!         out: Positions::Range { start: 0, step: 1, len },
//!     };
//!     // SAFETY: both callers keep the memory, and leave it alone, until the batch has ended.
//!     let buffer = unsafe { OutBuffer::new(memory.as_mut_ptr(), 0..len as i64, Box::new(())) };
//!     Batch {
//!         array: Arc::clone(array),
//!         items: vec![Item {
//!             key: "c/0".into(),
//!             spec: Arc::clone(spec),
//!             selections: [Selection::Grid { axes: vec![axis], base: 0 }].into(),
//!             complete: len == 4,
//!         }],
//!         buffer: Arc::new(buffer),
//!         coalesce_gap: None,
//!         coalesce_max: 16 << 20,
//!         write_empty_chunks: false,
//!         since: Instant::now(),
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(Limits {
//!     threads: 2,
//!     requests: None,
//!     memory_bytes: 1 << 30,
//!     shard_index_cache_bytes: 64 << 20,
//!     chunk_cache_bytes: 0,
//!     chunk_cache_recheck: std::time::Duration::ZERO,
//! })?;
//! let directory = tempfile::tempdir()?;
//! let store = Store::Local(Arc::new(LocalStore::new(directory.path(), false)));
//! let codecs = serde_json::json!([{"name": "bytes"}]);
//! let settings = Settings {
//!     chunk_concurrent_maximum: None,
//!     chunk_concurrent_minimum: 4,
//!     validate_checksums: true,
//!     hedge_factor: None,
//! };
//! let layout = Layout::from_v3(&codecs, false, &[])?;
//! let array = Arc::new(Array::new(store, layout, &codecs.to_string(), settings));
//! let spec = Arc::new(array.spec(ChunkSpec {
//!     shape: vec![4],
//!     element: Element { size: 1, kind: Kind::Bits, swap_unit: 1, big_endian: false },
//!     fill: vec![0],
//! })?);
//!
//! let mut values = [1, 2, 3, 4];
//! let written = write(Arc::clone(&engine), batch(&array, &spec, 0, &mut values)).await;
//! written.map_err(|failed| failed.error)?;
//!
//! let mut out = [0; 2];
//! let missing = read(Arc::clone(&engine), batch(&array, &spec, 1, &mut out)).await;
//! assert_eq!(vec![false], missing.map_err(|failed| failed.error)?);
//! assert_eq!([2, 3], out);
//! # Ok(())
//! # }
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
mod grid;
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
pub use grid::{Grid, Keys};
pub use read::explain::Plan;
pub use read::read;
pub use stats::{Counter, Stats};
pub use store::{
    Awaited, ForeignStore, LocalStore, Part, RemoteConfig, RemoteKind, RemoteStore, Store,
};
pub use write::write;
