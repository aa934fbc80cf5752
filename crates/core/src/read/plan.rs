//! Decides how a batch is read: which units there are, and what each of them fetches.
//!
//! Nothing here waits, fetches or locks. A batch and what is known of shard indexes go in, units come
//! out; so reads and [`explain`](crate::Engine::explain) follow one plan, and the tests are data in and
//! data out.
//!
//! Local objects are grouped into [`files`](crate::engine::jobs::files), one unit for each CPU job. Each
//! object of an awaited store is either fetched whole or, if it is a shard of which little is wanted, in
//! *parts*: its index first, then the byte ranges that [`spans`] merges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{Batch, Item};
use crate::codec::layout::{Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::copy::selection::Selection;
use crate::copy::split::{PartId, Splits};
use crate::read::coalesce::coalesce;
use crate::share::fetches::Subchunks;
use crate::store::Store;

/// How one object of an awaited store is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How<'a> {
    /// A chunk, in one request.
    Chunk,
    /// A shard, in one request.
    Shard(&'a Sharding),
    /// A shard, in parts: its index, then byte ranges.
    Parts(&'a Sharding),
}

/// Decides how an object is read, where `budget` bytes may be in memory and a shard's index may be known.
pub(crate) fn how<'a>(
    batch: &'a Batch,
    item: &Item,
    merging: Merging,
    budget: u64,
    index_known: bool,
) -> How<'a> {
    let Layout::Shard(sharding) = &batch.array.layout else {
        return How::Chunk;
    };
    let nbytes = item.spec.nbytes as u64;
    let whole = item.complete || item.covers();
    // A small shard takes one round trip instead of two; the bytes that are not wanted cost less than that.
    let small = if index_known {
        merging.gap
    } else {
        merging.whole
    };
    if nbytes <= small || (whole && nbytes <= budget / 2) {
        How::Shard(sharding)
    } else {
        How::Parts(sharding)
    }
}

/// What is fetched of a shard whose index is known, and what is not there.
#[derive(Debug)]
pub(crate) struct ShardPlan {
    /// The selections, divided along the subchunks.
    pub splits: Arc<Splits>,
    /// Merged byte ranges, each with the subchunks in it.
    pub spans: Vec<(Range<u64>, Subchunks)>,
    /// Parts of `splits` whose subchunks are not stored.
    pub absent: Vec<PartId>,
    /// Parts of `splits` whose subchunks are kept decoded.
    pub kept: Vec<(Bytes, Vec<PartId>)>,
}

/// What is fetched as one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merging {
    /// Bytes that two ranges may have between them.
    pub gap: u64,
    /// Bytes of merged ranges.
    pub max: u64,
    /// Bytes of a shard whose index is not known.
    pub whole: u64,
}

/// Where neither the user nor the wire says anything: what zarr's own setting is.
const GAP: u64 = 1 << 20;

/// What is fetched as one: what the user says, or what the wire is worth.
pub(crate) fn merging(batch: &Batch) -> Merging {
    let wire = match &batch.array.store {
        Store::Awaited(store) => store.wire(),
        Store::Local(_) => None,
    };
    let max = batch.coalesce_max;
    match (batch.coalesce_gap, wire) {
        (None, Some(wire)) => Merging {
            gap: wire.gap(),
            max: max.min(wire.longest()),
            whole: wire.whole(),
        },
        (gap, _) => {
            let gap = gap.unwrap_or(GAP);
            let whole = gap;
            Merging { gap, max, whole }
        }
    }
}

