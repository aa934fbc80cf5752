//! The chunk specs of one array: checked once for each shape, not for each batch.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::PyResult;
use zarrs_async_core::{Array, ChunkSpec, Element, Spec};

use crate::errors;

/// Makes the specs of one array's chunks.
pub(crate) struct Specs {
    pub(crate) element: Element,
    fill: Vec<u8>,
    /// Arrays have chunks of one shape, most of them.
    last: Mutex<Option<Arc<Spec>>>,
}

impl Specs {
    pub(crate) const fn new(element: Element, fill: Vec<u8>) -> Self {
        let last = Mutex::new(None);
        Self {
            element,
            fill,
            last,
        }
    }

    /// The spec of chunks of `shape`.
    pub(crate) fn of(&self, array: &Array, shape: &[u64]) -> PyResult<Arc<Spec>> {
        let last = self.last.lock().clone();
        if let Some(spec) = last.filter(|spec| spec.shape() == shape && array.made(spec)) {
            return Ok(spec);
        }
        let chunk = ChunkSpec {
            shape: shape.to_vec(),
            element: self.element.clone(),
            fill: self.fill.clone(),
        };
        let spec = Arc::new(array.spec(chunk).map_err(|error| errors::raise(&error))?);
        *self.last.lock() = Some(Arc::clone(&spec));
        Ok(spec)
    }
}
