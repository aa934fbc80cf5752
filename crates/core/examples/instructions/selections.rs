//! Selections of an array whose elements stand one after the other in the caller's memory.

use zarrs_async_core::{Axis, Positions, Selection};

/// Bytes of one element, everywhere.
pub(crate) const ITEM_BYTES: usize = 2;

/// Start, step and number along an axis.
pub(crate) type Steps = (usize, usize, usize);

/// All elements of an array.
pub(crate) fn whole(shape: &[usize]) -> Selection {
    let steps: Vec<_> = shape.iter().map(|size| (0, 1, *size)).collect();
    part(&steps)
}

/// A box, with steps.
pub(crate) fn part(steps: &[Steps]) -> Selection {
    let mut stride = ITEM_BYTES * steps.iter().map(|(_, _, len)| len).product::<usize>();
    let axes = steps.iter().map(|(start, step, len)| {
        stride /= len;
        Axis {
            chunk: range(*start, *step, *len),
            out: range(0, stride, *len),
        }
    });
    Selection::Grid {
        axes: axes.collect(),
        base: 0,
    }
}

/// So many single elements, in no order.
pub(crate) fn points(shape: &[usize], count: usize) -> Selection {
    let coords = shape.iter().enumerate().map(|(axis, size)| {
        // Any numbers that are not in order will do.
        let scattered = (0..count).map(|point| int(point * (7919 + 104 * axis) % size));
        Positions::List(scattered.collect())
    });
    Selection::Points {
        coords: coords.collect(),
        out: range(0, ITEM_BYTES, count),
    }
}

fn range(start: usize, step: usize, len: usize) -> Positions {
    Positions::Range {
        start: int(start),
        step: int(step),
        len,
    }
}

#[expect(clippy::cast_possible_wrap, reason = "no array here is that large")]
const fn int(number: usize) -> i64 {
    number as i64
}
