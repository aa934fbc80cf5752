//! Reads and writes that do not come through zarr's indexing: selections are parsed and divided into chunks here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use numpy::{PyArray1, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyEllipsis, PyList, PySlice, PyTuple};
use pyo3_async_runtimes::TaskLocals;
use zarrs_async_core::{
    Axis, Batch, BatchError, Grid, Keys, OutBuffer, Positions, Selection, read, write,
};

use crate::array::{NativeArray, Running};
use crate::batch::gap;
use crate::buffer::Memory;
use crate::call;
use crate::errors;
use crate::interpreter::Outcome;
use crate::texts;

/// How often a thread that waits looks for signals.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(50);

/// An array with its chunk grid.
///
/// Parameters
/// ----------
/// native : NativeArray
///     Reads and writes the chunks.
/// shape, chunks : tuple[int, ...]
///     Elements along each axis of the array, and of a chunk or shard.
/// keys : tuple[str, str | None, str]
///     The array's path in its store, what stands before the numbers in the name of a chunk, and what stands
///     between them.
/// `write_empty_chunks` : bool
///     Whether chunks that equal the fill value are stored.
/// coalesce : tuple[int, int]
///     Gap and size in bytes up to which byte ranges are merged.
///
/// Raises
/// ------
/// `UnsupportedError`
///     When there are more chunks than can be counted.
#[pyclass(frozen, module = "zarrs_async._rust")]
pub(crate) struct Direct {
    native: Py<NativeArray>,
    grid: Grid,
    write_empty_chunks: bool,
    coalesce: (u64, u64),
}

/// What is selected of an array, once or several times.
///
/// Attributes
/// ----------
/// shape : tuple[int, ...] | None
///     Of the output: that of the one selection, or of several equal ones with a first axis over them; None
///     where they differ.
/// shapes : list[tuple[int, ...]]
///     Of each selection.
#[pyclass(frozen, module = "zarrs_async._rust")]
pub(crate) struct Selected {
    selected: Vec<One>,
    /// Whether the output has an axis over the selections.
    several: bool,
}

/// One selection: along each axis of the array, which positions, and whether the output has that axis.
struct One(Vec<(Positions, bool)>);

#[pymethods]
impl Direct {
    #[new]
    fn new(
        native: Py<NativeArray>,
        shape: Vec<u64>,
        chunks: Vec<u64>,
        keys: (String, Option<String>, String),
        write_empty_chunks: bool,
        coalesce: (u64, u64),
    ) -> PyResult<Self> {
        let (path, first, separator) = keys;
        let keys = Keys {
            path,
            first,
            separator,
        };
        let grid = Grid::new(shape, chunks, keys).map_err(|error| errors::raise(&error))?;
        Ok(Self {
            native,
            grid,
            write_empty_chunks,
            coalesce,
        })
    }

    /// Parse a selection: integers, slices, an ellipsis, and lists of positions or masks of one axis each.
    fn select(&self, selection: &Bound<'_, PyAny>) -> PyResult<Selected> {
        Ok(Selected {
            selected: vec![One::parse(selection, self.grid.shape())?],
            several: false,
        })
    }

    /// Parse several selections.
    fn select_many(&self, selections: &Bound<'_, PyAny>) -> PyResult<Selected> {
        let parsed = selections
            .try_iter()?
            .map(|selection| One::parse(&selection?, self.grid.shape()));
        Ok(Selected {
            selected: parsed.collect::<PyResult<_>>()?,
            several: true,
        })
    }

    /// Give the keys of the chunks that a selection touches.
    fn keys(&self, selected: &Selected) -> Vec<String> {
        let nowhere = |one: &One| one.at(0, &vec![0; one.0.len()]);
        let selections: Vec<_> = selected.selected.iter().map(nowhere).collect();
        let keys = self.grid.keys(&selections);
        keys.iter().map(ToString::to_string).collect()
    }

    /// Start to read into `out`; the result of `future` is None.
    fn read(
        &self,
        future: &Bound<'_, PyAny>,
        selected: &Selected,
        out: &Bound<'_, PyUntypedArray>,
    ) -> PyResult<Running> {
        self.start(future, selected, out, true)
    }

