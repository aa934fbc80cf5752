//! How many requests are in flight where nobody has set a bound: what keeps a fixed rate of them going.
//!
//! A rate takes rate × latency requests in flight (Little's law). The latency meant is the store's own:
//! under load a request also waits behind others of ours, and a bound that followed that would chase its
//! own tail. So only requests that set out beside few others tell, and of the recent ones the fastest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::bound::Bound;

/// Requests a second that are to be kept going: 128 in flight at 50 ms each. A prefix of S3 serves 5,500
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>).
const RATE: f64 = 2560.0;
/// The bound while no latency is known, and for all below 50 ms.
pub(crate) const LEAST: usize = 128;
/// The bound from 200 ms on; half of the files that a process may have open by default.
const MOST: usize = 512;
/// A request that sets out beside more than these tells of the load, not of the store.
const BESIDE: u64 = 16;
/// Latencies that are remembered.
const REMEMBERED: usize = 16;

/// The bound on requests, and what sets it.
#[derive(Debug)]
pub(crate) struct AdaptiveBound {
    bound: Arc<Bound>,
    /// `None` while somebody has set the bound.
    recent: Mutex<Option<VecDeque<Duration>>>,
}

impl AdaptiveBound {
    /// A bound of this size, or one that follows latency.
    pub(crate) fn new(requests: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            bound: Bound::new(requests.unwrap_or(LEAST)),
            recent: Mutex::new(requests.is_none().then(VecDeque::new)),
        })
    }

    /// Sets the bound, or lets it follow latency from now on.
    pub(crate) fn set(&self, requests: Option<usize>) {
        let mut recent = self.recent.lock();
        if let Some(requests) = requests {
            *recent = None;
            self.bound.resize(requests);
        } else if recent.is_none() {
            *recent = Some(VecDeque::new());
            self.bound.resize(LEAST);
        }
    }

    pub(crate) const fn bound(&self) -> &Arc<Bound> {
        &self.bound
    }

    /// The time at which a request sets out as one of `in_flight`, if its answer will tell anything.
    pub(crate) fn sent(in_flight: u64) -> Option<Instant> {
        (in_flight <= BESIDE).then(Instant::now)
    }

    /// Notes that the answer to such a request has begun.
    pub(crate) fn answered(&self, sent: Option<Instant>) {
        if let Some(sent) = sent {
            self.note(sent.elapsed());
        }
    }

    fn note(&self, latency: Duration) {
        let mut recent = self.recent.lock();
        let Some(recent) = recent.as_mut() else {
            return;
        };
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(latency);
        let fastest = recent.iter().min().copied().unwrap_or_default();
        let wanted = wanted(fastest);
        // Whoever waits is woken by each change: small ones are not worth that.
        if wanted.abs_diff(self.bound.size()) > self.bound.size() / 8 {
            self.bound.resize(wanted);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts of floats saturate, and what comes out is clamped"
)]
fn wanted(latency: Duration) -> usize {
    ((RATE * latency.as_secs_f64()) as usize).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_bound_follows_the_fastest_recent_latency() {
        let adaptive = AdaptiveBound::new(None);
        let noted = |latency| {
            adaptive.note(latency);
            adaptive.bound().size()
        };
        assert_eq!(LEAST, adaptive.bound().size());
        assert_eq!(256, noted(ms(100)));
        assert_eq!(256, noted(ms(900)));
        assert_eq!(LEAST, noted(ms(20)));
        for _ in 0..REMEMBERED {
            noted(ms(100));
        }
        assert_eq!(256, noted(ms(900)));
        for _ in 0..REMEMBERED {
            noted(ms(900));
        }
        assert_eq!(MOST, noted(ms(900)));
    }

    #[test]
    fn a_request_beside_many_tells_nothing() {
        assert!(AdaptiveBound::sent(BESIDE).is_some());
        assert!(AdaptiveBound::sent(BESIDE + 1).is_none());
    }

    #[test]
    fn a_bound_that_is_set_stays() {
        let adaptive = AdaptiveBound::new(Some(7));
        adaptive.note(ms(100));
        assert_eq!(7, adaptive.bound().size());
        adaptive.set(None);
        adaptive.note(ms(100));
        assert_eq!(256, adaptive.bound().size());
        adaptive.set(None);
        assert_eq!(256, adaptive.bound().size());
        adaptive.set(Some(3));
        assert_eq!(3, adaptive.bound().size());
    }
}
