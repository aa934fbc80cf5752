//! Buffers that a thread keeps from one chunk to the next, for fresh memory costs more than a copy; and
//! memory that is asked for, for what metadata or stored bytes call for may not be there.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::error::Error;

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

/// Makes room for `more` items at the end of `buffer`.
///
/// # Errors
/// [`Error::Memory`] where there is no memory for them.
pub(crate) fn reserve<T>(buffer: &mut Vec<T>, more: usize) -> Result<(), Error> {
    buffer
        .try_reserve(more)
        .map_err(|_| Error::memory(more.saturating_mul(size_of::<T>())))
}

/// Gives `buffer` this length; what is new is zero.
///
/// # Errors
/// [`Error::Memory`] where there is no memory for it.
pub(crate) fn resize(buffer: &mut Vec<u8>, len: usize) -> Result<(), Error> {
    reserve(buffer, len.saturating_sub(buffer.len()))?;
    buffer.resize(len, 0);
    Ok(())
}

/// A buffer of this many zeros.
///
/// # Errors
/// [`Error::Memory`] where there is no memory for it.
pub(crate) fn zeroed(len: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    resize(&mut buffer, len)?;
    Ok(buffer)
}

/// Appends `bytes` to `buffer`.
///
/// # Errors
/// [`Error::Memory`] where there is no memory for them.
pub(crate) fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Error> {
    reserve(buffer, bytes.len())?;
    buffer.extend_from_slice(bytes);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let beyond = isize::MAX as usize;
        let mut buffer = vec![1];
        for refused in [
            reserve(&mut buffer, beyond),
            resize(&mut buffer, beyond),
            zeroed(beyond).map(drop),
            reserve(&mut Vec::<u64>::new(), beyond),
        ] {
            assert!(matches!(refused, Err(Error::Memory { .. })), "{refused:?}");
        }
        assert_eq!(vec![1], buffer);
    }
}
