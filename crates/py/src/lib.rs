//! Python bindings of the engine: translation only.
//!
//! The interpreter is entered twice for each batch: to parse it (`batch`), and to hand over its result
//! (`interpreter`). In between, nothing here touches a Python object.

#![expect(
    clippy::doc_markdown,
    reason = "docstrings are in numpy's style, not in Markdown"
)]

mod array;
mod batch;
mod bridge;
mod buffer;
mod call;
mod codec;
mod direct;
mod errors;
mod indexing;
mod interpreter;
mod layouts;
mod process;
mod spec;
mod store;
mod texts;

use pyo3::prelude::*;

#[pymodule]
mod _rust {
    #[pymodule_export]
    use super::array::{NativeArray, Plan, Running, is_native};
    #[pymodule_export]
    use super::bridge::Reply;
    #[pymodule_export]
    use super::call::{begin_call, end_iteration};
    #[pymodule_export]
    use super::direct::{Direct, Selected};
    #[pymodule_export]
    use super::errors::error_kinds;
    #[pymodule_export]
    use super::process::{configure, cpus, failing, held, shutdown, stats};
}
