//! How many requests a store is sent at once after it has turned some away.
//!
//! A server that is sent more than it takes refuses connections, resets them, leaves them without an answer, or says
//! 429 or 503. Pauses before retries spread those requests out, but the next batch would set out all at once again. So
//! as many as were in flight when one was turned away are too many from then on. A store that turns nothing away is
//! never held back.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::bound::{Bound, Permit};
use crate::stats::Stats;

/// The bound before anything is turned away: none.
const OPEN: usize = 1 << 20;
/// As many as this are sent at once whatever happens: fewer would not be the crowd that a server turns away.
const LEAST: usize = 4;
/// A bound that has grown to this bounds nothing: it is the most that all stores together have in flight.
const MOST: usize = 512;
/// Answers for which the bound grows by one after the first cut: then it doubles in some six rounds of answers.
const FAST: usize = 8;
/// The same after many cuts.
const SLOW: usize = 128;
/// How many times as many it takes after each further cut.
const SLOWER: usize = 4;

/// The bound on the requests that one store is sent at once.
#[derive(Debug)]
pub(super) struct Throttle {
    bound: Arc<Bound>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How often the bound has been lowered for requests that set out under it.
    cuts: u64,
    /// Answers for which it will grow by one after the next cut.
    next_step: usize,
    /// Answers for which it grows by one.
    step: usize,
    /// Answers since it changed.
    answers: usize,
    /// Requests that were turned away beside few others since it was lowered, and before the first answer.
    in_vain: usize,
}

/// The right to make one attempt; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    throttle: &'a Throttle,
    /// How many cuts there had been when the attempt set out.
    cuts: u64,
    _permit: Permit,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            bound: Bound::new(OPEN),
            state: Mutex::new(State {
                cuts: 0,
                next_step: FAST,
                step: FAST,
                answers: 0,
                in_vain: 0,
            }),
        }
    }
}

impl Throttle {
    /// Waits until one more request may be sent.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue.
    pub(super) async fn slot(&self, stats: &Stats) -> Slot<'_> {
        let permit = if let Some(permit) = self.bound.try_take(1) {
            permit
        } else {
            stats.requests_held_back.add(1);
            self.bound.take(1).await
        };
        Slot {
            throttle: self,
            cuts: self.state.lock().cuts,
            _permit: permit,
        }
    }
}

impl Slot<'_> {
    /// Notes that the server took the request: the bound grows, a little for each.
    pub(super) fn taken(self) {
        let bound = &self.throttle.bound;
        let size = bound.size();
        if size == OPEN {
            return;
        }
        let mut state = self.throttle.state.lock();
        state.in_vain = 0;
        state.answers += 1;
        // Whoever waits is woken by each change: in larger steps there are fewer.
        let more = size / 8 + 1;
        if state.answers < state.step * more {
            return;
        }
        state.answers = 0;
        if size + more < MOST {
            bound.resize(size + more);
        } else {
            state.next_step = FAST;
            bound.resize(OPEN);
        }
    }

    /// Notes that the server turned the request away: the bound falls below what is in flight.
    pub(super) fn turned_away(self) {
        let bound = &self.throttle.bound;
        let mut state = self.throttle.state.lock();
        let is_first = self.cuts == state.cuts;
        let in_flight = bound.held();
        if in_flight > LEAST {
            if is_first {
                state.cuts += 1;
                state.step = state.next_step;
                state.next_step = (state.step * SLOWER).min(SLOW);
                state.in_vain = 0;
            }
            state.answers = 0;
            bound.resize(bound.size().min(in_flight - 1));
        } else if is_first && bound.size() != OPEN {
            state.in_vain += 1;
            if state.in_vain == LEAST {
                // So few are turned away as well: it is not for their number.
                state.in_vain = 0;
                bound.resize(OPEN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// As many slots as there are without waiting, up to `most`.
    fn slots(throttle: &Throttle, most: usize) -> Vec<Slot<'_>> {
        let (mut slots, stats) = (Vec::new(), Stats::default());
        while slots.len() < most {
            let slot = throttle.slot(&stats);
            match slot.now_or_never() {
                Some(slot) => slots.push(slot),
                None => break,
            }
        }
        slots
    }

    #[test]
    fn what_a_crowd_was_turned_away_for_is_held_back_next_time() {
        let throttle = Throttle::default();
        let mut crowd = slots(&throttle, 128);
        assert_eq!(128, crowd.len());
        let taken = crowd.split_off(120);
        for slot in crowd {
            slot.turned_away();
        }
        drop(taken);
        let held_back = Stats::default();
        let some = slots(&throttle, 128);
        assert_eq!(8, some.len());
        let wait = throttle.slot(&held_back);
        assert!(wait.now_or_never().is_none());
        assert_eq!(1, held_back.requests_held_back.get());
    }

    #[test]
    fn answers_open_it_again_and_each_time_it_takes_more_of_them() {
        let throttle = Throttle::default();
        let mut needed = Vec::new();
        for _ in 0..3 {
            for slot in slots(&throttle, 20) {
                slot.turned_away();
            }
            assert_eq!(LEAST, throttle.bound.size());
            let mut answers = 0;
            while throttle.bound.size() < 128 {
                for slot in slots(&throttle, 128) {
                    slot.taken();
                    answers += 1;
                }
            }
            needed.push(answers);
        }
        assert!(needed[0] < 1500, "{needed:?}");
        assert!(needed[2] > 2 * needed[0], "{needed:?}");
        while throttle.bound.size() < OPEN {
            for slot in slots(&throttle, 128) {
                slot.taken();
            }
        }
        assert_eq!(FAST, throttle.state.lock().next_step);
    }

    #[test]
    fn one_that_fails_alone_holds_nobody_back() {
        let throttle = Throttle::default();
        for slot in slots(&throttle, 1) {
            slot.turned_away();
        }
        assert_eq!(OPEN, throttle.bound.size());
        let mut crowd = slots(&throttle, 128);
        crowd.pop().unwrap().turned_away();
        assert_eq!(127, throttle.bound.size());
    }

    #[test]
    fn a_server_that_takes_nothing_is_not_spared() {
        let throttle = Throttle::default();
        for slot in slots(&throttle, 128) {
            slot.turned_away();
        }
        let few = slots(&throttle, 128);
        assert_eq!(LEAST, few.len());
        for slot in few {
            slot.turned_away();
        }
        assert_eq!(OPEN, throttle.bound.size());
    }
}
