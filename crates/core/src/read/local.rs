//! A local object read inside the job that decodes it: open, `pread` what is needed, decode, scatter.

use std::sync::Arc;

use crate::chunk::decode::{Touched, Want, Work, as_wants, bytes_of, fill, place};
use crate::codec::layout::{IndexLocation, Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::engine::Engine;
use crate::error::Error;
use crate::limits::pool;
use crate::memory::with_encoded;
use crate::read::coalesce::coalesce;
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
    let Some(opened) = store.open(&fetch.key)? else {
        fill(spec, wants)?;
        return Ok(true);
    };
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
            read_parts(fetch, store, &opened, sharding, &index, wants, work)?;
        }
    }
    Ok(false)
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
    let id = fetch.array.object(&fetch.key);
    if let Some(located) = engine.indexes.get(&id, &fetch.spec)
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
    engine.indexes.keep(id, &fetch.spec, &located);
    Ok(index)
}

fn read_parts(
    fetch: &ObjectFetch,
    store: &LocalStore,
    opened: &Opened,
    sharding: &Sharding,
    index: &ShardIndex,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    let spec = &fetch.spec.chunk;
    let subspec = spec.with_shape(&sharding.chunk_shape);
    let mut present = Vec::new();
    let touched = Touched::new(sharding, spec, wants);
    for (subchunk, parts) in &touched.subchunks {
        match index.range(*subchunk) {
            Some(range) => present.push((range, parts)),
            None => fill(&subspec, &as_wants(&touched.parts(parts)))?,
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
                let (range, parts) = &present[member];
                let range = range.start - span.start..range.end - span.start;
                let bytes = bytes_of(encoded, &range)?;
                let parts = touched.parts(parts);
                place(&sharding.inner, &subspec, bytes, &as_wants(&parts), inner)?;
            }
            Ok(())
        })
    })
    .map(drop)
}
