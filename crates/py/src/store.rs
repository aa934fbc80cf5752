//! A store as Python describes it, as the engine's.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_async_runtimes::TaskLocals;
use zarrs_async_core::{Awaited, LocalStore, RemoteConfig, RemoteKind, Store};

use crate::bridge::PyStore;
use crate::errors;
use crate::process::Process;

/// What `zarrs_async._stores` made of a zarr store.
#[derive(Clone)]
pub(crate) enum Description {
    Local { root: PathBuf, direct_io: bool },
    Remote(RemoteConfig),
    Foreign(Arc<Py<PyAny>>),
}

impl Description {
    pub(crate) fn extract(description: &Bound<'_, PyDict>, process: &Process) -> PyResult<Self> {
        let get = |name: &str| description.get_item(name);
        let Some(store) = get("store")? else {
            return Err(PyValueError::new_err("a description names its store"));
        };
        if let Some(root) = get("root")? {
            let direct_io =
                get("direct_io")?.is_some_and(|value| value.is_truthy().unwrap_or(false));
            return Ok(Self::Local {
                root: root.extract()?,
                direct_io,
            });
        }
        if get("kind")?.is_none() {
            return Ok(Self::Foreign(Arc::new(store.unbind())));
        }
        let text = |name: &str| -> PyResult<String> {
            get(name)?.map_or_else(|| Ok(String::new()), |value| value.extract())
        };
        let pairs = |name: &str| -> PyResult<Vec<(String, String)>> {
            get(name)?.map_or_else(|| Ok(Vec::new()), |value| value.extract())
        };
        let number = |name: &str| -> PyResult<Option<u64>> {
            get(name)?.map_or(Ok(None), |value| value.extract())
        };
        let kind = match text("kind")?.as_str() {
            "s3" => RemoteKind::S3,
            "gcs" => RemoteKind::Gcs,
            "azure" => RemoteKind::Azure,
            "http" => RemoteKind::Http,
            other => {
                let message = format!("no store is of the kind {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        let config = RemoteConfig {
            kind,
            url: text("url")?,
            prefix: text("prefix")?,
            options: pairs("options")?,
            client_options: pairs("client_options")?,
            headers: get("headers")?.map_or_else(|| Ok(Vec::new()), |value| value.extract())?,
            environment: pairs("environment")?,
            max_retries: number("max_retries")?.and_then(|retries| usize::try_from(retries).ok()),
            retry_timeout_ms: number("retry_timeout_ms")?,
            backoff_ms: get("backoff_ms")?.map_or(Ok(None), |value| value.extract())?,
        };
        Ok(match process.engine.remote(&config) {
            Ok(_) => Self::Remote(config),
            // Whatever is not taken here, the store itself knows what to do with it.
            Err(_) => Self::Foreign(Arc::new(store.unbind())),
        })
    }

    /// The engine's store; a foreign one is called on the loop of `locals`.
    pub(crate) fn open(
        &self,
        py: Python<'_>,
        process: &Process,
        locals: &TaskLocals,
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
                let store =
                    PyStore::new(store.bind(py), locals.clone(), process.interpreter.clone())?;
                Store::Awaited(Awaited::Foreign(Arc::new(store)))
            }
        })
    }
}
