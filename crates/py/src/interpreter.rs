//! The thread that enters the interpreter on the engine's behalf.
//!
//! Results of batches, calls of foreign stores and references to give back all go through its channel,
//! so no thread of the runtime or the pool ever waits for the interpreter lock. It takes all messages that
//! have come meanwhile at once: many batches that end together wake their loop once.
//!
//! Python code may run on this thread: dropping a reference may call a `__del__`, and so may the garbage
//! collector. If that code itself waits for a read, its result must come from elsewhere. So a thread that
//! does not return from the interpreter is replaced by another one, see [`Interpreter::send`].

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTypeInfo, intern};
use pyo3_async_runtimes::TaskLocals;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use zarrs_async_core::{BatchError, Engine};

use crate::bridge::{Call, Reply};
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
    /// Asks in which state a loop is, for a call that has waited long.
    Probe {
        locals: TaskLocals,
        state: oneshot::Sender<LoopState>,
    },
    /// The interpreter is ending.
    Stop,
    /// A reference that is not needed any more.
    Release(#[expect(dead_code, reason = "dropping it is all that is done")] Held),
}

/// Whether an event loop can run what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopState {
    Running,
    /// It may be run again, or never.
    Stopped,
    Closed,
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

/// The way into the interpreter.
#[derive(Clone)]
pub(crate) struct Interpreter {
    sender: Sender<Message>,
    runtime: Handle,
    serving: Arc<Serving>,
}

/// What the threads that serve the channel, one after the other, have in common.
struct Serving {
    receiver: Mutex<Receiver<Message>>,
    engine: Arc<Engine>,
    state: Mutex<State>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// Number of the thread that serves; an earlier one ends when it returns from the interpreter.
    generation: u64,
    /// When that thread entered the interpreter, while it is there.
    entered: Option<Instant>,
    /// Messages that somebody waits for and that no thread has taken.
    pending: usize,
    /// Whether [`watch`] runs.
    watched: bool,
}

/// How long a visit to the interpreter may take before another thread serves the channel.
const LONGEST_VISIT: Duration = Duration::from_millis(200);

impl Interpreter {
    /// Starts the thread; it ends with the last sender.
    pub(crate) fn start(engine: &Arc<Engine>, runtime: Handle) -> PyResult<Self> {
        let (sender, receiver) = mpsc::channel();
        let serving = Arc::new(Serving {
            receiver: Mutex::new(receiver),
            engine: Arc::clone(engine),
            state: Mutex::default(),
            threads: Mutex::default(),
        });
        serving.start_thread()?;
        Ok(Self {
            sender,
            runtime,
            serving,
        })
    }

    /// Sends a message that somebody waits for; another thread takes it if this one does not come back.
    pub(crate) fn send(&self, message: Message) {
        let watched = {
            let mut state = self.serving.state.lock();
            state.pending += 1;
            std::mem::replace(&mut state.watched, true)
        };
        // A receiver that has gone means an interpreter that has.
        self.sender.send(message).ok();
        if !watched {
            self.runtime.spawn(watch(Arc::clone(&self.serving)));
        }
    }

    /// Drops a reference on the thread.
    pub(crate) fn release(&self, held: Held) {
        self.sender.send(Message::Release(held)).ok();
    }

