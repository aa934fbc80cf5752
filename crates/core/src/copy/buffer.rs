//! The caller's buffer: shared memory that jobs on many threads copy into or out of.
//!
//! With one call in `chunk/decode.rs`, and the calls of C in `codec/blosc.rs`, this is the engine's only
//! unsafe code. [`OutBuffer`] is a raw view of memory that somebody else owns (a numpy array, kept alive by
//! `owner`). Three things make its use sound:
//!
//! 1. every access is checked against `extent`, the bytes that belong to the view, here and nowhere
//!    else: a wrong selection is a panic, never a stray write;
//! 2. memory is only touched through a [`Access`], and [`OutBuffer::close`] lets no new pass begin while
//!    [`OutBuffer::closed`] waits for those that are under way: when it returns, nothing reads or
//!    writes the buffer any more;
//! 3. jobs of one batch touch disjoint elements, because zarr's indexers give every element of the
//!    output to exactly one chunk; and the caller does not touch the array while its call is pending.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::copy::gate::Gate;
use crate::copy::strided::Run;
use crate::error::Error;
use crate::memory::reserve;

/// How elements of variable length stand in the caller's array, which holds references to them.
pub trait Texts: Debug + Send + Sync {
    /// Bytes of one element of the array.
    fn size(&self) -> usize;

    /// Whether the calls may wait, so that they are made on threads that may.
    fn may_wait(&self) -> bool;

    /// Puts each text at its place.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for a text, or what the array's owner raises.
    ///
    /// # Safety
    /// Each place is an element of the array, and nobody else uses it meanwhile.
    #[expect(unsafe_code, reason = "the caller vouches for the places")]
    unsafe fn put(&self, texts: &[(*mut u8, &[u8])]) -> Result<(), Error>;

    /// Hands the text at each place to `then`, in order.
    ///
    /// # Errors
    /// [`Error::Encode`] for an element that is no text, or what `then` gives.
    ///
    /// # Safety
    /// Each place is an element of the array, and nobody writes to it meanwhile.
    #[expect(unsafe_code, reason = "the caller vouches for the places")]
    unsafe fn take(
        &self,
        places: &mut dyn Iterator<Item = *const u8>,
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// A raw view of the caller's array, and the gate that ends all use of it.
pub struct OutBuffer {
    /// Address of the element at byte offset zero.
    base: *mut u8,
    /// Offsets that belong to the view, in bytes relative to `base`; may begin below zero.
    extent: std::ops::Range<i64>,
    /// Counts the passes under way.
    gate: Gate,
    /// Set where the elements have any length.
    texts: Option<Arc<dyn Texts>>,
    /// Keeps the memory alive; dropped with the buffer.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the pointer is only dereferenced in `Access`, within `extent`; the memory lives as long as
// `_owner`, which may be dropped on any thread; points 1 to 3 of the module doc rule out stray access.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for OutBuffer {}
// SAFETY: as above; shared use is through `&Access`, whose writes are disjoint (point 3).
#[expect(unsafe_code, reason = "a raw pointer is not Sync by itself")]
unsafe impl Sync for OutBuffer {}

impl std::fmt::Debug for OutBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutBuffer")
            .field("extent", &self.extent)
            .finish_non_exhaustive()
    }
}

impl OutBuffer {
    /// A view of `extent` bytes around `base`, kept alive by `owner`.
    ///
    /// # Safety
    /// All bytes of `extent`, counted from `base`, must be valid for reads and, where the buffer is
    /// read into, for writes, until `owner` is dropped; and nobody else may write to them until the
    /// batch has ended or [`OutBuffer::closed`] has returned.
    #[expect(unsafe_code, reason = "the caller vouches for the memory")]
    pub unsafe fn new(
        base: *mut u8,
        extent: std::ops::Range<i64>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            base,
            extent,
            gate: Gate::new(),
            texts: None,
            _owner: owner,
        }
    }

    /// The same view, of elements of variable length.
    #[must_use]
    pub fn of_texts(mut self, texts: Arc<dyn Texts>) -> Self {
        self.texts = Some(texts);
        self
    }

    /// Whether to use the memory may take a thread that may wait.
    pub(crate) fn may_wait(&self) -> bool {
        self.texts.as_ref().is_some_and(|texts| texts.may_wait())
    }

