//! Encoded bytes to their places: decode, then scatter. The end of every read.
//!
//! One object may be wanted by several batches at once; it is decoded once and scattered to each. A
//! chunk that lands contiguous and whole in one buffer is decoded straight into it.

use std::ops::Range;

use bytes::Bytes;

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
/// Below this many decoded bytes it is not worth leaving them out. The fuzz targets have small chunks.
const WORTH_SPARING: usize = if cfg!(feature = "fuzzing") {
    16
} else {
    256 << 10
};

/// What a job needs besides data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub options: DecodeOptions,
    pub stats: &'a Stats,
    /// Whether the subchunks of one shard may use several threads.
    pub parallel: bool,
    /// Where decoded chunks are kept, and which subchunk of its object this one is.
    pub keep: Option<(&'a dyn Keep, usize)>,
}

/// Keeps decoded chunks of one object.
pub(crate) trait Keep: std::fmt::Debug + Sync {
    /// Whether to keep a subchunk of `nbytes`: the first time if `at_once`, else from the second time on.
    fn wants(&self, subchunk: usize, nbytes: usize, at_once: bool) -> bool;

    /// Keeps a subchunk as [`scatter`] takes it.
    fn keep(&self, subchunk: usize, decoded: Bytes);
}

impl<'a> Work<'a> {
    /// The same work on an object whose chunks are kept.
    pub(crate) fn keeping(self, keep: Option<&'a dyn Keep>) -> Self {
        Self {
            keep: keep.map(|keep| (keep, 0)),
            ..self
        }
    }

    /// The same work on one subchunk of a shard; those of a shard within a shard are not kept.
    pub(crate) fn on_subchunk(self, sharding: &Sharding, subchunk: usize) -> Self {
        let keep = self
            .keep
            .filter(|_| matches!(sharding.inner, Layout::Chunk(_)));
        Self {
            keep: keep.map(|(keep, _)| (keep, subchunk)),
            ..self
        }
    }

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
            let index = shard_index(sharding, spec, encoded, work.options)?;
            place_shard(sharding, spec, encoded, &index, wants, work)
        }
    }
}

/// The index of a shard that is in memory.
pub(crate) fn shard_index(
    sharding: &Sharding,
    spec: &ChunkSpec,
    encoded: &[u8],
    options: DecodeOptions,
) -> Result<ShardIndex, Error> {
    let size = encoded.len() as u64;
    ShardIndex::decode(
        sharding.index_of(spec, encoded)?,
        sharding,
        spec,
        size,
        options,
    )
}

/// Decodes a shard whose index is known, and scatters it.
pub(crate) fn place_shard(
    sharding: &Sharding,
    spec: &ChunkSpec,
    encoded: &[u8],
    index: &ShardIndex,
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
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
            let inner = inner.on_subchunk(sharding, ids[0].subchunk);
            place(&sharding.inner, &subspec, bytes, &wants, inner)
        } else {
            fill(&subspec, &wants)?;
            Ok(())
        }
    })
    .map(drop)
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
pub(crate) fn bytes_of<'a>(bytes: &'a [u8], range: &Range<u64>) -> Result<&'a [u8], Error> {
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
    let part = part_worth_decoding(chain, spec, &strides, wants);
    if let Some((keep, subchunk)) = work.keep {
        let whole = wants.iter().any(|want| want.selection.covers(&spec.shape));
        // What is wanted whole, or costs little by itself, is kept when it is wanted again.
        let at_once = !whole && part.is_none();
        if keep.wants(subchunk, spec.nbytes().unwrap_or(usize::MAX), at_once) {
            let mut decoded = Vec::new();
            let apart = chain.decode(spec, encoded, &mut decoded, work.options)?;
            scatter(chain, spec, apart, wants);
            // What no codec has changed still stands in the encoded bytes.
            let unchanged = encoded.as_ptr_range().contains(&apart.as_ptr());
            let copy = unchanged.then(|| Bytes::copy_from_slice(apart));
            let decoded = copy.unwrap_or_else(|| Bytes::from(decoded));
            keep.keep(subchunk, decoded);
            return Ok(());
        }
    }
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
        let (start, decoded) = match &part {
            Some(part) => chain.decode_part(spec, encoded, part, scratch, work.options)?,
            None => (0, chain.decode(spec, encoded, scratch, work.options)?),
        };
        scatter_part(chain, spec, start, decoded, wants);
        Ok(())
    })
}

/// What is wanted of a chunk, from the first byte to the last, where it pays to decode no more.
fn part_worth_decoding(
    chain: &Chain,
    spec: &ChunkSpec,
    strides: &[i64],
    wants: &[Want<'_>],
) -> Option<Range<usize>> {
    let nbytes = spec
        .nbytes()
        .filter(|nbytes| *nbytes / 2 >= WORTH_SPARING)?;
    let spans = wants
        .iter()
        .filter_map(|want| want.selection.span(strides, spec.element.size));
    let part = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
    (chain.spared(&part, nbytes) >= nbytes / 2).then_some(part)
}

/// Copies what is wanted of a decoded chunk to its places.
pub(crate) fn scatter(chain: &Chain, spec: &ChunkSpec, decoded: &[u8], wants: &[Want<'_>]) {
    scatter_part(chain, spec, 0, decoded, wants);
}

/// The same, where the decoded bytes are those of the chunk from `start`.
#[expect(
    clippy::cast_possible_wrap,
    reason = "a chunk's bytes fit, see `nbytes`"
)]
fn scatter_part(chain: &Chain, spec: &ChunkSpec, start: usize, decoded: &[u8], wants: &[Want<'_>]) {
    let (strides, size) = (chain.strides(spec), spec.element.size);
    for want in wants {
        let Some(access) = want.out.enter() else {
            continue;
        };
        runs(want.selection, &strides, size, |mut run| {
            run.chunk -= start as i64;
            access.scatter(decoded, run, size);
        });
    }
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