    /// Start to write `values`; the result of `future` is None.
    fn write(
        &self,
        future: &Bound<'_, PyAny>,
        selected: &Selected,
        values: &Bound<'_, PyUntypedArray>,
    ) -> PyResult<Running> {
        self.start(future, selected, values, false)
    }

    /// Read into `out` on this thread, which waits; signals are heard.
    fn read_blocking(&self, selected: &Selected, out: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
        self.run_blocking(selected, out, true)
    }

    /// Write `values` on this thread, which waits; signals are heard.
    fn write_blocking(
        &self,
        selected: &Selected,
        values: &Bound<'_, PyUntypedArray>,
    ) -> PyResult<()> {
        self.run_blocking(selected, values, false)
    }

    /// How chunks are encoded, in one line.
    #[getter]
    fn layout(&self) -> String {
        self.native.get().describe()
    }
}

impl Direct {
    fn start(
        &self,
        future: &Bound<'_, PyAny>,
        selected: &Selected,
        buffer: &Bound<'_, PyUntypedArray>,
        reading: bool,
    ) -> PyResult<Running> {
        let py = future.py();
        let locals = TaskLocals::with_running_loop(py)?;
        let since = call::began(&locals.event_loop(py));
        let batch = self.batch(Some(&locals), since, selected, buffer, reading)?;
        let native = self.native.get();
        let engine = Arc::clone(&native.process.engine);
        native.start(future, locals, batch, |batch| async move {
            Outcome::Write(if reading {
                read(engine, batch).await.map(drop)
            } else {
                write(engine, batch).await
            })
        })
    }

    fn run_blocking(
        &self,
        selected: &Selected,
        buffer: &Bound<'_, PyUntypedArray>,
        reading: bool,
    ) -> PyResult<()> {
        let py = buffer.py();
        let batch = self.batch(None, Instant::now(), selected, buffer, reading)?;
        let used = Arc::clone(&batch.buffer);
        let engine = Arc::clone(&self.native.get().process.engine);
        let running = async move {
            if reading {
                read(engine, batch).await.map(drop)
            } else {
                write(engine, batch).await
            }
        };
        self.wait(py, running, &used)
    }

    /// Waits for a batch, with the interpreter given to others; a signal's exception stops it.
    fn wait(
        &self,
        py: Python<'_>,
        running: impl Future<Output = Result<(), BatchError>> + Send,
        buffer: &OutBuffer,
    ) -> PyResult<()> {
        let process = &self.native.get().process;
        let mut running = Box::pin(running);
        loop {
            let looked = async {
                tokio::time::timeout(LOOK_FOR_SIGNALS, &mut running)
                    .await
                    .ok()
            };
            match py.detach(|| process.block_on(looked)) {
                Some(Some(outcome)) => {
                    return outcome.map_err(|failed| errors::raise_batch(py, &failed));
                }
                Some(None) => {}
                None => return Err(errors::shutdown()),
            }
            if let Err(signal) = py.check_signals() {
                process.engine.stats().batches_cancelled.add(1);
                buffer.close();
                py.detach(|| {
                    process.block_on(async move {
                        drop(running);
                        buffer.closed().await;
                    })
                });
                return Err(signal);
            }
        }
    }

    fn batch(
        &self,
        locals: Option<&TaskLocals>,
        since: Instant,
        selected: &Selected,
        buffer: &Bound<'_, PyUntypedArray>,
        reading: bool,
    ) -> PyResult<Batch> {
        let (py, native) = (buffer.py(), self.native.get());
        let array = native.array(py, locals)?;
        let texts = texts::of(buffer, native.specs.element.kind, &native.process.calls)?;
        let memory = Memory::of(buffer, reading, texts, &native.process.interpreter)?;
        let selections = selected.of(&memory)?;
        let spec = native.specs.of(&array, self.grid.chunk())?;
        let items = self
            .grid
            .items(&spec, &selections, &memory.buffer.extent())
            .map_err(|error| errors::raise(&error))?;
        Ok(Batch {
            array,
            items,
            buffer: Arc::new(memory.buffer),
            coalesce_gap: gap(self.coalesce.0),
            coalesce_max: self.coalesce.1,
            write_empty_chunks: self.write_empty_chunks,
            since,
        })
    }
}

