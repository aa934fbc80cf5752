//! A write: lock, admit, read what is stored, merge, encode, put. The mirror of a read.
//!
//! ```text
//! write ─► plan::files ─► files ─► update, put                        local: all in one job
//!       └► object ─► attempt: get ─► update ─► put, under a condition  awaited
//! ```
//!
//! Every chunk is written under its object's lock, whole ones too: a partial write that reads before
//! and puts after a whole one would undo it. Between processes, a partial write to a store that has
//! conditional puts depends on the object it has read; when that is another by then, it reads and
//! merges again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;

use crate::admit::Permits;
use crate::batch::{Batch, BatchError, Item, Results};
use crate::engine::Engine;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::layout::Layout;
use crate::locks::KeyGuard;
use crate::plan;
use crate::pool::guard;
use crate::scratch::with_encoded;
use crate::store::{
    Awaited, Condition, Directories, Fetched, Get, LocalStore, ObjectId, Part, Put, RemoteStore,
    Store, Validator,
};
use crate::turn::{Turn, Turns};
use crate::unit::{Jobs, Requests};
use crate::update::{Values, encode_empty, update};

/// How often a put may be refused because somebody else was faster.
const TRIES: u32 = 100;
/// The longest pause before a refused put is tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Requests beside its own that a large object's parts may use, as far as they are free.
const EXTRA_REQUESTS: usize = 7;
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
            let units = plan::files(batch, engine.pool().threads())
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

/// What one attempt to replace an object came to.
enum Attempt {
    Done,
    /// Somebody else has replaced the object since it was read.
    Conflict,
    /// The stored shard has this many bytes, more than memory was reserved for.
    Larger(u64),
}

impl Writer {
    /// Finds out where a local array really is, once for each, before its first lock.
    async fn resolve(&self, store: &Arc<LocalStore>) {
        if let Some(item) = self.batch.items.first().filter(|_| store.is_unresolved()) {
            let (store, key) = (Arc::clone(store), Arc::clone(&item.key));
            let job = move || {
                store.resolve(&key);
                Ok(())
            };
            // An array that cannot be resolved is known by its path.
            self.jobs.engine.pool().run(job).await.ok();
        }
    }

    /// Writes local objects: those that are free in one job, then the others, each once it is free.
    async fn files(self: &Arc<Self>, store: &Arc<LocalStore>, items: Range<usize>, turn: Turn) {
        let (mut free, mut busy) = (Vec::new(), Vec::new());
        for index in items {
            match self.try_lock(index) {
                Some(writing) => free.push((index, writing)),
                None => busy.push(index),
            }
        }
        if free.is_empty() {
            drop(turn);
        } else {
            self.write_files(store, free, turn).await;
        }
        for index in busy {
            let turn = self.turns.take().await;
            match self.lock_in_turn(index, turn).await {
                Ok((writing, turn)) => self.write_files(store, vec![(index, writing)], turn).await,
                Err(error) => self.results.set(index, Err(error)),
            }
        }
    }

    /// Writes local objects that are locked one after the other, in one job.
    async fn write_files(
        self: &Arc<Self>,
        store: &Arc<LocalStore>,
        locked: Vec<(usize, Writing)>,
        turn: Turn,
    ) {
        let items = locked.iter().map(|(index, _)| &self.batch.items[*index]);
        let nbytes = items.map(|item| self.memory(item, 0)).max().unwrap_or(0);
        let (admission, chunks) = (&self.jobs.engine.admission, &self.batch.array.chunks);
        let permits = admission.admit_local(chunks.as_ref(), nbytes).await;
        let cpu = self.jobs.cpu().await;
        drop(turn);
        let (writer, store) = (Arc::clone(self), Arc::clone(store));
        let job = move || {
            let mut directories = Directories::default();
            for (index, writing) in locked {
                let item = &writer.batch.items[index];
                let outcome = guard(|| writer.write_file(item, &store, &mut directories))
                    .map_err(|error| error.at(&item.key));
                drop(writing);
                writer.results.set(index, outcome.map(|()| false));
            }
            drop((permits, cpu));
            Ok(())
        };
        // The job has noted its outcomes.
        self.jobs.engine.pool().run(job).await.ok();
    }

