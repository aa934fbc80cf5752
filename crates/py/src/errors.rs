//! Engine errors as Python exceptions, in one place.

use pyo3::exceptions::{PyConnectionError, PyException, PyOSError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use zarrs_async_core::{BatchError, Error, ErrorKind, StoreError, StoreErrorKind};

/// The `kind` of each error that the engine raises.
#[pyfunction]
pub(crate) fn error_kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

/// The exception for an error outside any batch.
pub(crate) fn raise(error: &Error) -> PyErr {
    Python::attach(|py| exception(py, error).unwrap_or_else(|failed| failed))
}

/// The exception for what failed in a batch; the other keys are in its notes.
pub(crate) fn raise_batch(py: Python<'_>, failed: &BatchError) -> PyErr {
    let raised = exception(py, &failed.error).unwrap_or_else(|failed| failed);
    if !failed.others.is_empty() {
        let shown: Vec<String> = failed
            .others
            .iter()
            .take(10)
            .map(|key| format!("{key:?}"))
            .collect();
        let more = if failed.others.len() > shown.len() {
            ", …"
        } else {
            ""
        };
        let note = format!(
            "{} other chunks of this batch failed too: {}{more}",
            failed.others.len(),
            shown.join(", ")
        );
        // A note that cannot be added is not worth losing the exception for.
        raised
            .value(py)
            .call_method1(intern!(py, "add_note"), (note,))
            .ok();
    }
    raised
}

/// The exception for a process that is ending.
pub(crate) fn shutdown() -> PyErr {
    raise(&Error::Stopped("the interpreter is ending".into()))
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    if let Some(raised) = own(py, error)? {
        return Ok(raised);
    }
    let details = PyDict::new(py);
    let name = match error {
        Error::Store(failure) => {
            details.set_item("key", &*failure.key)?;
            details.set_item("store", &*failure.store)?;
            details.set_item("status", failure.status)?;
            details.set_item("attempts", failure.attempts)?;
            match failure.kind {
                StoreErrorKind::Permission => "StorePermissionError",
                StoreErrorKind::Timeout => "StoreTimeoutError",
                StoreErrorKind::Changed => "StoreConflictError",
                _ => "StoreError",
            }
        }
        Error::Decode { key, codec, reason } | Error::Encode { key, codec, reason } => {
            details.set_item("key", &**key)?;
            details.set_item("codec", &**codec)?;
            details.set_item("reason", &**reason)?;
            if matches!(error, Error::Decode { .. }) {
                "ChunkDecodeError"
            } else {
                "ChunkEncodeError"
            }
        }
        Error::Foreign {
            key,
            codec,
            operation,
            source,
        } => {
            details.set_item("key", &**key)?;
            details.set_item("codec", &**codec)?;
            details.set_item("reason", source.to_string())?;
            if *operation == "decoded" {
                "ChunkDecodeError"
            } else {
                "ChunkEncodeError"
            }
        }
        Error::Internal { key, .. } => {
            details.set_item("key", &**key)?;
            "InternalError"
        }
        Error::Memory { key, nbytes } => {
            details.set_item("key", &**key)?;
            details.set_item("nbytes", nbytes)?;
            "ChunkMemoryError"
        }
        Error::Unsupported(_) => "UnsupportedError",
        Error::Stopped(_) => "ShutdownError",
        _ => "InvalidBatchError",
    };
    let class = py
        .import(intern!(py, "zarrs_async.exceptions"))?
        .getattr(name)?;
    let raised = PyErr::from_value(class.call((error.to_string(),), Some(&details))?);
    raised
        .value(py)
        .setattr(intern!(py, "kind"), error.kind().as_str())?;
    if let Error::Store(failure) = error {
        raised.set_cause(py, Some(cause(py, failure)));
    }
    Ok(raised)
}

/// What a Python store or codec raised, with a note that says what failed: whoever knows it catches it.
fn own(py: Python<'_>, error: &Error) -> PyResult<Option<PyErr>> {
    let (source, note) = match error {
        Error::Store(failure) => {
            let (operation, key, store) = (failure.operation, &failure.key, &failure.store);
            let note = format!("zarrs_async: {operation} of {key:?} in {store} failed");
            (failure.source.as_ref(), note)
        }
        Error::Foreign {
            key,
            codec,
            operation,
            source,
        } => {
            let note =
                format!("zarrs_async: chunk {key:?} cannot be {operation} by codec {codec:?}");
            (Some(source), note)
        }
        _ => return Ok(None),
    };
    let Some(raised) = source.and_then(|source| source.downcast_ref::<PyErr>()) else {
        return Ok(None);
    };
    // A future takes no `StopIteration`, and what is no `Exception` is meant for the event loop.
    if !raised.is_instance_of::<PyException>(py) || raised.is_instance_of::<PyStopIteration>(py) {
        return Ok(None);
    }
    // The exception of a shared fetch is raised in every batch that waits.
    let notes = raised.value(py).getattr_opt(intern!(py, "__notes__"))?;
    if !notes.is_some_and(|notes| notes.contains(&note).unwrap_or(false)) {
        raised
            .value(py)
            .call_method1(intern!(py, "add_note"), (note,))?;
    }
    Ok(Some(raised.clone_ref(py)))
}

/// What the store itself raised, or its words.
fn cause(py: Python<'_>, failure: &StoreError) -> PyErr {
    if let Some(source) = &failure.source {
        if let Some(raised) = source.downcast_ref::<PyErr>() {
            return raised.clone_ref(py);
        }
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return match io.raw_os_error() {
                // Python chooses the class by the number.
                Some(code) => PyOSError::new_err((code, failure.reason.to_string())),
                None => PyOSError::new_err(failure.reason.to_string()),
            };
        }
    }
    PyConnectionError::new_err(failure.reason.to_string())
}
