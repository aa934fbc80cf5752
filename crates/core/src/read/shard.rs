//! A shard that is read in parts: its index, then merged byte ranges, all of one state of the object.
//!
//! The data requests carry the validator that came with the index. When the object turns out to be
//! another, the units under way are waited for, the index is fetched again and the ranges are planned
//! again: what the buffer holds in the end is of one object, never a mix. A shard that seems to change
//! each time (as from servers whose tags differ by node) is read in one request, whose body is of one
//! state.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;

use crate::batch::{Item, Results};
use crate::chunk::decode::{Want, fill, scatter};
use crate::codec::element::ChunkSpec;
use crate::codec::layout::{IndexLocation, Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::copy::selection::Selection;
use crate::copy::split::{PartId, Splits};
use crate::engine::requests::Requests;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::limits::pool::guard;
use crate::limits::turn::Turn;
use crate::read::Reader;
use crate::read::plan;
use crate::read::unit::read_span;
use crate::share::fetches::{Span, Subchunks};
use crate::share::index_cache::Located;
use crate::share::index_loads::{Loaded, Source};
use crate::store::{Get, Part, State};

/// How often a shard may change under one read before the read gives up.
const PLANS: u32 = 10;
/// How often it may change before it is read in one request, where the memory limit allows that.
const PLANS_OF_PARTS: u32 = 2;

/// The index of a shard, and whether it comes from the cache.
struct Found {
    located: Located,
    cached: bool,
}

/// What came of one attempt to read the parts of a shard.
enum Attempt {
    /// All parts are read; or there is no shard.
    Done { missing: bool },
    /// The shard is another one by now.
    Changed,
    /// The cached index may be of an older shard, and no data request would show it.
    Stale,
}

impl Reader {
    /// Reads the selected parts of a shard; tells whether the shard was missing.
    pub(crate) async fn read_shard(
        &self,
        requests: &Requests,
        sharding: &Sharding,
        item: &Item,
        turn: Turn,
    ) -> Result<bool, Error> {
        let (array, engine) = (&self.batch.array, &self.jobs.engine);
        let fits = 2 * item.spec.nbytes as u64 <= requests.bounds.byte_budget();
        let (mut turn, mut changes) = (Some(turn), 0);
        for _ in 0..PLANS {
            if changes == PLANS_OF_PARTS && fits {
                changes += 1;
                let turn = self.turns.take().await;
                match self.read_whole(requests, item, turn).await {
                    // Its index was found twice; whether the shard is gone now, the index tells.
                    Ok(true) => {}
                    Err(Error::Store(error)) if error.kind == StoreErrorKind::Oversized => {}
                    outcome => return outcome,
                }
            }
            let turn = self.turns.take_or(&mut turn).await;
            let (untied, before) = (!requests.store.has_validators(), changes);
            match self.read_parts(requests, sharding, item, turn).await {
                Ok(Attempt::Done { missing }) => return Ok(missing),
                Ok(Attempt::Stale) => {}
                Ok(Attempt::Changed) => changes += 1,
                // So it seems where the index is of one state and the data of another.
                Err(Error::Decode { .. }) if untied && changes < PLANS_OF_PARTS => changes += 1,
                Err(error) => return Err(error),
            }
            engine.stats.replans.add(u64::from(changes > before));
            engine.indexes.forget(&array.object(&item.key));
        }
        let failed = StoreError::changed(array.store_name(), &item.key);
        Err(StoreError {
            attempts: PLANS,
            ..failed
        }
        .into())
    }

    /// Finds the index, fills what is not stored, and reads the byte ranges of what is.
    async fn read_parts(
        &self,
        requests: &Requests,
        sharding: &Sharding,
        item: &Item,
        turn: Turn,
    ) -> Result<Attempt, Error> {
        let written = self.written(item);
        let found = match self.index(requests, sharding, item, turn).await {
            Err(error) if is_change(&error) => return Ok(Attempt::Changed),
            found => found?,
        };
        let Some(Found { located, cached }) = found else {
            let selections = Arc::clone(&item.selections);
            let all = (0..selections.len()).map(move |at| selections[at].clone());
            self.fill(item.spec.chunk.clone(), all).await?;
            return Ok(Attempt::Done { missing: true });
        };
        let tied = located.validator.is_some();
        if !tied && requests.store.has_validators() {
            // Nothing would tie ranges to the index: only one body is of one state for certain.
            let turn = self.turns.take().await;
            let missing = self.read_whole(requests, item, turn).await?;
            return Ok(Attempt::Done { missing });
        }
        let (engine, id) = (&self.jobs.engine, self.batch.array.object(&item.key));
        let kept = engine.chunks.of(&id, &item.spec);
        let kept = kept.filter(|kept| Some(&kept.validator) == located.validator.as_ref());
        let decoded = |subchunk| engine.chunks.get(kept.as_ref()?, subchunk);
        let (grid, merging) = (sharding.grid(&item.spec.chunk), plan::merging(&self.batch));
        let mut plan = plan::spans(
            sharding,
            &grid,
            &located.index,
            &item.selections,
            merging,
            decoded,
        );
        let fresh = kept.as_ref().is_some_and(|kept| engine.is_fresh(kept));
        if cached && plan.spans.is_empty() && !fresh {
            if plan.kept.is_empty() {
                return Ok(Attempt::Stale);
            }
            // Data requests show whether the index, and what is kept, are of the shard as it is; here there are none.
            let (splits, members) = (Arc::clone(&plan.splits), Vec::new());
            plan.spans.push((0..0, Subchunks { splits, members }));
        }
        let asked = Instant::now();
        if !plan.absent.is_empty() {
            let spec = item.spec.chunk.with_shape(&sharding.chunk_shape);
            let (splits, absent) = (Arc::clone(&plan.splits), plan.absent.into_iter());
            let absent = absent.map(move |id| splits.part(id));
            self.fill(spec, absent).await?;
        }
        let validates = !plan.spans.is_empty();
        let read = self.spans(requests, sharding, item, &located, plan.spans);
        let outcome = read.await;
        if outcome.is_ok() && !plan.kept.is_empty() {
            self.place_kept(sharding, item, plan.splits, plan.kept)
                .await?;
            if let Some(kept) = kept.filter(|_| validates) {
                engine.chunks.note_seen(&id, &kept, asked);
            }
        }
        match outcome {
            Err(error) if is_change(&error) => Ok(Attempt::Changed),
            Err(error) => Err(error),
            Ok(()) if tied || (written.is_some() && written == self.written(item)) => {
                Ok(Attempt::Done { missing: false })
            }
            Ok(()) => Ok(Attempt::Changed),
        }
    }

    /// How many writes of this process have ended; `None` while one of the object is under way.
    ///
    /// Where a store names no states of objects, this is all that tells of a change.
    fn written(&self, item: &Item) -> Option<u64> {
        let engine = &self.jobs.engine;
        let id = self.batch.array.object(&item.key);
        let ended = engine.writes_ended.load(Ordering::Acquire);
        engine.locks.holder(&id).is_none().then_some(ended)
    }

    /// Finds the index of a shard: in the cache, in a fetch under way, or with one request; `None` where
    /// there is no shard. The turn is dropped once that request is admitted, or where none is needed.
    async fn index(
        &self,
        requests: &Requests,
        sharding: &Sharding,
        item: &Item,
        turn: Turn,
    ) -> Result<Option<Found>, Error> {
        let (engine, array, spec) = (&self.jobs.engine, &self.batch.array, &item.spec);
        let id = array.object(&item.key);
        let cached = || {
            let located = engine.indexes.get(&id, spec)?;
            engine.stats.shard_index_hits.add(1);
            Some(located)
        };
        let cached_now = cached();
        let source = match cached_now {
            Some(located) => Source::Cached(located),
            None => engine.index_loads.join(
                &id,
                spec,
                self.batch.since,
                self.alone(),
                cached,
                |began| {
                    let request = self.request(item, sharding.clone());
                    let requests = requests.clone();
                    async move {
                        let permits = {
                            let nbytes = request.source.index_size(&request.spec.chunk);
                            requests.admit(&request.array, nbytes).await
                        };
                        drop(turn);
                        began.get_or_init(Instant::now);
                        let loaded = load(&requests, &request).await;
                        drop(permits);
                        loaded
                    }
                    .boxed()
                },
            ),
        };
        match source {
            Source::Cached(located) => Ok(Some(Found {
                located,
                cached: true,
            })),
            Source::Fetch(fetch, started) => {
                if !started {
                    engine.stats.flights_shared.add(1);
                }
                let located = fetch.done().await?;
                Ok(located.map(|located| Found {
                    located,
                    cached: false,
                }))
            }
        }
    }

    /// Reads merged byte ranges, each as a unit, in the state that the index is of.
    async fn spans(
        &self,
        requests: &Requests,
        sharding: &Sharding,
        item: &Item,
        located: &Located,
        spans: Vec<(Range<u64>, Subchunks)>,
    ) -> Result<(), Error> {
        let engine = &self.jobs.engine;
        let results = Results::new(spans.len());
        let alone = self.alone() && spans.len() == 1;
        let sharding = Arc::new(sharding.clone());
        let units = spans
            .into_iter()
            .enumerate()
            .map(|(index, (range, wanted))| {
                let validator = located.validator.clone();
                let request = self.request(item, Span { range, validator });
                let waiter = self.waiter(wanted, &results, index);
                let (requests, sharding) = (requests.clone(), Arc::clone(&sharding));
                move |turn: Turn| {
                    let unit = engine
                        .spans
                        .share(request, waiter, alone, &engine.stats, |fetch| {
                            read_span(requests, sharding, fetch, turn).boxed()
                        });
                    // A unit that panics leaves no outcome, and is reported for that.
                    unit.map(drop).boxed()
                }
            });
        // Units are waited for even after one has failed: when the ranges are planned again, nothing of
        // the old plan may still write.
        self.turns.drive(units, || false).await;
        results
            .outcome(|_| Arc::clone(&item.key))
            .map(drop)
            .map_err(|failed| failed.error)
    }

    /// Scatters subchunks that were kept decoded.
    async fn place_kept(
        &self,
        sharding: &Sharding,
        item: &Item,
        splits: Arc<Splits>,
        kept: Vec<(Bytes, Vec<PartId>)>,
    ) -> Result<(), Error> {
        let Layout::Chunk(chain) = sharding.inner.clone() else {
            return Err(Error::internal("a shard was kept decoded"));
        };
        let spec = item.spec.chunk.with_shape(&sharding.chunk_shape);
        let out = Arc::clone(&self.batch.buffer);
        self.jobs
            .engine
            .stats
            .chunk_cache_hits
            .add(kept.len() as u64);
        let job = move || {
            for (decoded, ids) in kept {
                for id in ids {
                    let (selection, out) = (&splits.part(id), &*out);
                    scatter(&chain, &spec, &decoded, &[Want { selection, out }]);
                }
            }
            Ok(())
        };
        self.jobs.pool().run(job).await
    }

    /// Writes the fill value where a shard, or some of its subchunks, are not stored.
    async fn fill(
        &self,
        spec: ChunkSpec,
        selections: impl Iterator<Item = Selection> + Send + 'static,
    ) -> Result<(), Error> {
        let out = Arc::clone(&self.batch.buffer);
        let job = move || {
            for selection in selections {
                let (selection, out) = (&selection, &*out);
                fill(&spec, &[Want { selection, out }])?;
            }
            Ok(())
        };
        self.jobs.pool().run(job).await
    }
}

/// Fetches, decodes and caches the index of a shard.
async fn load(
    requests: &Requests,
    request: &crate::share::fetches::Request<Sharding>,
) -> Result<Loaded, Error> {
    let engine = &requests.jobs.engine;
    let (array, spec, key, sharding) =
        (&request.array, &request.spec, &request.key, &request.source);
    engine.stats.shard_index_misses.add(1);
    let nbytes = sharding.index_size(&spec.chunk);
    let part = match sharding.location {
        IndexLocation::Start => Part::Range(0..nbytes),
        IndexLocation::End => Part::Suffix(nbytes),
    };
    let fetched = match requests.get(array, key, &part, nbytes, State::Any).await? {
        Get::Found(fetched) => fetched,
        Get::Missing => return Ok(None),
        Get::Changed | Get::Unchanged => {
            return Err(StoreError::changed(array.store_name(), key).into());
        }
        Get::Oversized(size) => {
            return Err(StoreError::oversized(array.store_name(), key, size).into());
        }
    };
    // A foreign store does not tell the size; what leaves its shard fails when it is fetched.
    let size = fetched.size.unwrap_or(u64::MAX / 2);
    let index = guard(|| {
        let options = array.options();
        ShardIndex::decode(&fetched.bytes, sharding, &spec.chunk, size, options)
    })
    .map_err(|error| error.at(key))?;
    let located = Located {
        index: Arc::new(index),
        validator: fetched.validator,
    };
    let id = array.object(key);
    engine.indexes.keep(id, spec, &located);
    Ok(Some(located))
}

fn is_change(error: &Error) -> bool {
    matches!(error, Error::Store(error) if error.kind == StoreErrorKind::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::read;
    use crate::testing::{
        FILL, LIMITS, Memory, MemoryStore, advance, array, assert_idle, batch, bytes, chunks,
        engine, item, range, shards, spec,
    };
    use crate::{Array, Batch, BatchError, Engine, Limits, write};

    /// A shard of 8 elements, 2 in each subchunk, of which the last is not stored; its index has 64 bytes.
    async fn write_shard(store: &MemoryStore, values: [u8; 6]) {
        let memory = Memory::new(&[&values[..], &[FILL; 2]].concat());
        let array = array(store.foreign(), &shards(2, &bytes()));
        let batch = chunks(&array, 8, &["s"], &memory.buffer());
        write(engine(), batch).await.unwrap();
    }

    /// Elements of the shard, two at a time so that there is a range for each.
    fn part(array: &Arc<Array>, from: i64, to: i64, memory: &Memory) -> Batch {
        let item = item(&spec(array, 8), "s", range(from, to, 0));
        batch(array, vec![item], &memory.buffer())
    }

    fn setup(remote: bool) -> (MemoryStore, Arc<Array>, Arc<Engine>) {
        let store = MemoryStore::new();
        let reached = if remote {
            store.remote()
        } else {
            store.foreign()
        };
        (store, array(reached, &shards(2, &bytes())), engine())
    }

    /// What was sent since.
    fn news(store: &MemoryStore, before: usize) -> Vec<String> {
        store.sent().split_off(before)
    }

    #[tokio::test]
    async fn a_part_is_read_by_the_index_and_what_is_not_stored_is_filled() {
        for remote in [false, true] {
            let (store, array, engine) = setup(remote);
            write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
            let (before, memory) = (store.sent().len(), Memory::new(&[0; 5]));
            let batch = part(&array, 3, 8, &memory);
            let missing = read(Arc::clone(&engine), batch).await.unwrap();
            assert_eq!(vec![false], missing);
            assert_eq!(vec![4, 5, 6, FILL, FILL], memory.bytes());
            let ranges = ["get s last 64", "get s 2..6"];
            assert_eq!(ranges.as_slice(), news(&store, before));
            assert_idle(&engine);
        }
    }

    #[tokio::test]
    async fn a_shard_that_is_missing_is_filled() {
        let (store, array, engine) = setup(true);
        let memory = Memory::new(&[0; 2]);
        let missing = read(engine, part(&array, 3, 5, &memory)).await.unwrap();
        assert_eq!((vec![true], vec![FILL; 2]), (missing, memory.bytes()));
        assert_eq!(vec!["get s last 64"], store.sent());
    }

    #[tokio::test]
    async fn an_index_is_fetched_again_only_where_answers_do_not_name_the_state() {
        for (remote, indexes) in [(false, 2), (true, 1)] {
            let (store, array, engine) = setup(remote);
            write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
            let before = store.sent().len();
            for _ in 0..2 {
                let batch = part(&array, 0, 1, &Memory::new(&[0]));
                read(Arc::clone(&engine), batch).await.unwrap();
            }
            let index = |line: &&String| *line == "get s last 64";
            assert_eq!(indexes, news(&store, before).iter().filter(index).count());
        }
    }

    #[tokio::test]
    async fn two_batches_share_the_index_and_the_range() {
        let (store, array, engine) = setup(true);
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        let (before, memory) = (store.sent().len(), Memory::new(&[0]));
        let first = part(&array, 0, 1, &memory);
        let second = Batch {
            since: first.since,
            ..part(&array, 0, 1, &memory)
        };
        store.hold("get s");
        let mut first = Box::pin(read(Arc::clone(&engine), first));
        advance(&mut first).await;
        let mut second = Box::pin(read(Arc::clone(&engine), second));
        advance(&mut second).await;
        store.hold("get s 0..2");
        store.release("get s");
        advance(&mut first).await;
        advance(&mut second).await;
        store.release("get s 0..2");
        let (first, second) = futures::join!(first, second);
        assert_eq!(
            (vec![false], vec![false]),
            (first.unwrap(), second.unwrap())
        );
        assert_eq!(vec!["get s last 64", "get s 0..2"], news(&store, before));
        assert_eq!(2, engine.stats().flights_shared.get());
    }

    /// Reads all that is stored while `change` happens between the index and the data.
    async fn read_while(
        store: &MemoryStore,
        array: &Arc<Array>,
        engine: &Arc<Engine>,
        change: impl Future<Output = ()>,
    ) -> (Result<Vec<bool>, BatchError>, Vec<u8>) {
        let (before, memory) = (store.sent().len(), Memory::new(&[0; 5]));
        store.hold("get s 0..");
        let read = tokio::spawn(read(Arc::clone(engine), part(array, 0, 5, &memory)));
        store.sends(before + 2).await;
        change.await;
        store.release("get s 0..");
        (read.await.unwrap(), memory.bytes())
    }

    #[tokio::test]
    async fn a_shard_that_is_replaced_between_two_requests_is_planned_again() {
        let (store, array, engine) = setup(true);
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        let change = write_shard(&store, [0, 0, 7, 7, 7, 8]);
        let (outcome, read) = read_while(&store, &array, &engine, change).await;
        assert_eq!(vec![false], outcome.unwrap());
        assert_eq!(vec![0, 0, 7, 7, 7], read);
        assert_eq!(1, engine.stats().replans.get());
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn a_write_of_this_process_is_seen_where_answers_do_not_name_the_state() {
        let (store, array, engine) = setup(false);
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        let change = async {
            let memory = Memory::new(&[7; 8]);
            let all = chunks(&array, 8, &["s"], &memory.buffer());
            write(Arc::clone(&engine), all).await.unwrap();
        };
        let (outcome, read) = read_while(&store, &array, &engine, change).await;
        assert_eq!(vec![false], outcome.unwrap());
        assert_eq!(vec![7; 5], read);
        assert_eq!(1, engine.stats().replans.get());
    }

    #[tokio::test]
    async fn a_shard_that_is_removed_between_two_requests_is_missing() {
        let (store, array, engine) = setup(true);
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        let gone = store.remove("s");
        let (outcome, read) = read_while(&store, &array, &engine, gone).await;
        assert_eq!((vec![true], vec![FILL; 5]), (outcome.unwrap(), read));
    }

    #[tokio::test]
    async fn a_shard_that_always_changes_is_read_in_one_request() {
        let (store, array, engine) = setup(true);
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        let (memory, before) = (Memory::new(&[0; 5]), store.sent().len());
        store.replace_before("get s 0..");
        let batch = part(&array, 0, 5, &memory);
        read(Arc::clone(&engine), batch).await.unwrap();
        assert_eq!(vec![1, 2, 3, 4, 5], memory.bytes());
        let parts = ["get s last 64", "get s 0..6"];
        let requests = [parts, parts].concat();
        assert_eq!([&requests[..], &["get s"]].concat(), news(&store, before));
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn a_failed_range_does_not_cut_short_the_others() {
        let limits = Limits {
            requests: Some(1),
            ..LIMITS
        };
        let (store, array, _) = setup(true);
        let engine = Engine::new(limits).unwrap();
        write_shard(&store, [1, 2, 3, 4, 5, 6]).await;
        store.fail("get s 0..2", 1);
        let before = store.sent().len();
        let spec = spec(&array, 8);
        let ends = crate::testing::steps(0, 4, 2, 0);
        let batch = batch(
            &array,
            vec![item(&spec, "s", ends)],
            &Memory::new(&[0; 2]).buffer(),
        );
        let failed = read(Arc::clone(&engine), batch).await.unwrap_err();
        assert!(matches!(failed.error, Error::Store(error) if &*error.key == "s"));
        let ranges = ["get s last 64", "get s 0..2", "get s 4..6"];
        assert_eq!(ranges.as_slice(), news(&store, before));
        assert_idle(&engine);
    }
}
