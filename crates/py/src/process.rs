//! What a process has one of: the runtime, the engine and the interpreter thread; made late, and again after a fork.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::runtime::Runtime;
use zarrs_async_core::{Engine, Limits};

use crate::codec::Calls;
use crate::errors;
use crate::interpreter::Interpreter;
use crate::layouts::Layouts;

/// Threads that serve sockets, TLS included, and decode the smallest bodies: as many as there are CPUs, in
/// these bounds.
const IO_THREADS: RangeInclusive<usize> = 2..=8;
/// How long the end of the interpreter waits for what is under way.
const SHUTDOWN: Duration = Duration::from_secs(1);

static PROCESS: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// The runtime, the engine and the interpreter thread of one process.
pub(crate) struct Process {
    pid: u32,
    runtime: Mutex<Option<Runtime>>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) interpreter: Interpreter,
    /// Calls of Python's codecs.
    pub(crate) calls: Arc<Calls>,
    pub(crate) layouts: Layouts,
}

impl Process {
    /// The one of this process, made if there is none or if it is a parent's.
    pub(crate) fn current() -> PyResult<Arc<Self>> {
        let pid = std::process::id();
        let seen = PROCESS.load_full();
        if let Some(process) = &seen
            && process.pid == pid
        {
            return Ok(Arc::clone(process));
        }
        let made = Arc::new(Self::new(pid, default_limits())?);
        let before = PROCESS.compare_and_swap(&seen, Some(Arc::clone(&made)));
        match (&*before, &seen) {
            // Another thread was faster.
            (Some(other), _) if other.pid == pid => Ok(Arc::clone(other)),
            (Some(parents), _) => {
                // The parent's threads are not in this process: nothing of theirs can be ended here.
                #[expect(
                    clippy::mem_forget,
                    reason = "dropping it would wait for threads that are gone"
                )]
                std::mem::forget(Arc::clone(parents));
                Ok(made)
            }
            (None, _) => Ok(made),
        }
    }

    fn new(pid: u32, limits: Limits) -> PyResult<Self> {
        let engine = Engine::new(limits).map_err(|error| errors::raise(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cpus().clamp(*IO_THREADS.start(), *IO_THREADS.end()))
            .thread_name("zarrs-async-io")
            .enable_all()
            .build()?;
        let interpreter = Interpreter::start(&engine, runtime.handle().clone())?;
        Ok(Self {
            pid,
            runtime: Mutex::new(Some(runtime)),
            engine,
            interpreter,
            calls: Arc::default(),
            layouts: Layouts::default(),
        })
    }

    /// Starts a task; an error once the interpreter ends.
    pub(crate) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> PyResult<tokio::task::AbortHandle> {
        let runtime = self.runtime.lock();
        let spawned = runtime
            .as_ref()
            .map(|runtime| runtime.spawn(task).abort_handle());
        // To make an exception may hand the interpreter to another thread, which may want this lock.
        drop(runtime);
        spawned.ok_or_else(errors::shutdown)
    }

    /// Waits for a future on this thread, which must not be one of the runtime's; `None` once the interpreter ends.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let runtime = self.runtime.lock();
        let handle = runtime.as_ref().map(|runtime| runtime.handle().clone());
        drop(runtime);
        #[expect(
            clippy::disallowed_methods,
            reason = "the caller has no loop to await on"
        )]
        handle.map(|runtime| runtime.block_on(future))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// Sets the process-wide bounds.
///
/// Parameters
/// ----------
/// threads : int
///     Threads that decode and encode.
/// requests : int or None
///     Requests in flight at most; None for as many as the latency of the stores asks for.
/// memory_bytes : int
///     Bytes of encoded and decoded data in memory at most.
/// shard_index_cache_bytes : int
///     Bytes of decoded shard indexes kept at most.
/// chunk_cache_bytes : int
///     Bytes of decoded chunks kept at most, part of `memory_bytes`.
/// chunk_cache_recheck_s : float
///     Seconds for which a remote object counts as unchanged after it was last seen.
#[pyfunction]
pub(crate) fn configure(
    py: Python<'_>,
    threads: usize,
    requests: Option<usize>,
    memory_bytes: u64,
    shard_index_cache_bytes: usize,
    chunk_cache_bytes: usize,
    chunk_cache_recheck_s: f64,
) -> PyResult<()> {
    let chunk_cache_recheck = Duration::try_from_secs_f64(chunk_cache_recheck_s)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let limits = Limits {
        threads,
        requests,
        memory_bytes,
        shard_index_cache_bytes,
        chunk_cache_bytes,
        chunk_cache_recheck,
    };
    let process = Process::current()?;
    if process.engine.limits() == limits {
        return Ok(());
    }
    py.detach(|| process.engine.resize(limits))
        .map_err(|error| errors::raise(&error))
}

/// The engine's counters since the process began.
#[pyfunction]
pub(crate) fn stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let counters = PyDict::new(py);
    for (name, value) in Process::current()?.engine.stats().snapshot() {
        counters.set_item(name, value)?;
    }
    Ok(counters)
}

/// What batches hold or wait for at this moment, by name; nothing is held when none is under way.
#[pyfunction]
pub(crate) fn held(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let held = PyDict::new(py);
    for (name, count) in Process::current()?.engine.held() {
        held.set_item(name, count)?;
    }
    Ok(held)
}

/// The last failures of requests that are being tried again: key, and the failure in words.
#[pyfunction]
pub(crate) fn failing() -> PyResult<Vec<(String, String)>> {
    let failures = Process::current()?.engine.failing();
    Ok(failures
        .iter()
        .map(|failure| (failure.key.to_string(), failure.to_string()))
        .collect())
}

/// Ends what is under way, within a bounded time; for the end of the interpreter.
#[pyfunction]
pub(crate) fn shutdown(py: Python<'_>) {
    let Some(process) = PROCESS.swap(None) else {
        return;
    };
    if process.pid != std::process::id() {
        #[expect(
            clippy::mem_forget,
            reason = "a parent's threads are not here, and its locks may be held by them"
        )]
        std::mem::forget(process);
        return;
    }
    let runtime = process.runtime.lock().take();
    py.detach(|| {
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(SHUTDOWN);
        }
        process.calls.end();
        // A thread that is still in the interpreter when that ends takes the process with it.
        process.interpreter.stop(Instant::now() + SHUTDOWN);
    });
}

/// Return the CPUs that this process may use: its affinity and the quotas of its control groups, rounded down.
#[pyfunction]
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Until the first pipeline says otherwise.
fn default_limits() -> Limits {
    Limits {
        threads: cpus(),
        requests: None,
        memory_bytes: 1 << 30,
        shard_index_cache_bytes: 64 << 20,
        chunk_cache_bytes: 0,
        chunk_cache_recheck: Duration::ZERO,
    }
}
