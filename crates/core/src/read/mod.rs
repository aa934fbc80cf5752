//! A read: plan, admit, fetch, decode, scatter.
//!
//! ```text
//! files, plan::how ─► Turns::drive ─► unit::read_files, unit::read_object, or Reader::read_shard
//! ```
//!
//! Every unit is offered to `share::fetches` first: where another batch fetches the same bytes already, this one
//! joins it. A shard that is read in parts has a loop of its own: its index is found, its byte ranges are
//! planned, and they are read as units of this batch (`shard.rs`).

mod coalesce;
pub(crate) mod explain;
mod local;
pub(crate) mod plan;
mod shard;
mod unit;

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::batch::{Batch, BatchError, Item, Results};
use crate::codec::layout::Layout;
use crate::engine::Engine;
use crate::engine::jobs::{Jobs, files};
use crate::engine::requests::Requests;
use crate::error::{Error, StoreErrorKind};
use crate::limits::turn::{Turn, Turns};
use crate::read::plan::How;
use crate::read::unit::{read_files, read_object};
use crate::share::fetches::{Request, Waiter, Whole};
use crate::store::{LocalStore, Store};

/// Reads a batch; tells of each chunk whether it was missing.
///
/// # Errors
/// What failed first, with the keys of other chunks that failed.
///
/// # Cancel safety
/// Dropping the future closes its requests. Jobs that run already may still write to the buffer:
/// [`crate::OutBuffer::closed`] tells when nothing does any more.
pub async fn read(engine: Arc<Engine>, mut batch: Batch) -> Result<Vec<bool>, BatchError> {
    engine.stats.batches.add(1);
    let places = batch.merge_items();
    let reader = Reader {
        results: Results::new(batch.items.len()),
        turns: Turns::new(),
        jobs: Jobs::new(&engine, &batch),
        batch,
    };
    let (reader, stop) = (&reader, || reader.results.failed());
    match &reader.batch.array.store {
        Store::Local(store) => {
            let units = files(&reader.batch, engine.pool().threads())
                .map(|items| move |turn| reader.files(store, items, turn));
            reader.turns.drive(units, stop).await;
        }
        Store::Awaited(store) => {
            let requests = Requests::new(reader.jobs.clone(), store);
            let (requests, budget) = (&requests, requests.bounds.byte_budget());
            let merging = plan::merging(&reader.batch);
            let units = (0..reader.batch.items.len()).map(|index| {
                let item = &reader.batch.items[index];
                let known = reader.index_known(item);
                let how = plan::how(&reader.batch, item, merging, budget, known);
                move |turn| reader.object(requests, index, how, turn).boxed()
            });
            reader.turns.drive(units, stop).await;
        }
    }
    let missing = reader.outcome().await?;
    Ok(places.into_iter().map(|at| missing[at]).collect())
}

/// One read under way.
struct Reader {
    pub batch: Batch,
    pub results: Arc<Results>,
    pub turns: Turns,
    pub jobs: Jobs,
}

