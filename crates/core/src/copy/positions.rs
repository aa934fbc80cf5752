//! Positions along one axis, and the byte offsets that go with them: a range where it can be, else a list.

use std::sync::Arc;

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
    pub(crate) fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The smallest and the largest; `None` where there are none or one overflows.
    pub(crate) fn extent(&self) -> Option<(i64, i64)> {
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
    pub(crate) fn take(&self, indexes: &[usize]) -> Self {
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
    pub(crate) fn slice(&self, from: usize, len: usize, shift: i64) -> Self {
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
