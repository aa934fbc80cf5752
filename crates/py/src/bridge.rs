//! Foreign stores: a Python store's own `get`, `set` and `delete`, awaited on its loop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use pyo3::exceptions::{PyPermissionError, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_async_runtimes::TaskLocals;
use tokio::sync::oneshot;
use zarrs_async_core::{Error, ForeignStore, Part, StoreError, StoreErrorKind};

use crate::buffer;
use crate::interpreter::{Interpreter, LoopState, Message};

/// How long an answer may take before the state of its loop is asked for.
const PATIENCE: Duration = Duration::from_secs(1);

type Answer = Result<Option<Bytes>, Raised>;

/// What a store raised, as far as it can be told without the interpreter.
struct Raised {
    error: PyErr,
    kind: StoreErrorKind,
    class: String,
}

impl Raised {
    fn new(py: Python<'_>, error: PyErr) -> Self {
        let kind = if error.is_instance_of::<PyPermissionError>(py) {
            StoreErrorKind::Permission
        } else if error.is_instance_of::<PyTimeoutError>(py) {
            StoreErrorKind::Timeout
        } else {
            StoreErrorKind::Other
        };
        let class = error
            .get_type(py)
            .name()
            .map_or_else(|_| String::new(), |name| name.to_string());
        Self { error, kind, class }
    }
}

/// One Python store on one event loop.
pub(crate) struct PyStore {
    store: Arc<Py<PyAny>>,
    name: String,
    locals: TaskLocals,
    /// Addresses of the store and of the loop; both are held.
    place: u64,
    scope: u64,
    interpreter: Interpreter,
}

/// A call for the interpreter thread to take to the loop.
pub(crate) struct Call {
    pub(crate) locals: TaskLocals,
    store: Arc<Py<PyAny>>,
    operation: &'static str,
    key: String,
    part: Part,
    bytes: Option<Bytes>,
    reply: oneshot::Sender<Answer>,
    task: Arc<Mutex<Option<Py<PyAny>>>>,
    interpreter: Interpreter,
}

/// Where the loop puts a foreign store's answer.
#[pyclass(frozen, module = "zarrs_async._rust")]
pub(crate) struct Reply {
    sender: Mutex<Option<oneshot::Sender<Answer>>>,
    task: Arc<Mutex<Option<Py<PyAny>>>>,
    interpreter: Interpreter,
}

impl std::fmt::Debug for PyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PyStore").field(&self.name).finish()
    }
}

impl PyStore {
    pub(crate) fn new(
        store: &Bound<'_, PyAny>,
        locals: TaskLocals,
        interpreter: Interpreter,
    ) -> PyResult<Self> {
        let py = store.py();
        // A class name is enough to find the store by; its `str` may hold a URL with a password.
        let name = store.get_type().name()?.to_string();
        let scope = locals.event_loop(py).as_ptr() as u64;
        let place = store.as_ptr() as u64;
        Ok(Self {
            store: Arc::new(store.clone().unbind()),
            name,
            locals,
            place,
            scope,
            interpreter,
        })
    }

    fn call(
        &self,
        operation: &'static str,
        key: &str,
        part: Part,
        bytes: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Option<Bytes>, Error>> {
        let (reply, answer) = oneshot::channel();
        let task = Arc::new(Mutex::new(None));
        let waiting = Waiting {
            task: Arc::clone(&task),
            locals: self.locals.clone(),
            interpreter: self.interpreter.clone(),
            answered: false,
        };
        let call = Call {
            locals: self.locals.clone(),
            store: Arc::clone(&self.store),
            operation,
            key: key.to_owned(),
            part,
            bytes,
            reply,
            task,
            interpreter: self.interpreter.clone(),
        };
        // An interpreter thread that has gone drops the call, and with it the sender.
        self.interpreter.send(Message::Call(call));
        let (store, key) = (self.name.clone(), key.to_owned());
        async move {
            let mut waiting = waiting;
            let answer = waiting.answer(answer).await;
            waiting.answered = true;
            match answer {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(failure(operation, &key, &store, error)),
                Err(_) => Err(Error::Stopped("its event loop has closed".into())),
            }
        }
        .boxed()
    }
}

impl ForeignStore for PyStore {
    fn place(&self) -> u64 {
        self.place
    }

    fn scope(&self) -> u64 {
        self.scope
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn get(&self, key: &str, part: Part) -> BoxFuture<'static, Result<Option<Bytes>, Error>> {
        self.call("get", key, part, None)
    }

    fn put(&self, key: &str, bytes: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        self.call("put", key, Part::Whole, Some(bytes))
            .map(|answer| answer.map(drop))
            .boxed()
    }

