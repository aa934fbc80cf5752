//! Values to encoded bytes: gather, merge with what is stored, encode. The middle of every write.
//!
//! In a shard only the subchunks that the selection touches are decoded and encoded; the bytes of the
//! others are spliced into the new shard as they are.

use std::ops::Range;

use crate::chunk::decode::{Work, bytes_of, straight};
use crate::chunk::texts;
use crate::codec::chain::Chain;
use crate::codec::element::ChunkSpec;
use crate::codec::layout::{IndexLocation, Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::copy::buffer::{Access, OutBuffer};
use crate::copy::selection::{Selection, covered};
use crate::copy::split::{PartId, Splits};
use crate::copy::strided::runs;
use crate::error::Error;
use crate::limits::pool;
use crate::memory::{append, reserve, resize, with_decoded};

/// The values of one batch, and how they are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a> {
    pub buffer: &'a OutBuffer,
    /// Whether chunks that equal the fill value are stored.
    pub write_empty: bool,
    pub work: Work<'a>,
}

impl<'a> Values<'a> {
    /// Begins to use the values.
    ///
    /// # Errors
    /// [`Error::Stopped`] once nobody waits for the write any more.
    pub(crate) fn enter(&self) -> Result<Access<'a>, Error> {
        let access = self.buffer.enter();
        access.ok_or_else(|| Error::Stopped("its values are gone".into()))
    }
}

/// Appends the object that holds `existing` with the selected elements replaced to `into`, those of one
/// selection after those of the one before; appends nothing and says `false` where it shall not be stored: all of it equals the fill value, or a foreign codec says so.
///
/// `existing` is the stored object, `None` where there is none or none of it is to survive.
pub(crate) fn update(
    layout: &Layout,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selections: &[Selection],
    values: Values<'_>,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    match layout {
        Layout::Chunk(chain) if spec.element.kind.is_variable() => {
            texts::update(chain, spec, existing, selections, values, into)
        }
        Layout::Chunk(chain) => update_chunk(chain, spec, existing, selections, values, into),
        Layout::Shard(sharding) => {
            let most = layout.max_encoded(spec);
            update_shard(sharding, spec, existing, most, selections, values, into)
        }
    }
}

/// Appends an object that decodes to fill values: an encoded chunk, or a shard without subchunks; `false` and nothing
/// where a foreign codec stores none.
pub(crate) fn encode_empty(
    layout: &Layout,
    spec: &ChunkSpec,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    match layout {
        Layout::Chunk(chain) if spec.element.kind.is_variable() => {
            texts::encode_empty(chain, spec, into)
        }
        Layout::Chunk(chain) => with_decoded(|scratch| {
            let nbytes = spec
                .nbytes()
                .ok_or_else(|| Error::invalid("the chunk is too large"))?;
            resize(scratch, nbytes)?;
            spec.fill_into(scratch);
            chain.encode(spec, scratch, into)
        }),
        Layout::Shard(sharding) => {
            let subchunks = sharding.grid(spec).iter().product::<u64>();
            let count = usize::try_from(subchunks)
                .map_err(|_| Error::invalid("the shard has too many subchunks"))?;
            ShardIndex::absent(count)?.encode(sharding, into)?;
            Ok(true)
        }
    }
}

fn update_chunk(
    chain: &Chain,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selections: &[Selection],
    values: Values<'_>,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    let nbytes = spec
        .nbytes()
        .ok_or_else(|| Error::invalid("the chunk is too large"))?;
    let strides = chain.strides(spec);
    let work = values.work;
    let mut encode = |decoded: &[u8]| {
        if !values.write_empty && chain.is_empty(spec, decoded)? {
            return Ok(false);
        }
        work.stats.chunks_encoded.add(1);
        chain.encode(spec, decoded, into)
    };
    // A foreign codec may wait, and must not keep a buffer that is being closed.
    if let [selection] = selections
        && !chain.is_foreign()
        && let Some((offset, len)) = straight(selection, spec, &strides)
    {
        return encode(values.enter()?.slice(offset, len));
    }
    with_decoded(|scratch| {
        resize(scratch, nbytes)?;
        match existing {
            _ if covered(selections, &spec.shape) => {}
            Some(existing) => {
                work.stats.chunks_decoded.add(1);
                chain.decode_into(spec, existing, scratch, work.options)?;
            }
            None => spec.fill_into(scratch),
        }
        let size = spec.element.size;
        let access = values.enter()?;
        for selection in selections {
            runs(selection, &strides, size, |run| {
                access.gather(scratch, run, size);
            });
        }
        drop(access);
        encode(scratch)
    })
}

/// What becomes of one subchunk of a shard.
enum Subchunk<'a> {
    Absent,
    /// Its encoded bytes stay as they are, at this range of the stored shard.
    Kept(Range<u64>),
    /// These parts of the selections fall into it.
    Touched(&'a [PartId]),
    /// It has been encoded anew; `None` for one that is not stored.
    Encoded(Option<Vec<u8>>),
}

