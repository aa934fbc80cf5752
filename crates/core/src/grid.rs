//! The chunk grid of an array: selections of the array become the items of a batch.
//!
//! An array is divided into chunks as a shard is into subchunks, so both are divided by `copy::split`. What
//! several selections want of one chunk is one item.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Item, Spec};
use crate::copy::positions::Positions;
use crate::copy::selection::Selection;
use crate::copy::split::Splits;
use crate::error::Error;

/// An array's shape, its chunks of one shape, and their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    shape: Vec<u64>,
    chunk: Vec<u64>,
    /// Chunks along each axis.
    cells: Vec<u64>,
    names: Keys,
}

/// How chunks are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The array's path in its store, without slashes at its ends.
    pub path: String,
    /// What stands before the numbers: `c` in Zarr v3's default encoding, nothing in Zarr v2's.
    pub first: Option<String>,
    /// What stands between.
    pub separator: String,
}

impl Grid {
    /// The grid of an array of `shape`, in elements, whose chunks have the shape `chunk`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the two have other numbers of axes, or a chunk no elements;
    /// [`Error::Unsupported`] where the chunks cannot be counted.
    pub fn new(shape: Vec<u64>, chunk: Vec<u64>, keys: Keys) -> Result<Self, Error> {
        if shape.len() != chunk.len() || chunk.contains(&0) {
            return Err(Error::invalid("no grid has such chunks"));
        }
        let cells = shape.iter().zip(&chunk);
        let cells: Vec<u64> = cells.map(|(len, chunk)| len.div_ceil(*chunk)).collect();
        cells
            .iter()
            .try_fold(1_u64, |product, cells| product.checked_mul(*cells))
            .filter(|count| usize::try_from(*count).is_ok())
            .ok_or_else(|| Error::unsupported("more chunks than can be counted"))?;
        Ok(Self {
            shape,
            chunk,
            cells,
            names: keys,
        })
    }

    /// Elements along each axis of the array.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Elements along each axis of a chunk.
    #[must_use]
    pub fn chunk(&self) -> &[u64] {
        &self.chunk
    }

    /// Divides selections of the array, whose elements stand within the bytes `extent` of the caller's buffer.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a selection leaves the array or the buffer.
    pub fn items(
        &self,
        spec: &Arc<Spec>,
        selections: &[Selection],
        extent: &Range<i64>,
    ) -> Result<Vec<Item>, Error> {
        for selection in selections {
            selection.check(&self.shape, spec.chunk.element.size, extent.clone())?;
        }
        let splits = Splits::new(selections, &self.chunk, &self.cells);
        let items = splits.subchunks().map(|ids| {
            let coords = self.coords(ids[0].subchunk as u64);
            let selections: Arc<[_]> = ids.iter().map(|id| splits.part(*id)).collect();
            let complete = selections.iter().any(|part| self.completes(part, &coords));
            Item {
                key: self.names.of(&coords),
                spec: Arc::clone(spec),
                selections,
                complete,
            }
        });
        Ok(items.collect())
    }

    /// The keys of the chunks that selections of the array touch.
    #[must_use]
    pub fn keys(&self, selections: &[Selection]) -> Vec<Arc<str>> {
        let splits = Splits::new(selections, &self.chunk, &self.cells);
        let numbers = splits.subchunks().map(|ids| ids[0].subchunk as u64);
        numbers
            .map(|number| self.names.of(&self.coords(number)))
            .collect()
    }

    /// Where a chunk of this number, in C order, stands in the grid.
    fn coords(&self, number: u64) -> Vec<u64> {
        let (mut rest, mut coords) = (number, vec![0; self.cells.len()]);
        for (coord, cells) in coords.iter_mut().zip(&self.cells).rev() {
            (*coord, rest) = (rest % cells, rest / cells);
        }
        coords
    }

    /// Whether a selection holds all of a chunk that lies in the array.
    fn completes(&self, selection: &Selection, coords: &[u64]) -> bool {
        let Selection::Grid { axes, .. } = selection else {
            return false;
        };
        let sides = self.shape.iter().zip(&self.chunk).zip(coords);
        axes.iter()
            .zip(sides)
            .all(|(axis, ((shape, chunk), coord))| {
                let len = (*chunk).min(shape - coord * chunk);
                matches!(axis.chunk, Positions::Range { start: 0, step, len: selected }
                if selected as u64 == len && (step == 1 || len == 1))
            })
    }
}

