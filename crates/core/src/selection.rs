//! Which elements of a chunk, and where they stand in the caller's buffer, in one normal form.
//!
//! zarr hands a chunk selection and an out selection: integers, slices, integer and boolean lists,
//! `ix_` grids, coordinate lists. All of them are one of two things here:
//!
//! - a *grid*: per chunk axis, positions along that axis, each with a byte offset in the buffer; the
//!   selection is the product of the axes and an element's place the sum of its offsets;
//! - *points*: coordinate lists over all axes, with one byte offset per point.
//!
//! Offsets are in bytes, so axes that were dropped, reversed, broadcast (offset 0) or laid out in
//! Fortran order need no further case. A selection can be split along a grid of subchunks, which is
//! all that sharding asks of it.

use std::sync::Arc;

use crate::error::Error;

/// A sequence of integers: an arithmetic one, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positions {
    /// `start`, `start + step`, …, `len` of them.
    Range {
        /// The first.
        start: i64,
        /// The difference between neighbours; may be zero or negative.
        step: i64,
        /// How many.
        len: usize,
    },
    /// Any integers, in any order, with duplicates.
    List(Arc<[i64]>),
}

impl Positions {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Range { len, .. } => *len,
            Self::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `index`-th of them.
    #[must_use]
    #[expect(
        clippy::cast_possible_wrap,
        reason = "an index is below a length, which fits"
    )]
    pub fn get(&self, index: usize) -> i64 {
        match self {
            Self::Range { start, step, .. } => start + step * index as i64,
            Self::List(list) => list[index],
        }
    }

    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The smallest and the largest; `None` where there are none or one overflows.
    fn extent(&self) -> Option<(i64, i64)> {
        match self {
            Self::Range { start, step, len } => {
                let last = i64::try_from(*len)
                    .ok()?
                    .checked_sub(1)
                    .filter(|last| *last >= 0)?;
                let end = start.checked_add(step.checked_mul(last)?)?;
                Some((*start.min(&end), *start.max(&end)))
            }
            Self::List(list) => Some((*list.iter().min()?, *list.iter().max()?)),
        }
    }

    /// Those at `indexes`, as an arithmetic sequence where they are one.
    fn take(&self, indexes: &[usize]) -> Self {
        Self::from_list(indexes.iter().map(|index| self.get(*index)).collect())
    }

    /// A list, or the arithmetic sequence it is.
    #[must_use]
    pub fn from_list(list: Vec<i64>) -> Self {
        let (start, len) = (list.first().copied().unwrap_or(0), list.len());
        let step = if len > 1 {
            list[1].wrapping_sub(list[0])
        } else {
            0
        };
        if list
            .windows(2)
            .all(|pair| pair[1].wrapping_sub(pair[0]) == step)
        {
            Self::Range { start, step, len }
        } else {
            Self::List(list.into())
        }
    }

    #[expect(
        clippy::cast_possible_wrap,
        reason = "a sub-range of a length that fits"
    )]
    fn slice(&self, from: usize, len: usize, shift: i64) -> Self {
        match self {
            Self::Range { start, step, .. } => Self::Range {
                start: start + step * from as i64 + shift,
                step: *step,
                len,
            },
            Self::List(list) => Self::List(
                list[from..from + len]
                    .iter()
                    .map(|value| value + shift)
                    .collect(),
            ),
        }
    }
}

/// One axis of a grid: positions along a chunk axis and the byte offset of each in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// Positions along the chunk's axis, in elements.
    pub chunk: Positions,
    /// Offset of each in the caller's buffer, in bytes.
    pub out: Positions,
}

/// Which elements of a chunk, and where each stands in the caller's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The product of one axis per chunk axis; `base` is added to every offset.
    Grid {
        /// One per axis of the chunk.
        axes: Vec<Axis>,
        /// Bytes added to every offset.
        base: i64,
    },
    /// Single elements.
    Points {
        /// Per chunk axis, the coordinate of each point.
        coords: Vec<Positions>,
        /// Offset of each point in the caller's buffer, in bytes.
        out: Positions,
    },
}