#[pymethods]
impl Selected {
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.shape_together()
            .map(|shape| PyTuple::new(py, shape))
            .transpose()
    }

    #[getter]
    fn shapes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let shapes = self.selected.iter().map(One::shape);
        shapes.map(|shape| PyTuple::new(py, shape)).collect()
    }
}

impl Selected {
    fn shape_together(&self) -> Option<Vec<usize>> {
        let (first, others) = self.selected.split_first()?;
        let shape = first.shape();
        if !self.several {
            return Some(shape);
        }
        let count = self.selected.len();
        let same = others.iter().all(|other| other.shape() == shape);
        same.then(|| std::iter::once(count).chain(shape).collect())
    }

    /// The selections with their places in an array of [`Self::shape`]; or in one of one axis that has the elements
    /// of all of them, one selection after the other in C order.
    #[expect(clippy::cast_possible_wrap, reason = "numpy has that many elements")]
    fn of(&self, memory: &Memory) -> PyResult<Vec<Selection>> {
        let together = self.shape_together();
        if together.as_ref() == Some(&memory.shape) {
            let (over, within) = memory.strides.split_at(usize::from(self.several));
            let stride = over.first().copied().unwrap_or(0);
            let places = (0..).map(|at: i64| at * stride).zip(&self.selected);
            return Ok(places.map(|(base, one)| one.at(base, within)).collect());
        }
        let len: usize = self.selected.iter().map(One::len).sum();
        let ([stride], true) = (memory.strides.as_slice(), memory.shape == [len]) else {
            let message = match together {
                Some(shape) => format!(
                    "an array of shape {:?} is needed, not {shape:?}",
                    memory.shape
                ),
                None => format!("selections of several shapes need an array of {len} elements"),
            };
            return Err(PyValueError::new_err(message));
        };
        let mut base = 0;
        let places = self.selected.iter().map(|one| {
            let selection = one.at(base, &one.strides(*stride));
            base += one.len() as i64 * stride;
            selection
        });
        Ok(places.collect())
    }
}

impl One {
    fn parse(selection: &Bound<'_, PyAny>, shape: &[u64]) -> PyResult<Self> {
        let items: Vec<Bound<'_, PyAny>> = match selection.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![selection.clone()],
        };
        let is_ellipsis = |item: &Bound<'_, PyAny>| item.is_instance_of::<PyEllipsis>();
        let ellipses = items.iter().filter(|item| is_ellipsis(item)).count();
        let given = items.len() - ellipses;
        if ellipses > 1 || given > shape.len() {
            let message = format!("{given} indices are too many for {} axes", shape.len());
            return Err(PyIndexError::new_err(message));
        }
        let mut axes = Vec::with_capacity(shape.len());
        let whole = |len: &u64| -> PyResult<_> { Ok((range(0, usize::try_from(*len)?), true)) };
        for item in &items {
            if is_ellipsis(item) {
                let skipped = axes.len()..axes.len() + shape.len() - given;
                for length in &shape[skipped] {
                    axes.push(whole(length)?);
                }
            } else {
                axes.push(along(item, axes.len(), shape[axes.len()])?);
            }
        }
        for length in &shape[axes.len()..] {
            axes.push(whole(length)?);
        }
        Ok(Self(axes))
    }

    fn len(&self) -> usize {
        self.0
            .iter()
            .map(|(positions, _)| positions.len())
            .product()
    }

    fn shape(&self) -> Vec<usize> {
        let kept = self.0.iter().filter(|(_, kept)| *kept);
        kept.map(|(positions, _)| positions.len()).collect()
    }

    /// Strides of the selected elements in C order, where one is `stride` bytes after the other.
    #[expect(clippy::cast_possible_wrap, reason = "numpy has that many elements")]
    fn strides(&self, stride: i64) -> Vec<i64> {
        let mut next = stride;
        let mut strides: Vec<i64> = self
            .shape()
            .iter()
            .rev()
            .map(|len| {
                let larger = next * *len as i64;
                std::mem::replace(&mut next, larger)
            })
            .collect();
        strides.reverse();
        strides
    }

    /// The selection, with strides in bytes of the axes that the output has.
    fn at(&self, base: i64, strides: &[i64]) -> Selection {
        let mut strides = strides.iter();
        let axes = self.0.iter().map(|(chunk, kept)| Axis {
            chunk: chunk.clone(),
            out: Positions::Range {
                start: 0,
                step: if *kept {
                    *strides.next().unwrap_or(&0)
                } else {
                    0
                },
                len: chunk.len(),
            },
        });
        Selection::Grid {
            axes: axes.collect(),
            base,
        }
    }
}

