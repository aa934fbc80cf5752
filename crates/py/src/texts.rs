//! Elements of variable length in numpy's arrays: the strings of a `StringDType`, and `str` or `bytes` objects.
//!
//! Both are unsafe code: numpy's C interface for packed strings, and references to objects that are exchanged in
//! place.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCapsule, PyCapsuleMethods, PyString};
use zarrs_async_core::{Error, Kind, Texts};

use crate::codec::Calls;

/// How the elements of an array stand in it; `None` where they are of a fixed size.
pub(crate) fn of(
    array: &Bound<'_, PyUntypedArray>,
    kind: Kind,
    calls: &Arc<Calls>,
) -> PyResult<Option<Arc<dyn Texts>>> {
    if !kind.is_variable() {
        return Ok(None);
    }
    match (array.dtype().kind(), kind) {
        (b'O', _) => Ok(Some(Arc::new(Objects {
            kind,
            calls: Arc::clone(calls),
        }))),
        (b'T', Kind::Text) => Ok(Some(Arc::new(Strings::of(array)?))),
        _ => Err(PyTypeError::new_err(
            "the array does not hold elements of variable length",
        )),
    }
}

/// An unpacked string of numpy's.
#[repr(C)]
struct Unpacked {
    size: usize,
    buf: *const c_char,
}

type Acquire = unsafe extern "C" fn(descr: *const c_void) -> *mut c_void;
type Release = unsafe extern "C" fn(allocator: *mut c_void);
type Pack = unsafe extern "C" fn(
    allocator: *mut c_void,
    packed: *mut c_void,
    buf: *const c_char,
    size: usize,
) -> c_int;
type Load = unsafe extern "C" fn(
    allocator: *mut c_void,
    packed: *const c_void,
    unpacked: *mut Unpacked,
) -> c_int;

/// numpy's functions for packed strings, which do not need the interpreter
/// (<https://numpy.org/doc/stable/reference/c-api/strings.html>).
#[derive(Debug, Clone, Copy)]
struct Functions {
    acquire: Acquire,
    release: Release,
    pack: Pack,
    load: Load,
}

impl Functions {
    fn get(py: Python<'_>) -> PyResult<Self> {
        /// Places in numpy's table, since version 2.0.
        const LOAD: usize = 313;
        const PACK: usize = 314;
        const ACQUIRE: usize = 316;
        const RELEASE: usize = 318;
        static FUNCTIONS: PyOnceLock<Functions> = PyOnceLock::new();
        FUNCTIONS
            .get_or_try_init(py, || {
                let module = py.import("numpy._core._multiarray_umath")?;
                let capsule = module.getattr("_ARRAY_API")?.cast_into::<PyCapsule>()?;
                let table = capsule
                    .pointer_checked(None)?
                    .as_ptr()
                    .cast::<*const c_void>();
                #[expect(
                    unsafe_code,
                    clippy::multiple_unsafe_ops_per_block,
                    reason = "numpy's table of functions"
                )]
                // SAFETY: numpy keeps the places and the types of its functions; an array of StringDType, without
                // which nobody comes here, is of a numpy that has these.
                unsafe {
                    Ok(Self {
                        acquire: std::mem::transmute::<*const c_void, Acquire>(*table.add(ACQUIRE)),
                        release: std::mem::transmute::<*const c_void, Release>(*table.add(RELEASE)),
                        pack: std::mem::transmute::<*const c_void, Pack>(*table.add(PACK)),
                        load: std::mem::transmute::<*const c_void, Load>(*table.add(LOAD)),
                    })
                }
            })
            .copied()
    }
}

/// The strings of an array of numpy's `StringDType`.
#[derive(Debug)]
struct Strings {
    functions: Functions,
    /// Address of the array's data type; the array, which the buffer's owner holds, keeps it.
    descr: usize,
    size: usize,
}

/// The right to pack and load strings, until dropped.
struct Allocator {
    functions: Functions,
    allocator: *mut c_void,
}

impl Drop for Allocator {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "numpy's C interface")]
        // SAFETY: it was acquired, and is released once.
        unsafe {
            (self.functions.release)(self.allocator);
        }
    }
}

impl Strings {
    fn of(array: &Bound<'_, PyUntypedArray>) -> PyResult<Self> {
        Ok(Self {
            functions: Functions::get(array.py())?,
            descr: array.dtype().as_ptr() as usize,
            size: array.dtype().itemsize(),
        })
    }

    fn allocator(&self) -> Allocator {
        #[expect(unsafe_code, reason = "numpy's C interface")]
        // SAFETY: the data type is one of strings and lives as long as the array, which is held.
        let allocator =
            unsafe { (self.functions.acquire)(std::ptr::with_exposed_provenance(self.descr)) };
        Allocator {
            functions: self.functions,
            allocator,
        }
    }
}

impl Texts for Strings {
    fn size(&self) -> usize {
        self.size
    }

    fn may_wait(&self) -> bool {
        false
    }

