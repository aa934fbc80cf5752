//! A selection as straight runs: what is left of indexing when only copying is to be done.
//!
//! Axes become offsets on both sides; those that continue each other become one; the innermost is the
//! one that is contiguous on both sides, where there is one. So most of a copy is `memcpy`.

use crate::copy::positions::Positions;
use crate::copy::selection::{Axis, Selection};

/// Rows of evenly spaced elements: where they start on both sides and how they go on, all in bytes.
///
/// Two levels, so that what must be checked is checked once for many short rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub chunk: i64,
    pub out: i64,
    /// From one element of a row to the next.
    pub chunk_step: i64,
    pub out_step: i64,
    pub len: usize,
    /// From one row to the next.
    pub chunk_row: i64,
    pub out_row: i64,
    pub rows: usize,
}

impl Run {
    /// Elements in a row of their own.
    const fn row(chunk: i64, out: i64, chunk_step: i64, out_step: i64, len: usize) -> Self {
        Self {
            chunk,
            out,
            chunk_step,
            out_step,
            len,
            chunk_row: 0,
            out_row: 0,
            rows: 1,
        }
    }
}

/// Byte offsets on both sides along one axis.
struct Offsets<'a> {
    chunk: &'a Positions,
    stride: i64,
    out: &'a Positions,
    /// Elements of `chunk` and `out` taken together as one position, after merging.
    merged: Option<(i64, i64, i64, i64, usize)>,
}

impl Offsets<'_> {
    fn len(&self) -> usize {
        self.merged
            .map_or_else(|| self.chunk.len(), |merged| merged.4)
    }

    #[expect(
        clippy::cast_possible_wrap,
        reason = "an index is below a length, which fits"
    )]
    fn get(&self, index: usize) -> (i64, i64) {
        match self.merged {
            Some((chunk, chunk_step, out, out_step, _)) => (
                chunk + chunk_step * index as i64,
                out + out_step * index as i64,
            ),
            None => (self.chunk.get(index) * self.stride, self.out.get(index)),
        }
    }
}

/// Calls `visit` with straight runs that together are the selection, in the selection's own order
/// along each axis (so that of duplicates the last wins, as in numpy).
///
/// `strides` are the decoded chunk's, in bytes. Axes that continue each other on both sides become
/// one, and the innermost is the one that is contiguous on both sides, where there is one.
pub(crate) fn runs(
    selection: &Selection,
    strides: &[i64],
    itemsize: usize,
    mut visit: impl FnMut(Run),
) {
    if selection.is_empty() {
        return;
    }
    match selection {
        Selection::Points { coords, out } => {
            for at in 0..out.len() {
                let chunk = coords
                    .iter()
                    .zip(strides)
                    .map(|(axis, stride)| axis.get(at) * stride);
                let chunk = chunk.sum();
                visit(Run::row(chunk, out.get(at), 0, 0, 1));
            }
        }
        Selection::Grid { axes, base } => {
            let axes = merged(axes, strides, itemsize);
            grid_runs(&axes, *base, visit);
        }
    }
}

/// The run that a whole selection is, where one is enough.
pub(crate) fn single_run(selection: &Selection, strides: &[i64], itemsize: usize) -> Option<Run> {
    let Selection::Grid { axes, base } = selection else {
        return None;
    };
    if selection.is_empty() {
        return None;
    }
    match merged(axes, strides, itemsize).as_slice() {
        [axis] => axis.merged.map(|(chunk, chunk_step, out, out_step, len)| {
            Run::row(chunk, base + out, chunk_step, out_step, len)
        }),
        [] => Some(Run::row(0, *base, 0, 0, 1)),
        _ => None,
    }
}

