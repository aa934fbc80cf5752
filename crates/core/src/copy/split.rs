//! A selection divided along the subchunks of a shard.
//!
//! A part is made when it is asked for. What is kept is small: for a grid, the pieces of each axis, whose
//! product the parts are. A selection of a shard with 262,144 subchunks takes kilobytes so, where a list
//! of its parts takes some 90 MB. Several selections of one shard are divided together, so that what stands
//! in a subchunk is found in one place.

use crate::copy::positions::Positions;
use crate::copy::selection::{Axis, Selection};

/// A selection divided along a grid of subchunks, in C order of the subchunks it falls into.
#[derive(Debug)]
pub(crate) enum Split {
    /// Per axis, the index of each touched subchunk with the piece of the axis that falls into it.
    Grid {
        axes: Vec<Vec<(u64, Axis)>>,
        base: i64,
        grid: Vec<u64>,
    },
    /// Number of each touched subchunk with the points that fall into it.
    Points(Vec<(usize, Selection)>),
    /// Number of the only touched subchunk with all of the selection.
    Within(usize, Selection),
}

impl Split {
    /// Divides `selection` along subchunks of shape `subchunk`, of which a shard holds a `grid`.
    #[expect(clippy::cast_possible_wrap, reason = "lengths of axes fit")]
    pub(crate) fn new(selection: &Selection, subchunk: &[u64], grid: &[u64]) -> Self {
        match selection {
            Selection::Grid { axes, base } if let Some(number) = only(axes, subchunk, grid) => {
                let axes = axes.iter().zip(subchunk).map(|(axis, length)| {
                    let first = axis.chunk.get(0);
                    let origin = first - first % *length as i64;
                    let chunk = axis.chunk.slice(0, axis.chunk.len(), -origin);
                    let out = axis.out.clone();
                    Axis { chunk, out }
                });
                let (axes, base) = (axes.collect(), *base);
                Self::Within(number, Selection::Grid { axes, base })
            }
            Selection::Grid { axes, base } => Self::Grid {
                axes: axes
                    .iter()
                    .zip(subchunk)
                    .map(|(axis, length)| split_axis(axis, *length))
                    .collect(),
                base: *base,
                grid: grid.to_vec(),
            },
            Selection::Points { coords, out } => {
                Self::Points(split_points(coords, out, subchunk, grid))
            }
        }
    }

    /// How many subchunks the selection falls into.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Grid { axes, .. } => axes.iter().map(Vec::len).product(),
            Self::Points(parts) => parts.len(),
            Self::Within(..) => 1,
        }
    }

    /// Number, in C order of the shard's grid, of the subchunk that a part falls into.
    pub(crate) fn subchunk(&self, part: usize) -> usize {
        match self {
            Self::Grid { axes, grid, .. } => {
                let (mut number, mut weight) = (0, 1);
                for ((index, _), cells) in pieces(axes, part).zip(grid.iter().rev()) {
                    number += index * weight;
                    weight *= cells;
                }
                to_usize(number)
            }
            Self::Points(parts) => parts[part].0,
            Self::Within(number, _) => *number,
        }
    }

    /// A part of the selection, with positions counted from its subchunk's origin. The order of
    /// duplicates is kept.
    pub(crate) fn part(&self, part: usize) -> Selection {
        match self {
            Self::Grid { axes, base, .. } => {
                let mut axes: Vec<Axis> =
                    pieces(axes, part).map(|(_, axis)| axis.clone()).collect();
                axes.reverse();
                Selection::Grid { axes, base: *base }
            }
            Self::Points(parts) => parts[part].1.clone(),
            Self::Within(_, selection) => selection.clone(),
        }
    }
}

/// Several selections divided along the same subchunks.
#[derive(Debug)]
pub(crate) struct Splits {
    splits: Vec<Split>,
    /// In the order of the subchunks and, within one, of the selections.
    parts: Vec<PartId>,
}

/// Names the part of a selection that falls into a subchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartId {
    /// Number in C order.
    pub subchunk: usize,
    /// Which of the selections.
    pub selection: usize,
    part: usize,
}

impl Splits {
    /// Divides `selections` along subchunks of shape `subchunk`, of which a shard holds a `grid`.
    pub(crate) fn new<'a>(
        selections: impl IntoIterator<Item = &'a Selection>,
        subchunk: &[u64],
        grid: &[u64],
    ) -> Self {
        let selections = selections.into_iter();
        let splits: Vec<_> = selections
            .map(|selection| Split::new(selection, subchunk, grid))
            .collect();
        let mut parts: Vec<_> = splits
            .iter()
            .enumerate()
            .flat_map(|(selection, split)| {
                (0..split.len()).map(move |part| PartId {
                    subchunk: split.subchunk(part),
                    selection,
                    part,
                })
            })
            .collect();
        if splits.len() > 1 {
            parts.sort_unstable();
        }
        Self { splits, parts }
    }

    /// The parts in each touched subchunk.
    pub(crate) fn subchunks(&self) -> impl Iterator<Item = &[PartId]> {
        self.parts.chunk_by(|a, b| a.subchunk == b.subchunk)
    }

    /// A part, with positions counted from its subchunk's origin.
    pub(crate) fn part(&self, id: PartId) -> Selection {
        self.splits[id.selection].part(id.part)
    }
}

