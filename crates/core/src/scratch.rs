//! Buffers that a thread keeps from one chunk to the next: fresh memory costs more than a copy.

use std::cell::RefCell;
use std::thread::LocalKey;

/// The largest buffer a thread keeps.
const KEPT: usize = 8 << 20;

thread_local! {
    static ENCODED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static DECODED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
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

/// Loans nest: each level has a buffer of its own.
fn lend<T>(
    kept: &'static LocalKey<RefCell<Vec<Vec<u8>>>>,
    job: impl FnOnce(&mut Vec<u8>) -> T,
) -> T {
    let mut buffer = kept.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = job(&mut buffer);
    if buffer.capacity() <= KEPT {
        kept.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}
