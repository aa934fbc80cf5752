//! One unit of a read, from its admission to the copy into the caller's buffer.
//!
//! ```text
//! admit ─► fetch ─► CPU ─► decode and scatter, for every batch that waits
//! ```
//!
//! A unit is shared by all batches that wait for its fetches, so it holds nothing of the batch that
//! started it but its turn, and drops that once admitted. The outcome goes to the results of each waiter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::chunk::decode::{
    Keep, Want, as_wants, bytes_of, fill, place, place_shard, scatter, shard_index,
};
use crate::codec::layout::{Layout, Sharding};
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::Selection;
use crate::engine::Engine;
use crate::engine::jobs::Jobs;
use crate::engine::requests::Requests;
use crate::error::{Error, StoreError};
use crate::limits::pool::{self, guard};
use crate::limits::turn::Turn;
use crate::read::local::read_local;
use crate::share::chunk_cache::{Keeper, Kept};
use crate::share::fetches::{Fetch, ObjectFetch, Selections, SpanFetch, Waiter};
use crate::share::index_cache::Located;
use crate::store::{Get, LocalStore, Part, State, Validator};

/// Reads local objects one after the other, in one job.
pub(crate) async fn read_files(
    jobs: Jobs,
    store: Arc<LocalStore>,
    fetches: Vec<Arc<ObjectFetch>>,
    turn: Turn,
) {
    let largest = fetches.iter().map(|fetch| fetch.spec.nbytes).max();
    let chunks = fetches
        .first()
        .and_then(|fetch| fetch.array.chunks.as_ref());
    // The encoded bytes, and a decoded chunk that may have to stand aside before it is scattered.
    let nbytes = 2 * largest.unwrap_or(0) as u64;
    let permits = jobs.engine.admission.admit_local(chunks, nbytes).await;
    let cpu = jobs.cpu().await;
    drop(turn);
    let pool = jobs.pool();
    let job = move || {
        for fetch in &fetches {
            fetch.begin();
            deliver(fetch, |waiters| {
                let work = jobs.work(&fetch.array);
                read_local(&jobs.engine, &store, fetch, &wants(waiters), work)
            });
        }
        drop((permits, cpu));
        Ok(())
    };
    // The job has noted its outcome with every waiter.
    pool.run(job).await.ok();
}

