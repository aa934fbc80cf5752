//! Encoded bytes to their places: decode, then scatter. The end of every read.
//!
//! One object may be wanted by several batches at once; it is decoded once and scattered to each. A
//! chunk that lands contiguous and whole in one buffer is decoded straight into it.

use crate::chunk::texts;
use crate::codec::chain::Chain;
use crate::codec::element::ChunkSpec;
use crate::codec::layout::{Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::codec::stage::DecodeOptions;
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::Selection;
use crate::copy::split::{PartId, Splits};
use crate::copy::strided::{runs, single_run};
use crate::error::Error;
use crate::limits::pool;
use crate::memory::with_decoded;
use crate::stats::Stats;

/// Below this many decoded bytes a shard is not worth spreading over threads.
const WORTH_SPREADING: usize = 1 << 20;

/// What a job needs besides data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub options: DecodeOptions,
    pub stats: &'a Stats,
    /// Whether the subchunks of one shard may use several threads.
    pub parallel: bool,
}

impl Work<'_> {
    /// The same work where the threads are taken already.
    pub(crate) const fn on_one_thread(self) -> Self {
        Self {
            parallel: false,
            ..self
        }
    }
}

/// One place that wants a part of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want<'a> {
    pub selection: &'a Selection,
    pub out: &'a OutBuffer,
}

/// Decodes an object and scatters it to everyone who wants some of it.
pub(crate) fn place(
    layout: &Layout,
    spec: &ChunkSpec,
    encoded: &[u8],
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    match layout {
        Layout::Chunk(chain) => place_chunk(chain, spec, encoded, wants, work),
        Layout::Shard(sharding) => {
            let index = ShardIndex::decode(
                sharding.index_of(spec, encoded)?,
                sharding,
                spec,
                encoded.len() as u64,
                work.options,
            )?;
            let subspec = spec.with_shape(&sharding.chunk_shape);
            let touched = Touched::new(sharding, spec, wants);
            let subchunks: Vec<_> = touched.subchunks().collect();
            let nbytes = subchunks.len() * subspec.nbytes().unwrap_or(0);
            let inner = work.on_one_thread();
            let parallel = work.parallel && nbytes >= WORTH_SPREADING;
            pool::for_each(subchunks, parallel, |ids| {
                let parts = touched.parts(ids);
                let wants = as_wants(&parts);
                if let Some(range) = index.range(ids[0].subchunk) {
                    let bytes = bytes_of(encoded, &range)?;
                    place(&sharding.inner, &subspec, bytes, &wants, inner)
                } else {
                    fill(&subspec, &wants)?;
                    Ok(())
                }
            })
            .map(drop)
        }
    }
}

/// Writes the fill value to every place.
///
/// # Errors
/// What the caller's array raises for a text.
pub(crate) fn fill(spec: &ChunkSpec, wants: &[Want<'_>]) -> Result<(), Error> {
    if spec.element.kind.is_variable() {
        return texts::fill(spec, wants);
    }
    let strides = vec![0; spec.shape.len()];
    for want in wants {
        let Some(access) = want.out.enter() else {
            continue;
        };
        runs(want.selection, &strides, spec.element.size, |run| {
            access.fill(&spec.fill, run);
        });
    }
    Ok(())
}

/// Which subchunks of a shard are wanted, and by which parts of which selections.
pub(crate) struct Touched<'a> {
    splits: Splits,
    outs: Vec<&'a OutBuffer>,
}

impl<'a> Touched<'a> {
    pub(crate) fn new(sharding: &Sharding, spec: &ChunkSpec, wants: &[Want<'a>]) -> Self {
        let selections = wants.iter().map(|want| want.selection);
        Self {
            splits: Splits::new(selections, &sharding.chunk_shape, &sharding.grid(spec)),
            outs: wants.iter().map(|want| want.out).collect(),
        }
    }

    /// The parts in each touched subchunk.
    pub(crate) fn subchunks(&self) -> impl Iterator<Item = &[PartId]> {
        self.splits.subchunks()
    }

    /// The selections of one subchunk, each with its buffer.
    pub(crate) fn parts(&self, ids: &[PartId]) -> Vec<(Selection, &'a OutBuffer)> {
        ids.iter()
            .map(|id| (self.splits.part(*id), self.outs[id.selection]))
            .collect()
    }
}

pub(crate) fn as_wants<'a>(parts: &'a [(Selection, &'a OutBuffer)]) -> Vec<Want<'a>> {
    parts
        .iter()
        .map(|(selection, out)| Want { selection, out })
        .collect()
}

/// A byte range of what is in memory; the range comes from stored bytes, so it is checked.
pub(crate) fn bytes_of<'a>(
    bytes: &'a [u8],
    range: &std::ops::Range<u64>,
) -> Result<&'a [u8], Error> {
    usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| Error::decode("sharding_indexed", "a subchunk leaves its shard"))
}

fn place_chunk(
    chain: &Chain,
    spec: &ChunkSpec,
    encoded: &[u8],
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    if wants.iter().all(|want| want.out.is_closed()) {
        return Ok(());
    }
    work.stats.chunks_decoded.add(1);
    if spec.element.kind.is_variable() {
        return texts::place(chain, spec, encoded, wants, work);
    }
    let strides = chain.strides(spec);
    let size = spec.element.size;
    // A foreign codec may wait, and must not keep a buffer that is being closed.
    if let [want] = wants
        && !chain.is_foreign()
        && let Some((offset, len)) = straight(want.selection, spec, &strides)
    {
        let Some(access) = want.out.enter() else {
            return Ok(());
        };
        #[expect(unsafe_code, reason = "a chunk is decoded straight into its place")]
        // SAFETY: zarr gives each element of the output to one chunk, so these bytes, all of which are of this
        // one, are given to nobody else; and they are given out here only.
        let place = unsafe { access.slice_mut(offset, len) };
        return chain.decode_into(spec, encoded, place, work.options);
    }
    with_decoded(|scratch| {
        let decoded = chain.decode(spec, encoded, scratch, work.options)?;
        for want in wants {
            let Some(access) = want.out.enter() else {
                continue;
            };
            runs(want.selection, &strides, size, |run| {
                access.scatter(decoded, run, size);
            });
        }
        Ok(())
    })
}

/// Where the decoded chunk stands in the buffer, as it is: whole, contiguous and in the same order.
pub(crate) fn straight(
    selection: &Selection,
    spec: &ChunkSpec,
    strides: &[i64],
) -> Option<(i64, usize)> {
    let size = spec.element.size;
    let nbytes = spec.nbytes()?;
    let run = single_run(selection, strides, size)?;
    let step = i64::try_from(size).ok()?;
    let in_order = run.len == 1 || (run.chunk_step == step && run.out_step == step);
    (run.chunk == 0 && in_order && run.len.checked_mul(size)? == nbytes)
        .then_some((run.out, nbytes))
}
