//! A store as Python describes it, as the engine's.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use zarrs_async_core::{Awaited, LocalStore, RemoteConfig, RemoteKind, Store};

use crate::bridge::PyStore;
use crate::errors;
use crate::process::Process;

/// Where an array's chunks are.
#[derive(Clone)]
pub(crate) enum Description {
    Local { root: PathBuf, direct_io: bool },
    Remote(RemoteConfig),
    Foreign(Arc<Py<PyAny>>),
}

/// A `zarrs_async._stores.Description`.
#[derive(FromPyObject)]
pub(crate) struct Described<'py> {
    store: Bound<'py, PyAny>,
    native: Option<Native>,
}

/// A `zarrs_async._stores.Local` or `Remote`.
#[derive(FromPyObject)]
enum Native {
    Local { root: PathBuf, direct_io: bool },
    Remote(Remote),
}

/// The fields of a [`RemoteConfig`].
#[derive(FromPyObject)]
struct Remote {
    kind: Kind,
    url: String,
    prefix: String,
    options: Vec<(String, String)>,
    client_options: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
    environment: Vec<(String, String)>,
    max_retries: Option<usize>,
    retry_timeout_ms: Option<u64>,
    backoff_ms: Option<(u64, u64, u64)>,
}

impl From<Remote> for RemoteConfig {
    fn from(remote: Remote) -> Self {
        Self {
            kind: remote.kind.0,
            url: remote.url,
            prefix: remote.prefix,
            options: remote.options,
            client_options: remote.client_options,
            headers: remote.headers,
            environment: remote.environment,
            max_retries: remote.max_retries,
            retry_timeout_ms: remote.retry_timeout_ms,
            backoff_ms: remote.backoff_ms,
        }
    }
}

struct Kind(RemoteKind);

impl FromPyObject<'_, '_> for Kind {
    type Error = PyErr;

    fn extract(kind: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Ok(Self(match kind.extract::<String>()?.as_str() {
            "s3" => RemoteKind::S3,
            "gcs" => RemoteKind::Gcs,
            "azure" => RemoteKind::Azure,
            "http" => RemoteKind::Http,
            other => {
                let message = format!("no store is of the kind {other:?}");
                return Err(PyValueError::new_err(message));
            }
        }))
    }
}

impl Description {
    pub(crate) fn new(described: Described<'_>, process: &Process) -> Self {
        match described.native {
            Some(Native::Local { root, direct_io }) => return Self::Local { root, direct_io },
            Some(Native::Remote(remote)) => {
                let config = remote.into();
                if process.engine.remote(&config).is_ok() {
                    return Self::Remote(config);
                }
                // Whatever is not taken here, the store itself knows what to do with it.
            }
            None => {}
        }
        Self::Foreign(Arc::new(described.store.unbind()))
    }

    /// The engine's store; a foreign one is called on the loop of `locals`.
    pub(crate) fn open(
        &self,
        py: Python<'_>,
        process: &Process,
        locals: Option<&TaskLocals>,
    ) -> PyResult<Store> {
        Ok(match self {
            Self::Local { root, direct_io } => {
                Store::Local(Arc::new(LocalStore::new(root, *direct_io)))
            }
            Self::Remote(config) => {
                let store = process.engine.remote(config);
                Store::Awaited(Awaited::Remote(
                    store.map_err(|error| errors::raise(&error))?,
                ))
            }
            Self::Foreign(store) => {
                let locals = locals.cloned().ok_or_else(|| {
                    PyRuntimeError::new_err("the store is awaited, which needs an event loop")
                })?;
                let store = PyStore::new(store.bind(py), locals, process.interpreter.clone())?;
                Store::Awaited(Awaited::Foreign(Arc::new(store)))
            }
        })
    }
}