/// Fetches a whole object, then decodes it.
pub(crate) async fn read_object(requests: Requests, fetch: Arc<ObjectFetch>, turn: Turn) {
    let spec = &fetch.spec;
    let (array, key, nbytes) = (&fetch.array, &fetch.key, spec.nbytes);
    let engine = Arc::clone(&requests.jobs.engine);
    let kept = kept_chunk(&engine, &fetch);
    if let Some((kept, decoded)) = &kept
        && engine.is_fresh(kept)
    {
        drop(turn);
        let decoded = decoded.clone();
        let place = move |jobs: &Jobs| {
            deliver(&fetch, |waiters| {
                Ok(place_kept(jobs, &fetch, &decoded, waiters))
            });
        };
        requests.jobs.decode((), nbytes, place).await;
        return;
    }
    let known = kept.as_ref().map(|(kept, _)| &kept.validator);
    let state = known.map_or(State::Any, State::IsNot);
    let (mut turn, mut max_bytes) = (Some(turn), spec.usual_encoded);
    // The encoded bytes, and a decoded chunk that may have to stand aside before it is scattered.
    let mut memory = 2 * nbytes as u64;
    let (fetched, permits, asked) = loop {
        let mut permits = requests.admit(array, memory).await;
        drop(turn.take());
        fetch.begin();
        let asked = Instant::now();
        let fetched = requests
            .get(array, key, &Part::Whole, max_bytes, state)
            .await;
        match fetched {
            Ok(Get::Oversized(size)) if max_bytes < size && size <= spec.max_encoded => {
                (max_bytes, memory) = (size, size + nbytes as u64);
            }
            fetched => {
                permits.release_request();
                break (fetched, permits, asked);
            }
        }
    };
    let decode = move |jobs: &Jobs| {
        deliver(&fetch, |waiters| {
            let (array, key, wants) = (&fetch.array, &fetch.key, wants(waiters));
            match fetched? {
                Get::Found(fetched) => {
                    let (layout, spec) = (&array.layout, &fetch.spec.chunk);
                    let keeper = keeper(&jobs.engine, &fetch, fetched.validator.as_ref(), asked);
                    let work = jobs.work(array).keeping(as_keep(keeper.as_ref()));
                    match layout {
                        Layout::Shard(sharding) => {
                            let index = shard_index(sharding, spec, &fetched.bytes, work.options)?;
                            let index = Arc::new(index);
                            place_shard(sharding, spec, &fetched.bytes, &index, &wants, work)?;
                            let validator = fetched.validator;
                            let located = Located { index, validator };
                            let indexes = &jobs.engine.indexes;
                            indexes.keep(fetch.id.clone(), &fetch.spec, &located);
                        }
                        Layout::Chunk(_) => place(layout, spec, &fetched.bytes, &wants, work)?,
                    }
                    Ok(false)
                }
                Get::Unchanged if let Some((kept, decoded)) = &kept => {
                    jobs.engine.chunks.note_seen(&fetch.id, kept, asked);
                    Ok(place_kept(jobs, &fetch, decoded, waiters))
                }
                Get::Missing => {
                    fill(&fetch.spec.chunk, &wants)?;
                    Ok(true)
                }
                Get::Changed | Get::Unchanged => {
                    Err(StoreError::changed(array.store_name(), key).into())
                }
                Get::Oversized(size) => {
                    Err(StoreError::oversized(array.store_name(), key, size).into())
                }
            }
        });
    };
    requests.jobs.decode(permits, nbytes, decode).await;
}

/// Fetches one merged byte range of a shard, then decodes the subchunks in it.
pub(crate) async fn read_span(
    requests: Requests,
    sharding: Arc<Sharding>,
    fetch: Arc<SpanFetch>,
    turn: Turn,
) {
    let span = &fetch.source;
    let len = span.range.end - span.range.start;
    let subchunk = fetch.spec.chunk.with_shape(&sharding.chunk_shape);
    let decoded = subchunk.nbytes().unwrap_or(0);
    let mut permits = requests.admit(&fetch.array, len + decoded as u64).await;
    drop(turn);
    fetch.begin();
    let asked = Instant::now();
    let known = span.validator.as_ref();
    // An empty range asks whether the shard still is in the state that the validator names.
    let (part, state) = if len == 0 {
        (Part::Range(0..1), known.map_or(State::Any, State::IsNot))
    } else {
        (
            Part::Range(span.range.clone()),
            known.map_or(State::Any, State::Is),
        )
    };
    let fetched = requests
        .get(&fetch.array, &fetch.key, &part, len.max(1), state)
        .await;
    permits.release_request();
    let nbytes = usize::try_from(len).unwrap_or(usize::MAX).max(decoded);
    let decode = move |jobs: &Jobs| {
        deliver(&fetch, |waiters| {
            let (array, key, span) = (&fetch.array, &fetch.key, &fetch.source);
            let bytes = match fetched? {
                Get::Unchanged => return Ok(false),
                Get::Found(fetched) if fetched.bytes.len() as u64 == len => fetched.bytes,
                Get::Found(_) if span.validator.is_none() => {
                    let reason = "a subchunk leaves its shard";
                    return Err(Error::decode("sharding_indexed", reason));
                }
                Get::Oversized(size) => {
                    return Err(StoreError::oversized(array.store_name(), key, size).into());
                }
                Get::Found(_) | Get::Missing | Get::Changed => {
                    return Err(StoreError::changed(array.store_name(), key).into());
                }
            };
            // Several batches may want one subchunk: it is decoded once.
            let mut subchunks: BTreeMap<_, Vec<(Selection, &OutBuffer)>> = BTreeMap::new();
            for waiter in waiters {
                for (range, id) in &waiter.wanted.members {
                    let at = (range.start - span.range.start, range.end - span.range.start);
                    let part = waiter.wanted.splits.part(*id);
                    let subchunk = subchunks.entry((at, id.subchunk)).or_default();
                    subchunk.push((part, &waiter.out));
                }
            }
            let keeper = keeper(&jobs.engine, &fetch, span.validator.as_ref(), asked);
            let work = jobs.work(array).keeping(as_keep(keeper.as_ref()));
            let inner = work.on_one_thread();
            let subchunks = subchunks.into_iter().collect();
            pool::for_each(
                subchunks,
                work.parallel,
                |(((start, end), number), parts)| {
                    let bytes = bytes_of(&bytes, &(start..end))?;
                    let inner = inner.on_subchunk(&sharding, number);
                    place(&sharding.inner, &subchunk, bytes, &as_wants(&parts), inner)
                },
            )?;
            Ok(false)
        });
    };
    requests.jobs.decode(permits, nbytes, decode).await;
}