fn update_shard(
    sharding: &Sharding,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    most: u64,
    selections: &[Selection],
    values: Values<'_>,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    let grid = sharding.grid(spec);
    let count = usize::try_from(grid.iter().product::<u64>())
        .map_err(|_| Error::invalid("the shard has too many subchunks"))?;
    let index = match existing {
        Some(shard) => {
            let encoded = sharding.index_of(spec, shard)?;
            let options = values.work.options;
            ShardIndex::decode(encoded, sharding, spec, shard.len() as u64, options)?
        }
        None => ShardIndex::absent(count)?,
    };
    // Entries may name the same bytes, each of which would be copied for each of them.
    let stored = (0..count)
        .filter_map(|at| index.range(at))
        .fold(0, |sum: u64, range| {
            sum.saturating_add(range.end - range.start)
        });
    if stored > most {
        let reason = format!("its subchunks have {stored} bytes, where a shard has {most} at most");
        return Err(Error::decode("sharding_indexed", reason));
    }
    let mut subchunks = Vec::new();
    reserve(&mut subchunks, count)?;
    subchunks.extend((0..count).map(|at| index.range(at).map_or(Subchunk::Absent, Subchunk::Kept)));
    let splits = Splits::new(selections, &sharding.chunk_shape, &grid);
    let touched: Vec<_> = splits.subchunks().collect();
    let subspec = spec.with_shape(&sharding.chunk_shape);
    let inner = Values {
        work: values.work.on_one_thread(),
        ..values
    };
    let encode = |ids: &[PartId], into: &mut Vec<u8>| {
        let before = existing
            .zip(index.range(ids[0].subchunk))
            .map(|(shard, range)| bytes_of(shard, &range))
            .transpose()?;
        let parts: Vec<_> = ids.iter().map(|id| splits.part(*id)).collect();
        update(&sharding.inner, &subspec, before, &parts, inner, into)
    };
    if values.work.parallel && touched.len() > 1 {
        let encoded = pool::for_each(touched, true, |ids| {
            let mut bytes = Vec::new();
            let stored = encode(ids, &mut bytes)?;
            Ok((ids[0].subchunk, stored.then_some(bytes)))
        })?;
        for (at, bytes) in encoded {
            subchunks[at] = Subchunk::Encoded(bytes);
        }
    } else {
        for ids in touched {
            subchunks[ids[0].subchunk] = Subchunk::Touched(ids);
        }
    }
    assemble(
        sharding,
        spec,
        existing.unwrap_or_default(),
        &subchunks,
        encode,
        into,
    )
}

/// Appends the subchunks and their index; nothing where no subchunk is left.
fn assemble(
    sharding: &Sharding,
    spec: &ChunkSpec,
    existing: &[u8],
    subchunks: &[Subchunk<'_>],
    encode: impl Fn(&[PartId], &mut Vec<u8>) -> Result<bool, Error>,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    let origin = into.len();
    let index_size = usize::try_from(sharding.index_size(spec)).unwrap_or(0);
    if sharding.location == IndexLocation::Start {
        resize(into, origin + index_size)?;
    }
    let mut index = ShardIndex::absent(subchunks.len())?;
    let mut any = false;
    for at in sharding.write_order.subchunks(&sharding.grid(spec))? {
        let start = into.len() - origin;
        let stored = match &subchunks[at] {
            Subchunk::Absent | Subchunk::Encoded(None) => false,
            Subchunk::Kept(range) => {
                append(into, bytes_of(existing, range)?)?;
                true
            }
            Subchunk::Touched(ids) => encode(ids, into)?,
            Subchunk::Encoded(Some(bytes)) => {
                append(into, bytes)?;
                true
            }
        };
        if stored {
            index.set(at, &(start as u64..(into.len() - origin) as u64));
            any = true;
        }
    }
    if !any {
        into.truncate(origin);
        return Ok(false);
    }
    match sharding.location {
        IndexLocation::Start => {
            let mut encoded = Vec::new();
            index.encode(sharding, &mut encoded)?;
            into[origin..origin + index_size].copy_from_slice(&encoded);
        }
        IndexLocation::End => index.encode(sharding, into)?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::element::{Element, Kind};
    use crate::codec::stage::DecodeOptions;
    use crate::copy::buffer::tests::owned;
    use crate::copy::positions::Positions;
    use crate::stats::Stats;

    /// Each entry of the index was within its bounds, and a partial write copied all of them.
    #[test]
    fn subchunks_that_share_their_bytes_do_not_make_a_shard_larger_than_one_can_be() {
        let codecs = json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [1], "codecs": [{"name": "bytes"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}}]);
        let layout = Layout::from_v3(&codecs, false, &[]).unwrap();
        let spec = ChunkSpec {
            shape: vec![64],
            element: Element {
                size: 1,
                kind: Kind::Bits,
                swap_unit: 1,
                big_endian: false,
            },
            fill: vec![0],
        };
        let length = 1_u64 << 20;
        let mut shard = vec![0; 1 << 20];
        for number in [0, length].into_iter().cycle().take(128) {
            shard.extend_from_slice(&number.to_le_bytes());
        }
        assert!(shard.len() as u64 <= layout.max_encoded(&spec));
        let position = || Positions::from_list(vec![0]);
        let one = Selection::Points {
            coords: vec![position()],
            out: position(),
        };
        let (buffer, _) = owned(vec![7]);
        let stats = Stats::default();
        let values = Values {
            buffer: &buffer,
            write_empty: true,
            work: Work {
                options: DecodeOptions {
                    validate_checksums: true,
                },
                stats: &stats,
                parallel: false,
                keep: None,
            },
        };
        let mut object = Vec::new();
        let refused = update(&layout, &spec, Some(&shard), &[one], values, &mut object);
        assert!(matches!(refused, Err(Error::Decode { .. })), "{refused:?}");
        assert_eq!(0, object.capacity());
    }
}
