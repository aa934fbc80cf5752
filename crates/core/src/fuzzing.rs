//! The steps of a read and of a write that meet stored bytes, for the fuzz targets. No logic of its own.

use std::ops::Range;

use crate::chunk::decode::{Want, Work};
use crate::chunk::encode::Values;
use crate::codec::element::ChunkSpec;
use crate::codec::layout::Layout;
use crate::codec::shard_index::ShardIndex;
use crate::codec::stage::DecodeOptions;
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::Selection;
use crate::error::Error;
use crate::read::plan;
use crate::stats::Stats;

pub use crate::codec::layout::{IndexLocation, Sharding};

/// A subchunk that is fetched: its byte range, and the part of the selection that it serves.
pub type Member = (Range<u64>, Selection);
/// A byte range that is fetched in one request, and what is in it.
pub type Span = (Range<u64>, Vec<Member>);

/// How a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether checksums are compared.
    pub validate_checksums: bool,
    /// Whether chunks that equal the fill value are stored.
    pub write_empty: bool,
    /// Whether the subchunks of one shard may use several threads.
    pub parallel: bool,
}

/// Decodes an object and scatters the selected elements to `out`.
///
/// # Errors
/// [`Error::Decode`] when `encoded` is no such object.
pub fn place(
    layout: &Layout,
    spec: &ChunkSpec,
    encoded: &[u8],
    selection: &Selection,
    out: &OutBuffer,
    options: Options,
) -> Result<(), Error> {
    let stats = Stats::default();
    let work = work(&stats, options);
    crate::chunk::decode::place(layout, spec, encoded, &[Want { selection, out }], work)
}

/// Gives the object that holds `existing` with the selected elements replaced; `None` for one that is
/// not stored.
///
/// # Errors
/// [`Error::Decode`] when `existing` is no such object; [`Error::Encode`] when a codec refuses.
pub fn update(
    layout: &Layout,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selection: &Selection,
    values: &OutBuffer,
    options: Options,
) -> Result<Option<Vec<u8>>, Error> {
    let stats = Stats::default();
    let values = Values {
        buffer: values,
        write_empty: options.write_empty,
        work: work(&stats, options),
    };
    let mut object = Vec::new();
    let stored = crate::chunk::encode::update(
        layout,
        spec,
        existing,
        std::slice::from_ref(selection),
        values,
        &mut object,
    )?;
    Ok(stored.then_some(object))
}

/// The encoded index within a whole shard.
///
/// # Errors
/// [`Error::Decode`] when the shard is shorter than its index.
pub fn index_of<'a>(
    sharding: &Sharding,
    spec: &ChunkSpec,
    shard: &'a [u8],
) -> Result<&'a [u8], Error> {
    sharding.index_of(spec, shard)
}

/// A decoded shard index.
#[derive(Debug)]
pub struct Index(ShardIndex);

impl Index {
    /// Decodes the index of a shard of `shard_size` bytes.
    ///
    /// # Errors
    /// [`Error::Decode`] when it is damaged.
    pub fn decode(
        sharding: &Sharding,
        spec: &ChunkSpec,
        index: &[u8],
        shard_size: u64,
        validate_checksums: bool,
    ) -> Result<Self, Error> {
        let options = DecodeOptions { validate_checksums };
        ShardIndex::decode(index, sharding, spec, shard_size, options).map(Self)
    }

    /// Where each subchunk stands, in C order.
    #[must_use]
    pub fn ranges(&self) -> Vec<Option<Range<u64>>> {
        let subchunks = self.0.nbytes() / size_of::<(u64, u64)>();
        (0..subchunks).map(|at| self.0.range(at)).collect()
    }

    /// The byte ranges that a selection needs, merged across `gap` bytes up to `max`, each with its
    /// subchunks; and the parts of the selection whose subchunks are not stored.
    #[must_use]
    pub fn spans(
        &self,
        sharding: &Sharding,
        spec: &ChunkSpec,
        selection: &Selection,
        gap: u64,
        max: u64,
    ) -> (Vec<Span>, Vec<Selection>) {
        let grid = sharding.grid(spec);
        let selections = std::slice::from_ref(selection);
        let merging = plan::Merging {
            gap,
            max,
            whole: gap,
        };
        let plan = plan::spans(sharding, &grid, &self.0, selections, merging, |_| None);
        let spans = plan.spans.into_iter().map(|(span, subchunks)| {
            let members = subchunks.members.into_iter();
            let members = members.map(|(range, id)| (range, plan.splits.part(id)));
            (span, members.collect())
        });
        let absent = plan.absent.iter().map(|id| plan.splits.part(*id));
        (spans.collect(), absent.collect())
    }
}

/// Bytes that an encoded chunk cannot exceed.
#[must_use]
pub fn max_encoded(layout: &Layout, spec: &ChunkSpec) -> u64 {
    layout.max_encoded(spec)
}

fn work(stats: &Stats, options: Options) -> Work<'_> {
    Work {
        options: DecodeOptions {
            validate_checksums: options.validate_checksums,
        },
        stats,
        parallel: options.parallel,
        keep: None,
    }
}