    #[expect(unsafe_code, reason = "numpy's C interface")]
    unsafe fn put(&self, texts: &[(*mut u8, &[u8])]) -> Result<(), Error> {
        let allocator = self.allocator();
        for (place, text) in texts {
            // SAFETY: the caller vouches for the place; the text is UTF-8, as whoever decodes it has checked.
            let packed = unsafe {
                let (buf, size) = (text.as_ptr().cast(), text.len());
                (self.functions.pack)(allocator.allocator, place.cast(), buf, size)
            };
            if packed != 0 {
                return Err(Error::no_memory(text.len()));
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "numpy's C interface")]
    unsafe fn take(
        &self,
        places: &mut dyn Iterator<Item = *const u8>,
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let allocator = self.allocator();
        for place in places {
            let mut unpacked = Unpacked {
                size: 0,
                buf: std::ptr::null(),
            };
            // SAFETY: the caller vouches for the place.
            let loaded = unsafe {
                (self.functions.load)(allocator.allocator, place.cast(), &raw mut unpacked)
            };
            if loaded < 0 {
                return Err(Error::no_memory(0));
            }
            // A string that is missing is an empty one to numcodecs.
            let text = if loaded > 0 || unpacked.size == 0 {
                &[]
            } else {
                // SAFETY: numpy says where the text is; nobody changes it while the allocator is held.
                unsafe { std::slice::from_raw_parts(unpacked.buf.cast::<u8>(), unpacked.size) }
            };
            then(text)?;
        }
        Ok(())
    }
}

/// The `str` or `bytes` objects of an array of objects.
#[derive(Debug)]
struct Objects {
    kind: Kind,
    calls: Arc<Calls>,
}

impl Objects {
    /// Does something with the interpreter.
    fn attached(
        &self,
        operation: &'static str,
        work: impl FnOnce(Python<'_>) -> Result<(), Work>,
    ) -> Result<(), Error> {
        let running = self.calls.begin()?;
        let done = Python::try_attach(work);
        drop(running);
        match done {
            Some(Ok(())) => Ok(()),
            Some(Err(Work::Failed(error))) => Err(error),
            Some(Err(Work::Raised(raised))) => {
                let codec = if self.kind == Kind::Text {
                    "vlen-utf8"
                } else {
                    "vlen-bytes"
                };
                Err(Error::Foreign {
                    key: "".into(),
                    codec: codec.into(),
                    operation,
                    source: Arc::new(raised),
                })
            }
            None => Err(Error::Stopped("the interpreter has ended".into())),
        }
    }
}

/// Puts another reference where one stands, or null, and gives that.
///
/// # Safety
/// The place is an element of an array of objects that nobody else uses.
#[expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_ptr_alignment,
    reason = "unaligned access"
)]
unsafe fn exchange(place: *mut u8, object: *mut PyObject) -> *mut PyObject {
    let place = place.cast::<*mut PyObject>();
    // SAFETY: the caller vouches for the place.
    unsafe {
        let before = place.read_unaligned();
        place.write_unaligned(object);
        before
    }
}

/// The reference at a place, or null.
///
/// # Safety
/// The place is an element of an array of objects that nobody writes to.
#[expect(unsafe_code, reason = "unaligned access")]
unsafe fn referred(place: *const u8) -> *mut PyObject {
    // SAFETY: the caller vouches for the place.
    unsafe { place.cast::<*mut PyObject>().read_unaligned() }
}

/// Why work with the interpreter ended.
enum Work {
    Raised(PyErr),
    Failed(Error),
}

impl From<PyErr> for Work {
    fn from(raised: PyErr) -> Self {
        Self::Raised(raised)
    }
}

impl Texts for Objects {
    fn size(&self) -> usize {
        size_of::<*mut PyObject>()
    }

    fn may_wait(&self) -> bool {
        true
    }

    #[expect(unsafe_code, reason = "references are exchanged in place")]
    unsafe fn put(&self, texts: &[(*mut u8, &[u8])]) -> Result<(), Error> {
        self.attached("decoded", |py| {
            for &(place, text) in texts {
                let object = if self.kind == Kind::Text {
                    PyString::from_bytes(py, text)?.into_any()
                } else {
                    PyBytes::new(py, text).into_any()
                };
                // SAFETY: the caller vouches for the place, which takes our reference over.
                let before = unsafe { exchange(place, object.into_ptr()) };
                // SAFETY: the array owned that reference.
                drop(unsafe { Bound::from_owned_ptr_or_opt(py, before) });
            }
            Ok(())
        })
    }

    #[expect(unsafe_code, reason = "references are read in place")]
    unsafe fn take(
        &self,
        places: &mut dyn Iterator<Item = *const u8>,
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.attached("encoded", |py| {
            for place in places {
                // SAFETY: the caller vouches for the place.
                let object = unsafe { referred(place) };
                // SAFETY: the array holds that reference, if it is one.
                let object = unsafe { Bound::from_borrowed_ptr_or_opt(py, object) };
                // As numcodecs: None, and what equals zero, is empty.
                let Some(object) = object.filter(|object| !object.is_none()) else {
                    then(&[]).map_err(Work::Failed)?;
                    continue;
                };
                let done = if let (Ok(text), Kind::Text) = (object.cast::<PyString>(), self.kind) {
                    then(text.to_str()?.as_bytes())
                } else if let (Ok(bytes), Kind::Binary) = (object.cast::<PyBytes>(), self.kind) {
                    then(bytes.as_bytes())
                } else if object.eq(0)? {
                    then(&[])
                } else {
                    let expected = if self.kind == Kind::Text {
                        "str"
                    } else {
                        "bytes"
                    };
                    let message = format!("Expected {expected}, got {}", object.get_type().name()?);
                    return Err(PyTypeError::new_err(message).into());
                };
                done.map_err(Work::Failed)?;
            }
            Ok(())
        })
    }
}
