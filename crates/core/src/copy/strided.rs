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

/// Evenly spaced elements of one axis, or of several that continue each other: byte offsets on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Strided {
    chunk: i64,
    chunk_step: i64,
    out: i64,
    out_step: i64,
    len: usize,
}

impl Strided {
    /// A single element at the origin.
    const ORIGIN: Self = Self {
        chunk: 0,
        chunk_step: 0,
        out: 0,
        out_step: 0,
        len: 1,
    };

    /// The axis, if it is evenly spaced on both sides; `stride` is that of the chunk's axis.
    fn of(axis: &Axis, stride: i64) -> Option<Self> {
        let Positions::Range { start, step, len } = axis.chunk else {
            return None;
        };
        let Positions::Range {
            start: out,
            step: out_step,
            ..
        } = axis.out
        else {
            return None;
        };
        Some(Self {
            chunk: start * stride,
            chunk_step: step * stride,
            out,
            out_step,
            len,
        })
    }

    /// Joins an inner axis, if both can be one; tells whether it did.
    #[expect(clippy::cast_possible_wrap, reason = "lengths fit")]
    fn join(&mut self, inner: Self) -> bool {
        let len = inner.len as i64;
        let continues =
            self.chunk_step == inner.chunk_step * len && self.out_step == inner.out_step * len;
        // A single position only moves the origin of the other axis.
        if inner.len != 1 {
            if self.len != 1 && !continues {
                return false;
            }
            (self.chunk_step, self.out_step) = (inner.chunk_step, inner.out_step);
        }
        self.chunk += inner.chunk;
        self.out += inner.out;
        self.len *= inner.len;
        true
    }
}

/// Byte offsets on both sides along one axis.
enum Offsets<'a> {
    Strided(Strided),
    /// Positions of which at least one side is a list; with the stride of the chunk's axis.
    Listed(&'a Axis, i64),
}

impl<'a> Offsets<'a> {
    fn of(axis: &'a Axis, stride: i64) -> Self {
        Strided::of(axis, stride).map_or(Self::Listed(axis, stride), Self::Strided)
    }

    const fn strided(&self) -> Option<Strided> {
        match self {
            Self::Strided(strided) => Some(*strided),
            Self::Listed(..) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Strided(strided) => strided.len,
            Self::Listed(axis, _) => axis.chunk.len(),
        }
    }

    #[expect(
        clippy::cast_possible_wrap,
        reason = "an index is below a length, which fits"
    )]
    fn get(&self, index: usize) -> (i64, i64) {
        match self {
            Self::Strided(strided) => (
                strided.chunk + strided.chunk_step * index as i64,
                strided.out + strided.out_step * index as i64,
            ),
            Self::Listed(axis, stride) => (axis.chunk.get(index) * stride, axis.out.get(index)),
        }
    }

    /// Where the axis stands for copying: lists first, then from the widest chunk stride, contiguous last.
    const fn order(&self, item: i64) -> (u8, i64) {
        match self {
            Self::Listed(_, stride) => (0, -stride.abs()),
            Self::Strided(strided) if strided.chunk_step == item && strided.out_step == item => {
                (2, 0)
            }
            Self::Strided(strided) => (1, -strided.chunk_step.abs()),
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

/// The single run that covers the selection, if there is one.
pub(crate) fn single_run(selection: &Selection, strides: &[i64], itemsize: usize) -> Option<Run> {
    let Selection::Grid { axes, base } = selection else {
        return None;
    };
    if selection.is_empty() {
        return None;
    }
    let axis = match merged(axes, strides, itemsize).as_slice() {
        [axis] => axis.strided()?,
        [] => Strided::ORIGIN,
        _ => return None,
    };
    let out = base + axis.out;
    Some(Run::row(
        axis.chunk,
        out,
        axis.chunk_step,
        axis.out_step,
        axis.len,
    ))
}

/// The axes as offsets on both sides, in the order of copying, with those joined that continue each other.
#[expect(clippy::cast_possible_wrap, reason = "item sizes fit")]
fn merged<'a>(axes: &'a [Axis], strides: &[i64], itemsize: usize) -> Vec<Offsets<'a>> {
    let axes = axes.iter().zip(strides);
    let mut axes: Vec<_> = axes
        .map(|(axis, stride)| Offsets::of(axis, *stride))
        .collect();
    axes.sort_by_key(|axis| axis.order(itemsize as i64));
    axes.dedup_by(|inner, outer| match (outer, inner) {
        (Offsets::Strided(outer), Offsets::Strided(inner)) => outer.join(*inner),
        _ => false,
    });
    axes
}

/// Takes the last axis off, if it is evenly spaced.
fn split_strided<'a, 'b>(axes: &'a [Offsets<'b>]) -> (&'a [Offsets<'b>], Strided) {
    match axes {
        [outer @ .., Offsets::Strided(last)] => (outer, *last),
        _ => (axes, Strided::ORIGIN),
    }
}

fn grid_runs(axes: &[Offsets<'_>], base: i64, mut visit: impl FnMut(Run)) {
    let (outer, row) = split_strided(axes);
    let (outer, rows) = split_strided(outer);
    let first = Run {
        chunk: row.chunk + rows.chunk,
        out: base + row.out + rows.out,
        chunk_step: row.chunk_step,
        out_step: row.out_step,
        len: row.len,
        chunk_row: rows.chunk_step,
        out_row: rows.out_step,
        rows: rows.len,
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