/// Plans the byte ranges of a shard of which `kept` has some subchunks decoded.
pub(crate) fn spans(
    sharding: &Sharding,
    grid: &[u64],
    index: &ShardIndex,
    selections: &[Selection],
    merging: Merging,
    kept: impl Fn(usize) -> Option<Bytes>,
) -> ShardPlan {
    let splits = Arc::new(Splits::new(selections, &sharding.chunk_shape, grid));
    let (mut ranges, mut parts) = (Vec::new(), Vec::new());
    let (mut absent, mut known) = (Vec::new(), Vec::new());
    for ids in splits.subchunks() {
        let subchunk = ids[0].subchunk;
        match (index.range(subchunk), kept(subchunk)) {
            (Some(_), Some(decoded)) => known.push((decoded, ids.to_vec())),
            (Some(range), None) => {
                ranges.push(range);
                parts.push(ids);
            }
            (None, _) => absent.extend(ids),
        }
    }
    let spans = coalesce(&ranges, merging.gap, merging.max)
        .into_iter()
        .map(|(span, members)| {
            let members = members.into_iter().flat_map(|member| {
                let range = &ranges[member];
                parts[member].iter().map(|id| (range.clone(), *id))
            });
            let (members, splits) = (members.collect(), Arc::clone(&splits));
            (span, Subchunks { splits, members })
        })
        .collect();
    ShardPlan {
        splits,
        spans,
        absent,
        kept: known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::buffer::OutBuffer;
    use crate::copy::positions::Positions;
    use crate::testing::{self, array, bytes, item, nowhere, range, shards, spec};

    fn list(positions: &[i64]) -> Selection {
        Selection::Points {
            coords: vec![Positions::List(positions.into())],
            out: Positions::Range {
                start: 0,
                step: 1,
                len: positions.len(),
            },
        }
    }

    /// A batch of one chunk of 40 bytes.
    fn batch(codecs: &serde_json::Value, selection: Selection) -> Batch {
        let array = array(nowhere(), codecs);
        let item = item(&spec(&array, 40), "a", selection);
        testing::batch(&array, vec![item], &Arc::new(OutBuffer::empty()))
    }

    /// A shard of uint8 with four subchunks of ten, of which the third is not stored.
    fn shard() -> (Box<Sharding>, ShardIndex) {
        let codecs = shards(10, &bytes());
        let Layout::Shard(sharding) = Layout::from_v3(&codecs, false, &[]).unwrap() else {
            panic!("not a shard")
        };
        let mut index = ShardIndex::absent(4).unwrap();
        index.set(0, &(0..10));
        index.set(1, &(15..25));
        index.set(3, &(30..40));
        (sharding, index)
    }

    /// Byte ranges, the subchunks in each, and those that are not stored.
    type Planned = (Vec<(u64, u64)>, Vec<Vec<usize>>, Vec<usize>);

    fn planned(selection: &Selection, gap: u64) -> Planned {
        planned_together(std::slice::from_ref(selection), gap)
    }

    fn planned_together(selections: &[Selection], gap: u64) -> Planned {
        let (sharding, index) = shard();
        let merging = Merging {
            gap,
            max: 1 << 20,
            whole: gap,
        };
        let plan = spans(&sharding, &[4], &index, selections, merging, |_| None);
        let absent = plan.absent.iter().map(|id| id.subchunk).collect();
        let subchunks =
            |wanted: &Subchunks| wanted.members.iter().map(|(_, id)| id.subchunk).collect();
        let members = plan
            .spans
            .iter()
            .map(|(_, wanted)| subchunks(wanted))
            .collect();
        let ranges = plan
            .spans
            .into_iter()
            .map(|(range, _)| (range.start, range.end))
            .collect();
        (ranges, members, absent)
    }

    #[test]
    fn ranges_are_merged_up_to_the_gap() {
        let all = range(0, 40, 0);
        let apart = (
            vec![(0, 10), (15, 25), (30, 40)],
            vec![vec![0], vec![1], vec![3]],
            vec![2],
        );
        assert_eq!(apart, planned(&all, 4));
        assert_eq!(
            (vec![(0, 40)], vec![vec![0, 1, 3]], vec![2]),
            planned(&all, 5)
        );
    }

    #[test]
    fn subchunks_that_are_not_selected_are_not_fetched() {
        assert_eq!(
            (vec![(15, 25)], vec![vec![1]], vec![]),
            planned(&range(12, 17, 0), 0)
        );
        assert_eq!((vec![], vec![], vec![2]), planned(&range(25, 27, 0), 0));
        assert_eq!((vec![], vec![], vec![]), planned(&range(0, 0, 0), 0));
    }

    #[test]
    fn duplicates_fetch_a_subchunk_once() {
        assert_eq!(
            (vec![(0, 10)], vec![vec![0]], vec![]),
            planned(&list(&[3, 3, 0, 3]), 0)
        );
    }

    #[test]
    fn selections_of_one_shard_fetch_a_subchunk_once() {
        let selections = [range(12, 17, 0), range(25, 27, 5), range(8, 12, 7)];
        assert_eq!(
            (vec![(0, 10), (15, 25)], vec![vec![0], vec![1, 1]], vec![2]),
            planned_together(&selections, 0)
        );
    }

    #[test]
    fn a_nested_shard_is_one_subchunk() {
        let codecs = shards(20, &shards(5, &bytes()));
        let batch = batch(&codecs, range(0, 3, 0));
        let How::Parts(sharding) = how(&batch, &batch.items[0], merging(&batch), 1 << 20, false)
        else {
            panic!("read whole")
        };
        let mut index = ShardIndex::absent(2).unwrap();
        index.set(0, &(0..100));
        let plan = spans(
            sharding,
            &[2],
            &index,
            &batch.items[0].selections,
            Merging {
                gap: 0,
                max: 1 << 20,
                whole: 0,
            },
            |_| None,
        );
        assert_eq!(1, plan.spans.len());
        assert_eq!(0..100, plan.spans[0].0);
    }

    #[test]
    fn a_shard_is_read_whole_where_that_is_cheaper_and_fits() {
        let whole = |batch: &Batch, budget| {
            let how = how(batch, &batch.items[0], merging(batch), budget, false);
            !matches!(how, How::Parts(_))
        };
        let (all, some) = (range(0, 40, 0), range(0, 3, 0));
        let codecs = shards(10, &bytes());
        assert!(whole(&batch(&codecs, all.clone()), 80));
        assert!(!whole(&batch(&codecs, all), 79));
        let mut batch = batch(&codecs, some);
        assert!(!whole(&batch, 80));
        batch.coalesce_gap = Some(40);
        assert!(whole(&batch, 80));
    }
}