impl Keys {
    /// The key of the chunk at these coordinates of the grid.
    fn of(&self, coords: &[u64]) -> Arc<str> {
        let mut key = String::with_capacity(self.path.len() + 8 * (coords.len() + 1));
        if !self.path.is_empty() {
            key.push_str(&self.path);
            key.push('/');
        }
        let numbers = key.len();
        key.push_str(self.first.as_deref().unwrap_or_default());
        for coord in coords {
            if key.len() > numbers {
                key.push_str(&self.separator);
            }
            // A string takes whatever is written.
            write!(key, "{coord}").ok();
        }
        if key.len() == numbers {
            key.push('0');
        }
        key.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{array, bytes, nowhere, range, spec};

    fn keys(path: &str, first: Option<&str>, separator: &str) -> Keys {
        Keys {
            path: path.into(),
            first: first.map(Into::into),
            separator: separator.into(),
        }
    }

    fn grid(shape: &[u64], chunk: &[u64]) -> Result<Grid, Error> {
        Grid::new(shape.into(), chunk.into(), keys("a", Some("c"), "/"))
    }

    #[test]
    fn keys_are_those_of_zarr() {
        let v3 = keys("some/array", Some("c"), "/");
        assert_eq!("some/array/c/1/20", &*v3.of(&[1, 20]));
        assert_eq!("some/array/c", &*v3.of(&[]));
        let v2 = keys("", None, ".");
        assert_eq!("1.20", &*v2.of(&[1, 20]));
        assert_eq!("0", &*v2.of(&[]));
        assert_eq!("c.3", &*keys("", Some("c"), ".").of(&[3]));
    }

    #[test]
    fn selections_of_one_chunk_are_one_item() {
        let spec = spec(&array(nowhere(), &bytes()), 4);
        let grid = grid(&[10], &[4]).unwrap();
        let selections = [range(3, 6, 0), range(4, 10, 3)];
        let items = grid.items(&spec, &selections, &(0..9)).unwrap();
        let told: Vec<_> = items
            .iter()
            .map(|item| (&*item.key, item.selections.to_vec(), item.complete))
            .collect();
        // The last chunk has two elements in the array.
        let expected = [
            ("a/c/0", vec![range(3, 4, 0)], false),
            ("a/c/1", vec![range(0, 2, 1), range(0, 4, 3)], true),
            ("a/c/2", vec![range(0, 2, 7)], true),
        ];
        let same = |a: &Selection, b: &Selection| a.elements() == b.elements();
        assert_eq!(expected.len(), told.len());
        let keys: Vec<_> = grid
            .keys(&selections)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(vec!["a/c/0", "a/c/1", "a/c/2"], keys);
        for ((key, parts, complete), told) in expected.iter().zip(told) {
            assert_eq!((*key, *complete), (told.0, told.2));
            assert!(parts.iter().zip(&told.1).all(|(a, b)| same(a, b)));
            assert_eq!(parts.len(), told.1.len());
        }
    }

    #[test]
    fn what_leaves_the_array_or_the_buffer_is_refused() {
        let spec = spec(&array(nowhere(), &bytes()), 4);
        let grid = grid(&[10], &[4]).unwrap();
        for (selection, extent) in [(range(8, 11, 0), 0..3), (range(0, 3, 0), 0..2)] {
            let refused = grid.items(&spec, &[selection], &extent);
            assert!(matches!(refused, Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn a_grid_that_cannot_be_counted_is_refused() {
        assert!(matches!(
            grid(&[u64::MAX; 2], &[1; 2]),
            Err(Error::Unsupported(_))
        ));
        assert!(matches!(grid(&[1], &[0]), Err(Error::Invalid(_))));
        assert!(matches!(grid(&[1], &[]), Err(Error::Invalid(_))));
        assert!(grid(&[0], &[1]).is_ok());
    }
}
