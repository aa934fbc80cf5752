//! Merges byte ranges by gap and size: one request costs more than some bytes nobody asked for.

use std::ops::Range;

/// Groups `ranges` into merged ranges, each with the indexes of those it holds.
///
/// Two ranges are merged when at most `gap` bytes lie between them and the merged range has at most
/// `max` bytes. Ranges larger than `max` stay alone. The order of the groups is that of their bytes.
pub(crate) fn coalesce(ranges: &[Range<u64>], gap: u64, max: u64) -> Vec<(Range<u64>, Vec<usize>)> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|at| (ranges[*at].start, ranges[*at].end));
    let mut merged: Vec<(Range<u64>, Vec<usize>)> = Vec::new();
    for at in order {
        let range = &ranges[at];
        match merged.last_mut() {
            Some((whole, members))
                if range.start <= whole.end.saturating_add(gap)
                    && (range.end <= whole.end || range.end - whole.start <= max) =>
            {
                whole.end = whole.end.max(range.end);
                members.push(at);
            }
            _ => merged.push((range.clone(), vec![at])),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[Range<u64>], gap: u64, max: u64) -> Vec<Range<u64>> {
        coalesce(ranges, gap, max)
            .into_iter()
            .map(|(range, _)| range)
            .collect()
    }

    #[test]
    fn gap_and_size_bound_what_is_merged() {
        assert_eq!(vec![0..10, 13..20], merged(&[13..20, 0..10], 2, 100));
        assert_eq!(vec![0..20], merged(&[13..20, 0..10], 3, 100));
        assert_eq!(vec![0..20], merged(&[13..20, 0..10], 3, 20));
        assert_eq!(vec![0..10, 13..20], merged(&[13..20, 0..10], 3, 19));
    }

    #[test]
    fn duplicates_and_overlaps_are_fetched_once() {
        let groups = coalesce(&[5..9, 5..9, 0..7], 0, 5);
        assert_eq!(vec![(0..7, vec![2]), (5..9, vec![0, 1])], groups);
        assert_eq!(vec![0..9], merged(&[5..9, 5..9, 0..7], 0, 9));
    }

    #[test]
    fn a_range_beyond_the_limit_stays_alone() {
        assert_eq!(vec![0..50, 50..60], merged(&[0..50, 50..60], 9, 20));
        assert!(merged(&[], 9, 20).is_empty());
    }
}