    /// A buffer without any element.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self {
            base: std::ptr::dangling_mut(),
            extent: 0..0,
            gate: Gate::new(),
            texts: None,
            _owner: Box::new(()),
        }
    }

    /// Offsets that belong to the view, in bytes relative to its first element.
    #[must_use]
    pub fn extent(&self) -> std::ops::Range<i64> {
        self.extent.clone()
    }

    /// Bytes of one element of the caller's array, where a chunk's elements have `size` bytes.
    #[must_use]
    pub fn itemsize(&self, size: usize) -> usize {
        self.texts.as_ref().map_or(size, |texts| texts.size())
    }

    /// Begins to use the memory, or `None` once the buffer is closed.
    pub(crate) fn enter(&self) -> Option<Access<'_>> {
        self.gate.enter().then(|| Access { buffer: self })
    }

    /// Whether the buffer was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    /// Lets no new pass begin.
    pub fn close(&self) {
        self.gate.close();
    }

    /// Closes the buffer and waits until no pass is under way.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn closed(&self) {
        self.gate.closed().await;
    }

    #[track_caller]
    fn check(&self, start: i64, steps: [(i64, usize); 2], size: usize) {
        let inside = reach(start, steps, size)
            .is_some_and(|(low, high)| low >= self.extent.start && high <= self.extent.end);
        assert!(inside, "an access would leave the caller's buffer");
    }
}

/// First and one past the last byte of rows of items; `None` where there are none or that overflows.
fn reach(start: i64, steps: [(i64, usize); 2], size: usize) -> Option<(i64, i64)> {
    let (mut low, mut high) = (start, start);
    for (step, len) in steps {
        let last = step.checked_mul(i64::try_from(len.checked_sub(1)?).ok()?)?;
        low = low.checked_add(last.min(0))?;
        high = high.checked_add(last.max(0))?;
    }
    Some((low, high.checked_add(i64::try_from(size).ok()?)?))
}

/// The right to use the memory, until dropped.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    buffer: &'a OutBuffer,
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        self.buffer.gate.leave();
    }
}

/// Texts on their way to their places. Many are put at once, for to put any may take the interpreter lock.
#[derive(Debug)]
pub(crate) struct Putter<'a, 't> {
    access: &'a Access<'a>,
    texts: &'a dyn Texts,
    /// Places of the buffer that `access` is of.
    elements: Vec<(*mut u8, &'t [u8])>,
}

impl<'t> Putter<'_, 't> {
    /// So few that the lock is held for a fraction of a millisecond.
    const MOST: usize = 4096;

    /// Puts texts at every place of a run, some of them later; `text` gives the one at an offset of the chunk.
    pub(crate) fn put(&mut self, run: Run, text: impl Fn(usize) -> &'t [u8]) -> Result<(), Error> {
        let access = self.access;
        access
            .places(run, self.texts.size())
            .try_for_each(|(at, place)| {
                self.elements.push((place, text(at)));
                if self.elements.len() < Self::MOST {
                    return Ok(());
                }
                self.finish()
            })
    }

    /// Puts those that are left.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if self.elements.is_empty() {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "the caller's array")]
        // SAFETY: all places were checked to lie within the buffer, an item's size apart; no other job is given
        // them (point 3), and the pass keeps the buffer open.
        let put = unsafe { self.texts.put(&self.elements) };
        self.elements.clear();
        put
    }
}

