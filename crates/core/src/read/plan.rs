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

use crate::batch::{Batch, Item};
use crate::codec::layout::{Layout, Sharding};
use crate::codec::shard_index::ShardIndex;
use crate::copy::selection::Selection;
use crate::copy::split::Split;
use crate::read::coalesce::coalesce;
use crate::share::fetches::Subchunks;

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

/// Decides how an object is read, where `budget` bytes may be in memory.
pub(crate) fn how<'a>(batch: &'a Batch, item: &Item, budget: u64) -> How<'a> {
    let Layout::Shard(sharding) = &batch.array.layout else {
        return How::Chunk;
    };
    let nbytes = item.spec.nbytes as u64;
    let whole = item.complete || item.selection.covers(&item.spec.chunk.shape);
    // A small shard takes one round trip instead of two; the bytes that are not wanted cost less than that.
    if nbytes <= batch.coalesce_gap || (whole && nbytes <= budget / 2) {
        How::Shard(sharding)
    } else {
        How::Parts(sharding)
    }
}

/// What is fetched of a shard whose index is known, and what is not there.
#[derive(Debug)]
pub(crate) struct ShardPlan {
    /// The selection, divided along the subchunks.
    pub split: Arc<Split>,
    /// Merged byte ranges, each with the subchunks in it.
    pub spans: Vec<(Range<u64>, Subchunks)>,
    /// Parts of `split` whose subchunks are not stored.
    pub absent: Vec<usize>,
}

