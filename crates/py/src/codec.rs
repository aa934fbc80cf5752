//! Python's codecs, as foreign codecs of the engine.
//!
//! They are called on the engine's threads for foreign codecs, which may wait for the interpreter lock; bytes
//! are copied without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyTuple};
use zarrs_async_core::{Engine, Error, ForeignCodec};

use crate::buffer;
use crate::errors;
use crate::interpreter::{Held, Interpreter};
use crate::process::Process;

/// How long the end of the interpreter waits for codecs that run.
const LONGEST_END: Duration = Duration::from_secs(10);

/// The codecs that run, for the end of the interpreter to wait for them: a thread that comes back to an
/// interpreter that has ended takes the process with it.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    state: Mutex<CallsState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct CallsState {
    running: usize,
    ended: bool,
}

impl Calls {
    pub(crate) fn begin(&self) -> Result<Call<'_>, Error> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(Error::Stopped("the interpreter is ending".into()));
        }
        state.running += 1;
        Ok(Call(self))
    }

    /// Lets no codec be called any more, and waits for those that run.
    pub(crate) fn end(&self) {
        let deadline = Instant::now() + LONGEST_END;
        let mut state = self.state.lock();
        state.ended = true;
        while state.running > 0 {
            if self.returned.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

/// A codec that runs, until dropped.
pub(crate) struct Call<'a>(&'a Calls);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.returned.notify_all();
    }
}

/// A `zarrs_async._codecs.Step`.
pub(crate) struct PyCodec {
    /// Taken when dropped only.
    step: Option<Py<PyAny>>,
    name: String,
    engine: Arc<Engine>,
    calls: Arc<Calls>,
    interpreter: Interpreter,
}

impl std::fmt::Debug for PyCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PyCodec").field(&self.name).finish()
    }
}

impl Drop for PyCodec {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            self.interpreter.release(Held::Object(step));
        }
    }
}

impl PyCodec {
    pub(crate) fn new(step: &Bound<'_, PyAny>, process: &Process) -> PyResult<Self> {
        Ok(Self {
            name: step.getattr("name")?.extract()?,
            step: Some(step.clone().unbind()),
            engine: Arc::clone(&process.engine),
            calls: Arc::clone(&process.calls),
            interpreter: process.interpreter.clone(),
        })
    }

    /// Enters the interpreter for one call of the step.
    fn call<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T, Error> {
        let running = self.calls.begin()?;
        self.engine.stats().python_codec_calls.add(1);
        let called = Python::try_attach(|py| {
            let step = self.step.as_ref().ok_or_else(errors::shutdown)?;
            call(step.bind(py))
        });
        drop(running);
        match called {
            Some(Ok(done)) => Ok(done),
            Some(Err(raised)) => Err(Error::Foreign {
                key: "".into(),
                codec: self.name.as_str().into(),
                operation,
                source: Arc::new(raised),
            }),
            None => Err(Error::Stopped("the interpreter has ended".into())),
        }
    }
}

impl ForeignCodec for PyCodec {
    fn name(&self) -> &str {
        &self.name
    }

    fn decode(
        &self,
        shape: &[u64],
        encoded: &[u8],
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let decoded = self.call("decoded", |step| {
            let py = step.py();
            let arguments = (PyTuple::new(py, shape)?, PyBytes::new(py, encoded));
            let decoded = step.call_method1("decode", arguments)?;
            buffer::bytes(&decoded, &self.interpreter)
        })?;
        then(&decoded)
    }

    fn encode(
        &self,
        shape: &[u64],
        decoded: &[u8],
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let encoded = self.call("encoded", |step| {
            let py = step.py();
            // Some codecs ask for memory that may be written to.
            let arguments = (PyTuple::new(py, shape)?, PyByteArray::new(py, decoded));
            let encoded = step.call_method1("encode", arguments)?;
            (!encoded.is_none())
                .then(|| buffer::bytes(&encoded, &self.interpreter))
                .transpose()
        })?;
        encoded.map_or(Ok(false), |encoded| then(&encoded).map(|()| true))
    }

    fn is_empty(&self, shape: &[u64], decoded: &[u8]) -> Result<bool, Error> {
        self.call("encoded", |step| {
            let py = step.py();
            let arguments = (PyTuple::new(py, shape)?, PyBytes::new(py, decoded));
            step.call_method1("is_empty", arguments)?.is_truthy()
        })
    }
}
