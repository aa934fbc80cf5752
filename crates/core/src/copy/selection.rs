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
//! Fortran order need no further case. `split` divides a selection along a grid of subchunks.

use std::ops::Range;

use crate::copy::positions::Positions;
use crate::error::Error;

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

/// Whether one of the selections covers a chunk of `shape`.
pub(crate) fn covered(selections: &[Selection], shape: &[u64]) -> bool {
    selections.iter().any(|selection| selection.covers(shape))
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

    /// The bytes of a decoded chunk from the first to the last that is selected, or more where axes are lists; `None`
    /// where nothing is. `strides` are the chunk's, in bytes.
    pub(crate) fn span(&self, strides: &[i64], itemsize: usize) -> Option<Range<usize>> {
        if self.is_empty() {
            return None;
        }
        let extents: Vec<_> = match self {
            Self::Grid { axes, .. } => axes.iter().map(|axis| axis.chunk.extent()).collect(),
            Self::Points { coords, .. } => coords.iter().map(Positions::extent).collect(),
        };
        let (mut first, mut last) = (0, 0);
        for (extent, stride) in extents.into_iter().zip(strides) {
            let (low, high) = extent?;
            first += low * stride;
            last += high * stride;
        }
        Some(usize::try_from(first).ok()?..usize::try_from(last).ok()? + itemsize)
    }

    /// Checks that the selection fits a chunk of `shape` and stays in the buffer's `extent`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an axis is missing, lengths differ, or a position lies outside.
    pub fn check(&self, shape: &[u64], itemsize: usize, extent: Range<i64>) -> Result<(), Error> {
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

    /// How many subchunks of shape `subchunk` the selection falls into, at most.
    pub(crate) fn touches(&self, subchunk: &[u64]) -> usize {
        let along = |positions: &Positions, length: &u64| {
            let length = i64::try_from(*length).unwrap_or(i64::MAX).max(1);
            let spanned = positions.extent().map_or(0, |(low, high)| {
                usize::try_from(high / length - low / length + 1).unwrap_or(usize::MAX)
            });
            spanned.min(positions.len())
        };
        match self {
            Self::Grid { axes, .. } => axes
                .iter()
                .zip(subchunk)
                .map(|(axis, length)| along(&axis.chunk, length))
                .fold(1, usize::saturating_mul),
            Self::Points { coords, out } => coords
                .iter()
                .zip(subchunk)
                .map(|(positions, length)| along(positions, length))
                .fold(1, usize::saturating_mul)
                .min(out.len()),
        }
    }
}

impl Selection {
    /// The coordinates of every element with its offset, one by one: what tests compare against.
    #[cfg(test)]
    pub(crate) fn elements(&self) -> Vec<(Vec<i64>, i64)> {
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
pub(crate) mod tests {
    use super::*;

    pub(crate) fn range(start: i64, step: i64, len: usize) -> Positions {
        Positions::Range { start, step, len }
    }

    pub(crate) fn grid() -> Selection {
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

    pub(crate) fn points() -> Selection {
        Selection::Points {
            coords: vec![
                Positions::List([3, 3, 0, 9].into()),
                Positions::List([1, 1, 6, 2].into()),
            ],
            out: Positions::List([0, 8, 4, 12].into()),
        }
    }

    #[test]
    fn span_holds_what_is_selected() {
        assert_eq!(Some(64..514), grid().span(&[64, 8, 2], 2));
        assert_eq!(Some(2..142), points().span(&[14, 2], 4));
        let none = Selection::Points {
            coords: vec![range(0, 0, 0)],
            out: range(0, 0, 0),
        };
        assert_eq!(None, none.span(&[2], 2));
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
