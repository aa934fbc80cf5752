//! One array, built once from its metadata; and the batches that run on it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use numpy::PyUntypedArray;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3_async_runtimes::TaskLocals;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zarrs_async_core::{
    Array, Batch, Element, Error, ForeignCodec, Kind, Layout, OutBuffer, Settings, read, write,
};

use crate::batch::{self, Context};
use crate::call;
use crate::codec::PyCodec;
use crate::interpreter::{Message, Outcome};
use crate::layouts;
use crate::process::Process;
use crate::spec::Specs;
use crate::store::{Described, Description};

/// An array whose chunks the engine reads and writes.
///
/// Parameters
/// ----------
/// metadata : str
///     How chunks are encoded, as JSON: ``codecs`` of Zarr v3; or ``filters``, ``compressor``, ``order`` and
///     ``ndim`` of Zarr v2. ``{"name": "foreign", "configuration": {"number": n}}`` in place of a codec, or of
///     the first codecs of a chain, is the step of that number; so is ``first``, in place of all of Zarr v2,
///     where ``texts`` names the filter that makes bytes of elements of any length.
/// steps : list
///     The array's codecs that Python runs, each a ``zarrs_async._codecs.Step``.
/// element : tuple[int, str, int, bool]
///     Bytes of one element, how it compares (``"bits"``, ``"float"``, ``"complex"``, ``"text"``, ``"binary"``
///     or ``"foreign"``), bytes of the parts that a change of byte order reverses, and whether it is big-endian
///     in memory. Texts and binary elements have any length: arrays hold references to them.
/// fill : bytes
///     The fill value, one element, or its bytes where elements have any length.
/// store : Description
///     Where the chunks are, a ``zarrs_async._stores.Description``.
/// options : Options
///     ``zarrs_async._config.Options``, of which ``chunk_concurrent_maximum``, ``chunk_concurrent_minimum``,
///     ``validate_checksums``, ``hedge_factor`` and ``coalesce`` are read: the last is the gap and size in bytes up
///     to which byte ranges are merged where an array's own settings do not say.
///
/// Raises
/// ------
/// `UnsupportedError`
///     When a codec, a data type or a store's setting is not known to the engine.
#[pyclass(frozen, module = "zarrs_async._rust")]
pub(crate) struct NativeArray {
    pub(crate) process: Arc<Process>,
    layout: Layout,
    /// Names of the codecs that Python runs.
    steps: Vec<String>,
    /// What `layout` was made from.
    metadata: String,
    pub(crate) specs: Specs,
    store: Description,
    settings: Settings,
    coalesce: (u64, u64),
    /// The array on the loop that used it last; other stores than foreign ones do not care for loops.
    array: Mutex<Option<(Option<TaskLocals>, Arc<Array>)>>,
}

/// What is read of a `zarrs_async._config.Options`.
#[derive(FromPyObject)]
struct Options {
    chunk_concurrent_maximum: Option<usize>,
    chunk_concurrent_minimum: usize,
    validate_checksums: bool,
    hedge_factor: Option<f64>,
    coalesce: (u64, u64),
}

/// What reading a batch would do.
#[pyclass(frozen, get_all, module = "zarrs_async._rust")]
pub(crate) struct Plan {
    chunks: usize,
    units: usize,
    requests: usize,
    bytes: Option<u64>,
    round_trips: usize,
    index_hits: usize,
    index_misses: usize,
    exact: bool,
}

/// A batch under way.
#[pyclass(frozen, module = "zarrs_async._rust")]
pub(crate) struct Running {
    task: AbortHandle,
    /// Closed when the task, and with it every request, is gone.
    ended: watch::Receiver<()>,
    buffer: Arc<OutBuffer>,
    process: Arc<Process>,
}

