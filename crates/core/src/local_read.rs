//! A local object read inside the job that decodes it: open, `pread` what is needed, decode, scatter.

use std::sync::Arc;

use crate::coalesce::coalesce;
use crate::engine::Engine;
use crate::error::Error;
use crate::flight::Flight;
use crate::index_cache::Located;
use crate::layout::Layout;
use crate::place::{Want, Work, as_wants, bytes_of, fill, place, touched};
use crate::pool;
use crate::scratch::with_encoded;
use crate::shard::{IndexLocation, ShardIndex, Sharding};
use crate::store::{LocalStore, Opened, Store};

/// Subchunks closer than this are read at once: about what the page cache copies in a system call's time.
const GAP: u64 = 64 << 10;
/// Encoded bytes read at once at most: what stays in a core's cache until it is decoded.
const SPAN: u64 = 512 << 10;

/// Reads one object for all who want some of it; tells whether it was missing.
pub(crate) fn read_local(
    engine: &Engine,
    flight: &Flight,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<bool, Error> {
    let Store::Local(store) = &flight.array.store else {
        return Err(Error::invalid("only a local store is read inside its job"));
    };
    if wants.iter().all(|want| want.out.is_closed()) {
        return Ok(false);
    }
    let spec = &flight.spec.chunk;
    let Some(opened) = store.open(&flight.key)? else {
        fill(spec, wants);
        return Ok(true);
    };
    match &flight.array.layout {
        Layout::Chunk(_) => {
            if opened.size() > flight.spec.most_encoded {
                let size = opened.size();
                return Err(Error::decode(
                    "bytes",
                    format!("{size} bytes are no chunk of this shape"),
                ));
            }
            with_encoded(|encoded| {
                store.read(&flight.key, &opened, 0..opened.size(), encoded)?;
                work.stats.bytes_read.add(encoded.len() as u64);
                place(&flight.array.layout, spec, encoded, wants, work)
            })?;
        }
        Layout::Shard(sharding) => {
            let index = index(engine, flight, store, &opened, sharding, work)?;
            read_parts(flight, store, &opened, sharding, &index, wants, work)?;
        }
    }
    Ok(false)
}

/// The shard's index: from the cache if it is of the very file that is open.
fn index(
    engine: &Engine,
    flight: &Flight,
    store: &LocalStore,
    opened: &Opened,
    sharding: &Sharding,
    work: Work<'_>,
) -> Result<Arc<ShardIndex>, Error> {
    let id = flight.array.object(&flight.key);
    let fingerprint = flight.spec.fingerprint;
    if let Some(located) = engine.indexes.get(&id, fingerprint)
        && opened.validator().is_some()
        && located.validator.as_ref() == opened.validator()
    {
        work.stats.shard_index_hits.add(1);
        return Ok(located.index);
    }
    work.stats.shard_index_misses.add(1);
    let (spec, size) = (&flight.spec.chunk, opened.size());
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
    store.read(&flight.key, opened, range, &mut encoded)?;
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
    engine.indexes.keep(id, fingerprint, &located);
    Ok(index)
}

fn read_parts(
    flight: &Flight,
    store: &LocalStore,
    opened: &Opened,
    sharding: &Sharding,
    index: &ShardIndex,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    let spec = &flight.spec.chunk;
    let subspec = spec.with_shape(&sharding.chunk_shape);
    let mut present = Vec::new();
    for (subchunk, parts) in touched(sharding, spec, wants) {
        match index.range(subchunk) {
            Some(range) => present.push((range, parts)),
            None => fill(&subspec, &as_wants(&parts)),
        }
    }
    let ranges: Vec<_> = present.iter().map(|(range, _)| range.clone()).collect();
    let groups = coalesce(&ranges, GAP, SPAN);
    let inner = Work {
        parallel: false,
        ..work
    };
    pool::for_each(groups, work.parallel, |(span, members)| {
        with_encoded(|encoded| {
            store.read(&flight.key, opened, span.clone(), encoded)?;
            work.stats.bytes_read.add(encoded.len() as u64);
            for member in members {
                let (range, parts) = &present[member];
                let range = range.start - span.start..range.end - span.start;
                let bytes = bytes_of(encoded, &range)?;
                place(&sharding.inner, &subspec, bytes, &as_wants(parts), inner)?;
            }
            Ok(())
        })
    })
    .map(drop)
}