impl Access<'_> {
    /// Copies a run of elements from a decoded chunk into the buffer.
    pub(crate) fn scatter(&self, chunk: &[u8], run: Run, itemsize: usize) {
        check_slice(chunk.len(), run, itemsize);
        for (at, place) in self.rows(run, itemsize) {
            let row = chunk.as_ptr().wrapping_offset(at);
            #[expect(unsafe_code, reason = "raw strided copy")]
            // SAFETY: both sides were checked to lie within their memory for all rows of the run; the
            // caller's buffer and a decoded chunk never overlap; the pass keeps the buffer open.
            unsafe {
                copy(row, run.chunk_step, place, run.out_step, run.len, itemsize);
            }
        }
    }

    /// Copies a run of elements from the buffer into a chunk that is to be encoded.
    pub(crate) fn gather(&self, chunk: &mut [u8], run: Run, itemsize: usize) {
        check_slice(chunk.len(), run, itemsize);
        for (at, place) in self.rows(run, itemsize) {
            let row = chunk.as_mut_ptr().wrapping_offset(at);
            #[expect(unsafe_code, reason = "raw strided copy")]
            // SAFETY: as in `scatter`, with the sides exchanged; `chunk` is borrowed exclusively.
            unsafe {
                copy(place, run.out_step, row, run.chunk_step, run.len, itemsize);
            }
        }
    }

    /// Puts texts into the buffer, `count` in all runs together.
    pub(crate) fn putter<'t>(&self, count: usize) -> Result<Putter<'_, 't>, Error> {
        let mut elements = Vec::new();
        reserve(&mut elements, count.min(Putter::MOST))?;
        Ok(Putter {
            access: self,
            texts: self.texts()?,
            elements,
        })
    }

    /// Takes the text at every place of a run, each with its offset in the chunk.
    pub(crate) fn take_texts(
        &self,
        run: Run,
        mut text: impl FnMut(usize, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let texts = self.texts()?;
        let mut offsets = self.places(run, texts.size()).map(|(at, _)| at);
        let mut places = self
            .places(run, texts.size())
            .map(|(_, place)| place.cast_const());
        let mut then = |bytes: &[u8]| offsets.next().map_or(Ok(()), |at| text(at, bytes));
        #[expect(unsafe_code, reason = "the caller's array")]
        // SAFETY: as in `Putter::finish`, and nobody writes to a buffer of values (point 3).
        unsafe {
            texts.take(&mut places, &mut then)
        }
    }

    fn texts(&self) -> Result<&dyn Texts, Error> {
        let texts = self.buffer.texts.as_deref();
        texts.ok_or_else(|| Error::internal("texts in an array of another kind"))
    }

    /// Every element of a run: its offset in the chunk, and its place in the buffer, which holds all of them.
    fn places(&self, run: Run, itemsize: usize) -> impl Iterator<Item = (usize, *mut u8)> {
        self.rows(run, itemsize).flat_map(move |(at, place)| {
            (0..to_i64(run.len)).map(move |item| {
                let at = at + to_isize(run.chunk_step * item);
                let place = place.wrapping_offset(to_isize(run.out_step * item));
                (usize::try_from(at).unwrap_or(usize::MAX), place)
            })
        })
    }

    /// Writes one item to every place of a run.
    pub(crate) fn fill(&self, item: &[u8], run: Run) {
        let uniform = item.iter().all(|byte| *byte == item[0]);
        for (_, place) in self.rows(run, item.len()) {
            #[expect(
                unsafe_code,
                clippy::multiple_unsafe_ops_per_block,
                reason = "raw strided copy"
            )]
            // SAFETY: all rows were checked to lie within the buffer; `item` is read at offset zero only.
            unsafe {
                if uniform && run.out_step == to_i64(item.len()) {
                    place.write_bytes(item[0], run.len * item.len());
                } else {
                    copy(item.as_ptr(), 0, place, run.out_step, run.len, item.len());
                }
            }
        }
    }

    /// Where each row of a run begins: its offset in the chunk, and its place in the buffer, which holds
    /// all rows.
    fn rows(&self, run: Run, itemsize: usize) -> impl Iterator<Item = (isize, *mut u8)> {
        let base = self.buffer.base;
        self.buffer.check(
            run.out,
            [(run.out_step, run.len), (run.out_row, run.rows)],
            itemsize,
        );
        (0..to_i64(run.rows)).map(move |row| {
            let at = to_isize(run.chunk + run.chunk_row * row);
            let place = base.wrapping_offset(to_isize(run.out + run.out_row * row));
            (at, place)
        })
    }

    /// The `len` bytes at `offset`, to encode from.
    pub(crate) fn slice(&self, offset: i64, len: usize) -> &[u8] {
        self.buffer.check(offset, [(0, 1), (0, 1)], len);
        #[expect(
            unsafe_code,
            clippy::multiple_unsafe_ops_per_block,
            reason = "raw memory"
        )]
        // SAFETY: the bytes lie within the buffer, and nobody writes to a buffer of values (point 3).
        unsafe {
            std::slice::from_raw_parts(self.buffer.base.offset(to_isize(offset)), len)
        }
    }

    /// The `len` bytes at `offset`, to decode into.
    ///
    /// # Safety
    /// Nobody else is given any of these bytes while the slice lives.
    #[expect(
        unsafe_code,
        clippy::mut_from_ref,
        reason = "disjoint parts of one buffer go to many threads"
    )]
    pub(crate) unsafe fn slice_mut(&self, offset: i64, len: usize) -> &mut [u8] {
        self.buffer.check(offset, [(0, 1), (0, 1)], len);
        #[expect(
            unsafe_code,
            clippy::multiple_unsafe_ops_per_block,
            reason = "raw memory"
        )]
        // SAFETY: the bytes lie within the buffer, are initialised or about to be overwritten as plain
        // bytes, and are the caller's alone.
        unsafe {
            std::slice::from_raw_parts_mut(self.buffer.base.offset(to_isize(offset)), len)
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "offsets within memory fit a pointer's width"
)]
fn to_isize(offset: i64) -> isize {
    offset as isize
}

#[expect(clippy::cast_possible_wrap, reason = "item sizes fit")]
fn to_i64(size: usize) -> i64 {
    size as i64
}

#[track_caller]
fn check_slice(len: usize, run: Run, itemsize: usize) {
    let inside = reach(
        run.chunk,
        [(run.chunk_step, run.len), (run.chunk_row, run.rows)],
        itemsize,
    )
    .is_some_and(|(low, high)| low >= 0 && high <= to_i64(len));
    assert!(inside, "a run would leave its chunk");
}

