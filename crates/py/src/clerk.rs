//! The one thread that enters the interpreter on the engine's behalf.
//!
//! Results of batches, calls of foreign stores and references to give back all go through its channel,
//! so no thread of the runtime or the pool ever waits for the interpreter lock. It takes everything
//! that has come meanwhile at once: many batches that end together wake their loop once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTypeInfo, intern};
use pyo3_async_runtimes::TaskLocals;
use tokio::sync::oneshot;
use zarrs_async_core::{BatchError, Engine};

use crate::bridge::Call;
use crate::errors;

/// Something to do with the interpreter.
pub(crate) enum Message {
    /// A batch has ended.
    Done {
        locals: TaskLocals,
        future: Py<PyAny>,
        outcome: Outcome,
    },
    /// A foreign store is to be called on its loop.
    Call(Call),
    /// A call that nobody waits for any more.
    Cancel { locals: TaskLocals, task: Py<PyAny> },
    /// Whether a loop has closed is asked by who has waited long for it.
    Probe {
        locals: TaskLocals,
        closed: oneshot::Sender<bool>,
    },
    /// The interpreter is ending.
    Stop,
    /// A reference that is not needed any more.
    Release(#[expect(dead_code, reason = "dropping it is all that is done")] Held),
}

/// What keeps Python's memory alive.
pub(crate) enum Held {
    Object(#[expect(dead_code, reason = "held only")] Py<PyAny>),
    Buffer(#[expect(dead_code, reason = "held only")] PyBuffer<u8>),
}

/// How a batch, or a wait for its end, went.
pub(crate) enum Outcome {
    /// Of each chunk, whether it was missing.
    Read(Result<Vec<bool>, BatchError>),
    Write(Result<(), BatchError>),
    Drained,
}

/// Starts the thread; it ends with the last sender.
pub(crate) fn start(engine: Arc<Engine>) -> PyResult<(Sender<Message>, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("zarrs-async-clerk".into())
        .spawn(move || serve(&receiver, &engine))?;
    Ok((sender, thread))
}

fn serve(receiver: &Receiver<Message>, engine: &Engine) {
    while let Ok(first) = receiver.recv() {
        let messages: Vec<Message> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let stop = messages
            .iter()
            .any(|message| matches!(message, Message::Stop));
        // Without an interpreter nobody is left to hear of anything.
        if Python::try_attach(|py| deliver(py, messages, engine)).is_none() || stop {
            return;
        }
    }
}

/// One loop's share of what has come.
struct Share<'py> {
    event_loop: Bound<'py, PyAny>,
    resolved: Bound<'py, PyList>,
    calls: Bound<'py, PyList>,
    replies: Vec<Call>,
    cancelled: Vec<Py<PyAny>>,
    futures: u64,
}

fn deliver(py: Python<'_>, messages: Vec<Message>, engine: &Engine) {
    let mut shares: HashMap<usize, Share<'_>> = HashMap::new();
    for message in messages {
        let locals = match &message {
            Message::Done { locals, .. }
            | Message::Cancel { locals, .. }
            | Message::Probe { locals, .. } => locals.clone(),
            Message::Call(call) => call.locals.clone(),
            Message::Release(_) | Message::Stop => continue,
        };
        let event_loop = locals.event_loop(py);
        let share = shares
            .entry(event_loop.as_ptr() as usize)
            .or_insert_with(|| Share {
                event_loop,
                resolved: PyList::empty(py),
                calls: PyList::empty(py),
                replies: Vec::new(),
                cancelled: Vec::new(),
                futures: 0,
            });
        match message {
            Message::Done {
                future, outcome, ..
            } => {
                let (error, result) = outcome.into_python(py);
                share.futures += 1;
                report(py, share.resolved.append((future, error, result)));
            }
            Message::Call(call) => share.replies.push(call),
            Message::Cancel { task, .. } => share.cancelled.push(task),
            Message::Probe { closed, .. } => {
                let answer = share.event_loop.call_method0(intern!(py, "is_closed"));
                let is_closed = answer.and_then(|answer| answer.is_truthy()).unwrap_or(true);
                // Nobody listens any more when the answer came meanwhile.
                closed.send(is_closed).ok();
            }
            Message::Release(_) | Message::Stop => {}
        }
    }
    for share in shares.into_values() {
        if let Err(error) = share.send(py, engine) {
            report::<()>(py, Err(error));
        }
    }
}

impl Share<'_> {
    fn send(mut self, py: Python<'_>, engine: &Engine) -> PyResult<()> {
        if self.resolved.is_empty() && self.replies.is_empty() && self.cancelled.is_empty() {
            return Ok(());
        }
        let mut waiting = Vec::new();
        for call in std::mem::take(&mut self.replies) {
            let (arguments, reply) = call.into_python(py)?;
            self.calls.append(arguments)?;
            waiting.push(reply);
        }
        let serve = py
            .import(intern!(py, "zarrs_async._loop"))?
            .getattr(intern!(py, "serve"))?;
        let cancelled = PyList::new(py, self.cancelled)?;
        let arguments = (serve, self.resolved, self.calls, cancelled);
        let sent = self
            .event_loop
            .call_method1(intern!(py, "call_soon_threadsafe"), arguments);
        if let Err(error) = sent {
            // The loop has closed: nobody awaits these results.
            engine.stats().results_dropped.add(self.futures);
            for reply in waiting {
                reply.borrow(py).fail(py, error.clone_ref(py));
            }
        }
        Ok(())
    }
}

impl Outcome {
    /// The exception, or the result.
    fn into_python(self, py: Python<'_>) -> (Option<Py<PyAny>>, Py<PyAny>) {
        let result = match self {
            Self::Read(Ok(missing)) => statuses(py, &missing),
            Self::Write(Ok(())) | Self::Drained => Ok(py.None()),
            Self::Read(Err(failed)) | Self::Write(Err(failed)) => {
                Err(errors::raise_batch(py, &failed))
            }
        };
        match result {
            Ok(result) => (None, result),
            Err(error) => (Some(error.into_value(py).into_any()), py.None()),
        }
    }
}

/// zarr's `GetResult` of each chunk; all of one kind are one dict.
fn statuses(py: Python<'_>, missing: &[bool]) -> PyResult<Py<PyAny>> {
    let status = |status| -> PyResult<Bound<'_, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item(intern!(py, "status"), status)?;
        Ok(dict)
    };
    let (present, absent) = (status("present")?, status("missing")?);
    let each = missing
        .iter()
        .map(|missing| if *missing { &absent } else { &present });
    Ok(PyTuple::new(py, each)?.into_any().unbind())
}

/// An error that has no caller goes where Python puts such errors.
fn report<T>(py: Python<'_>, result: PyResult<T>) {
    if let Err(error) = result {
        error.write_unraisable(py, Some(&pyo3::exceptions::PyRuntimeError::type_object(py)));
    }
}