    /// Ends the thread; tells whether it has ended by `deadline`.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.sender.send(Message::Stop).ok();
        let ended = || {
            self.serving
                .threads
                .lock()
                .iter()
                .all(JoinHandle::is_finished)
        };
        while !ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Starts another thread when a visit to the interpreter does not end, until nobody waits.
async fn watch(serving: Arc<Serving>) {
    loop {
        tokio::time::sleep(LONGEST_VISIT).await;
        let entered = {
            let mut state = serving.state.lock();
            if state.pending == 0 && state.entered.is_none() {
                state.watched = false;
                return;
            }
            state.entered
        };
        if entered.is_some_and(|entered| entered.elapsed() > LONGEST_VISIT) {
            // Where no thread can be had now, perhaps one can the next time.
            serving.start_thread().ok();
        }
    }
}

impl Serving {
    fn start_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let generation = self.state.lock().generation + 1;
        let serving = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("zarrs-async-python".into())
            .spawn(move || serving.serve(generation))?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn serve(&self, generation: u64) {
        {
            let mut state = self.state.lock();
            (state.generation, state.entered) = (generation, None);
        }
        while self.state.lock().generation == generation {
            let messages: Vec<Message> = {
                let receiver = self.receiver.lock();
                let Ok(first) = receiver.recv() else { return };
                std::iter::once(first).chain(receiver.try_iter()).collect()
            };
            let waited_for =
                |message: &&Message| !matches!(message, Message::Release(_) | Message::Stop);
            let stop = messages
                .iter()
                .any(|message| matches!(message, Message::Stop));
            {
                let mut state = self.state.lock();
                state.pending -= messages.iter().filter(waited_for).count();
                state.entered = Some(Instant::now());
            }
            let attached = Python::try_attach(|py| deliver(py, messages, &self.engine));
            {
                let mut state = self.state.lock();
                if state.generation == generation {
                    state.entered = None;
                }
            }
            // Without an interpreter nobody is left to hear of anything.
            if attached.is_none() || stop {
                return;
            }
        }
    }
}

/// One loop's share of what has come.
struct Share<'py> {
    event_loop: Bound<'py, PyAny>,
    resolved: Bound<'py, PyList>,
    calls: Bound<'py, PyList>,
    replies: Vec<Py<Reply>>,
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
        // What goes wrong with one message must not lose the others.
        let taken = catch_unwind(AssertUnwindSafe(|| share.take(py, message)));
        report(
            py,
            taken.unwrap_or_else(|_| Err(PyRuntimeError::new_err("delivering a result panicked"))),
        );
    }
    for share in shares.into_values() {
        report(py, share.send(py, engine));
    }
}

fn loop_state(event_loop: &Bound<'_, PyAny>) -> PyResult<LoopState> {
    let py = event_loop.py();
    let is = |name| event_loop.call_method0(name)?.is_truthy();
    Ok(if is(intern!(py, "is_closed"))? {
        LoopState::Closed
    } else if is(intern!(py, "is_running"))? {
        LoopState::Running
    } else {
        LoopState::Stopped
    })
}

impl Share<'_> {
    fn take(&mut self, py: Python<'_>, message: Message) -> PyResult<()> {
        match message {
            Message::Done {
                future, outcome, ..
            } => {
                let (error, result) = outcome.into_python(py);
                self.futures += 1;
                self.resolved.append((future, error, result))
            }
            Message::Call(call) => {
                let (arguments, reply) = call.into_python(py)?;
                self.replies.push(reply);
                self.calls.append(arguments)
            }
            Message::Cancel { task, .. } => {
                self.cancelled.push(task);
                Ok(())
            }
            Message::Probe { state, .. } => {
                // The receiver is gone if the answer came meanwhile; that is fine.
                state
                    .send(loop_state(&self.event_loop).unwrap_or(LoopState::Closed))
                    .ok();
                Ok(())
            }
            Message::Release(_) | Message::Stop => Ok(()),
        }
    }

    fn send(self, py: Python<'_>, engine: &Engine) -> PyResult<()> {
        // To ask for the module each time takes longer than all the rest.
        static SERVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if self.resolved.is_empty() && self.calls.is_empty() && self.cancelled.is_empty() {
            return Ok(());
        }
        let serve = SERVE.import(py, "zarrs_async._loop", "serve")?;
        let cancelled = PyList::new(py, self.cancelled)?;
        let arguments = (serve, self.resolved, self.calls, cancelled);
        let sent = self
            .event_loop
            .call_method1(intern!(py, "call_soon_threadsafe"), arguments);
        if let Err(error) = sent {
            // The loop has closed: nobody awaits these results.
            engine.stats().results_dropped.add(self.futures);
            for reply in self.replies {
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