/// Copies `len` items of `size` bytes between two strided places.
///
/// # Safety
/// Both runs must lie within memory valid for reading and for writing, and must not overlap.
#[expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "raw strided copy"
)]
unsafe fn copy(
    source: *const u8,
    source_step: i64,
    target: *mut u8,
    target_step: i64,
    len: usize,
    size: usize,
) {
    /// # Safety
    /// As [`copy`], with `size` the size of `T`; alignment is not asked for.
    unsafe fn items<T: Copy>(source: *const u8, from: i64, target: *mut u8, to: i64, len: usize) {
        for at in 0..len {
            let at = to_i64(at);
            // SAFETY: the caller vouches for every item of both runs.
            unsafe {
                let item = source
                    .offset(to_isize(from * at))
                    .cast::<T>()
                    .read_unaligned();
                target
                    .offset(to_isize(to * at))
                    .cast::<T>()
                    .write_unaligned(item);
            }
        }
    }
    // SAFETY: the caller vouches for both runs; each arm touches no more than them.
    unsafe {
        if source_step == to_i64(size) && target_step == to_i64(size) {
            target.copy_from_nonoverlapping(source, len * size);
            return;
        }
        match size {
            1 => items::<u8>(source, source_step, target, target_step, len),
            2 => items::<u16>(source, source_step, target, target_step, len),
            4 => items::<u32>(source, source_step, target, target_step, len),
            8 => items::<u64>(source, source_step, target, target_step, len),
            16 => items::<u128>(source, source_step, target, target_step, len),
            _ => {
                for at in 0..len {
                    let at = to_i64(at);
                    target
                        .offset(to_isize(target_step * at))
                        .copy_from_nonoverlapping(source.offset(to_isize(source_step * at)), size);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A buffer over memory of its own, with a way to look at it when all passes are over.
    pub(crate) fn owned(bytes: Vec<u8>) -> (std::sync::Arc<OutBuffer>, impl Fn() -> Vec<u8>) {
        let cells: std::sync::Arc<[std::sync::atomic::AtomicU8]> = bytes
            .into_iter()
            .map(std::sync::atomic::AtomicU8::new)
            .collect();
        let base = cells.as_ptr().cast_mut().cast::<u8>();
        let extent = 0..to_i64(cells.len());
        let owner = std::sync::Arc::clone(&cells);
        #[expect(unsafe_code, reason = "memory of the test's own")]
        // SAFETY: the cells allow shared writes and live as long as the owner.
        let buffer = unsafe { OutBuffer::new(base, extent, Box::new(owner)) };
        (std::sync::Arc::new(buffer), move || {
            cells
                .iter()
                .map(|cell| cell.load(std::sync::atomic::Ordering::SeqCst))
                .collect()
        })
    }

    #[test]
    fn strided_copies_go_both_ways() {
        for size in [1_usize, 2, 3, 4, 8, 16] {
            let (buffer, bytes) = owned(vec![0; 10 * size]);
            let chunk: Vec<u8> = (0..4 * size)
                .map(|byte| u8::try_from(byte + 1).unwrap())
                .collect();
            let run = Run {
                chunk: 0,
                out: to_i64(9 * size),
                chunk_step: to_i64(size),
                out_step: -to_i64(2 * size),
                len: 2,
                chunk_row: to_i64(2 * size),
                out_row: -to_i64(4 * size),
                rows: 2,
            };
            buffer.enter().unwrap().scatter(&chunk, run, size);
            assert_eq!(chunk[..size], bytes()[9 * size..]);
            assert_eq!(chunk[3 * size..], bytes()[3 * size..4 * size]);
            let mut back = vec![0; 4 * size];
            buffer.enter().unwrap().gather(&mut back, run, size);
            assert_eq!(chunk, back);
        }
    }

    #[test]
    #[should_panic(expected = "leave the caller's buffer")]
    fn an_access_outside_panics() {
        let (buffer, _) = owned(vec![0; 8]);
        let run = Run {
            chunk: 0,
            out: 4,
            chunk_step: 1,
            out_step: 1,
            len: 5,
            chunk_row: 0,
            out_row: 0,
            rows: 1,
        };
        buffer.enter().unwrap().scatter(&[0; 8], run, 1);
    }

    #[tokio::test]
    async fn closed_waits_for_the_last_pass() {
        let (buffer, _) = owned(vec![0; 8]);
        let access = buffer.enter().unwrap();
        let closed = buffer.closed();
        tokio::pin!(closed);
        assert!(futures::poll!(&mut closed).is_pending());
        assert!(buffer.enter().is_none());
        drop(access);
        assert!(futures::poll!(&mut closed).is_ready());
    }
}