#[pymethods]
impl NativeArray {
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from Python's list"
    )]
    fn new(
        metadata: &str,
        steps: Vec<Bound<'_, PyAny>>,
        element: (usize, String, usize, bool),
        fill: Vec<u8>,
        store: Described<'_>,
        options: Options,
    ) -> PyResult<Self> {
        let (size, kind, swap_unit, big_endian) = element;
        let kind = match kind.as_str() {
            "float" => Kind::Float,
            "complex" => Kind::Complex,
            "bits" => Kind::Bits,
            "foreign" => Kind::Foreign,
            "text" => Kind::Text,
            "binary" => Kind::Binary,
            other => {
                let message = format!("elements do not compare as {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        if size == 0 || (fill.len() != size && !kind.is_variable()) {
            return Err(PyValueError::new_err("the fill value is not one element"));
        }
        let element = Element {
            size,
            kind,
            swap_unit,
            big_endian,
        };
        let process = Process::current()?;
        let steps = steps.iter().map(|step| {
            PyCodec::new(step, &process).map(|codec| -> Arc<dyn ForeignCodec> { Arc::new(codec) })
        });
        let steps: Vec<_> = steps.collect::<PyResult<_>>()?;
        let layout = process.layouts.of(metadata, &element, &steps)?;
        let steps = steps.iter().map(|step| step.name().to_owned()).collect();
        let settings = Settings {
            chunk_concurrent_maximum: options.chunk_concurrent_maximum,
            chunk_concurrent_minimum: options.chunk_concurrent_minimum,
            validate_checksums: options.validate_checksums,
            hedge_factor: options.hedge_factor,
        };
        let store = Description::new(store, &process);
        let array = Mutex::new(None);
        Ok(Self {
            process,
            layout,
            steps,
            metadata: metadata.to_owned(),
            specs: Specs::new(element, fill),
            store,
            settings,
            coalesce: options.coalesce,
            array,
        })
    }

    /// Starts to read a batch.
    ///
    /// Parameters
    /// ----------
    /// future : asyncio.Future
    ///     Of the running loop; gets the result, zarr's ``GetResult`` for each chunk.
    /// batch_info : Iterable
    ///     zarr's: byte getter, array spec, chunk selection, out selection, is complete.
    /// out : numpy.ndarray
    ///     Where the elements go; must not be touched before the batch has ended.
    /// `drop_axes` : tuple[int, ...]
    ///     Axes of the chunk selections that `out` does not have.
    ///
    /// Returns
    /// -------
    /// Running
    ///     The batch under way.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from Python's tuple"
    )]
    fn read(
        &self,
        future: &Bound<'_, PyAny>,
        batch_info: &Bound<'_, PyAny>,
        out: &Bound<'_, PyUntypedArray>,
        drop_axes: Vec<usize>,
    ) -> PyResult<Running> {
        let (batch, locals) = self.batch(batch_info, out, &drop_axes, true)?;
        let engine = Arc::clone(&self.process.engine);
        self.start(future, locals, batch, |batch| async move {
            Outcome::Read(read(engine, batch).await)
        })
    }

    /// Starts to write a batch; see `read`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from Python's tuple"
    )]
    fn write(
        &self,
        future: &Bound<'_, PyAny>,
        batch_info: &Bound<'_, PyAny>,
        value: &Bound<'_, PyUntypedArray>,
        drop_axes: Vec<usize>,
    ) -> PyResult<Running> {
        let (batch, locals) = self.batch(batch_info, value, &drop_axes, false)?;
        let engine = Arc::clone(&self.process.engine);
        self.start(future, locals, batch, |batch| async move {
            Outcome::Write(write(engine, batch).await)
        })
    }

    /// Tells what reading a batch would do, without doing it; arguments as for `read`.
    ///
    /// Returns
    /// -------
    /// Plan
    ///     How many of each there would be.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from Python's tuple"
    )]
    fn plan(
        &self,
        batch_info: &Bound<'_, PyAny>,
        out: &Bound<'_, PyUntypedArray>,
        drop_axes: Vec<usize>,
    ) -> PyResult<Plan> {
        let (batch, _) = self.batch(batch_info, out, &drop_axes, true)?;
        let plan = self.process.engine.explain(batch);
        Ok(Plan {
            chunks: plan.chunks,
            units: plan.units,
            requests: plan.requests,
            bytes: plan.bytes,
            round_trips: plan.round_trips,
            index_hits: plan.index_hits,
            index_misses: plan.index_misses,
            exact: plan.exact,
        })
    }

    /// Whether the store's own `get` and `set` are awaited.
    #[getter]
    const fn bridged(&self) -> bool {
        matches!(self.store, Description::Foreign(_))
    }

    /// Names of the steps that Python runs.
    #[getter]
    fn python_codecs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.steps)
    }

    /// How chunks are encoded, in one line.
    #[getter]
    fn layout(&self) -> String {
        self.describe()
    }
}

impl NativeArray {
    pub(crate) fn describe(&self) -> String {
        self.layout.describe()
    }

    fn batch(
        &self,
        batch_info: &Bound<'_, PyAny>,
        buffer: &Bound<'_, PyUntypedArray>,
        drop_axes: &[usize],
        reading: bool,
    ) -> PyResult<(Batch, TaskLocals)> {
        let py = batch_info.py();
        let locals = TaskLocals::with_running_loop(py)?;
        let since = call::began(&locals.event_loop(py));
        let array = self.array(py, Some(&locals))?;
        let context = Context {
            process: &self.process,
            array: &array,
            specs: &self.specs,
            coalesce: self.coalesce,
            since,
        };
        let batch = batch::parse(&context, batch_info, buffer, drop_axes, reading)?;
        Ok((batch, locals))
    }