impl Reader {
    /// Reads local objects in one job, except those that another batch reads already.
    fn files(
        &self,
        store: &Arc<LocalStore>,
        items: Range<usize>,
        turn: Turn,
    ) -> BoxFuture<'static, ()> {
        let engine = &self.jobs.engine;
        let alone = items.len() == self.batch.items.len();
        let wanted = items.map(|index| {
            let item = &self.batch.items[index];
            let waiter = self.waiter(Arc::clone(&item.selections), &self.results, index);
            (self.request(item, Whole), waiter)
        });
        let (jobs, store) = (self.jobs.clone(), Arc::clone(store));
        let units = engine
            .objects
            .share_all(wanted, alone, &engine.stats, |fetches| {
                read_files(jobs, store, fetches, turn).boxed()
            });
        // Each unit notes its outcome in the results.
        futures::future::join_all(units).map(drop).boxed()
    }

    /// Reads one object of an awaited store.
    async fn object(&self, requests: &Requests, index: usize, how: How<'_>, turn: Turn) {
        let item = &self.batch.items[index];
        let outcome = match how {
            How::Chunk => return self.whole(requests, item, &self.results, index, turn).await,
            How::Shard(sharding) => match self.read_whole(requests, item, turn).await {
                // A shard may hold any number of bytes that belong to no subchunk.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Oversized => {
                    let turn = self.turns.take().await;
                    self.read_shard(requests, sharding, item, turn).await
                }
                outcome => outcome,
            },
            How::Parts(sharding) => self.read_shard(requests, sharding, item, turn).await,
        };
        self.results.set(index, outcome);
    }

    /// Whether a shard's index is cached.
    fn index_known(&self, item: &Item) -> bool {
        let Layout::Shard(_) = &self.batch.array.layout else {
            return false;
        };
        let id = self.batch.array.object(&item.key);
        self.jobs.engine.indexes.get(&id, &item.spec).is_some()
    }

    /// Whether the batch waits for one object only.
    pub(crate) fn alone(&self) -> bool {
        self.batch.items.len() == 1
    }

    /// Reads an object in one request, and tells whether it was missing.
    pub(crate) async fn read_whole(
        &self,
        requests: &Requests,
        item: &Item,
        turn: Turn,
    ) -> Result<bool, Error> {
        let results = Results::new(1);
        self.whole(requests, item, &results, 0, turn).await;
        let outcome = results.outcome(|_| Arc::clone(&item.key));
        outcome
            .map(|missing| missing[0])
            .map_err(|failed| failed.error)
    }

    /// Reads an object in one request, shared with other batches; the outcome goes to `results`.
    async fn whole(
        &self,
        requests: &Requests,
        item: &Item,
        results: &Arc<Results>,
        index: usize,
        turn: Turn,
    ) {
        let waiter = self.waiter(Arc::clone(&item.selections), results, index);
        let (request, requests) = (self.request(item, Whole), requests.clone());
        let engine = &self.jobs.engine;
        let unit = engine
            .objects
            .share(request, waiter, self.alone(), &engine.stats, |fetch| {
                read_object(requests, fetch, turn).boxed()
            });
        // A unit that panics leaves no outcome, and is reported for that.
        unit.await.ok();
    }

    pub(crate) fn request<S>(&self, item: &Item, source: S) -> Request<S> {
        Request {
            array: Arc::clone(&self.batch.array),
            spec: Arc::clone(&item.spec),
            key: Arc::clone(&item.key),
            source,
            since: self.batch.since,
        }
    }

    pub(crate) fn waiter<W>(&self, wanted: W, results: &Arc<Results>, index: usize) -> Waiter<W> {
        Waiter {
            wanted,
            out: Arc::clone(&self.batch.buffer),
            results: Arc::clone(results),
            index,
        }
    }

    /// What became of each chunk; after a failure, once nothing touches the buffer any more.
    async fn outcome(&self) -> Result<Vec<bool>, BatchError> {
        let items = &self.batch.items;
        let outcome = self.results.outcome(|index| Arc::clone(&items[index].key));
        match &outcome {
            Ok(missing) => {
                let missing = missing.iter().filter(|missing| **missing).count();
                self.jobs.engine.stats.chunks_missing.add(missing as u64);
            }
            Err(_) => self.batch.buffer.closed().await,
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::poll;

    use super::*;
    use crate::testing::{
        FILL, LIMITS, Memory, MemoryStore, advance, array, assert_idle, batch, bytes, chunks,
        engine, item, range, spec, until,
    };
    use crate::{Limits, LocalStore};

    #[tokio::test]
    async fn chunks_arrive_at_their_places_and_missing_ones_are_filled() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 6]), engine());
        store.set("a", &[1, 2]).await;
        store.set("c", &[3, 4]).await;
        for reached in [store.foreign(), store.remote()] {
            let array = array(reached, &bytes());
            let batch = chunks(&array, 2, &["c", "b", "a"], &memory.buffer());
            let missing = read(Arc::clone(&engine), batch).await.unwrap();
            assert_eq!(vec![false, true, false], missing);
            assert_eq!(vec![3, 4, FILL, FILL, 1, 2], memory.bytes());
        }
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn items_of_one_object_are_one_fetch() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 4]), engine());
        store.set("a", &[1, 2, 3]).await;
        let array = array(store.remote(), &bytes());
        let spec = spec(&array, 3);
        let items = [("a", 1, 0), ("b", 0, 1), ("a", 0, 2), ("b", 2, 3)];
        let items = items.map(|(key, from, to)| item(&spec, key, range(from, from + 1, to)));
        let batch = batch(&array, items.into(), &memory.buffer());
        let missing = read(Arc::clone(&engine), batch).await.unwrap();
        assert_eq!(vec![false, true, false, true], missing);
        assert_eq!(vec![2, FILL, 1, FILL], memory.bytes());
        assert_eq!(vec!["get a", "get b"], store.sent());
        assert_eq!(1, engine.stats().chunks_decoded.get());
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn a_dropped_read_drops_its_requests() {
        for remote in [false, true] {
            let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 3]), engine());
            let reached = if remote {
                store.remote()
            } else {
                store.foreign()
            };
            let buffer = memory.buffer();
            store.hold("get");
            {
                let batch = chunks(&array(reached, &bytes()), 1, &["a", "b", "c"], &buffer);
                let read = read(Arc::clone(&engine), batch);
                tokio::pin!(read);
                store.sends_of(3, &mut read).await;
                assert_eq!(3, store.in_flight());
            }
            assert_eq!(0, store.in_flight());
            assert_idle(&engine);
            buffer.closed().await;
            assert_eq!(vec![0; 3], memory.bytes());
        }
    }

    #[tokio::test]
    async fn nothing_writes_to_a_closed_buffer() {
        let limits = Limits {
            threads: 1,
            ..LIMITS
        };
        let engine = Engine::new(limits).unwrap();
        // Decoded on the pool, whose only thread waits.
        let len = 1 << 16;
        let (store, memory) = (MemoryStore::new(), Memory::new(&vec![0; len]));
        store.set("a", &vec![1; len]).await;
        let (go_on, wait) = mpsc::channel::<()>();
        let pool = engine.pool();
        let job = pool.run(move || {
            wait.recv().ok();
            Ok(())
        });
        let (mut job, buffer) = (Box::pin(job), memory.buffer());
        assert!(poll!(&mut job).is_pending());
        {
            let batch = chunks(
                &array(store.remote(), &bytes()),
                len as u64,
                &["a"],
                &buffer,
            );
            let read = read(Arc::clone(&engine), batch);
            tokio::pin!(read);
            advance(&mut read).await;
            assert_eq!(1, engine.admission.held()[3].1);
        }
        buffer.closed().await;
        go_on.send(()).unwrap();
        job.await.unwrap();
        until(|| engine.admission.held()[3].1 == 0).await;
        assert_eq!(vec![0; len], memory.bytes());
    }

    #[tokio::test]
    async fn the_failure_of_one_chunk_ends_the_batch() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 3]), engine());
        store.set("a", &[1]).await;
        store.hold("get a");
        store.fail("get b", 1);
        let batch = chunks(
            &array(store.foreign(), &bytes()),
            1,
            &["a", "b", "c"],
            &memory.buffer(),
        );
        let failed = read(Arc::clone(&engine), batch).await.unwrap_err();
        assert!(matches!(&failed.error, Error::Store(error) if &*error.key == "b"));
        assert_eq!(0, store.in_flight());
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn chunks_of_one_job_fail_by_themselves() {
        let root = tempfile::tempdir().unwrap();
        for (key, stored) in [("a", &[1, 2][..]), ("b", &[1]), ("c", &[3, 4]), ("d", &[])] {
            std::fs::write(root.path().join(key), stored).unwrap();
        }
        let store = Store::Local(Arc::new(LocalStore::new(root.path(), false)));
        let (memory, engine) = (Memory::new(&[0; 8]), engine());
        let batch = chunks(
            &array(store, &bytes()),
            2,
            &["a", "b", "c", "d"],
            &memory.buffer(),
        );
        let failed = read(Arc::clone(&engine), batch).await.unwrap_err();
        assert!(matches!(&failed.error, Error::Decode { key, .. } if &**key == "b"));
        assert_eq!(vec![Arc::from("d")], failed.others);
        assert_eq!(vec![1, 2, 0, 0, 3, 4, 0, 0], memory.bytes());
    }

    #[tokio::test]
    async fn requests_and_memory_keep_to_their_bounds() {
        let keys: Vec<String> = (0..20).map(|at| format!("c/{at}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        // A chunk of a KiB is admitted for its encoded and its decoded bytes.
        for (requests, memory_bytes, most) in [(3, 1 << 20, 3), (16, 10 << 10, 5)] {
            let limits = Limits {
                requests: Some(requests),
                memory_bytes,
                ..LIMITS
            };
            let engine = Engine::new(limits).unwrap();
            let (store, memory) = (MemoryStore::new(), Memory::new(&vec![0; 20 << 10]));
            store.hold("get");
            let array = array(store.remote(), &bytes());
            let batch = chunks(&array, 1 << 10, &keys, &memory.buffer());
            let read = tokio::spawn(read(Arc::clone(&engine), batch));
            store.sends(most).await;
            store.release("get");
            read.await.unwrap().unwrap();
            assert_eq!((20, most), (store.sent().len(), store.in_flight_max()));
            assert_idle(&engine);
        }
    }

    #[tokio::test]
    async fn a_small_batch_does_not_wait_for_all_of_a_large_one() {
        let limits = Limits {
            requests: Some(1),
            ..LIMITS
        };
        let engine = Engine::new(limits).unwrap();
        let (store, memory) = (MemoryStore::new(), Memory::new(&[0; 20]));
        let array = array(store.remote(), &bytes());
        let keys: Vec<String> = (0..20).map(|at| format!("large/{at}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        store.hold("get");
        let large = chunks(&array, 1, &keys, &memory.buffer());
        let small = chunks(&array, 1, &["small"], &memory.buffer());
        let (mut large, mut small) = (
            Box::pin(read(Arc::clone(&engine), large)),
            Box::pin(read(Arc::clone(&engine), small)),
        );
        // One of the large batch has the request, and one waits for it.
        advance(&mut large).await;
        advance(&mut small).await;
        store.release("get");
        let (large, small) = futures::join!(large, small);
        assert_eq!((20, 1), (large.unwrap().len(), small.unwrap().len()));
        assert_eq!("get small", store.sent()[2]);
    }
}