/// Plans the byte ranges of a shard; ranges closer than `gap` are merged up to `max` bytes.
pub(crate) fn spans(
    sharding: &Sharding,
    grid: &[u64],
    index: &ShardIndex,
    selection: &Selection,
    gap: u64,
    max: u64,
) -> ShardPlan {
    let split = Arc::new(Split::new(selection, &sharding.chunk_shape, grid));
    let (mut ranges, mut parts, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for part in 0..split.len() {
        match index.range(split.subchunk(part)) {
            Some(range) => {
                ranges.push(range);
                parts.push(part);
            }
            None => absent.push(part),
        }
    }
    let spans = coalesce(&ranges, gap, max)
        .into_iter()
        .map(|(span, members)| {
            let members = members
                .into_iter()
                .map(|member| (ranges[member].clone(), parts[member]))
                .collect();
            let split = Arc::clone(&split);
            (span, Subchunks { split, members })
        })
        .collect();
    ShardPlan {
        split,
        spans,
        absent,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::batch::{Array, Settings};
    use crate::codec::element::{ChunkSpec, Element, Kind};
    use crate::copy::buffer::OutBuffer;
    use crate::copy::positions::Positions;
    use crate::copy::selection::Axis;
    use crate::engine::jobs::files;
    use crate::store::{LocalStore, Store};

    const ELEMENT: Element = Element {
        size: 1,
        kind: Kind::Bits,
        swap_unit: 1,
        big_endian: false,
    };

    fn bytes() -> serde_json::Value {
        json!([{"name": "bytes"}])
    }

    fn shards(chunk_shape: &[u64], inner: &serde_json::Value) -> serde_json::Value {
        json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": chunk_shape, "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}}])
    }

    fn range(start: i64, step: i64, len: usize) -> Selection {
        let axis = Axis {
            chunk: Positions::Range { start, step, len },
            out: Positions::Range {
                start: 0,
                step: 1,
                len,
            },
        };
        Selection::Grid {
            axes: vec![axis],
            base: 0,
        }
    }

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

    /// A batch of chunks of `len` bytes, each with one selection.
    fn batch(codecs: &serde_json::Value, len: u64, selections: &[Selection]) -> Batch {
        let layout = Layout::from_v3(codecs, false, &[]).unwrap();
        let settings = Settings {
            chunk_concurrent_maximum: None,
            chunk_concurrent_minimum: 4,
            validate_checksums: true,
            hedge_factor: None,
        };
        let store = Store::Local(Arc::new(LocalStore::new("/".as_ref(), false)));
        let array = Arc::new(Array::new(store, layout, "", settings));
        let chunk = ChunkSpec {
            shape: vec![len],
            element: ELEMENT,
            fill: vec![0],
        };
        let spec = Arc::new(array.spec(chunk).unwrap());
        let items = selections.iter().map(|selection| Item {
            key: "a".into(),
            spec: Arc::clone(&spec),
            selection: selection.clone(),
            complete: false,
        });
        Batch {
            items: items.collect(),
            array,
            buffer: Arc::new(OutBuffer::empty()),
            coalesce_gap: 0,
            coalesce_max: 1 << 20,
            write_empty_chunks: false,
            since: Instant::now(),
        }
    }

    /// A shard of uint8 with four subchunks of ten, of which the third is not stored.
    fn shard() -> (Box<Sharding>, ShardIndex) {
        let codecs = shards(&[10], &bytes());
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
        let (sharding, index) = shard();
        let plan = spans(&sharding, &[4], &index, selection, gap, 1 << 20);
        let subchunks = |parts: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            parts.map(|part| plan.split.subchunk(part)).collect()
        };
        let absent = subchunks(&mut plan.absent.iter().copied());
        let members = plan
            .spans
            .iter()
            .map(|(_, wanted)| subchunks(&mut wanted.members.iter().map(|(_, part)| *part)));
        let members = members.collect();
        let ranges = plan
            .spans
            .into_iter()
            .map(|(range, _)| (range.start, range.end))
            .collect();
        (ranges, members, absent)
    }

    #[test]
    fn ranges_are_merged_up_to_the_gap() {
        let all = range(0, 1, 40);
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
            planned(&range(12, 1, 5), 0)
        );
        assert_eq!((vec![], vec![], vec![2]), planned(&range(25, 1, 2), 0));
        assert_eq!((vec![], vec![], vec![]), planned(&range(0, 1, 0), 0));
    }

    #[test]
    fn duplicates_fetch_a_subchunk_once() {
        assert_eq!(
            (vec![(0, 10)], vec![vec![0]], vec![]),
            planned(&list(&[3, 3, 0, 3]), 0)
        );
    }

    #[test]
    fn a_nested_shard_is_one_subchunk() {
        let codecs = shards(&[20], &shards(&[5], &bytes()));
        let batch = batch(&codecs, 40, &[range(0, 1, 3)]);
        let How::Parts(sharding) = how(&batch, &batch.items[0], 1 << 20) else {
            panic!("read whole")
        };
        let mut index = ShardIndex::absent(2).unwrap();
        index.set(0, &(0..100));
        let plan = spans(
            sharding,
            &[2],
            &index,
            &batch.items[0].selection,
            0,
            1 << 20,
        );
        assert_eq!(1, plan.spans.len());
        assert_eq!(0..100, plan.spans[0].0);
    }

    #[test]
    fn a_shard_is_read_whole_where_that_is_cheaper_and_fits() {
        let whole =
            |batch: &Batch, budget| !matches!(how(batch, &batch.items[0], budget), How::Parts(_));
        let (all, some) = (range(0, 1, 40), range(0, 1, 3));
        let codecs = shards(&[10], &bytes());
        assert!(whole(&batch(&codecs, 40, std::slice::from_ref(&all)), 80));
        assert!(!whole(&batch(&codecs, 40, &[all]), 79));
        let mut batch = batch(&codecs, 40, &[some]);
        assert!(!whole(&batch, 80));
        batch.coalesce_gap = 40;
        assert!(whole(&batch, 80));
    }

    #[test]
    fn each_thread_gets_as_many_jobs_of_small_files() {
        let small = |count: usize, len: u64| {
            let all = vec![range(0, 1, usize::try_from(len).unwrap()); count];
            let batch = batch(&bytes(), len, &all);
            files(&batch, 2).collect::<Vec<_>>()
        };
        assert_eq!(Vec::<Range<usize>>::new(), small(0, 1));
        assert_eq!(vec![0..1], small(1, 10));
        // Opening the files is what takes time.
        assert_eq!(vec![0..32, 32..64, 64..65], small(65, 10));
        // 1.5 MiB for two threads.
        assert_eq!(vec![0..12, 12..24], small(24, 64 << 10));
        // A chunk larger than a job is a job.
        assert_eq!(vec![0..1, 1..2], small(2, 4 << 20));
    }
}
