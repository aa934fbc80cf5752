//! Values to encoded bytes: gather, merge with what is stored, encode. The middle of every write.
//!
//! In a shard only the subchunks that the selection touches are decoded and encoded; the bytes of the
//! others are spliced into the new shard as they are.

use std::borrow::Cow;

use crate::codec::Chain;
use crate::element::ChunkSpec;
use crate::error::Error;
use crate::layout::Layout;
use crate::out::OutBuffer;
use crate::place::{Work, bytes_of, straight};
use crate::pool;
use crate::scratch::with_decoded;
use crate::selection::{Selection, runs};
use crate::shard::{IndexLocation, ShardIndex, Sharding, ravel};

/// The object that holds `existing` with the selected elements replaced, or `None` where it shall not
/// be stored because all of it equals the fill value.
///
/// `existing` is the stored object, `None` where there is none or none of it is to survive.
pub(crate) fn update(
    layout: &Layout,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selection: &Selection,
    value: &OutBuffer,
    write_empty: bool,
    work: Work<'_>,
) -> Result<Option<Vec<u8>>, Error> {
    match layout {
        Layout::Chunk(chain) => {
            update_chunk(chain, spec, existing, selection, value, write_empty, work)
        }
        Layout::Shard(sharding) => {
            update_shard(sharding, spec, existing, selection, value, write_empty, work)
        }
    }
}

fn update_chunk(
    chain: &Chain,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selection: &Selection,
    value: &OutBuffer,
    write_empty: bool,
    work: Work<'_>,
) -> Result<Option<Vec<u8>>, Error> {
    let nbytes = spec.nbytes().ok_or_else(|| Error::invalid("the chunk is too large"))?;
    let strides = chain.strides(spec);
    let pass = value.enter().ok_or_else(|| Error::Stopped("its values are gone".into()))?;
    let encode = |decoded: &[u8]| {
        if !write_empty && spec.is_empty(decoded) {
            return Ok(None);
        }
        work.stats.chunks_encoded.add(1);
        chain.encode(spec, decoded).map(Some)
    };
    if let Some((offset, len)) = straight(selection, spec, &strides) {
        return encode(pass.slice(offset, len));
    }
    with_decoded(|scratch| {
        scratch.resize(nbytes, 0);
        match existing {
            _ if selection.covers(&spec.shape) => {}
            Some(existing) => {
                work.stats.chunks_decoded.add(1);
                chain.decode_into(spec, existing, scratch, work.options)?;
            }
            None => spec.fill_into(scratch),
        }
        let size = spec.element.size;
        runs(selection, &strides, size, |run| pass.gather(scratch, run, size));
        encode(scratch)
    })
}

fn update_shard(
    sharding: &Sharding,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selection: &Selection,
    value: &OutBuffer,
    write_empty: bool,
    work: Work<'_>,
) -> Result<Option<Vec<u8>>, Error> {
    let grid = sharding.grid(spec);
    let subspec = spec.with_shape(&sharding.chunk_shape);
    let mut subchunks = existing_subchunks(sharding, spec, existing, work)?;
    let parts = selection.split(&sharding.chunk_shape);
    let parallel = work.parallel && parts.len() > 1;
    let work = Work { parallel: false, ..work };
    let updated = pool::for_each(parts, parallel, |(coords, part)| {
        let at = ravel(&coords, &grid);
        let before = subchunks[at].as_deref();
        update(&sharding.inner, &subspec, before, &part, value, write_empty, work)
            .map(|after| (at, after))
    })?;
    for (at, after) in updated {
        subchunks[at] = after.map(Cow::Owned);
    }
    Ok(assemble(sharding, spec, &subchunks))
}

/// The encoded bytes of each subchunk of a stored shard.
fn existing_subchunks<'a>(
    sharding: &Sharding,
    spec: &ChunkSpec,
    existing: Option<&'a [u8]>,
    work: Work<'_>,
) -> Result<Vec<Option<Cow<'a, [u8]>>>, Error> {
    let count = usize::try_from(sharding.grid(spec).iter().product::<u64>())
        .map_err(|_| Error::invalid("the shard has too many subchunks"))?;
    let Some(shard) = existing else { return Ok(vec![None; count]) };
    let encoded = sharding.index_of(spec, shard)?;
    let index = ShardIndex::decode(encoded, sharding, spec, shard.len() as u64, work.options)?;
    (0..count)
        .map(|at| index.range(at).map(|range| bytes_of(shard, &range).map(Cow::Borrowed)).transpose())
        .collect()
}

fn assemble(
    sharding: &Sharding,
    spec: &ChunkSpec,
    subchunks: &[Option<Cow<'_, [u8]>>],
) -> Option<Vec<u8>> {
    subchunks.iter().any(Option::is_some).then(|| {
        let index_size = usize::try_from(sharding.index_size(spec)).unwrap_or(0);
        let data: usize = subchunks.iter().flatten().map(|bytes| bytes.len()).sum();
        let mut shard = Vec::with_capacity(data + index_size);
        if sharding.location == IndexLocation::Start {
            shard.resize(index_size, 0);
        }
        let mut index = ShardIndex::absent(subchunks.len());
        for (at, bytes) in subchunks.iter().enumerate() {
            let Some(bytes) = bytes else { continue };
            let start = shard.len() as u64;
            shard.extend_from_slice(bytes);
            index.set(at, &(start..shard.len() as u64));
        }
        let encoded = index.encode(sharding.checksum);
        match sharding.location {
            IndexLocation::Start => shard[..index_size].copy_from_slice(&encoded),
            IndexLocation::End => shard.extend_from_slice(&encoded),
        }
        shard
    })
}