    fn write_file(
        &self,
        item: &Item,
        store: &LocalStore,
        directories: &mut Directories,
    ) -> Result<(), Error> {
        let stats = &self.jobs.engine.stats;
        with_encoded(|before| {
            let opened = if self.is_whole(item) {
                None
            } else {
                store.open(&item.key)?
            };
            let existing = match opened {
                Some(opened) => {
                    if matches!(self.batch.array.layout, Layout::Chunk(_)) {
                        item.spec.check_stored(opened.size())?;
                    }
                    store.read(&item.key, &opened, 0..opened.size(), before)?;
                    stats.bytes_read.add(before.len() as u64);
                    Some(before.as_slice())
                }
                None => None,
            };
            with_encoded(|after| {
                if !self.update(item, existing, after)? {
                    return store.delete(&item.key);
                }
                store.put(&item.key, after, directories)?;
                stats.bytes_written.add(after.len() as u64);
                Ok(())
            })
        })
    }

    /// Writes one object to an awaited store; again while somebody else is faster.
    async fn object(self: &Arc<Self>, requests: &Requests, index: usize, turn: Turn) {
        let outcome = match self.lock_in_turn(index, turn).await {
            Ok((writing, turn)) => {
                self.attempts(requests, index, Arc::new(writing), turn)
                    .await
            }
            Err(error) => Err(error),
        };
        self.results.set(index, outcome.map(|()| false));
    }

    async fn attempts(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: Arc<Writing>,
        turn: Turn,
    ) -> Result<(), Error> {
        let item = &self.batch.items[index];
        let (mut turn, mut stored, mut conflicts) = (Some(turn), 0, 0);
        loop {
            let turn = match turn.take() {
                Some(turn) => turn,
                None => self.turns.take().await,
            };
            match self
                .attempt(requests, index, &writing, stored, turn)
                .await?
            {
                Attempt::Done => return Ok(()),
                Attempt::Larger(size) => stored = size,
                Attempt::Conflict => {
                    self.jobs.engine.stats.write_conflicts.add(1);
                    conflicts += 1;
                    if conflicts == TRIES {
                        return Err(self.conflict(item).into());
                    }
                    tokio::time::sleep(pause(conflicts)).await;
                }
            }
        }
    }

    /// Reads, merges and puts once, with memory for a stored object of `stored` bytes.
    async fn attempt(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: &Arc<Writing>,
        stored: u64,
        turn: Turn,
    ) -> Result<Attempt, Error> {
        let (array, item) = (&self.batch.array, &self.batch.items[index]);
        let mut permits = requests.admit(array, self.memory(item, stored)).await;
        drop(turn);
        let before = if self.is_whole(item) {
            None
        } else {
            let max_bytes = item.spec.most_encoded.max(stored);
            match requests
                .get(array, &item.key, &Part::Whole, max_bytes, None)
                .await?
            {
                Get::Found(fetched) => Some(fetched),
                Get::Missing => None,
                Get::Changed => {
                    return Err(StoreError::changed(array.store_name(), &item.key).into());
                }
                // A shard may hold any number of bytes that belong to no subchunk.
                Get::Oversized(size) if matches!(array.layout, Layout::Shard(_)) => {
                    return Ok(Attempt::Larger(size));
                }
                Get::Oversized(size) => {
                    return Err(StoreError::oversized(array.store_name(), &item.key, size).into());
                }
            }
        };
        permits.release_request();
        let condition = self.condition(&requests.store, item, before.as_ref());
        let existing = before.as_ref().map(|fetched| fetched.bytes.clone());
        let mut after = self.encode(index, before).await?;
        if after.is_none() && existing.is_some() && condition != Condition::None {
            // There is no conditional delete: an unconditional one could remove what another process has
            // just written. An object of fill values in its place cannot.
            after = Some(self.encode_empty(index).await?);
        }
        if after.is_none() && existing.is_none() && !self.is_whole(item) {
            return Ok(Attempt::Done);
        }
        if matches!(condition, Condition::Match(..)) && after.as_deref() == existing.as_deref() {
            // Nothing to put: a put whose answer was lost has been refused when it was sent again, for one.
            return Ok(Attempt::Done);
        }
        drop(existing);
        permits.take_request(&requests.bounds).await;
        let put = self.put(requests, index, writing, after, &condition, permits);
        Ok(match put.await? {
            Put::Done => Attempt::Done,
            Put::Conflict => Attempt::Conflict,
        })
    }