impl Selection {
    /// How many elements are selected.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Grid { axes, .. } => axes.iter().map(|axis| axis.chunk.len()).product(),
            Self::Points { out, .. } => out.len(),
        }
    }

    /// Whether nothing is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that the selection fits a chunk of `shape` and stays in the buffer's `extent`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an axis is missing, lengths differ, or a position lies outside.
    pub fn check(
        &self,
        shape: &[u64],
        itemsize: usize,
        extent: std::ops::Range<i64>,
    ) -> Result<(), Error> {
        let invalid = || Error::invalid("the selection does not fit the chunk or the buffer");
        if self.is_empty() {
            return Ok(());
        }
        let inside = |positions: &Positions, length: u64| {
            positions.extent().filter(|(low, high)| {
                *low >= 0 && u64::try_from(*high).is_ok_and(|high| high < length)
            })
        };
        let (mut low, mut high) = (0_i64, 0_i64);
        let mut widen = |positions: &Positions| {
            let (least, most) = positions.extent()?;
            low = low.checked_add(least)?;
            high = high.checked_add(most)?;
            Some(())
        };
        match self {
            Self::Grid { axes, base } => {
                if axes.len() != shape.len() {
                    return Err(invalid());
                }
                for (axis, length) in axes.iter().zip(shape) {
                    if axis.chunk.len() != axis.out.len() {
                        return Err(invalid());
                    }
                    inside(&axis.chunk, *length).ok_or_else(invalid)?;
                    widen(&axis.out).ok_or_else(invalid)?;
                }
                widen(&Positions::Range {
                    start: *base,
                    step: 0,
                    len: 1,
                })
                .ok_or_else(invalid)?;
            }
            Self::Points { coords, out } => {
                if coords.len() != shape.len() {
                    return Err(invalid());
                }
                for (positions, length) in coords.iter().zip(shape) {
                    if positions.len() != out.len() {
                        return Err(invalid());
                    }
                    inside(positions, *length).ok_or_else(invalid)?;
                }
                widen(out).ok_or_else(invalid)?;
            }
        }
        let end = i64::try_from(itemsize)
            .ok()
            .and_then(|size| high.checked_add(size));
        if low < extent.start || end.is_none_or(|end| end > extent.end) {
            return Err(invalid());
        }
        Ok(())
    }

    /// Whether every element of a chunk of `shape` is selected.
    ///
    /// May say no of a complete selection in an unusual order (a shuffled list, points), never yes of
    /// an incomplete one.
    #[must_use]
    pub fn covers(&self, shape: &[u64]) -> bool {
        match self {
            Self::Grid { axes, .. } => axes.iter().zip(shape).all(|(axis, length)| {
                matches!(axis.chunk, Positions::Range { start, step, len }
                    if len as u64 == *length && (len <= 1 || step == 1) && start == 0)
            }),
            Self::Points { .. } => shape.iter().product::<u64>() == 1 && !self.is_empty(),
        }
    }

    /// Splits the selection along a grid of subchunks of shape `subchunk`.
    ///
    /// Gives each touched subchunk's grid coordinates with the part of the selection that falls into
    /// it, positions counted from the subchunk's origin. The order of duplicates is kept.
    #[must_use]
    pub fn split(&self, subchunk: &[u64]) -> Vec<(Vec<u64>, Self)> {
        match self {
            Self::Grid { axes, base } => split_grid(axes, *base, subchunk),
            Self::Points { coords, out } => split_points(coords, out, subchunk),
        }
    }
}

fn split_grid(axes: &[Axis], base: i64, subchunk: &[u64]) -> Vec<(Vec<u64>, Selection)> {
    let per_axis: Vec<Vec<(u64, Axis)>> = axes
        .iter()
        .zip(subchunk)
        .map(|(axis, length)| split_axis(axis, *length))
        .collect();
    let mut parts = vec![(
        Vec::with_capacity(axes.len()),
        Vec::with_capacity(axes.len()),
    )];
    for choices in &per_axis {
        parts = parts
            .iter()
            .flat_map(|(coords, chosen)| {
                choices.iter().map(move |(index, axis)| {
                    let (mut coords, mut chosen) = (coords.clone(), chosen.clone());
                    coords.push(*index);
                    chosen.push(axis.clone());
                    (coords, chosen)
                })
            })
            .collect();
    }
    parts
        .into_iter()
        .map(|(coords, axes)| (coords, Selection::Grid { axes, base }))
        .collect()
}

#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "`check` has bounded every position by the chunk's shape"
)]
fn split_axis(axis: &Axis, length: u64) -> Vec<(u64, Axis)> {
    let mut parts = Vec::new();
    if let Positions::Range { start, step, len } = axis.chunk
        && step > 0
    {
        let mut from = 0;
        while from < len {
            let index = (start + step * from as i64) as u64 / length;
            let end = ((index + 1) * length) as i64;
            let count = (((end - start) as u64).div_ceil(step as u64) as usize).min(len) - from;
            let chunk = axis.chunk.slice(from, count, -((index * length) as i64));
            parts.push((
                index,
                Axis {
                    chunk,
                    out: axis.out.slice(from, count, 0),
                },
            ));
            from += count;
        }
        return parts;
    }
    let mut order: Vec<usize> = (0..axis.chunk.len()).collect();
    order.sort_by_key(|at| axis.chunk.get(*at) as u64 / length);
    for run in order
        .chunk_by(|a, b| axis.chunk.get(*a) as u64 / length == axis.chunk.get(*b) as u64 / length)
    {
        let index = axis.chunk.get(run[0]) as u64 / length;
        let origin = (index * length) as i64;
        let chunk =
            Positions::from_list(run.iter().map(|at| axis.chunk.get(*at) - origin).collect());
        parts.push((
            index,
            Axis {
                chunk,
                out: axis.out.take(run),
            },
        ));
    }
    parts
}

