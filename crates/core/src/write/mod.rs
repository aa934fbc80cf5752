//! A write: lock, admit, read what is stored, merge, encode, put. The mirror of a read.
//!
//! ```text
//! files ─► Turns::drive ─► Writer::files ─► update, put                          local, in one job
//!          Turns::drive ─► Writer::object ─► get, update, put under a condition  awaited
//! ```
//!
//! Every chunk is written under its object's lock, whole ones too: a partial write that reads before
//! and puts after a whole one would undo it. Between processes, a partial write to a store that has
//! conditional puts depends on the object it has read; when that is another by then, it reads and
//! merges again.

mod awaited;
mod local;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;

use crate::batch::{Batch, BatchError, Item, Results};
use crate::chunk::encode::{Values, update};
use crate::codec::layout::Layout;
use crate::engine::Engine;
use crate::engine::jobs::{Jobs, files};
use crate::engine::requests::Requests;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::limits::turn::{Turn, Turns};
use crate::share::locks::KeyGuard;
use crate::store::{Awaited, ObjectId, Store};

/// How often a write that waits for a lock looks whether the loop of the write that holds it runs.
const LOOK_AT_HOLDER: Duration = Duration::from_secs(1);

/// Writes a batch.
///
/// # Errors
/// What failed first, with the keys of other chunks that failed.
///
/// # Cancel safety
/// Dropping the future closes its requests; a foreign store's own `put` or `delete` that has begun goes on
/// to its end, with the object locked. Each chunk is the old one or the new one afterwards; jobs that run
/// already may still read the buffer, until [`crate::OutBuffer::closed`] returns.
pub async fn write(engine: Arc<Engine>, batch: Batch) -> Result<(), BatchError> {
    engine.stats.batches.add(1);
    let writer = Arc::new(Writer {
        results: Results::new(batch.items.len()),
        turns: Turns::new(),
        jobs: Jobs::new(&engine, &batch),
        batch,
    });
    let (batch, writer) = (&writer.batch, &writer);
    let stop = || writer.results.failed();
    match &batch.array.store {
        Store::Local(store) => {
            writer.resolve(store).await;
            let units = files(batch, engine.pool().threads())
                .map(|items| move |turn| writer.files(store, items, turn).boxed());
            writer.turns.drive(units, stop).await;
        }
        Store::Awaited(store) => {
            let requests = &Requests::new(writer.jobs.clone(), store);
            let units = (0..batch.items.len())
                .map(|index| move |turn| writer.object(requests, index, turn).boxed());
            writer.turns.drive(units, stop).await;
        }
    }
    let outcome = writer
        .results
        .outcome(|index| Arc::clone(&batch.items[index].key));
    if outcome.is_err() {
        batch.buffer.closed().await;
    }
    outcome.map(drop)
}

/// One write under way.
struct Writer {
    batch: Batch,
    results: Arc<Results>,
    turns: Turns,
    jobs: Jobs,
}

/// An object that is being written: locked, and forgotten by caches and shared fetches when that ends,
/// however it ends.
struct Writing {
    engine: Arc<Engine>,
    id: ObjectId,
    _lock: KeyGuard,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.engine.forget(&self.id);
        self.engine.writes_ended.fetch_add(1, Ordering::AcqRel);
    }
}

impl Writer {
    fn update(
        &self,
        item: &Item,
        existing: Option<&[u8]>,
        into: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let values = Values {
            buffer: &self.batch.buffer,
            write_empty: self.batch.write_empty_chunks,
            work: self.jobs.work(&self.batch.array),
        };
        let (layout, spec) = (&self.batch.array.layout, &item.spec.chunk);
        update(layout, spec, existing, &item.selection, values, into)
    }

    /// Whether nothing of what is stored survives.
    ///
    /// zarr counts a chunk at the array's edge as complete when all that lies in the array is written. A
    /// shard keeps the subchunks beyond the edge all the same, as they may be within it again.
    fn is_whole(&self, item: &Item) -> bool {
        let complete = item.complete && matches!(self.batch.array.layout, Layout::Chunk(_));
        complete || item.selection.covers(&item.spec.chunk.shape)
    }

    /// Bytes in memory while an object is written: decoded and encoded, the stored object where it is
    /// merged, and what one codec hands to the next.
    fn memory(&self, item: &Item, stored: u64) -> u64 {
        let nbytes = item.spec.nbytes as u64;
        let before = if self.is_whole(item) {
            0
        } else {
            nbytes.max(stored)
        };
        let between = if self.batch.array.layout.has_intermediates() {
            nbytes
        } else {
            0
        };
        2 * nbytes + before + between
    }

    fn try_lock(&self, index: usize) -> Option<Writing> {
        let (array, key) = (&self.batch.array, &self.batch.items[index].key);
        let lock = self.jobs.engine.locks.try_lock(array.written_object(key))?;
        Some(self.locked(array.object(key), lock))
    }

    /// Locks an object for a unit that has the batch's turn.
    ///
    /// Where the lock is held, the turn goes to other units of the batch meanwhile. A unit that waits for a
    /// lock holds neither permits nor another lock, so no two can wait for each other.
    async fn lock_in_turn(&self, index: usize, turn: Turn) -> Result<(Writing, Turn), Error> {
        if let Some(writing) = self.try_lock(index) {
            return Ok((writing, turn));
        }
        drop(turn);
        let writing = self.lock(index).await?;
        Ok((writing, self.turns.take().await))
    }

    /// Waits for an object's lock.
    ///
    /// # Errors
    /// [`Error::Store`] when the lock is held by a write whose event loop is stopped: nobody knows whether
    /// that loop will ever run again, and its write may have been half done.
    async fn lock(&self, index: usize) -> Result<Writing, Error> {
        let (engine, item) = (&self.jobs.engine, &self.batch.items[index]);
        let id = self.batch.array.written_object(&item.key);
        let lock = engine.locks.lock(id.clone());
        tokio::pin!(lock);
        let mut stopped = false;
        loop {
            tokio::select! {
                biased;
                lock = &mut lock => {
                    return Ok(self.locked(self.batch.array.object(&item.key), lock));
                }
                () = tokio::time::sleep(LOOK_AT_HOLDER) => {}
            }
            let runs = match engine.locks.holder(&id) {
                Some(holder) => holder.is_running().await,
                None => true,
            };
            if !runs && stopped {
                return Err(StoreError {
                    kind: StoreErrorKind::Timeout,
                    attempts: 1,
                    reason:
                        "another write of this object waits for an event loop that was stopped; \
                             run that loop to its end, or close it"
                            .into(),
                    ..self.conflict(item)
                }
                .into());
            }
            stopped = !runs;
        }
    }

    fn locked(&self, id: ObjectId, lock: KeyGuard) -> Writing {
        if let Store::Awaited(Awaited::Foreign(store)) = &self.batch.array.store {
            lock.held_for(store);
        }
        Writing {
            engine: Arc::clone(&self.jobs.engine),
            id,
            _lock: lock,
        }
    }

    fn conflict(&self, item: &Item) -> StoreError {
        StoreError {
            kind: StoreErrorKind::Changed,
            operation: "put",
            key: Arc::clone(&item.key),
            store: self.batch.array.store_name().into(),
            status: None,
            attempts: 1,
            reason: "other writers replaced the object each time before this one could".into(),
            source: None,
        }
    }
}
