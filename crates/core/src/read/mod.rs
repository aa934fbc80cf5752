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
pub async fn read(engine: Arc<Engine>, batch: Batch) -> Result<Vec<bool>, BatchError> {
    engine.stats.batches.add(1);
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
            let units = (0..reader.batch.items.len()).map(|index| {
                let how = plan::how(&reader.batch, &reader.batch.items[index], budget);
                move |turn| reader.object(requests, index, how, turn).boxed()
            });
            reader.turns.drive(units, stop).await;
        }
    }
    reader.outcome().await
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
        let wanted = items.map(|index| {
            let item = &self.batch.items[index];
            let waiter = self.waiter(item.selection.clone(), &self.results, index);
            (self.request(item, Whole), waiter)
        });
        let (jobs, store) = (self.jobs.clone(), Arc::clone(store));
        let units = engine.objects.share_all(wanted, &engine.stats, |fetches| {
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
        let waiter = self.waiter(item.selection.clone(), results, index);
        let (request, requests) = (self.request(item, Whole), requests.clone());
        let engine = &self.jobs.engine;
        let unit = engine
            .objects
            .share(request, waiter, &engine.stats, |fetch| {
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
