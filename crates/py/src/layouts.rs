//! Layouts from JSON. Those without foreign codecs are kept: the arrays of a data set have few different ones.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::PyResult;
use pyo3::exceptions::PyValueError;
use serde_json::Value;
use zarrs_async_core::{Element, Error, ForeignCodec, Layout};

use crate::errors;

/// Layouts that are kept at most: more than a data set has, and little memory.
const MOST: usize = 64;

/// The layouts of one process, by what they were made from.
#[derive(Default)]
pub(crate) struct Layouts(Mutex<HashMap<(String, Element), Layout>>);

impl Layouts {
    /// The layout that `metadata` describes, see `NativeArray`.
    pub(crate) fn of(
        &self,
        metadata: &str,
        element: &Element,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> PyResult<Layout> {
        let make =
            || layout(&parse(metadata)?, element, foreign).map_err(|error| errors::raise(&error));
        if !foreign.is_empty() {
            return make();
        }
        let from = (metadata.to_owned(), element.clone());
        let kept = self.0.lock().get(&from).cloned();
        if let Some(layout) = kept {
            return Ok(layout);
        }
        // To make an exception may hand the interpreter to another thread, which may want this lock.
        let layout = make()?;
        let mut kept = self.0.lock();
        if kept.len() == MOST {
            kept.clear();
        }
        kept.insert(from, layout.clone());
        Ok(layout)
    }
}

pub(crate) fn parse(metadata: &str) -> PyResult<Value> {
    serde_json::from_str(metadata).map_err(|error| PyValueError::new_err(error.to_string()))
}

pub(crate) fn layout(
    metadata: &Value,
    element: &Element,
    foreign: &[Arc<dyn ForeignCodec>],
) -> Result<Layout, Error> {
    if metadata["codecs"].is_array() {
        return Layout::from_v3(&metadata["codecs"], element.big_endian, foreign);
    }
    Layout::from_v2(metadata, element, foreign)
}
