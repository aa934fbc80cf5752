//! A local object read inside the job that decodes it: open, `pread` what is needed, decode, scatter.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::chunk::decode::{Touched, Want, Work, as_wants, bytes_of, fill, place, scatter};
use crate::codec::layout::{IndexLocation, Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::engine::Engine;
use crate::error::Error;
use crate::limits::pool;
use crate::memory::with_encoded;
use crate::read::coalesce::coalesce;
use crate::read::unit::{as_keep, keeper};
use crate::share::chunk_cache::{ChunkCache, Kept};
use crate::share::fetches::ObjectFetch;
use crate::share::index_cache::Located;
use crate::store::{LocalStore, Opened};

/// Subchunks closer than this are read at once: about what the page cache copies in a system call's time.
const GAP: u64 = 64 << 10;
/// Encoded bytes read at once at most: what stays in a core's cache until it is decoded.
const SPAN: u64 = 512 << 10;

/// Reads one object for all who want some of it; tells whether it was missing.
pub(crate) fn read_local(
    engine: &Engine,
    store: &LocalStore,
    fetch: &ObjectFetch,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<bool, Error> {
    if wants.iter().all(|want| want.out.is_closed()) {
        return Ok(false);
    }
    let spec = &fetch.spec.chunk;
    let kept = kept(engine, store, fetch);
    if let Some(kept) = &kept
        && place_kept(engine, fetch, kept, wants)?
    {
        return Ok(false);
    }
    let Some(opened) = store.open(&fetch.key)? else {
        fill(spec, wants)?;
        return Ok(true);
    };
    let keeper = keeper(engine, fetch, opened.validator(), Instant::now());
    let work = work.keeping(as_keep(keeper.as_ref()));
    match &fetch.array.layout {
        Layout::Chunk(_) => {
            fetch.spec.check_stored(opened.size())?;
            with_encoded(|encoded| {
                store.read(&fetch.key, &opened, 0..opened.size(), encoded)?;
                work.stats.bytes_read.add(encoded.len() as u64);
                place(&fetch.array.layout, spec, encoded, wants, work)
            })?;
        }
        Layout::Shard(sharding) => {
            let index = index(engine, fetch, store, &opened, sharding, work)?;
            let known = Known {
                index,
                kept: kept.filter(|kept| Some(&kept.validator) == opened.validator()),
                chunks: &engine.chunks,
            };
            read_parts(fetch, store, &opened, sharding, &known, wants, work)?;
        }
    }
    Ok(false)
}

/// What is known of a shard that is open.
struct Known<'a> {
    index: Arc<ShardIndex>,
    kept: Option<Kept>,
    chunks: &'a ChunkCache,
}

impl Known<'_> {
    fn decoded(&self, subchunk: usize) -> Option<Bytes> {
        self.chunks.get(self.kept.as_ref()?, subchunk)
    }
}

/// In which state the object's chunks are kept decoded, if the file is in it.
fn kept(engine: &Engine, store: &LocalStore, fetch: &ObjectFetch) -> Option<Kept> {
    let kept = engine.chunks.of(&fetch.id, &fetch.spec)?;
    (store.state(&fetch.key).as_ref() == Some(&kept.validator)).then_some(kept)
}

