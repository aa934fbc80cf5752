//! zarr's selections in the engine's normal form.
//!
//! A chunk selection and an out selection come as numpy would take them: tuples of integers, slices and
//! arrays, `ix_` grids, or coordinate lists. What numpy would do with the pair is a grid or a list of
//! points; positions on the out side become byte offsets with the strides of the caller's array.

use numpy::{PyArray1, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyEllipsis, PySlice, PyTuple};
use zarrs_async_core::{Axis, Positions, Selection};

/// The caller's array: lengths and strides in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outside<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) strides: &'a [i64],
    /// Whether lengths of one stand for any length, as for values that are written.
    pub(crate) broadcast: bool,
}

/// One item of a selection.
enum Part {
    Integer(i64),
    Slice(Positions),
    /// An array of one axis.
    List(Positions),
    /// An array of several axes, of which one is longer than one: a column of an `ix_` grid.
    Column(Positions),
}

/// What is selected of a chunk of `shape`, and where each element stands outside.
pub(crate) fn selection(
    chunk: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    shape: &[u64],
    outside: Outside<'_>,
    drop_axes: &[usize],
) -> PyResult<Selection> {
    let parts = parts(chunk, shape)?;
    if !parts.iter().any(|part| matches!(part, Part::Column(_))) {
        let lists = parts.iter().filter(|part| matches!(part, Part::List(_)));
        if parts.len() > 1 && lists.clone().count() == parts.len() {
            return points(parts, out, outside);
        }
        let uneven = lists.filter(|part| matches!(part, Part::List(Positions::List(_))));
        if uneven.count() > 1 {
            return Err(PyIndexError::new_err(
                "a selection mixes slices with several coordinate lists",
            ));
        }
    }
    grid(parts, out, outside, drop_axes)
}

fn grid(
    parts: Vec<Part>,
    out: &Bound<'_, PyAny>,
    outside: Outside<'_>,
    drop_axes: &[usize],
) -> PyResult<Selection> {
    let kept: Vec<bool> = parts
        .iter()
        .enumerate()
        .map(|(axis, part)| !matches!(part, Part::Integer(_)) && !drop_axes.contains(&axis))
        .collect();
    let scalar = outside.broadcast && outside.shape.is_empty();
    let out_items = items(out);
    let count = kept.iter().filter(|kept| **kept).count();
    if !scalar && outside.broadcast && outside.shape.len() > count {
        return Err(PyValueError::new_err(format!(
            "could not broadcast values of {} axes into a selection of {count}",
            outside.shape.len()
        )));
    }
    if !scalar && (out_items.len() != count || outside.shape.len() != count) {
        return Err(PyIndexError::new_err(format!(
            "the selection has {count} axes, the out selection {}, the array {}",
            out_items.len(),
            outside.shape.len()
        )));
    }
    let mut axes = Vec::with_capacity(parts.len());
    let mut dimension = 0;
    for (part, kept) in parts.into_iter().zip(kept) {
        let chunk = match part {
            Part::Integer(at) => Positions::Range {
                start: at,
                step: 1,
                len: 1,
            },
            Part::Slice(positions) | Part::List(positions) | Part::Column(positions) => positions,
        };
        let len = chunk.len();
        let still = Positions::Range {
            start: 0,
            step: 0,
            len,
        };
        let out = if !kept || scalar {
            still
        } else {
            let positions = along(&out_items[dimension], outside.shape[dimension])?;
            let offsets = offsets(
                positions,
                outside.strides[dimension],
                len,
                outside.broadcast,
            )?;
            dimension += 1;
            offsets
        };
        axes.push(Axis { chunk, out });
    }
    Ok(Selection::Grid { axes, base: 0 })
}

fn points(parts: Vec<Part>, out: &Bound<'_, PyAny>, outside: Outside<'_>) -> PyResult<Selection> {
    let coords: Vec<Positions> = parts
        .into_iter()
        .map(|part| match part {
            Part::Slice(positions) | Part::List(positions) | Part::Column(positions) => positions,
            Part::Integer(at) => Positions::Range {
                start: at,
                step: 0,
                len: 1,
            },
        })
        .collect();
    let len = coords.first().map_or(0, Positions::len);
    if coords.iter().any(|axis| axis.len() != len) {
        return Err(PyIndexError::new_err("coordinate lists differ in length"));
    }
    if outside.broadcast && outside.shape.is_empty() {
        return Ok(Selection::Points {
            coords,
            out: Positions::Range {
                start: 0,
                step: 0,
                len,
            },
        });
    }
    let out_items = items(out);
    let ([item], [length], [stride]) = (out_items.as_slice(), outside.shape, outside.strides)
    else {
        return Err(PyIndexError::new_err(
            "coordinates go to an array of one axis",
        ));
    };
    let out = offsets(along(item, *length)?, *stride, len, outside.broadcast)?;
    Ok(Selection::Points { coords, out })
}

