//! zarr's `batch_info` as the engine's batch, in one visit under the interpreter lock.

use std::sync::Arc;
use std::time::Instant;

use numpy::PyUntypedArray;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use zarrs_async_core::{Array, Batch, Item, Spec};

use crate::buffer::Memory;
use crate::errors;
use crate::indexing::{self, Outside};
use crate::process::Process;
use crate::spec::Specs;
use crate::texts;

/// What of an `ArraySpec` the engine needs, read once for each of them.
struct Read<'py> {
    python: Bound<'py, PyAny>,
    spec: Arc<Spec>,
}

/// What all batches of an array have in common.
pub(crate) struct Context<'a> {
    pub(crate) process: &'a Process,
    pub(crate) array: &'a Arc<Array>,
    pub(crate) specs: &'a Specs,
    /// Gap and size up to which byte ranges are merged, where the array's own settings do not say.
    pub(crate) coalesce: (u64, u64),
    /// When the call began.
    pub(crate) since: Instant,
}

/// The gap that the user has set; zarr's default, which nobody need have set, leaves it to the engine.
pub(crate) const fn gap(bytes: u64) -> Option<u64> {
    if bytes == 1 << 20 { None } else { Some(bytes) }
}

/// Reads `batch_info`, whose elements go to `buffer` if `reading` and come from it otherwise.
pub(crate) fn parse(
    context: &Context<'_>,
    batch_info: &Bound<'_, PyAny>,
    buffer: &Bound<'_, PyUntypedArray>,
    drop_axes: &[usize],
    reading: bool,
) -> PyResult<Batch> {
    let Context {
        process,
        array,
        specs,
        coalesce,
        since,
    } = context;
    let py = batch_info.py();
    let element = &specs.element;
    let texts = texts::of(buffer, element.kind, &process.calls)?;
    let memory = Memory::of(buffer, reading, texts, &process.interpreter)?;
    let outside = Outside {
        shape: &memory.shape,
        strides: &memory.strides,
        broadcast: !reading,
    };
    let extent = memory.buffer.extent();
    let itemsize = memory.buffer.itemsize(element.size);
    let mut items = Vec::with_capacity(batch_info.len().unwrap_or(0));
    let mut read: Option<Read<'_>> = None;
    let mut config = None;
    for info in batch_info.try_iter()? {
        let info = info?;
        let info = info.cast::<PyTuple>()?;
        let path: String = info.get_item(0)?.getattr(intern!(py, "path"))?.extract()?;
        let python = info.get_item(1)?;
        let spec = match read.take() {
            Some(read) if read.python.is(&python) => read,
            _ => {
                config = Some(python.getattr(intern!(py, "config"))?);
                let shape: Vec<u64> = python.getattr(intern!(py, "shape"))?.extract()?;
                let spec = specs.of(array, &shape)?;
                Read { python, spec }
            }
        };
        let shape = spec.spec.shape();
        let chunk = info.get_item(2)?;
        let out = info.get_item(3)?;
        let selection = indexing::selection(&chunk, &out, shape, outside, drop_axes)?;
        selection
            .check(shape, itemsize, extent.clone())
            .map_err(|error| errors::raise(&error))?;
        let complete = info.get_item(4)?.is_truthy()?;
        items.push(Item {
            key: path.into(),
            spec: Arc::clone(&spec.spec),
            selections: [selection].into(),
            complete,
        });
        read = Some(spec);
    }
    let setting = |name: &str, default: u64| -> PyResult<u64> {
        match &config {
            Some(config) if config.hasattr(name)? => config.getattr(name)?.extract(),
            _ => Ok(default),
        }
    };
    let write_empty_chunks = match &config {
        Some(config) => config
            .getattr(intern!(py, "write_empty_chunks"))?
            .is_truthy()?,
        None => false,
    };
    Ok(Batch {
        array: Arc::clone(array),
        items,
        buffer: Arc::new(memory.buffer),
        coalesce_gap: gap(setting("sharding_coalesce_max_gap_bytes", coalesce.0)?),
        coalesce_max: setting("sharding_coalesce_max_bytes", coalesce.1)?,
        write_empty_chunks,
        since: *since,
    })
}