/// Scatters what is wanted if all of it is kept decoded; otherwise tells so, and does nothing.
fn place_kept(
    engine: &Engine,
    fetch: &ObjectFetch,
    kept: &Kept,
    wants: &[Want<'_>],
) -> Result<bool, Error> {
    let spec = &fetch.spec.chunk;
    match &fetch.array.layout {
        Layout::Chunk(chain) => {
            let Some(decoded) = engine.chunks.get(kept, 0) else {
                return Ok(false);
            };
            engine.stats.chunk_cache_hits.add(1);
            scatter(chain, spec, &decoded, wants);
        }
        Layout::Shard(sharding) => {
            let (Some(located), Layout::Chunk(chain)) =
                (engine.indexes.get(&fetch.id, &fetch.spec), &sharding.inner)
            else {
                return Ok(false);
            };
            if located.validator.as_ref() != Some(&kept.validator) {
                return Ok(false);
            }
            let touched = Touched::new(sharding, spec, wants);
            let mut found = Vec::new();
            for ids in touched.subchunks() {
                let subchunk = ids[0].subchunk;
                let decoded = match located.index.range(subchunk) {
                    Some(_) => match engine.chunks.get(kept, subchunk) {
                        None => return Ok(false),
                        decoded => decoded,
                    },
                    None => None,
                };
                found.push((decoded, ids));
            }
            engine.stats.shard_index_hits.add(1);
            let subspec = spec.with_shape(&sharding.chunk_shape);
            for (decoded, ids) in found {
                let parts = touched.parts(ids);
                let wants = as_wants(&parts);
                if let Some(decoded) = decoded {
                    engine.stats.chunk_cache_hits.add(1);
                    scatter(chain, &subspec, &decoded, &wants);
                } else {
                    fill(&subspec, &wants)?;
                }
            }
        }
    }
    Ok(true)
}

/// The shard's index: from the cache if it is of the very file that is open.
fn index(
    engine: &Engine,
    fetch: &ObjectFetch,
    store: &LocalStore,
    opened: &Opened,
    sharding: &Sharding,
    work: Work<'_>,
) -> Result<Arc<ShardIndex>, Error> {
    let id = &fetch.id;
    if let Some(located) = engine.indexes.get(id, &fetch.spec)
        && opened.validator().is_some()
        && located.validator.as_ref() == opened.validator()
    {
        work.stats.shard_index_hits.add(1);
        return Ok(located.index);
    }
    work.stats.shard_index_misses.add(1);
    let (spec, size) = (&fetch.spec.chunk, opened.size());
    let nbytes = sharding.index_size(spec);
    let range = match sharding.location {
        IndexLocation::Start => 0..nbytes,
        IndexLocation::End => size.saturating_sub(nbytes)..size,
    };
    if nbytes > size {
        let reason = format!("{size} bytes are less than its index");
        return Err(Error::decode("sharding_indexed", reason));
    }
    let mut encoded = Vec::new();
    store.read(&fetch.key, opened, range, &mut encoded)?;
    work.stats.bytes_read.add(nbytes);
    let index = Arc::new(ShardIndex::decode(
        &encoded,
        sharding,
        spec,
        size,
        work.options,
    )?);
    let located = Located {
        index: Arc::clone(&index),
        validator: opened.validator().cloned(),
    };
    engine.indexes.keep(id.clone(), &fetch.spec, &located);
    Ok(index)
}

fn read_parts(
    fetch: &ObjectFetch,
    store: &LocalStore,
    opened: &Opened,
    sharding: &Sharding,
    known: &Known<'_>,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    let spec = &fetch.spec.chunk;
    let subspec = spec.with_shape(&sharding.chunk_shape);
    let mut present = Vec::new();
    let touched = Touched::new(sharding, spec, wants);
    for ids in touched.subchunks() {
        let subchunk = ids[0].subchunk;
        match (
            known.index.range(subchunk),
            known.decoded(subchunk),
            &sharding.inner,
        ) {
            (Some(_), Some(decoded), Layout::Chunk(chain)) => {
                work.stats.chunk_cache_hits.add(1);
                scatter(chain, &subspec, &decoded, &as_wants(&touched.parts(ids)));
            }
            (Some(range), _, _) => present.push((range, ids)),
            (None, _, _) => fill(&subspec, &as_wants(&touched.parts(ids)))?,
        }
    }
    let ranges: Vec<_> = present.iter().map(|(range, _)| range.clone()).collect();
    let groups = coalesce(&ranges, GAP, SPAN);
    let inner = work.on_one_thread();
    pool::for_each(groups, work.parallel, |(span, members)| {
        with_encoded(|encoded| {
            store.read(&fetch.key, opened, span.clone(), encoded)?;
            work.stats.bytes_read.add(encoded.len() as u64);
            for member in members {
                let (range, ids) = &present[member];
                let range = range.start - span.start..range.end - span.start;
                let bytes = bytes_of(encoded, &range)?;
                let parts = touched.parts(ids);
                let inner = inner.on_subchunk(sharding, ids[0].subchunk);
                place(&sharding.inner, &subspec, bytes, &as_wants(&parts), inner)?;
            }
            Ok(())
        })
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::testing::{FILL, Memory, array, batch, bytes, chunks, engine, item, range, shards};
    use crate::{Array, BatchError, Error, Store, read, write};

    fn local(root: &Path, codecs: &Value) -> Arc<Array> {
        array(Store::Local(Arc::new(LocalStore::new(root, false))), codecs)
    }

    async fn part(
        engine: &Arc<Engine>,
        array: &Arc<Array>,
        start: i64,
        end: i64,
    ) -> Result<(bool, Vec<u8>), BatchError> {
        let memory = Memory::new(&vec![0; usize::try_from(end - start).unwrap()]);
        let spec = crate::testing::spec(array, 8);
        let some = vec![item(&spec, "s", range(start, end, 0))];
        let missing = read(Arc::clone(engine), batch(array, some, &memory.buffer())).await?;
        Ok((missing[0], memory.bytes()))
    }

    /// Writes with another engine, as another process would, and waits until the file's next change would show.
    async fn put(root: &Path, array: &Arc<Array>, values: [u8; 8]) {
        let memory = Memory::new(&values);
        let all = chunks(array, 8, &["s"], &memory.buffer());
        write(engine(), all).await.unwrap();
        let store = LocalStore::new(root, false);
        while store.open("s").unwrap().unwrap().validator().is_none() {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn what_is_not_stored_is_filled() {
        let (root, engine) = (tempfile::tempdir().unwrap(), engine());
        let array = local(root.path(), &shards(2, &bytes()));
        assert_eq!(
            (true, vec![FILL; 2]),
            part(&engine, &array, 1, 3).await.unwrap()
        );
        put(root.path(), &array, [1, 2, FILL, FILL, 5, 6, 7, 8]).await;
        let read = part(&engine, &array, 1, 5).await.unwrap();
        assert_eq!((false, vec![2, FILL, FILL, 5]), read);
    }

    #[tokio::test]
    async fn the_index_is_read_once_for_a_file_and_again_when_that_is_replaced() {
        let (root, engine) = (tempfile::tempdir().unwrap(), engine());
        let array = local(root.path(), &shards(2, &bytes()));
        let looks = || {
            let stats = engine.stats();
            (stats.shard_index_misses.get(), stats.shard_index_hits.get())
        };
        put(root.path(), &array, [1, 2, 3, 4, 5, 6, 7, 8]).await;
        assert_eq!(vec![2, 3], part(&engine, &array, 1, 3).await.unwrap().1);
        assert_eq!(vec![6], part(&engine, &array, 5, 6).await.unwrap().1);
        assert_eq!((1, 1), looks());
        put(root.path(), &array, [FILL, FILL, 8, 7, 6, 5, 4, 3]).await;
        assert_eq!(vec![FILL, 8], part(&engine, &array, 1, 3).await.unwrap().1);
        assert_eq!((2, 1), looks());
    }

    #[tokio::test]
    async fn neighbours_are_read_at_once_and_nothing_else_is() {
        let (root, engine) = (tempfile::tempdir().unwrap(), engine());
        let array = local(root.path(), &shards(2, &bytes()));
        put(root.path(), &array, [1, 2, 3, 4, 5, 6, 7, 8]).await;
        part(&engine, &array, 2, 3).await.unwrap();
        let before = engine.stats().bytes_read.get();
        part(&engine, &array, 0, 4).await.unwrap();
        assert_eq!(4, engine.stats().bytes_read.get() - before);
    }

    #[tokio::test]
    async fn a_file_that_is_no_chunk_is_an_error_with_its_key() {
        let (root, engine) = (tempfile::tempdir().unwrap(), engine());
        for (codecs, content) in [(bytes(), vec![0; 100]), (shards(2, &bytes()), vec![0; 3])] {
            std::fs::write(root.path().join("s"), content).unwrap();
            let array = local(root.path(), &codecs);
            let failed = part(&engine, &array, 0, 8).await.unwrap_err();
            assert!(matches!(&failed.error, Error::Decode { .. }), "{failed:?}");
            assert!(
                failed.error.to_string().contains("\"s\""),
                "{}",
                failed.error
            );
        }
    }
}
