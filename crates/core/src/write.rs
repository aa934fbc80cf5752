//! A write: gather, merge what is partial, encode, put. The mirror of a read.
//!
//! Every chunk is written under its object's lock, whole ones too: a partial write that reads before
//! and puts after a whole one would undo it. Between processes, a partial write to a store that has
//! conditional puts depends on the object it has read; when that is another by then, it reads and
//! merges again.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;

use crate::admit::Bound;
use crate::batch::{Batch, BatchError, Item, Slots};
use crate::dispatch::{Launch, drive};
use crate::engine::Engine;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::flight::ObjectId;
use crate::layout::Layout;
use crate::locks::KeyGuard;
use crate::place::Work;
use crate::pool::guard;
use crate::scratch::with_encoded;
use crate::store::{
    Condition, Directories, Get, LocalStore, Part, Put, RemoteStore, Store, Validator,
};
use crate::update::{Values, update};

/// How often a put may be refused because somebody else was faster.
const TRIES: u32 = 100;
/// The longest pause before a refused put is tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Requests beside its own that a large object's parts may use, as far as they are free.
const EXTRA_LANES: usize = 7;

/// Writes a batch.
///
/// # Errors
/// What failed first, with the keys of other chunks that failed.
///
/// # Cancel safety
/// Dropping the future closes its requests. Each chunk is the old one or the new one afterwards; jobs
/// that run already may still read the buffer, until [`crate::OutBuffer::closed`] returns.
pub async fn write(engine: Arc<Engine>, batch: Batch) -> Result<(), BatchError> {
    engine.stats.batches.add(1);
    let writer = Writer {
        slots: Slots::new(batch.items.len()),
        lane: engine.admission.lane(),
        spread: engine.spread(&batch.array, batch.items.len()),
        batch: Arc::new(batch),
        engine,
    };
    drive(writer.launches(), || writer.slots.failed(), None).await;
    let outcome = writer
        .slots
        .outcome(|slot| Arc::clone(&writer.batch.items[slot].key));
    if outcome.is_err() {
        writer.batch.buffer.closed().await;
    }
    outcome.map(drop)
}

#[derive(Clone)]
struct Writer {
    engine: Arc<Engine>,
    batch: Arc<Batch>,
    slots: Arc<Slots>,
    lane: Arc<Bound>,
    spread: bool,
}

/// An object that is being written: locked, and forgotten by caches and flights when that ends,
/// however it ends.
struct Writing {
    engine: Arc<Engine>,
    id: ObjectId,
    _lock: KeyGuard,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.engine.forget(&self.id);
    }
}