/// The chunk of an object that is kept decoded, with the state that it is of.
fn kept_chunk(engine: &Engine, fetch: &ObjectFetch) -> Option<(Kept, Bytes)> {
    let Layout::Chunk(_) = fetch.array.layout else {
        return None;
    };
    let kept = engine.chunks.of(&fetch.id, &fetch.spec)?;
    let decoded = engine.chunks.get(&kept, 0)?;
    Some((kept, decoded))
}

/// Scatters a chunk that was kept decoded; it is not missing.
fn place_kept(
    jobs: &Jobs,
    fetch: &ObjectFetch,
    decoded: &[u8],
    waiters: &[Waiter<Selections>],
) -> bool {
    jobs.engine.stats.chunk_cache_hits.add(1);
    if let Layout::Chunk(chain) = &fetch.array.layout {
        scatter(chain, &fetch.spec.chunk, decoded, &wants(waiters));
    }
    false
}

/// Where the chunks of this state of an object are kept, if anywhere.
pub(crate) fn keeper<'a, S, W>(
    engine: &'a Engine,
    fetch: &'a Fetch<S, W>,
    validator: Option<&Validator>,
    asked: Instant,
) -> Option<Keeper<'a>> {
    let is_file = |validator: &Validator| matches!(validator, Validator::File(..));
    let validator = validator.filter(|one| is_file(one) || one.strong_etag().is_some())?;
    let variable = fetch.spec.chunk.element.kind.is_variable();
    (engine.chunks.is_on() && !variable && !fetch.array.layout.is_foreign()).then(|| Keeper {
        cache: &engine.chunks,
        id: fetch.id.clone(),
        spec: &fetch.spec,
        validator: validator.clone(),
        asked,
    })
}

pub(crate) fn as_keep<'a>(keeper: Option<&'a Keeper<'_>>) -> Option<&'a dyn Keep> {
    keeper.map(|keeper| -> &dyn Keep { keeper })
}

/// Lets no other batch join the fetch, does the work for all that have, and notes the outcome with each.
fn deliver<S, W>(fetch: &Fetch<S, W>, work: impl FnOnce(&[Waiter<W>]) -> Result<bool, Error>) {
    let waiters = fetch.take_waiters();
    let outcome = guard(|| work(&waiters)).map_err(|error| error.at(&fetch.key));
    for waiter in &waiters {
        waiter.finish(outcome.clone());
    }
}