/// The axes as offsets on both sides, ordered for copying: widest chunk stride first, contiguous last.
#[expect(clippy::cast_possible_wrap, reason = "lengths and item sizes fit")]
fn merged<'a>(axes: &'a [Axis], strides: &[i64], itemsize: usize) -> Vec<Offsets<'a>> {
    let item = itemsize as i64;
    let mut offsets: Vec<Offsets<'a>> = axes
        .iter()
        .zip(strides)
        .map(|(axis, stride)| {
            let merged = match (&axis.chunk, &axis.out) {
                (
                    Positions::Range { start, step, len },
                    Positions::Range {
                        start: out,
                        step: out_step,
                        ..
                    },
                ) => Some((start * stride, step * stride, *out, *out_step, *len)),
                _ => None,
            };
            Offsets {
                chunk: &axis.chunk,
                stride: *stride,
                out: &axis.out,
                merged,
            }
        })
        .collect();
    offsets.sort_by_key(|axis| match axis.merged {
        None => (0, -axis.stride.abs()),
        Some((_, chunk, _, out, _)) if chunk == item && out == item => (2, 0),
        Some((_, chunk, _, _, _)) => (1, -chunk.abs()),
    });
    let mut joined: Vec<Offsets<'a>> = Vec::with_capacity(offsets.len());
    for axis in offsets {
        if axis.len() == 1 && axis.merged.is_some() && !joined.is_empty() {
            // A single position only moves the origin of the axis before it.
            if let (Some((chunk, _, out, _, _)), Some(before)) = (
                axis.merged,
                joined.last_mut().and_then(|before| before.merged.as_mut()),
            ) {
                before.0 += chunk;
                before.2 += out;
                continue;
            }
        }
        if let (Some(inner), Some(outer)) = (
            axis.merged,
            joined.last_mut().and_then(|outer| outer.merged.as_mut()),
        ) {
            let len = inner.4 as i64;
            if outer.4 == 1 || (outer.1 == inner.1 * len && outer.3 == inner.3 * len) {
                *outer = (
                    outer.0 + inner.0,
                    inner.1,
                    outer.2 + inner.2,
                    inner.3,
                    outer.4 * inner.4,
                );
                continue;
            }
        }
        joined.push(axis);
    }
    joined
}

fn grid_runs(axes: &[Offsets<'_>], base: i64, mut visit: impl FnMut(Run)) {
    let still = (0, 0, 0, 0, 1);
    let (outer, inner) = match axes.split_last() {
        Some((last, outer)) if last.merged.is_some() => (outer, last.merged.unwrap_or(still)),
        _ => (axes, still),
    };
    let (outer, rows) = match outer.split_last() {
        Some((last, outer)) if last.merged.is_some() => (outer, last.merged.unwrap_or(still)),
        _ => (outer, still),
    };
    let first = Run {
        chunk: inner.0 + rows.0,
        out: base + inner.2 + rows.2,
        chunk_step: inner.1,
        out_step: inner.3,
        len: inner.4,
        chunk_row: rows.1,
        out_row: rows.3,
        rows: rows.4,
    };
    let mut at = vec![0_usize; outer.len()];
    loop {
        let mut run = first;
        for (axis, index) in outer.iter().zip(&at) {
            let (chunk, out) = axis.get(*index);
            run.chunk += chunk;
            run.out += out;
        }
        visit(run);
        let more = |level: &usize| at[*level] + 1 < outer[*level].len();
        let Some(level) = (0..outer.len()).rev().find(more) else {
            return;
        };
        at[level] += 1;
        at[level + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::selection::tests::{grid, range};

    #[test]
    #[expect(clippy::cast_possible_wrap, reason = "small numbers")]
    fn runs_visit_every_element_at_its_place() {
        let strides = [64, 8, 2];
        let mut visited = Vec::new();
        runs(&grid(), &strides, 2, |run| {
            for (row, at) in
                (0..run.rows as i64).flat_map(|row| (0..run.len as i64).map(move |at| (row, at)))
            {
                visited.push((
                    run.chunk + run.chunk_row * row + run.chunk_step * at,
                    run.out + run.out_row * row + run.out_step * at,
                ));
            }
        });
        let mut expected: Vec<(i64, i64)> = grid()
            .elements()
            .iter()
            .map(|(coords, out)| (coords.iter().zip(strides).map(|(c, s)| c * s).sum(), *out))
            .collect();
        visited.sort_unstable();
        expected.sort_unstable();
        assert_eq!(expected, visited);
    }

    #[test]
    fn a_whole_contiguous_chunk_is_one_run() {
        let axes = vec![
            Axis {
                chunk: range(0, 1, 4),
                out: range(0, 48, 4),
            },
            Axis {
                chunk: range(0, 1, 1),
                out: range(0, 48, 1),
            },
            Axis {
                chunk: range(0, 1, 6),
                out: range(0, 8, 6),
            },
        ];
        let selection = Selection::Grid { axes, base: 16 };
        let mut seen = Vec::new();
        runs(&selection, &[48, 48, 8], 8, |run| seen.push(run));
        assert_eq!(vec![Run::row(0, 16, 8, 8, 24)], seen);
        assert!(selection.covers(&[4, 1, 6]));
        assert!(!selection.covers(&[4, 2, 6]));
    }
}
