//! The caller's memory, and a store that answers at once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use zarrs_async_core::{Error, ForeignStore, OutBuffer, Part};

/// The caller's memory.
pub(crate) struct Memory(Arc<[AtomicU8]>);

impl Memory {
    /// Little-endian numbers of 16 bits, three of which are noise: they can be compressed, but not to nothing.
    pub(crate) fn noise(nbytes: usize) -> Self {
        let mut state = 1_u32;
        let number = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            [(state >> 29) as u8, 4]
        };
        let bytes = std::iter::repeat_with(number).flatten().take(nbytes);
        Self(bytes.map(AtomicU8::new).collect())
    }

    /// A buffer of all of it.
    pub(crate) fn buffer(&self) -> Arc<OutBuffer> {
        let extent = 0..i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        let base = self.0.as_ptr().cast_mut().cast();
        let owner = Box::new(Arc::clone(&self.0));
        #[expect(unsafe_code, reason = "as a caller of the engine does")]
        // SAFETY: `owner` keeps the bytes alive, atomics may be written to through a shared pointer, and nobody
        // reads or writes them but through such buffers, one batch after the other.
        let buffer = unsafe { OutBuffer::new(base, extent, owner) };
        Arc::new(buffer)
    }
}

/// Objects in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore(Mutex<BTreeMap<String, Bytes>>);

impl MemoryStore {
    fn with<T>(&self, job: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> T {
        job(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ForeignStore for MemoryStore {
    fn place(&self) -> u64 {
        1
    }

    fn scope(&self) -> u64 {
        1
    }

    fn name(&self) -> String {
        "memory".into()
    }

    fn get(&self, key: &str, part: Part) -> BoxFuture<'static, Result<Option<Bytes>, Error>> {
        let object = self.with(|objects| objects.get(key).cloned());
        let found = object.map(|bytes| match part {
            Part::Whole => bytes,
            Part::Range(range) => bytes.slice(index(range.start)..index(range.end)),
            Part::Suffix(len) => bytes.slice(bytes.len() - index(len)..),
        });
        ready(Ok(found)).boxed()
    }

    fn put(&self, key: &str, bytes: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        self.with(|objects| objects.insert(key.to_owned(), bytes));
        ready(Ok(())).boxed()
    }

    fn delete(&self, key: &str) -> BoxFuture<'static, Result<(), Error>> {
        self.with(|objects| objects.remove(key));
        ready(Ok(())).boxed()
    }

    fn is_running(&self) -> BoxFuture<'static, bool> {
        ready(true).boxed()
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