fn range(start: i64, len: usize) -> Positions {
    let step = 1;
    Positions::Range { start, step, len }
}

/// The positions that an item selects along an axis, and whether the output has that axis.
fn along(item: &Bound<'_, PyAny>, axis: usize, length: u64) -> PyResult<(Positions, bool)> {
    if let Ok(slice) = item.cast::<PySlice>() {
        let indices = slice.indices(isize::try_from(length)?)?;
        if indices.step < 1 {
            let message = "only slices with step >= 1 are supported";
            return Err(PyIndexError::new_err(message));
        }
        let positions = Positions::Range {
            start: indices.start as i64,
            step: indices.step as i64,
            len: indices.slicelength,
        };
        return Ok((positions, true));
    }
    let is_array = item
        .cast::<PyUntypedArray>()
        .is_ok_and(|array| array.ndim() > 0);
    if is_array || item.is_instance_of::<PyList>() {
        return Ok((Positions::from_list(list(item, axis, length)?), true));
    }
    let at: i64 = item.extract().map_err(|_| {
        PyIndexError::new_err("a selection has integers, slices, and arrays of integers or bool")
    })?;
    Ok((range(position(at, axis, length)?, 1), false))
}

/// The positions in a list, or those at which a mask is true.
fn list(item: &Bound<'_, PyAny>, axis: usize, length: u64) -> PyResult<Vec<i64>> {
    let py = item.py();
    let asarray = py
        .import(intern!(py, "numpy"))?
        .getattr(intern!(py, "asarray"))?;
    let array = asarray.call1((item,))?;
    let array = array.cast::<PyUntypedArray>()?;
    if array.ndim() != 1 {
        let message = format!(
            "axis {axis} is selected by an array of {} axes",
            array.ndim()
        );
        return Err(PyIndexError::new_err(message));
    }
    if let Ok(mask) = array.cast::<PyArray1<bool>>() {
        if mask.len() as u64 != length {
            let message = format!("axis {axis} has {length} elements, its mask {}", mask.len());
            return Err(PyIndexError::new_err(message));
        }
        let mask = mask.readonly();
        let mask = mask.as_array();
        return Ok((0..)
            .zip(&mask)
            .filter_map(|(at, is)| is.then_some(at))
            .collect());
    }
    let kind: String = array
        .getattr(intern!(py, "dtype"))?
        .getattr(intern!(py, "kind"))?
        .extract()?;
    if !(matches!(kind.as_str(), "i" | "u") || array.len() == 0) {
        let message = format!("axis {axis} is selected by an array that holds no integers");
        return Err(PyIndexError::new_err(message));
    }
    let list = array.call_method1(intern!(py, "astype"), (intern!(py, "int64"),))?;
    let list = list.cast::<PyArray1<i64>>()?.readonly();
    list.as_array()
        .iter()
        .map(|at| position(*at, axis, length))
        .collect()
}

/// A position that counts from the end where it is negative.
fn position(at: i64, axis: usize, length: u64) -> PyResult<i64> {
    let signed = i64::try_from(length)?;
    let from_start = if at < 0 { at + signed } else { at };
    if !(0..signed).contains(&from_start) {
        let message = format!("index {at} is out of bounds for axis {axis} with length {length}");
        return Err(PyIndexError::new_err(message));
    }
    Ok(from_start)
}