#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "`check` has bounded every coordinate by the chunk's shape"
)]
fn split_points(
    coords: &[Positions],
    out: &Positions,
    subchunk: &[u64],
) -> Vec<(Vec<u64>, Selection)> {
    let place = |at: usize| -> Vec<u64> {
        coords
            .iter()
            .zip(subchunk)
            .map(|(positions, length)| positions.get(at) as u64 / length)
            .collect()
    };
    let mut order: Vec<(Vec<u64>, usize)> = (0..out.len()).map(|at| (place(at), at)).collect();
    order.sort();
    order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|run| {
            let index = run[0].0.clone();
            let points: Vec<usize> = run.iter().map(|(_, at)| *at).collect();
            let coords = coords
                .iter()
                .zip(subchunk.iter().zip(&index))
                .map(|(positions, (length, index))| {
                    let origin = (length * index) as i64;
                    points
                        .iter()
                        .map(|at| positions.get(*at) - origin)
                        .collect()
                })
                .map(Positions::from_list)
                .collect();
            (
                index,
                Selection::Points {
                    coords,
                    out: out.take(&points),
                },
            )
        })
        .collect()
}

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

impl Selection {
    /// The coordinates of every element with its offset, one by one: what tests compare against.
    #[cfg(test)]
    fn elements(&self) -> Vec<(Vec<i64>, i64)> {
        match self {
            Self::Points { coords, out } => (0..out.len())
                .map(|at| {
                    (
                        coords.iter().map(|axis| axis.get(at)).collect(),
                        out.get(at),
                    )
                })
                .collect(),
            Self::Grid { axes, base } => {
                let mut all = vec![(Vec::new(), *base)];
                for axis in axes {
                    all = all
                        .iter()
                        .flat_map(|(coords, offset)| {
                            axis.chunk
                                .iter()
                                .zip(axis.out.iter())
                                .map(move |(at, out)| {
                                    let mut coords = coords.clone();
                                    coords.push(at);
                                    (coords, offset + out)
                                })
                        })
                        .collect();
                }
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: i64, step: i64, len: usize) -> Positions {
        Positions::Range { start, step, len }
    }

    fn grid() -> Selection {
        Selection::Grid {
            axes: vec![
                Axis {
                    chunk: range(1, 3, 3),
                    out: range(0, 80, 3),
                },
                Axis {
                    chunk: Positions::List([7, 0, 0, 5].into()),
                    out: range(60, -20, 4),
                },
                Axis {
                    chunk: range(4, -1, 5),
                    out: range(0, 4, 5),
                },
            ],
            base: 8,
        }
    }

    fn points() -> Selection {
        Selection::Points {
            coords: vec![
                Positions::List([3, 3, 0, 9].into()),
                Positions::List([1, 1, 6, 2].into()),
            ],
            out: Positions::List([0, 8, 4, 12].into()),
        }
    }

    #[test]
    #[expect(clippy::cast_possible_wrap, reason = "small numbers")]
    fn split_keeps_every_element_once() {
        for (selection, subchunk) in [(grid(), vec![4, 3, 2]), (points(), vec![2, 4])] {
            let mut joined: Vec<_> = selection
                .split(&subchunk)
                .iter()
                .flat_map(|(index, part)| {
                    let origin: Vec<i64> = index
                        .iter()
                        .zip(&subchunk)
                        .map(|(i, n)| (i * n) as i64)
                        .collect();
                    part.elements().into_iter().map(move |(coords, out)| {
                        (
                            coords.iter().zip(&origin).map(|(c, o)| c + o).collect(),
                            out,
                        )
                    })
                })
                .collect();
            let mut whole = selection.elements();
            joined.sort();
            whole.sort();
            assert_eq!(whole, joined);
        }
    }

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

    #[test]
    fn check_refuses_what_leaves_chunk_or_buffer() {
        assert!(grid().check(&[8, 8, 5], 4, 0..248).is_ok());
        assert!(grid().check(&[7, 8, 5], 4, 0..248).is_err());
        assert!(grid().check(&[8, 8, 5], 4, 0..247).is_err());
        assert!(grid().check(&[8, 8, 5], 4, 12..248).is_err());
        assert!(points().check(&[10, 7], 4, 0..16).is_ok());
        assert!(points().check(&[9, 7], 4, 0..16).is_err());
        let wild = Selection::Grid {
            axes: vec![Axis {
                chunk: range(0, 1, 2),
                out: range(i64::MAX, 1, 2),
            }],
            base: 0,
        };
        assert!(wild.check(&[2], 1, 0..10).is_err());
    }
}
