//! The order in which the subchunks of a shard are written.
//!
//! A reader needs no order, as the shard index says where each subchunk stands. zarr-python's sharding
//! codec has a setting for it, and its default is the Morton order: subchunks that are close in the array
//! are close in the shard.

use crate::error::Error;
use crate::memory::reserve;

/// An order of the subchunks of a shard, by zarr-python's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOrder {
    /// By the interleaved bits of the coordinates, the first axis lowest.
    Morton,
    /// The last axis varies fastest.
    Lexicographic,
    /// The first axis varies fastest.
    Colexicographic,
}

impl WriteOrder {
    /// The order of this name; `None` where zarr-python has none.
    pub(crate) fn new(name: &str) -> Option<Self> {
        match name {
            "morton" => Some(Self::Morton),
            // zarr-python promises nothing for the second, and writes the first.
            "lexicographic" | "unordered" => Some(Self::Lexicographic),
            "colexicographic" => Some(Self::Colexicographic),
            _ => None,
        }
    }

    /// The subchunks of a `grid` in this order, by their numbers in C order.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for the list.
    pub(crate) fn subchunks(self, grid: &[u64]) -> Result<Vec<usize>, Error> {
        let count: u64 = grid.iter().product();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut subchunks = Vec::new();
        reserve(&mut subchunks, count)?;
        subchunks.extend(0..count);
        match self {
            Self::Lexicographic => {}
            Self::Morton => {
                subchunks.sort_by_cached_key(|at| morton(&coordinates(*at, grid), grid));
            }
            Self::Colexicographic => subchunks.sort_by_cached_key(|at| {
                let mut coordinates = coordinates(*at, grid);
                coordinates.reverse();
                coordinates
            }),
        }
        Ok(subchunks)
    }
}

/// Coordinates in `grid` of the subchunk with this number in C order.
fn coordinates(subchunk: usize, grid: &[u64]) -> Vec<u64> {
    let mut rest = subchunk as u64;
    let mut coordinates = vec![0; grid.len()];
    for (coordinate, length) in coordinates.iter_mut().zip(grid).rev() {
        *coordinate = rest % length;
        rest /= length;
    }
    coordinates
}

/// The coordinates' bits, from the lowest to the highest and within each from the first axis to the last.
/// An axis has as many bits as its largest coordinate, so 128 suffice for a number of subchunks below 2^64.
fn morton(coordinates: &[u64], grid: &[u64]) -> u128 {
    let bits = |length: &u64| u64::BITS - (length - 1).leading_zeros();
    let (mut code, mut at) = (0, 0);
    for bit in 0..grid.iter().map(bits).max().unwrap_or(0) {
        for (coordinate, _) in coordinates.iter().zip(grid).filter(|(_, n)| bit < bits(n)) {
            code |= u128::from(coordinate >> bit & 1) << at;
            at += 1;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(name: &str, grid: &[u64]) -> Vec<usize> {
        WriteOrder::new(name).unwrap().subchunks(grid).unwrap()
    }

    #[test]
    fn orders_are_permutations_as_their_names_say() {
        assert_eq!(vec![0, 1, 2, 3, 4, 5], ordered("lexicographic", &[2, 3]));
        assert_eq!(vec![0, 3, 1, 4, 2, 5], ordered("colexicographic", &[2, 3]));
        assert_eq!(vec![0, 3, 1, 4, 2, 5], ordered("morton", &[2, 3]));
        assert_eq!(
            vec![0, 4, 1, 5, 8, 12, 9, 13],
            ordered("morton", &[4, 4])[..8]
        );
        for grid in [&[][..], &[1], &[7], &[1, 5, 1], &[3, 1, 33, 2]] {
            for name in ["morton", "lexicographic", "colexicographic", "unordered"] {
                let mut all = ordered(name, grid);
                all.sort_unstable();
                assert!(all.iter().enumerate().all(|(at, subchunk)| at == *subchunk));
            }
        }
    }

    #[test]
    fn more_subchunks_than_memory_holds_are_an_error() {
        let refused = WriteOrder::Morton.subchunks(&[1 << 62]);
        assert!(matches!(refused, Err(Error::Memory { .. })));
    }
}
