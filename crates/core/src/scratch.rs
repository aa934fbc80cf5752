//! Buffers that a thread keeps from one chunk to the next: fresh memory costs more than a copy.

use std::cell::RefCell;
use std::thread::LocalKey;

/// The largest buffer a thread keeps.
const KEPT: usize = 8 << 20;

thread_local! {
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends an empty buffer for encoded bytes.
pub(crate) fn with_encoded<T>(job: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    lend(&ENCODED, |buffer| {
        buffer.clear();
        job(buffer)
    })
}

/// Lends a buffer for a decoded chunk; it holds whatever the last one left.
pub(crate) fn with_decoded<T>(job: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    lend(&DECODED, job)
}

/// A nested loan on the same thread gets a new buffer.
fn lend<T>(kept: &'static LocalKey<RefCell<Vec<u8>>>, job: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = kept.take();
    let result = job(&mut buffer);
    if buffer.capacity() <= KEPT {
        kept.set(buffer);
    }
    result
}
