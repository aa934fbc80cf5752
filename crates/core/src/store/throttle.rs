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
pub(super) struct Pace {
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
pub(super) struct Pass<'a> {
    pace: &'a Pace,
    /// How many cuts there had been when the attempt set out.
    cuts: u64,
    _permit: Permit,
}

impl Default for Pace {
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

impl Pace {
    /// Waits until one more request may be sent.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue.
    pub(super) async fn pass(&self, stats: &Stats) -> Pass<'_> {
        let permit = if let Some(permit) = self.bound.try_take() {
            permit
        } else {
            stats.requests_held_back.add(1);
            self.bound.take(1).await
        };
        Pass {
            pace: self,
            cuts: self.state.lock().cuts,
            _permit: permit,
        }
    }
}

impl Pass<'_> {
    /// Notes that the server took the request: the bound grows, a little for each.
    pub(super) fn taken(self) {
        let bound = &self.pace.bound;
        let size = bound.size();
        if size == OPEN {
            return;
        }
        let mut state = self.pace.state.lock();
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
        let bound = &self.pace.bound;
        let mut state = self.pace.state.lock();
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

    /// As many passes as there are without waiting, up to `most`.
    fn passes(pace: &Pace, most: usize) -> Vec<Pass<'_>> {
        let (mut passes, stats) = (Vec::new(), Stats::default());
        while passes.len() < most {
            let pass = pace.pass(&stats);
            match pass.now_or_never() {
                Some(pass) => passes.push(pass),
                None => break,
            }
        }
        passes
    }

    #[test]
    fn what_a_crowd_was_turned_away_for_is_held_back_next_time() {
        let pace = Pace::default();
        let mut crowd = passes(&pace, 128);
        assert_eq!(128, crowd.len());
        let taken = crowd.split_off(120);
        for pass in crowd {
            pass.turned_away();
        }
        drop(taken);
        let held_back = Stats::default();
        let some = passes(&pace, 128);
        assert_eq!(8, some.len());
        let wait = pace.pass(&held_back);
        assert!(wait.now_or_never().is_none());
        assert_eq!(1, held_back.requests_held_back.get());
    }

    #[test]
    fn answers_open_it_again_and_each_time_it_takes_more_of_them() {
        let pace = Pace::default();
        let mut needed = Vec::new();
        for _ in 0..3 {
            for pass in passes(&pace, 20) {
                pass.turned_away();
            }
            assert_eq!(LEAST, pace.bound.size());
            let mut answers = 0;
            while pace.bound.size() < 128 {
                for pass in passes(&pace, 128) {
                    pass.taken();
                    answers += 1;
                }
            }
            needed.push(answers);
        }
        assert!(needed[0] < 1500, "{needed:?}");
        assert!(needed[2] > 2 * needed[0], "{needed:?}");
        while pace.bound.size() < OPEN {
            for pass in passes(&pace, 128) {
                pass.taken();
            }
        }
        assert_eq!(FAST, pace.state.lock().next_step);
    }

    #[test]
    fn one_that_fails_alone_holds_nobody_back() {
        let pace = Pace::default();
        for pass in passes(&pace, 1) {
            pass.turned_away();
        }
        assert_eq!(OPEN, pace.bound.size());
        let mut crowd = passes(&pace, 128);
        crowd.pop().unwrap().turned_away();
        assert_eq!(127, pace.bound.size());
    }

    #[test]
    fn a_server_that_takes_nothing_is_not_spared() {
        let pace = Pace::default();
        for pass in passes(&pace, 128) {
            pass.turned_away();
        }
        let few = passes(&pace, 128);
        assert_eq!(LEAST, few.len());
        for pass in few {
            pass.turned_away();
        }
        assert_eq!(OPEN, pace.bound.size());
    }
}