impl Writer {
    fn launches(&self) -> impl Iterator<Item = Launch<'_>> {
        let items = &self.batch.items;
        let layout = &self.batch.array.layout;
        let jobs = self.engine.jobs(&self.batch);
        let mut next = 0;
        std::iter::from_fn(move || {
            let mut group = Vec::new();
            let mut nbytes = 0;
            while let Some(item) = items
                .get(next)
                .filter(|_| jobs.has_room(group.len(), nbytes))
            {
                // Locks of a group are never waited for: whoever waits for one holds none.
                let lock = match &self.batch.array.store {
                    Store::Local(_) => self.try_lock(item),
                    _ => None,
                };
                let Some(lock) = lock else { break };
                nbytes += item.touched_bytes(layout);
                group.push((next, lock));
                next += 1;
            }
            if !group.is_empty() {
                return Some(launch(|admitted| {
                    self.clone().local(group, admitted).boxed()
                }));
            }
            let slot = next;
            items.get(slot)?;
            next += 1;
            Some(launch(|admitted| self.alone(slot, admitted).boxed()))
        })
    }

    /// Writes one chunk after waiting for its lock.
    async fn alone(&self, slot: usize, admitted: oneshot::Sender<()>) {
        let item = &self.batch.items[slot];
        let id = self.batch.array.object(&item.key);
        let lock = self.engine.locks.lock(id.clone()).await;
        let writing = Writing {
            engine: Arc::clone(&self.engine),
            id,
            _lock: lock,
        };
        if self.batch.array.store.is_awaited() {
            let outcome = self.awaited(slot, &writing, admitted).await;
            self.slots.set(slot, outcome.map(|()| false));
        } else {
            self.clone().local(vec![(slot, writing)], admitted).await;
        }
    }

    fn try_lock(&self, item: &Item) -> Option<Writing> {
        let id = self.batch.array.object(&item.key);
        let lock = self.engine.locks.try_lock(id.clone())?;
        Some(Writing {
            engine: Arc::clone(&self.engine),
            id,
            _lock: lock,
        })
    }

    /// Writes local chunks one after the other, in one job.
    async fn local(self, group: Vec<(usize, Writing)>, admitted: oneshot::Sender<()>) {
        let array = &self.batch.array;
        let largest = group
            .iter()
            .map(|(slot, _)| self.batch.items[*slot].spec.nbytes)
            .max();
        let nbytes = 2 * largest.unwrap_or(0) as u64;
        let permits = self
            .engine
            .admission
            .admit_local(array.chunks.as_ref(), nbytes)
            .await;
        let cpu = self.engine.admission.cpu(&self.lane).await;
        // Nobody listens any more when the batch is gone.
        admitted.send(()).ok();
        let pool = self.engine.pool();
        let job = move || {
            let Store::Local(store) = &self.batch.array.store else {
                return Err(Error::invalid(
                    "only a local store is written inside its job",
                ));
            };
            let mut directories = Directories::default();
            for (slot, writing) in group {
                let item = &self.batch.items[slot];
                let outcome = guard(|| self.write_local(item, store, &mut directories))
                    .map_err(|error| error.at(&item.key));
                drop(writing);
                self.slots.set(slot, outcome.map(|()| false));
            }
            drop((permits, cpu));
            Ok(())
        };
        // Outcomes are in the slots.
        pool.run(job).await.ok();
    }

    fn write_local(
        &self,
        item: &Item,
        store: &LocalStore,
        directories: &mut Directories,
    ) -> Result<(), Error> {
        with_encoded(|before| {
            let opened = if is_whole(item) {
                None
            } else {
                store.open(&item.key)?
            };
            let existing = match opened {
                Some(opened) => {
                    store.read(&item.key, &opened, 0..opened.size(), before)?;
                    self.engine.stats.bytes_read.add(before.len() as u64);
                    Some(before.as_slice())
                }
                None => None,
            };
            with_encoded(|after| {
                if !self.update(item, existing, after)? {
                    return store.delete(&item.key);
                }
                store.put(&item.key, after, directories)?;
                self.engine.stats.bytes_written.add(after.len() as u64);
                Ok(())
            })
        })
    }

    fn update(
        &self,
        item: &Item,
        existing: Option<&[u8]>,
        into: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let work = Work {
            options: self.batch.array.options(),
            stats: &self.engine.stats,
            parallel: self.spread,
        };
        let values = Values {
            buffer: &self.batch.buffer,
            write_empty: self.batch.write_empty_chunks,
            work,
        };
        let (layout, spec) = (&self.batch.array.layout, &item.spec.chunk);
        update(layout, spec, existing, &item.selection, values, into)
    }

    /// Writes one chunk to a store that is awaited; again and again while somebody else is faster.
    async fn awaited(
        &self,
        slot: usize,
        writing: &Writing,
        admitted: oneshot::Sender<()>,
    ) -> Result<(), Error> {
        let mut admitted = Some(admitted);
        for attempt in 1..=TRIES {
            let reserved = self.batch.items[slot].spec.nbytes as u64;
            if self.attempt(slot, &mut admitted, reserved).await? == Put::Done {
                return Ok(());
            }
            self.engine.stats.write_conflicts.add(1);
            tokio::time::sleep(pause(attempt, &writing.id)).await;
        }
        let item = &self.batch.items[slot];
        Err(StoreError {
            kind: StoreErrorKind::Changed,
            operation: "put",
            key: Arc::clone(&item.key),
            store: self.batch.array.store.name().into(),
            status: Some(412),
            attempts: TRIES,
            reason: "other writers replaced the object each time before this one could".into(),
            source: None,
        }
        .into())
    }

    /// Reads, merges and puts once, with memory `reserved` for what is stored.
    async fn attempt(
        &self,
        slot: usize,
        admitted: &mut Option<oneshot::Sender<()>>,
        reserved: u64,
    ) -> Result<Put, Error> {
        let (engine, array, item) = (&self.engine, &self.batch.array, &self.batch.items[slot]);
        let nbytes = item.spec.nbytes as u64 + reserved;
        let mut permits = engine.admission.admit(array.chunks.as_ref(), nbytes).await;
        // Nobody listens any more when the batch is gone.
        admitted.take().map(|admitted| admitted.send(()));
        let whole = is_whole(item);
        let before = if whole {
            None
        } else {
            let most = item.spec.most_encoded.max(reserved);
            match engine
                .fetch(array, &item.key, &Part::Whole, None, most)
                .await?
            {
                Get::Found(fetched) => Some(fetched),
                Get::Missing => None,
                Get::Changed => return Err(StoreError::changed(array, &item.key).into()),
                Get::Oversized(size) if matches!(array.layout, Layout::Shard(_)) => {
                    // Bytes that belong to no subchunk: once more, with permits for all of them.
                    drop(permits);
                    return Box::pin(self.attempt(slot, admitted, size)).await;
                }
                Get::Oversized(size) => {
                    return Err(StoreError::oversized(array, &item.key, size).into());
                }
            }
        };
        permits.release_request();
        let conditional =
            !whole && matches!(&array.store, Store::Remote(store) if store.has_conditions());
        let condition = match &before {
            _ if !conditional => Condition::None,
            None => Condition::Absent,
            Some(fetched) => match fetched.validator.as_ref().and_then(Validator::strong_etag) {
                Some(etag) => Condition::Match(etag.to_owned(), fetched.version.clone()),
                None => Condition::None,
            },
        };
        let existed = before.is_some();
        let cpu = engine.admission.cpu(&self.lane).await;
        let writer = self.clone();
        let pool = engine.pool();
        let after = pool.run(move || {
            let existing = before.as_ref().map(|fetched| &*fetched.bytes);
            let mut after = Vec::new();
            let stored = writer.update(&writer.batch.items[slot], existing, &mut after)?;
            drop(cpu);
            Ok(stored.then_some(after))
        });
        let after = after.await.map_err(|error| error.at(&item.key))?;
        permits.take_request(&engine.admission).await;
        match after {
            Some(bytes) => {
                let extra: Vec<_> = (0..RemoteStore::parts(bytes.len()).min(EXTRA_LANES))
                    .map_while(|_| engine.admission.requests().try_take())
                    .collect();
                let lanes = 1 + extra.len();
                engine
                    .put(array, &item.key, bytes.into(), &condition, lanes)
                    .await
            }
            None if whole || existed => engine.delete(array, &item.key).await.map(|()| Put::Done),
            None => Ok(Put::Done),
        }
    }
}

fn launch<'a>(
    unit: impl FnOnce(oneshot::Sender<()>) -> futures::future::BoxFuture<'a, ()>,
) -> Launch<'a> {
    let (admitted, word) = oneshot::channel();
    Launch {
        running: vec![unit(admitted)],
        admitted: Some(word),
    }
}

/// Whether nothing of what is stored survives.
fn is_whole(item: &Item) -> bool {
    item.complete || item.selection.covers(&item.spec.chunk.shape)
}

/// A pause that grows with each refusal and differs between writers.
fn pause(attempt: u32, id: &ObjectId) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let longest = Duration::from_millis(2)
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST_PAUSE);
    let random = u32::try_from(RandomState::new().hash_one(id) >> 32).unwrap_or(0);
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
