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
pub async fn write(engine: Arc<Engine>, mut batch: Batch) -> Result<(), BatchError> {
    engine.stats.batches.add(1);
    batch.merge_items();
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
        update(layout, spec, existing, &item.selections, values, into)
    }

    /// Whether nothing of what is stored survives.
    ///
    /// zarr counts a chunk at the array's edge as complete when all that lies in the array is written. A
    /// shard keeps the subchunks beyond the edge all the same, as they may be within it again.
    fn is_whole(&self, item: &Item) -> bool {
        let complete = item.complete && matches!(self.batch.array.layout, Layout::Chunk(_));
        complete || item.covers()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{
        FILL, Memory, MemoryStore, advance, array, assert_idle, batch, bytes, chunks, engine, item,
        range, shards, spec, until,
    };
    use crate::{Array, LocalStore};

    /// A batch that writes these bytes to one chunk of 4, from an element on.
    fn part(array: &Arc<Array>, from: i64, values: &[u8]) -> Batch {
        let to = from + i64::try_from(values.len()).unwrap();
        let item = item(&spec(array, 4), "a", range(from, to, 0));
        batch(array, vec![item], &Memory::new(values).buffer())
    }

    #[tokio::test]
    async fn a_whole_chunk_is_put_without_a_read_and_one_of_fill_values_removed() {
        let (store, engine) = (MemoryStore::new(), engine());
        let array = array(store.foreign(), &bytes());
        let memory = Memory::new(&[1, 2, FILL, FILL]);
        let two = chunks(&array, 2, &["a", "b"], &memory.buffer());
        write(Arc::clone(&engine), two).await.unwrap();
        assert_eq!(vec!["put a", "delete b"], store.sent());
        assert_eq!(Some(vec![1, 2]), store.object("a").await);
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn items_of_one_object_are_one_put_in_their_order() {
        for codecs in [bytes(), shards(2, &bytes())] {
            let (store, engine) = (MemoryStore::new(), engine());
            let array = array(store.foreign(), &codecs);
            let spec = spec(&array, 4);
            let items = [(0, 2, 0), (1, 4, 2), (3, 4, 5)];
            let items = items.map(|(from, to, at)| item(&spec, "a", range(from, to, at)));
            let memory = Memory::new(&[1, 2, 3, 4, 5, 6]);
            let some = batch(&array, items.into(), &memory.buffer());
            write(Arc::clone(&engine), some).await.unwrap();
            let puts = store.sent().into_iter().filter(|sent| sent == "put a");
            assert_eq!(1, puts.count());
            let memory = Memory::new(&[0; 4]);
            let all = chunks(&array, 4, &["a"], &memory.buffer());
            crate::read(Arc::clone(&engine), all).await.unwrap();
            assert_eq!(vec![1, 3, 4, 6], memory.bytes());
        }
    }

    #[tokio::test]
    async fn parts_of_one_chunk_that_are_written_at_once_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        let local = Store::Local(Arc::new(LocalStore::new(root.path(), false)));
        let store = MemoryStore::new();
        for reached in [local, store.foreign(), store.remote()] {
            let (array, engine) = (array(reached, &bytes()), engine());
            store.remove("a").await;
            let writes = (0..4).map(|at| {
                let byte = u8::try_from(at).unwrap() + 1;
                tokio::spawn(write(Arc::clone(&engine), part(&array, at, &[byte])))
            });
            for written in futures::future::join_all(writes).await {
                written.unwrap().unwrap();
            }
            let memory = Memory::new(&[0; 4]);
            let all = chunks(&array, 4, &["a"], &memory.buffer());
            crate::read(Arc::clone(&engine), all).await.unwrap();
            assert_eq!(vec![1, 2, 3, 4], memory.bytes());
            assert_eq!(0, engine.stats().write_conflicts.get());
            assert_idle(&engine);
        }
    }

    #[tokio::test]
    async fn a_dropped_write_drops_its_gets_but_not_a_put_of_a_foreign_store() {
        let (store, engine) = (MemoryStore::new(), engine());
        let array = array(store.foreign(), &bytes());
        store.hold("get");
        {
            let write = write(Arc::clone(&engine), part(&array, 0, &[1]));
            tokio::pin!(write);
            advance(&mut write).await;
            assert_eq!(1, store.in_flight());
        }
        assert_eq!(0, store.in_flight());
        assert_idle(&engine);
        store.hold("put");
        {
            let write = write(Arc::clone(&engine), part(&array, 0, &[1, 2, 3, 4]));
            tokio::pin!(write);
            store.sends_of(2, &mut write).await;
        }
        // The lock is held until the put has ended, so a later write comes after it.
        assert_eq!((1, 1), (store.in_flight(), engine.locks.len()));
        let later = tokio::spawn(write(Arc::clone(&engine), part(&array, 0, &[5; 4])));
        store.release("put");
        later.await.unwrap().unwrap();
        assert_eq!(Some(vec![5; 4]), store.object("a").await);
        assert_idle(&engine);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_does_not_wait_for_an_event_loop_that_was_stopped() {
        let (store, engine) = (MemoryStore::new(), engine());
        let array = array(store.foreign(), &bytes());
        store.hold("put");
        let first = tokio::spawn(write(Arc::clone(&engine), part(&array, 0, &[1; 4])));
        store.sends(1).await;
        let began = tokio::time::Instant::now();
        let second = write(Arc::clone(&engine), part(&array, 0, &[2; 4]));
        tokio::pin!(second);
        // However long the put takes, the write waits for as long as the loop runs.
        let patient = tokio::time::timeout(Duration::from_mins(1), &mut second).await;
        assert!(patient.is_err());
        store.stop();
        let failed = second.await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(65));
        assert!(
            matches!(&failed.error, Error::Store(error) if error.kind == StoreErrorKind::Timeout),
            "{failed:?}"
        );
        store.release("put");
        first.await.unwrap().unwrap();
        until(|| engine.locks.is_empty()).await;
        assert_eq!(Some(vec![1; 4]), store.object("a").await);
    }

    #[tokio::test]
    async fn the_failure_of_one_chunk_leaves_the_others_whole() {
        let (store, engine) = (MemoryStore::new(), engine());
        for key in ["a", "b"] {
            store.set(key, &[0; 2]).await;
        }
        store.fail("put b", 1);
        let memory = Memory::new(&[1, 1, 2, 2]);
        let array = array(store.foreign(), &bytes());
        let both = chunks(&array, 2, &["a", "b"], &memory.buffer());
        let failed = write(Arc::clone(&engine), both).await.unwrap_err();
        assert!(matches!(&failed.error, Error::Store(error) if &*error.key == "b"));
        until(|| engine.locks.is_empty()).await;
        let a = store.object("a").await.unwrap();
        assert!(a == [1; 2] || a == [0; 2], "{a:?}");
        assert_eq!(Some(vec![0; 2]), store.object("b").await);
        assert_idle(&engine);
    }
}