    /// What the put of an object that was read as `before` depends on.
    fn condition(&self, store: &Awaited, item: &Item, before: Option<&Fetched>) -> Condition {
        if self.is_whole(item) || !store.has_conditions() {
            return Condition::None;
        }
        let Some(fetched) = before else {
            return Condition::Absent;
        };
        match fetched.validator.as_ref().and_then(Validator::strong_etag) {
            Some(etag) => Condition::Match(etag.to_owned(), fetched.version.clone()),
            None => Condition::None,
        }
    }

    /// The new object on the CPU pool; `None` where all of it equals the fill value and is not stored.
    async fn encode(
        self: &Arc<Self>,
        index: usize,
        before: Option<Fetched>,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.on_pool(index, move |writer, item| {
            let existing = before.as_ref().map(|fetched| &*fetched.bytes);
            let mut after = Vec::new();
            let stored = writer.update(item, existing, &mut after)?;
            Ok(stored.then_some(after))
        })
        .await
    }

    /// An object of fill values, for where one cannot be deleted.
    async fn encode_empty(self: &Arc<Self>, index: usize) -> Result<Vec<u8>, Error> {
        self.on_pool(index, |writer, item| {
            let mut empty = Vec::new();
            encode_empty(&writer.batch.array.layout, &item.spec.chunk, &mut empty)?;
            Ok(empty)
        })
        .await
    }

    async fn on_pool<T: Send + 'static>(
        self: &Arc<Self>,
        index: usize,
        job: impl FnOnce(&Self, &Item) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cpu = self.jobs.cpu().await;
        let writer = Arc::clone(self);
        let key = &self.batch.items[index].key;
        let job = move || {
            let done = job(&writer, &writer.batch.items[index]);
            drop(cpu);
            done
        };
        let done = self.jobs.engine.pool().run(job).await;
        done.map_err(|error| error.at(key))
    }

    /// Puts an object, or deletes it where `after` is none.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request. A foreign store may go on by itself when its call is given
    /// up, in a thread for instance, and undo a later write. So that call runs to its end, with the object
    /// locked, even if nobody waits for it.
    async fn put(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: &Arc<Writing>,
        after: Option<Vec<u8>>,
        condition: &Condition,
        permits: Permits,
    ) -> Result<Put, Error> {
        let (store, key) = (&requests.store, &self.batch.items[index].key);
        if let Awaited::Remote(_) = store {
            return self.store(requests, index, after, condition).await;
        }
        let (writer, requests, writing) = (Arc::clone(self), requests.clone(), Arc::clone(writing));
        let call = async move {
            let done = writer
                .store(&requests, index, after, &Condition::None)
                .await;
            drop((writing, permits));
            done
        };
        let ended = tokio::spawn(call).await;
        ended.unwrap_or_else(|_| Err(Error::internal("a put ended without an answer").at(key)))
    }

    async fn store(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        after: Option<Vec<u8>>,
        condition: &Condition,
    ) -> Result<Put, Error> {
        let (store, stats) = (&requests.store, &self.jobs.engine.stats);
        let key = &self.batch.items[index].key;
        let bytes = match after {
            Some(bytes) => bytes,
            None => match store.delete(key, stats).await {
                // As a ZIP file, which can only grow.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Unsupported => {
                    self.encode_empty(index).await?
                }
                deleted => return deleted.map(|()| Put::Done),
            },
        };
        let extra: Vec<_> = (0..RemoteStore::parts(bytes.len()).min(EXTRA_REQUESTS))
            .map_while(|_| requests.bounds.requests().try_take())
            .collect();
        let parallel = 1 + extra.len();
        store
            .put(key, bytes.into(), condition, parallel, stats)
            .await
    }

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
            attempts: TRIES,
            reason: "other writers replaced the object each time before this one could".into(),
            source: None,
        }
    }
}

/// A pause that grows with each refusal and differs between writers.
fn pause(attempt: u32) -> Duration {
    let longest = Duration::from_millis(2)
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST_PAUSE);
    longest.mul_f64(fastrand::f64())
}
