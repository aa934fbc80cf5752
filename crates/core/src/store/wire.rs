//! How fast a store answers and how fast bytes arrive: what a byte that nobody wants is worth.
//!
//! Two ranges that are fetched as one cost the bytes between them; fetched apart, one more request. While
//! requests run side by side, one more costs its handling on both sides and its share of the latency, which
//! is that of all that may be in flight. A shard that is fetched whole costs the bytes that nobody wants; in
//! parts, one more round trip, which nothing runs beside.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::adaptive::LEAST;

/// Answers that are remembered.
const REMEMBERED: usize = 16;
/// Shorter bodies arrive with their head, and tell nothing of the wire.
const MEASURED: u64 = 256 << 10;
/// The handling of one request, here and at a server in the same machine: 0.1 to 0.2 ms.
const HANDLING: f64 = 150e-6;
/// Bytes a second of one connection where nothing is known yet: a bucket in the same region gives 50 to 100 MB/s
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-design-patterns.html>).
const ASSUMED: f64 = 85e6;
/// The least and the most that two ranges may have between them.
const GAP: (u64, u64) = (16 << 10, 1 << 20);
/// The least and the most that a shard may have which is fetched whole.
const WHOLE: (u64, u64) = (64 << 10, 8 << 20);

/// What recent answers of one store tell.
#[derive(Debug, Default)]
pub(crate) struct Wire(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// From sending a request to the head of its answer.
    latencies: VecDeque<Duration>,
    /// Bytes a second.
    rates: VecDeque<f64>,
}

impl Wire {
    /// Notes an answer: how long its head took, and how long the `len` bytes of its body.
    pub(super) fn note(&self, head: Duration, len: u64, body: Duration) {
        let mut recent = self.0.lock();
        remember(&mut recent.latencies, head);
        if len >= MEASURED {
            // What waits in buffers arrives in no time.
            let seconds = body.as_secs_f64().max(10e-6);
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            remember(&mut recent.rates, len as f64 / seconds);
        }
    }

    /// Bytes that two ranges may have between them, to be fetched as one.
    pub(crate) fn gap(&self) -> u64 {
        let (latency, rate) = self.now();
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let share = latency / LEAST as f64;
        worth(HANDLING + share, rate, GAP)
    }

    /// Bytes that a shard may have, to be fetched whole.
    pub(crate) fn whole(&self) -> u64 {
        let (latency, rate) = self.now();
        worth(HANDLING + latency, rate, WHOLE)
    }

    /// Latency in seconds and bytes a second: the best of late, as load makes both worse.
    fn now(&self) -> (f64, f64) {
        let recent = self.0.lock();
        let latency = recent.latencies.iter().min().copied();
        let rate = recent.rates.iter().copied().reduce(f64::max);
        let latency = latency.unwrap_or_default().as_secs_f64();
        (latency, rate.unwrap_or(ASSUMED))
    }
}

fn remember<T>(recent: &mut VecDeque<T>, one: T) {
    if recent.len() == REMEMBERED {
        recent.pop_front();
    }
    recent.push_back(one);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts of floats saturate, and what comes out is clamped"
)]
fn worth(seconds: f64, rate: f64, (least, most): (u64, u64)) -> u64 {
    ((seconds * rate) as u64).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(latency_ms: u64, rate: u32) -> Wire {
        let wire = Wire::default();
        let body = Duration::from_secs_f64(1e6 / f64::from(rate));
        wire.note(Duration::from_millis(latency_ms), 1_000_000, body);
        wire
    }

    #[test]
    fn a_slow_wire_carries_nothing_that_is_not_wanted() {
        let slow = wire(30, 5_000_000);
        assert_eq!(16 << 10, slow.gap());
        assert!((140_000..160_000).contains(&slow.whole()));
    }

    #[test]
    fn a_far_store_is_asked_once() {
        let far = wire(100, 1_000_000_000);
        assert!((900_000..=1 << 20).contains(&far.gap()));
        assert_eq!(8 << 20, far.whole());
        let near = wire(0, 1_000_000_000);
        assert!((140_000..160_000).contains(&near.gap()));
        assert_eq!(near.gap(), near.whole());
    }

    #[test]
    fn load_does_not_count() {
        let wire = wire(10, 50_000_000);
        let before = (wire.gap(), wire.whole());
        wire.note(Duration::from_secs(1), 1_000_000, Duration::from_secs(1));
        wire.note(Duration::from_millis(10), 1_000, Duration::ZERO);
        assert_eq!(before, (wire.gap(), wire.whole()));
    }
}