/// Positions outside as byte offsets; a single one stands for all where values are broadcast.
fn offsets(positions: Positions, stride: i64, len: usize, broadcast: bool) -> PyResult<Positions> {
    if positions.len() != len {
        if broadcast && positions.len() == 1 {
            return Ok(Positions::Range {
                start: positions.get(0) * stride,
                step: 0,
                len,
            });
        }
        return Err(PyValueError::new_err(format!(
            "could not broadcast {} values into a selection of {len}",
            positions.len()
        )));
    }
    Ok(match positions {
        Positions::Range { start, step, len } => Positions::Range {
            start: start * stride,
            step: step * stride,
            len,
        },
        Positions::List(list) => Positions::List(list.iter().map(|at| at * stride).collect()),
    })
}

/// One part for each axis of the chunk.
fn parts(chunk: &Bound<'_, PyAny>, shape: &[u64]) -> PyResult<Vec<Part>> {
    let items = items(chunk);
    if items.is_empty() || (items.len() == 1 && items[0].is_instance_of::<PyEllipsis>()) {
        return Ok(shape
            .iter()
            .map(|len| Part::Slice(whole(usize::try_from(*len).unwrap_or(usize::MAX))))
            .collect());
    }
    if items.len() != shape.len() {
        return Err(PyIndexError::new_err(
            "a selection has another number of axes than its chunk",
        ));
    }
    items
        .iter()
        .zip(shape)
        .map(|(item, length)| {
            let length = usize::try_from(*length)?;
            if item.is_instance_of::<PySlice>() {
                return along(item, length).map(Part::Slice);
            }
            if let Ok(array) = item.cast::<PyUntypedArray>() {
                if array.ndim() == 1 {
                    return along(item, length).map(Part::List);
                }
                if array.ndim() > 1 {
                    let column = item.call_method0(intern!(item.py(), "ravel"))?;
                    return along(&column, length).map(Part::Column);
                }
            }
            Ok(Part::Integer(integer(item, length)?))
        })
        .collect()
}

fn whole(len: usize) -> Positions {
    Positions::Range {
        start: 0,
        step: 1,
        len,
    }
}

/// The positions that one item selects along an axis.
fn along(item: &Bound<'_, PyAny>, length: usize) -> PyResult<Positions> {
    if let Ok(slice) = item.cast::<PySlice>() {
        let indices = slice.indices(isize::try_from(length)?)?;
        return Ok(Positions::Range {
            start: indices.start as i64,
            step: indices.step as i64,
            len: indices.slicelength,
        });
    }
    if let Ok(list) = item.cast::<PyArray1<i64>>() {
        return Ok(Positions::from_list(wrapped(
            list.readonly().as_array().iter().copied(),
            length,
        )));
    }
    if let Ok(mask) = item.cast::<PyArray1<bool>>() {
        let mask = mask.readonly();
        let mask = mask.as_array();
        let selected = mask.iter().enumerate().filter(|(_, is)| **is);
        return Ok(Positions::from_list(
            selected
                .filter_map(|(at, _)| i64::try_from(at).ok())
                .collect(),
        ));
    }
    if let Ok(array) = item.cast::<PyUntypedArray>() {
        let py = item.py();
        let column = array.call_method0(intern!(py, "ravel"))?;
        let column = column.call_method1(intern!(py, "astype"), (intern!(py, "int64"),))?;
        let list = column.cast::<PyArray1<i64>>()?;
        return Ok(Positions::from_list(wrapped(
            list.readonly().as_array().iter().copied(),
            length,
        )));
    }
    if item.is_instance_of::<PyEllipsis>() {
        return Ok(whole(length));
    }
    Ok(Positions::Range {
        start: integer(item, length)?,
        step: 1,
        len: 1,
    })
}

/// Negative positions counted from the end.
fn wrapped(positions: impl Iterator<Item = i64>, length: usize) -> Vec<i64> {
    positions.map(|at| from_start(at, length)).collect()
}

fn integer(item: &Bound<'_, PyAny>, length: usize) -> PyResult<i64> {
    let at: i64 = item.extract().map_err(|_| {
        PyTypeError::new_err("a selection holds something else than integers, slices and arrays")
    })?;
    Ok(from_start(at, length))
}

/// A position that counts from the end where it is negative.
#[expect(clippy::cast_possible_wrap, reason = "an array's length fits")]
const fn from_start(at: i64, length: usize) -> i64 {
    if at < 0 { at + length as i64 } else { at }
}

/// The items of a selection: of a tuple its own, of anything else that one.
fn items<'py>(selection: &Bound<'py, PyAny>) -> Vec<Bound<'py, PyAny>> {
    match selection.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().collect(),
        Err(_) => vec![selection.clone()],
    }
}
