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

use crate::chunk::decode::{Want, as_wants, bytes_of, fill, place};
use crate::codec::layout::Sharding;
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::Selection;
use crate::engine::jobs::Jobs;
use crate::engine::requests::Requests;
use crate::error::{Error, StoreError};
use crate::limits::pool::{self, guard};
use crate::limits::turn::Turn;
use crate::read::local::read_local;
use crate::share::fetches::{Fetch, ObjectFetch, Selections, SpanFetch, Waiter};
use crate::store::{Get, LocalStore, Part};

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
    let (mut turn, mut max_bytes) = (Some(turn), spec.usual_encoded);
    // The encoded bytes, and a decoded chunk that may have to stand aside before it is scattered.
    let mut memory = 2 * nbytes as u64;
    let (fetched, permits) = loop {
        let mut permits = requests.admit(array, memory).await;
        drop(turn.take());
        fetch.begin();
        let fetched = requests
            .get(array, key, &Part::Whole, max_bytes, None)
            .await;
        match fetched {
            Ok(Get::Oversized(size)) if max_bytes < size && size <= spec.max_encoded => {
                (max_bytes, memory) = (size, size + nbytes as u64);
            }
            fetched => {
                permits.release_request();
                break (fetched, permits);
            }
        }
    };
    let decode = move |jobs: &Jobs| {
        deliver(&fetch, |waiters| {
            let (array, key, wants) = (&fetch.array, &fetch.key, wants(waiters));
            match fetched? {
                Get::Found(fetched) => {
                    let (layout, spec) = (&array.layout, &fetch.spec.chunk);
                    place(layout, spec, &fetched.bytes, &wants, jobs.work(array))?;
                    Ok(false)
                }
                Get::Missing => {
                    fill(&fetch.spec.chunk, &wants)?;
                    Ok(true)
                }
                Get::Changed => Err(StoreError::changed(array.store_name(), key).into()),
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
    let part = Part::Range(span.range.clone());
    let expected = span.validator.as_ref();
    let fetched = requests
        .get(&fetch.array, &fetch.key, &part, len, expected)
        .await;
    permits.release_request();
    let nbytes = usize::try_from(len).unwrap_or(usize::MAX).max(decoded);
    let decode = move |jobs: &Jobs| {
        deliver(&fetch, |waiters| {
            let (array, key, span) = (&fetch.array, &fetch.key, &fetch.source);
            let bytes = match fetched? {
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
            let mut subchunks: BTreeMap<(u64, u64), Vec<(Selection, &OutBuffer)>> = BTreeMap::new();
            for waiter in waiters {
                for (range, part) in &waiter.wanted.members {
                    let at = (range.start - span.range.start, range.end - span.range.start);
                    let part = waiter.wanted.splits.part(*part);
                    subchunks.entry(at).or_default().push((part, &waiter.out));
                }
            }
            let work = jobs.work(array);
            let inner = work.on_one_thread();
            let subchunks = subchunks.into_iter().collect();
            pool::for_each(subchunks, work.parallel, |((start, end), parts)| {
                let bytes = bytes_of(&bytes, &(start..end))?;
                place(&sharding.inner, &subchunk, bytes, &as_wants(&parts), inner)
            })?;
            Ok(false)
        });
    };
    requests.jobs.decode(permits, nbytes, decode).await;
}

/// Lets no other batch join the fetch, does the work for all that have, and notes the outcome with each.
fn deliver<S, W>(fetch: &Fetch<S, W>, work: impl FnOnce(&[Waiter<W>]) -> Result<bool, Error>) {
    let waiters = fetch.take_waiters();
    let outcome = guard(|| work(&waiters)).map_err(|error| error.at(&fetch.key));
    for waiter in &waiters {
        waiter.finish(outcome.clone());
    }
}

fn wants(waiters: &[Waiter<Selections>]) -> Vec<Want<'_>> {
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
    use std::time::Instant;

    use super::*;
    use crate::error::StoreErrorKind;
    use crate::read::read;
    use crate::testing::{
        Memory, MemoryStore, advance, array, assert_idle, batch, bytes, chunks, engine, item,
        range, shards, spec,
    };
    use crate::{Batch, Engine, LocalStore, Store};

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
