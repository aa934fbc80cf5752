//! A shard index: arbitrary bytes are an error or ranges within the shard, and are merged as they should.

#![no_main]

use std::collections::BTreeMap;
use std::ops::Range;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use zarrs_async_core::fuzzing::{Index, IndexLocation, Sharding, max_encoded};
use zarrs_async_core::{ChunkSpec, Selection};
use zarrs_async_fuzz::{IndexCase, rest, subchunks};

fuzz_target!(|data: &[u8]| {
    run(&mut Unstructured::new(data)).ok();
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let Some(case) = IndexCase::read(input)? else {
        return Ok(());
    };
    let IndexCase {
        subject,
        wanted,
        shard_size,
        gap,
        max,
        strict,
    } = &case;
    let (spec, shard_size) = (&subject.spec, *shard_size);
    let Some(sharding) = subject.sharding() else {
        return Ok(());
    };
    let mut index = rest(input).to_vec();
    if !strict {
        index.resize(sharding.index_size(spec) as usize, 0xff);
    }

    let Ok(decoded) = Index::decode(sharding, spec, &index, shard_size, *strict) else {
        return Ok(());
    };
    let found = decoded.ranges();
    check(sharding, spec, &index, shard_size, &found);

    let (spans, absent) = decoded.spans(sharding, spec, wanted, *gap, *max);
    let size = spec.element.size;
    let extent = 0..(wanted.len() * size) as i64;
    let members = || spans.iter().flat_map(|(_, members)| members);
    for part in members().map(|(_, part)| part).chain(&absent) {
        assert!(
            part.check(&sharding.chunk_shape, size, extent.clone())
                .is_ok()
        );
    }
    // Which subchunks are fetched, and how many elements of each, is told by the coordinates alone.
    let mut expected = BTreeMap::new();
    for subchunk in subchunks(wanted, sharding, spec) {
        *expected.entry(subchunk).or_insert(0) += 1;
    }
    let (present, missing): (Vec<_>, Vec<_>) = expected
        .into_iter()
        .map(|(subchunk, elements)| (found[subchunk].clone(), elements))
        .partition(|(range, _)| range.is_some());
    let mut present: Vec<(Range<u64>, usize)> = present
        .into_iter()
        .filter_map(|(range, elements)| Some((range?, elements)))
        .collect();
    let mut planned: Vec<_> = members()
        .map(|(range, part)| (range.clone(), part.len()))
        .collect();
    let key = |(range, elements): &(Range<u64>, usize)| (range.start, range.end, *elements);
    present.sort_by_key(key);
    planned.sort_by_key(key);
    assert_eq!(present, planned);
    let missing: Vec<usize> = missing.into_iter().map(|(_, elements)| elements).collect();
    let filled: Vec<usize> = absent.iter().map(Selection::len).collect();
    assert_eq!(missing, filled);
    for (span, members) in &spans {
        let ranges = members.iter().map(|(range, _)| range);
        check_merged(span, &ranges.collect::<Vec<_>>(), *gap, *max);
    }
    Ok(())
}

/// The ranges are those that the bytes name, and lie where subchunks may be.
fn check(
    sharding: &Sharding,
    spec: &ChunkSpec,
    index: &[u8],
    shard_size: u64,
    found: &[Option<Range<u64>>],
) {
    let longest = max_encoded(&sharding.inner, &spec.with_shape(&sharding.chunk_shape));
    let index_size = sharding.index_size(spec);
    let subchunks: u64 = sharding.grid(spec).iter().product();
    assert_eq!(subchunks, found.len() as u64);
    for (pair, range) in index.chunks_exact(16).zip(found) {
        let number = |at: usize| {
            let bytes = pair[at..at + 8].try_into().unwrap();
            match sharding.big_endian_index {
                true => u64::from_be_bytes(bytes),
                false => u64::from_le_bytes(bytes),
            }
        };
        let (offset, length) = (number(0), number(8));
        match range {
            None => assert_eq!((u64::MAX, u64::MAX), (offset, length)),
            Some(range) => {
                assert_eq!((offset, length), (range.start, range.end - range.start));
                assert!(range.start <= range.end && length <= longest);
                let bytes = match sharding.location {
                    IndexLocation::Start => index_size..shard_size,
                    IndexLocation::End => 0..shard_size.saturating_sub(index_size),
                };
                assert!(bytes.start <= range.start && range.end <= bytes.end);
            }
        }
    }
}

/// A merged range begins and ends with what it holds, is no longer than it may be, and has no wide gap.
fn check_merged(span: &Range<u64>, ranges: &[&Range<u64>], gap: u64, max: u64) {
    assert_eq!(
        Some(span.start),
        ranges.iter().map(|range| range.start).min()
    );
    assert_eq!(Some(span.end), ranges.iter().map(|range| range.end).max());
    assert!(span.end - span.start <= max || ranges.contains(&span));
    let mut end = span.start;
    for range in ranges {
        assert!(range.start <= end.saturating_add(gap));
        end = end.max(range.end);
    }
}
