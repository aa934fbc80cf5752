//! When a call began, as far as sharing fetches is concerned.
//!
//! A batch shares only fetches that began after its own call, so that it gets nothing that is older. Calls
//! of one iteration of an event loop count as begun together, with the first of them: that is how
//! `asyncio.gather` starts its tasks. No other task can have learnt in between that something was stored,
//! because that takes another iteration; only code that stores something without giving control to the
//! loop could.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// The first call of the loop's iteration: which loop, and when.
type First = (usize, Instant);

/// The longest that calls of one iteration count as begun together.
const LONGEST_ITERATION: Duration = Duration::from_millis(250);

thread_local! {
    static FIRST: Cell<Option<First>> = const { Cell::new(None) };
}

/// When the call that is being made on this loop, on its own thread, began.
pub(crate) fn began(event_loop: &Bound<'_, PyAny>) -> Instant {
    let now = Instant::now();
    first(event_loop, now).unwrap_or(now)
}

fn first(event_loop: &Bound<'_, PyAny>, now: Instant) -> Option<Instant> {
    let (of, first) = FIRST.get()?;
    (of == event_loop.as_ptr() as usize && now - first < LONGEST_ITERATION).then_some(first)
}

/// Notes a call on the running loop; tells whether `end_iteration` is to be called in the next iteration.
#[pyfunction]
pub(crate) fn begin_call(event_loop: &Bound<'_, PyAny>) -> bool {
    let now = Instant::now();
    let is_first = first(event_loop, now).is_none();
    if is_first {
        FIRST.set(Some((event_loop.as_ptr() as usize, now)));
    }
    is_first
}

/// Ends the iteration of this thread's event loop: the next call begins by itself.
#[pyfunction]
pub(crate) fn end_iteration() {
    FIRST.set(None);
}