    /// The array on a loop; a foreign store needs one.
    pub(crate) fn array(
        &self,
        py: Python<'_>,
        locals: Option<&TaskLocals>,
    ) -> PyResult<Arc<Array>> {
        let mut last = self.array.lock();
        if let Some((on, array)) = &*last {
            let same = on.as_ref().is_none_or(|on| {
                locals.is_some_and(|locals| on.event_loop(py).is(locals.event_loop(py)))
            });
            if same {
                return Ok(Arc::clone(array));
            }
        }
        let store = self.store.open(py, &self.process, locals)?;
        let array = Arc::new(if let Some((_, array)) = &*last {
            array.in_store(store)
        } else {
            let (layout, settings) = (self.layout.clone(), self.settings.clone());
            Array::new(store, layout, &self.metadata, settings)
        });
        let on = locals
            .filter(|_| matches!(self.store, Description::Foreign(_)))
            .cloned();
        *last = Some((on, Arc::clone(&array)));
        Ok(array)
    }

    pub(crate) fn start<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        future: &Bound<'_, PyAny>,
        locals: TaskLocals,
        batch: Batch,
        run: impl FnOnce(Batch) -> F,
    ) -> PyResult<Running> {
        let buffer = Arc::clone(&batch.buffer);
        let (task, ended) = spawn(future, &self.process, locals, run(batch))?;
        Ok(Running {
            task,
            ended,
            buffer,
            process: Arc::clone(&self.process),
        })
    }
}

#[pymethods]
impl Running {
    /// Stops the batch: no further request is made, those in flight are closed.
    fn abort(&self) {
        self.process.engine.stats().batches_cancelled.add(1);
        self.task.abort();
        self.buffer.close();
    }

    /// Stops the batch, and waits on this thread until nothing touches its array any more.
    ///
    /// For an exception that leaves no loop to await anything on.
    fn stop(&self, py: Python<'_>) {
        self.abort();
        py.detach(|| self.process.block_on(self.buffer.closed()));
    }

    /// Resolves a future of the running loop when no request is left and nothing touches the batch's array.
    fn drained(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let locals = TaskLocals::with_running_loop(future.py())?;
        let buffer = Arc::clone(&self.buffer);
        let mut ended = self.ended.clone();
        let drained = async move {
            // Nothing is ever sent: an error is the end.
            while ended.changed().await.is_ok() {}
            buffer.closed().await;
            Outcome::Drained
        };
        spawn(future, &self.process, locals, drained).map(drop)
    }
}

/// Runs a future on the runtime; its outcome resolves `future`, which is the loop's.
///
/// Loops make their futures in Python code. That code is not called from here: a thread that asks for the
/// interpreter lock while the interpreter ends is ended itself (before Python 3.14), and a Rust frame on
/// its stack would abort the process.
fn spawn(
    future: &Bound<'_, PyAny>,
    process: &Process,
    locals: TaskLocals,
    run: impl Future<Output = Outcome> + Send + 'static,
) -> PyResult<(AbortHandle, watch::Receiver<()>)> {
    let interpreter = process.interpreter.clone();
    let resolved = future.clone().unbind();
    let (ending, ended) = watch::channel(());
    let task = process.spawn(async move {
        // Dropped after the batch, whether that ends or is aborted.
        let _ending = ending;
        // Whoever awaits must hear of it, whatever happened.
        let outcome = AssertUnwindSafe(run).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| {
            let error = Error::Internal {
                key: "".into(),
                reason: "a task panicked".into(),
            };
            Outcome::Write(Err(error.into()))
        });
        interpreter.send(Message::Done {
            locals,
            future: resolved,
            outcome,
        });
    })?;
    Ok((task, ended))
}

/// Tell whether the engine itself knows all codecs of an array, with their settings.
///
/// Parameters
/// ----------
/// metadata : str
///     How chunks are encoded, as for `NativeArray`.
/// size : int
///     Bytes of one element.
/// big_endian : bool
///     Whether elements are big-endian in memory.
#[pyfunction]
pub(crate) fn is_native(metadata: &str, size: usize, big_endian: bool) -> PyResult<bool> {
    let metadata = layouts::parse(metadata)?;
    let element = Element {
        size,
        kind: Kind::Bits,
        swap_unit: size,
        big_endian,
    };
    Ok(layouts::layout(&metadata, &element, &[]).is_ok())
}