pub(crate) fn wants(waiters: &[Waiter<Selections>]) -> Vec<Want<'_>> {
    waiters
        .iter()
        .flat_map(|waiter| {
            let out = &*waiter.out;
            let selections = waiter.wanted.iter();
            selections.map(move |selection| Want { selection, out })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::StoreErrorKind;
    use crate::read::read;
    use crate::testing::{
        LIMITS, Memory, MemoryStore, advance, array, assert_idle, batch, bytes, chunks, engine,
        item, range, shards, spec,
    };
    use crate::{Batch, Limits, LocalStore, Store};

    async fn join(
        engine: &Arc<Engine>,
        store: &MemoryStore,
        batches: [Batch; 2],
    ) -> [Result<Vec<bool>, crate::BatchError>; 2] {
        store.hold("get");
        let [first, second] = batches.map(|batch| Box::pin(read(Arc::clone(engine), batch)));
        let (mut first, mut second) = (first, second);
        advance(&mut first).await;
        advance(&mut second).await;
        store.release("get");
        futures::join!(first, second).into()
    }

    #[tokio::test]
    async fn batches_that_begin_together_share_one_fetch_and_one_decode() {
        let (store, engine) = (MemoryStore::new(), engine());
        store.set("a", &[1, 2, 3, 4]).await;
        let (array, memory) = (array(store.remote(), &bytes()), Memory::new(&[0; 4]));
        let spec = spec(&array, 4);
        let (buffer, since) = (memory.buffer(), Instant::now());
        let part = |selection| Batch {
            since,
            ..batch(&array, vec![item(&spec, "a", selection)], &buffer)
        };
        let batches = [part(range(0, 3, 1)), part(range(3, 4, 0))];
        for outcome in join(&engine, &store, batches).await {
            assert_eq!(vec![false], outcome.unwrap());
        }
        assert_eq!(vec!["get a"], store.sent());
        assert_eq!(vec![4, 1, 2, 3], memory.bytes());
        let stats = engine.stats();
        assert_eq!(
            (1, 1),
            (stats.chunks_decoded.get(), stats.flights_shared.get())
        );
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn a_batch_that_begins_later_fetches_for_itself() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 1]), engine());
        let array = array(store.remote(), &bytes());
        let one = || chunks(&array, 1, &["a"], &memory.buffer());
        store.hold("get");
        let mut first = Box::pin(read(Arc::clone(&engine), one()));
        advance(&mut first).await;
        let mut second = Box::pin(read(Arc::clone(&engine), one()));
        advance(&mut second).await;
        assert_eq!(vec!["get a"; 2], store.sent());
    }

    #[tokio::test]
    async fn a_shared_fetch_goes_on_while_one_batch_waits() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 2]), engine());
        store.set("a", &[1, 2]).await;
        store.hold("get");
        let (array, since) = (array(store.foreign(), &bytes()), Instant::now());
        let one = || Batch {
            since,
            ..chunks(&array, 2, &["a"], &memory.buffer())
        };
        let mut first = Box::pin(read(Arc::clone(&engine), one()));
        advance(&mut first).await;
        let mut second = Box::pin(read(Arc::clone(&engine), one()));
        advance(&mut second).await;
        drop(first);
        assert_eq!(1, store.in_flight());
        store.release("get");
        second.await.unwrap();
        assert_eq!(vec![1, 2], memory.bytes());
    }

    #[tokio::test]
    async fn a_failed_fetch_fails_for_every_batch_that_waits() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 1]), engine());
        store.fail("get a", 1);
        let (array, since) = (array(store.foreign(), &bytes()), Instant::now());
        let one = || Batch {
            since,
            ..chunks(&array, 1, &["a"], &memory.buffer())
        };
        for outcome in join(&engine, &store, [one(), one()]).await {
            let failed = outcome.unwrap_err();
            assert!(matches!(failed.error, Error::Store(error) if &*error.key == "a"));
        }
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn an_object_larger_than_a_chunk_can_be_is_refused() {
        let (store, memory, engine) = (MemoryStore::new(), Memory::new(&[0; 2]), engine());
        let array = array(store.remote(), &bytes());
        let too_many = usize::try_from(spec(&array, 2).max_encoded + 1).unwrap();
        store.set("a", &vec![0; too_many]).await;
        let batch = chunks(&array, 2, &["a"], &memory.buffer());
        let failed = read(Arc::clone(&engine), batch).await.unwrap_err();
        let Error::Store(error) = failed.error else {
            panic!("{failed:?}");
        };
        assert_eq!(StoreErrorKind::Oversized, error.kind);
        assert_idle(&engine);
    }

    const HOUR: Duration = Duration::from_hours(1);

    fn keeping(recheck: Duration) -> Arc<Engine> {
        Engine::new(Limits {
            chunk_cache_bytes: 1 << 20,
            chunk_cache_recheck: recheck,
            ..LIMITS
        })
        .unwrap()
    }

    /// Reads elements `from..to` of a chunk of 4.
    async fn part(engine: &Arc<Engine>, array: &Arc<crate::Array>, from: i64, to: i64) -> Vec<u8> {
        let memory = Memory::new(&vec![0; usize::try_from(to - from).unwrap()]);
        let item = item(&spec(array, 4), "a", range(from, to, 0));
        let batch = batch(array, vec![item], &memory.buffer());
        read(Arc::clone(engine), batch).await.unwrap();
        memory.bytes()
    }

    #[tokio::test]
    async fn a_kept_chunk_is_used_while_the_object_is_what_it_was() {
        let (store, engine) = (MemoryStore::new(), keeping(Duration::ZERO));
        store.set("a", &[1, 2, 3, 4]).await;
        let array = array(store.remote(), &bytes());
        for (from, to) in [(0, 2), (1, 3), (0, 4)] {
            let expected: Vec<u8> = (from + 1..=to)
                .map(|at| u8::try_from(at).unwrap())
                .collect();
            assert_eq!(expected, part(&engine, &array, from, to).await);
        }
        // Each asked whether the object was the same.
        assert_eq!(vec!["get a"; 3], store.sent());
        let stats = engine.stats();
        assert_eq!(
            (1, 2),
            (stats.chunks_decoded.get(), stats.chunk_cache_hits.get())
        );
        store.set("a", &[5, 6, 7, 8]).await;
        assert_eq!(vec![6, 7], part(&engine, &array, 1, 3).await);
        assert_eq!(vec![8], part(&engine, &array, 3, 4).await);
        assert_eq!(2, stats.chunks_decoded.get());
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn an_object_that_was_seen_a_moment_ago_is_not_asked_for() {
        let (store, engine) = (MemoryStore::new(), keeping(HOUR));
        store.set("a", &[1, 2, 3, 4]).await;
        let array = array(store.remote(), &bytes());
        assert_eq!(vec![1, 2], part(&engine, &array, 0, 2).await);
        assert_eq!(vec![2, 3], part(&engine, &array, 1, 3).await);
        assert_eq!(vec!["get a"], store.sent());
        // What this process writes is seen whatever the user allows.
        let memory = Memory::new(&[5, 6, 7, 8]);
        let all = chunks(&array, 4, &["a"], &memory.buffer());
        crate::write(Arc::clone(&engine), all).await.unwrap();
        assert_eq!(vec![6, 7], part(&engine, &array, 1, 3).await);
    }

    #[tokio::test]
    async fn what_is_read_while_it_is_written_is_asked_for_again() {
        let (store, engine) = (MemoryStore::new(), keeping(HOUR));
        store.set("a", &[1, 2, 3, 4]).await;
        let array = array(store.remote(), &bytes());
        let memory = Memory::new(&[5, 6, 7, 8]);
        let other = chunks(&array, 4, &["b"], &memory.buffer());
        store.hold("get a");
        let mut read = Box::pin(part(&engine, &array, 0, 2));
        advance(&mut read).await;
        crate::write(Arc::clone(&engine), other).await.unwrap();
        store.release("get a");
        assert_eq!(vec![1, 2], read.await);
        // The write of an object is not told from that of another.
        assert_eq!(vec![1, 2], part(&engine, &array, 0, 2).await);
        assert_eq!(vec![1, 2], part(&engine, &array, 0, 2).await);
        assert_eq!(vec!["get a", "put b", "get a"], store.sent());
    }

    #[tokio::test]
    async fn kept_subchunks_of_a_shard_take_one_request_or_none() {
        let store = MemoryStore::new();
        for (recheck, asked) in [(Duration::ZERO, vec!["get a 0..1"]), (HOUR, vec![])] {
            let engine = keeping(recheck);
            let array = array(store.remote(), &shards(2, &bytes()));
            let memory = Memory::new(&[1, 2, 3, 4]);
            let all = chunks(&array, 4, &["a"], &memory.buffer());
            crate::write(Arc::clone(&engine), all).await.unwrap();
            assert_eq!(vec![2, 3], part(&engine, &array, 1, 3).await);
            let before = store.sent().len();
            assert_eq!(vec![1, 2, 3], part(&engine, &array, 0, 3).await);
            assert_eq!(asked, store.sent().split_off(before));
            assert_eq!(2, engine.stats().chunk_cache_hits.get());
            assert_idle(&engine);
        }
    }

    #[tokio::test]
    async fn kept_subchunks_of_a_shard_that_was_replaced_are_not_used() {
        let (store, engine) = (MemoryStore::new(), keeping(Duration::ZERO));
        let (array, other) = (
            array(store.remote(), &shards(2, &bytes())),
            crate::testing::engine(),
        );
        for values in [[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 1, 1]] {
            let all = chunks(&array, 4, &["a"], &Memory::new(&values).buffer());
            crate::write(Arc::clone(&other), all).await.unwrap();
            assert_eq!(values[..3], part(&engine, &array, 0, 3).await);
            assert_eq!(values[1..], part(&engine, &array, 1, 4).await);
        }
        assert_idle(&engine);
    }

    #[tokio::test]
    async fn local_chunks_are_kept_for_as_long_as_their_file_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        for codecs in [bytes(), shards(2, &bytes())] {
            let local = Store::Local(Arc::new(LocalStore::new(root.path(), false)));
            let (array, engine) = (array(local, &codecs), keeping(Duration::ZERO));
            let other = crate::testing::engine();
            for (hits, values) in [(1, [1, 2, 3, 4]), (2, [5, 6, 7, 8])] {
                let all = chunks(&array, 4, &["a"], &Memory::new(&values).buffer());
                crate::write(Arc::clone(&other), all).await.unwrap();
                // A younger file has no state that shows.
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(values[..1], part(&engine, &array, 0, 1).await);
                let decoded = engine.stats().chunks_decoded.get();
                assert_eq!(values[..1], part(&engine, &array, 0, 1).await);
                assert_eq!(decoded, engine.stats().chunks_decoded.get());
                assert_eq!(hits, engine.stats().chunk_cache_hits.get());
            }
        }
    }

    #[tokio::test]
    async fn a_local_shard_is_read_by_its_index() {
        let root = tempfile::tempdir().unwrap();
        let array = array(
            Store::Local(Arc::new(LocalStore::new(root.path(), false))),
            &shards(2, &bytes()),
        );
        let (memory, engine) = (Memory::new(&[1, 2, 3, 4]), engine());
        let all = chunks(&array, 4, &["a"], &memory.buffer());
        crate::write(Arc::clone(&engine), all).await.unwrap();
        let (memory, spec) = (Memory::new(&[0]), spec(&array, 4));
        let one = vec![item(&spec, "a", range(3, 4, 0))];
        let one = batch(&array, one, &memory.buffer());
        read(Arc::clone(&engine), one).await.unwrap();
        assert_eq!(vec![4], memory.bytes());
        // The index has two pairs of 8 bytes.
        assert_eq!(2 + 32, engine.stats().bytes_read.get());
    }
}