/// Number of the subchunk that all axes fall into; `None` where there are several or none.
fn only(axes: &[Axis], subchunk: &[u64], grid: &[u64]) -> Option<usize> {
    let mut number = 0;
    for ((axis, length), cells) in axes.iter().zip(subchunk).zip(grid) {
        let (low, high) = axis.chunk.extent()?;
        let (low, high) = (u64::try_from(low).ok()?, u64::try_from(high).ok()?);
        let cell = low / length;
        if high >= (cell + 1) * length {
            return None;
        }
        number = number * cells + cell;
    }
    Some(to_usize(number))
}

/// The piece of each axis that makes a part, from the last axis, which varies fastest.
fn pieces(axes: &[Vec<(u64, Axis)>], part: usize) -> impl Iterator<Item = &(u64, Axis)> {
    let mut rest = part;
    axes.iter().rev().map(move |axis| {
        let piece = &axis[rest % axis.len()];
        rest /= axis.len();
        piece
    })
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
    grid: &[u64],
) -> Vec<(usize, Selection)> {
    let mut order: Vec<(usize, usize)> = (0..out.len()).map(|at| (0, at)).collect();
    for ((positions, length), cells) in coords.iter().zip(subchunk).zip(grid) {
        for (number, at) in &mut order {
            *number = *number * to_usize(*cells) + to_usize(positions.get(*at) as u64 / length);
        }
    }
    order.sort_unstable();
    order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|run| {
            let points: Vec<usize> = run.iter().map(|(_, at)| *at).collect();
            let coords = coords
                .iter()
                .zip(subchunk)
                .map(|(positions, length)| {
                    points
                        .iter()
                        .map(|at| positions.get(*at) % *length as i64)
                        .collect()
                })
                .map(Positions::from_list)
                .collect();
            let part = Selection::Points {
                coords,
                out: out.take(&points),
            };
            (run[0].0, part)
        })
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an index of that many entries is in memory"
)]
const fn to_usize(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::selection::tests::{grid, points};

    /// [`grid`], moved by so much along each axis.
    fn moved(by: [i64; 3]) -> Selection {
        let Selection::Grid { mut axes, base } = grid() else {
            panic!("no grid");
        };
        for (axis, by) in axes.iter_mut().zip(by) {
            axis.chunk = axis.chunk.slice(0, axis.chunk.len(), by);
        }
        Selection::Grid { axes, base }
    }

    #[test]
    fn what_is_within_one_subchunk_is_one_part() {
        let split = Split::new(&moved([8, 16, 5]), &[8, 8, 5], &[2, 3, 2]);
        assert_eq!((1, 11), (split.len(), split.subchunk(0)));
        assert_eq!(grid(), split.part(0));
        let crosses = Split::new(&moved([8, 17, 5]), &[8, 8, 5], &[2, 4, 2]);
        assert_eq!(2, crosses.len());
    }

    #[test]
    #[expect(clippy::cast_possible_wrap, reason = "small numbers")]
    fn split_keeps_every_element_once() {
        for (selection, subchunk, cells) in [
            (grid(), vec![4, 3, 2], vec![2, 3, 3]),
            (points(), vec![2, 4], vec![5, 2]),
            (moved([8, 16, 5]), vec![8, 8, 5], vec![2, 3, 2]),
        ] {
            let split = Split::new(&selection, &subchunk, &cells);
            let mut joined = Vec::new();
            for part in 0..split.len() {
                let mut number = split.subchunk(part) as u64;
                let mut origin: Vec<i64> = cells
                    .iter()
                    .zip(&subchunk)
                    .rev()
                    .map(|(cells, length)| {
                        let at = number % cells * length;
                        number /= cells;
                        at as i64
                    })
                    .collect();
                origin.reverse();
                for (coords, out) in split.part(part).elements() {
                    let coords: Vec<i64> = coords.iter().zip(&origin).map(|(c, o)| c + o).collect();
                    joined.push((coords, out));
                }
            }
            let mut whole = selection.elements();
            joined.sort();
            whole.sort();
            assert_eq!(whole, joined);
        }
    }

    #[test]
    fn selections_of_one_subchunk_stand_side_by_side() {
        let selections = [grid(), grid()];
        let splits = Splits::new(&selections, &[4, 3, 2], &[2, 3, 3]);
        let subchunks: Vec<_> = splits.subchunks().collect();
        assert_eq!(2 * 3 * 3, subchunks.len());
        for (number, parts) in subchunks.into_iter().enumerate() {
            let ids: Vec<_> = parts.iter().map(|id| (id.subchunk, id.selection)).collect();
            assert_eq!(vec![(number, 0), (number, 1)], ids);
            assert_eq!(splits.part(parts[0]), splits.part(parts[1]));
        }
    }

    #[test]
    fn parts_are_in_the_order_of_their_subchunks() {
        let split = Split::new(&grid(), &[4, 3, 2], &[2, 3, 3]);
        let numbers: Vec<_> = (0..split.len()).map(|part| split.subchunk(part)).collect();
        assert!(numbers.is_sorted());
        assert_eq!(2 * 3 * 3, numbers.len());
    }
}