    fn delete(&self, key: &str) -> BoxFuture<'static, Result<(), Error>> {
        self.call("delete", key, Part::Whole, None)
            .map(|answer| answer.map(drop))
            .boxed()
    }

    fn is_running(&self) -> BoxFuture<'static, bool> {
        let state = loop_state(&self.interpreter, &self.locals);
        state.map(|state| state == LoopState::Running).boxed()
    }
}

impl Call {
    /// Arguments for the loop: store, operation, key, range or bytes, and where the answer goes.
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<(Py<PyAny>, Py<Reply>)> {
        let reply = Reply {
            sender: Mutex::new(Some(self.reply)),
            task: self.task,
            interpreter: self.interpreter,
        };
        let reply = Py::new(py, reply)?;
        let argument = match (&self.part, &self.bytes) {
            (_, Some(bytes)) => PyBytes::new(py, bytes).into_any().unbind(),
            (Part::Whole, None) => py.None(),
            (Part::Range(range), None) => (range.start, range.end)
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            (Part::Suffix(len), None) => (*len).into_pyobject(py)?.into_any().unbind(),
        };
        let store = self.store.clone_ref(py);
        let arguments = (
            store,
            self.operation,
            self.key,
            argument,
            reply.clone_ref(py),
        );
        Ok((arguments.into_pyobject(py)?.into_any().unbind(), reply))
    }
}

#[pymethods]
impl Reply {
    /// Notes the task that is to be cancelled when nobody waits for the answer any more.
    fn started(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        *self.task.lock() = Some(task.clone().unbind());
        let is_wanted = self
            .sender
            .lock()
            .as_ref()
            .is_some_and(|sender| !sender.is_closed());
        if !is_wanted {
            // Whoever asked went away before there was a task to cancel; it has not begun yet, and will not
            // answer: it is let go, as the task's own error holds this reply.
            drop(self.task.lock().take());
            task.call_method0(intern!(task.py(), "cancel"))?;
        }
        Ok(())
    }

    /// Gives the answer: a contiguous buffer, or None for what is not there.
    fn done(&self, answer: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let answer = answer
            .map(|answer| buffer::bytes(answer, &self.interpreter))
            .transpose()?;
        self.answer(Ok(answer));
        Ok(())
    }

    /// Gives an exception for an answer.
    fn failed(&self, error: &Bound<'_, PyAny>) {
        self.answer(Err(Raised::new(
            error.py(),
            PyErr::from_value(error.clone()),
        )));
    }
}

impl Reply {
    pub(crate) fn fail(&self, py: Python<'_>, error: PyErr) {
        self.answer(Err(Raised::new(py, error)));
    }

    fn answer(&self, answer: Answer) {
        drop(self.task.lock().take());
        if let Some(sender) = self.sender.lock().take() {
            // The receiver is gone if the batch was cancelled; that is fine.
            drop(sender.send(answer));
        }
    }
}

/// Cancels the loop's task when the engine does not wait for it any more.
struct Waiting {
    task: Arc<Mutex<Option<Py<PyAny>>>>,
    locals: TaskLocals,
    interpreter: Interpreter,
    answered: bool,
}

impl Waiting {
    /// Waits for the answer; a loop that has closed will never give one.
    async fn answer(
        &self,
        mut answer: oneshot::Receiver<Answer>,
    ) -> Result<Answer, oneshot::error::RecvError> {
        loop {
            if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut answer).await {
                return answer;
            }
            if loop_state(&self.interpreter, &self.locals).await == LoopState::Closed {
                answer.close();
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(task) = self.task.lock().take() {
            self.interpreter.send(Message::Cancel {
                locals: self.locals.clone(),
                task,
            });
        }
    }
}

/// Asks for the state of a loop; one without an interpreter counts as closed.
fn loop_state(
    interpreter: &Interpreter,
    locals: &TaskLocals,
) -> impl Future<Output = LoopState> + Send + 'static {
    let (sender, state) = oneshot::channel();
    interpreter.send(Message::Probe {
        locals: locals.clone(),
        state: sender,
    });
    state.map(|state| state.unwrap_or(LoopState::Closed))
}

fn failure(operation: &'static str, key: &str, store: &str, raised: Raised) -> Error {
    StoreError {
        kind: raised.kind,
        operation,
        key: key.into(),
        store: store.into(),
        status: None,
        attempts: 1,
        // The exception itself is the cause; its words may be long, or secret.
        reason: format!("the store raised {}", raised.class).into(),
        source: Some(Arc::new(raised.error)),
    }
    .into()
}
