//! Python's memory as the engine sees it. With `texts`, the bindings' only unsafe code.

use std::sync::Arc;

use bytes::Bytes;
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use zarrs_async_core::{OutBuffer, Texts};

use crate::interpreter::{Held, Interpreter};

/// A numpy array's memory, and where its elements are.
pub(crate) struct Memory {
    pub(crate) buffer: OutBuffer,
    pub(crate) shape: Vec<usize>,
    /// In bytes.
    pub(crate) strides: Vec<i64>,
}

/// A reference that the interpreter thread drops, so that no other thread waits for the interpreter.
struct Reference {
    held: Mutex<Option<Held>>,
    interpreter: Interpreter,
}

impl Drop for Reference {
    fn drop(&mut self) {
        if let Some(held) = self.held.lock().take() {
            self.interpreter.release(held);
        }
    }
}

impl Memory {
    /// The memory of a numpy array; with `writing_to`, it must be writeable.
    pub(crate) fn of(
        array: &Bound<'_, PyUntypedArray>,
        writing_to: bool,
        texts: Option<Arc<dyn Texts>>,
        interpreter: &Interpreter,
    ) -> PyResult<Self> {
        let writeable: bool = array.getattr("flags")?.getattr("writeable")?.extract()?;
        if writing_to && !writeable {
            return Err(PyValueError::new_err("the output array is read-only"));
        }
        let shape = array.shape().to_vec();
        let strides: Vec<i64> = array
            .strides()
            .iter()
            .map(|stride| *stride as i64)
            .collect();
        let itemsize = i64::try_from(array.dtype().itemsize())?;
        let (mut low, mut high) = (0, itemsize);
        for (length, stride) in shape.iter().zip(&strides) {
            let reach = i64::try_from(*length)?
                .saturating_sub(1)
                .saturating_mul(*stride);
            low += reach.min(0);
            high += reach.max(0);
        }
        if shape.contains(&0) {
            high = low;
        }
        let held = Held::Object(array.clone().into_any().unbind());
        let owner = Reference {
            held: Mutex::new(Some(held)),
            interpreter: interpreter.clone(),
        };
        #[expect(
            unsafe_code,
            clippy::multiple_unsafe_ops_per_block,
            reason = "numpy's memory"
        )]
        // SAFETY: numpy vouches that an array's elements are where its data pointer, shape and strides
        // say; the array, and with it the memory, is held by `owner`; zarr does not touch an output
        // while its `read` is pending, and users do not change values while their `write` is.
        let buffer = unsafe {
            let base = (*array.as_array_ptr()).fields.data.cast::<u8>();
            OutBuffer::new(base, low..high, Box::new(owner))
        };
        let buffer = match texts {
            Some(texts) => buffer.of_texts(texts),
            None => buffer,
        };
        Ok(Self {
            buffer,
            shape,
            strides,
        })
    }
}

/// A contiguous Python buffer as bytes, without a copy.
pub(crate) fn bytes(object: &Bound<'_, PyAny>, interpreter: &Interpreter) -> PyResult<Bytes> {
    let buffer = PyBuffer::<u8>::get(object)?;
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err(
            "the store gave bytes that are not contiguous",
        ));
    }
    let (start, len) = (buffer.buf_ptr().cast::<u8>() as usize, buffer.len_bytes());
    let held = Reference {
        held: Mutex::new(Some(Held::Buffer(buffer))),
        interpreter: interpreter.clone(),
    };
    Ok(Bytes::from_owner(Borrowed {
        start,
        len,
        _held: held,
    }))
}

/// The memory of a Python buffer.
struct Borrowed {
    start: usize,
    len: usize,
    _held: Reference,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        #[expect(unsafe_code, reason = "Python's memory")]
        // SAFETY: the buffer is exported, so its memory neither moves nor goes until `_held` is dropped;
        // it is contiguous and `len` bytes long; stores do not change bytes that they have given away.
        unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.start), self.len)
        }
    }
}
