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
/// Seconds within which a server answers that is in the same machine or room.
const NEAR: f64 = 1e-3;
/// Bytes a second of one connection where no body has told: of 10 Gbit/s to a server that is near, and what few
/// others are slower than.
const ASSUMED: (f64, f64) = (1e9, 25e6);
/// How many times longer than the handling of its request a body takes that is worth to be divided.
const DIVIDED: f64 = 10.0;
/// The least and the most that two ranges may have between them.
const GAP: (u64, u64) = (16 << 10, 1 << 20);
/// The least and the most that a shard may have which is fetched whole.
const WHOLE: (u64, u64) = (64 << 10, 8 << 20);
/// The most while the rate is not known.
const WHOLE_UNKNOWN: (u64, u64) = (64 << 10, 1 << 20);

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
        worth(HANDLING + share, rate.unwrap_or(assumed(latency)), GAP)
    }

    /// Bytes that a shard may have, to be fetched whole: what arrives in the time of a round trip.
    pub(crate) fn whole(&self) -> u64 {
        match self.now() {
            (latency, Some(rate)) => worth(HANDLING + latency, rate, WHOLE),
            (latency, None) => worth(HANDLING + latency, assumed(latency), WHOLE_UNKNOWN),
        }
    }

    /// Bytes that merged ranges may have: beyond a round trip, two connections carry twice as much as one.
    pub(crate) fn longest(&self) -> u64 {
        let (latency, rate) = self.now();
        let bytes = |rate| worth(latency.max(DIVIDED * HANDLING), rate, (WHOLE.0, u64::MAX));
        rate.map_or(u64::MAX, bytes)
    }

    /// Latency in seconds, the least of late, as load makes it worse; and bytes a second, the median of late: under
    /// load, a byte that nobody wants takes as long as any other.
    fn now(&self) -> (f64, Option<f64>) {
        let mut recent = self.0.lock();
        let latency = recent.latencies.iter().min().copied().unwrap_or_default();
        let mut rates: Vec<f64> = recent.rates.make_contiguous().to_vec();
        let middle = rates.len() / 2;
        let rate =
            (!rates.is_empty()).then(|| *rates.select_nth_unstable_by(middle, f64::total_cmp).1);
        (latency.as_secs_f64(), rate)
    }
}

fn assumed(latency: f64) -> f64 {
    if latency < NEAR { ASSUMED.0 } else { ASSUMED.1 }
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
    fn one_slow_answer_and_short_bodies_do_not_count() {
        let wire = wire(10, 50_000_000);
        wire.note(
            Duration::from_millis(10),
            1_000_000,
            Duration::from_millis(20),
        );
        let before = (wire.gap(), wire.whole());
        wire.note(Duration::from_secs(1), 1_000_000, Duration::from_secs(1));
        wire.note(Duration::from_millis(10), 1_000, Duration::ZERO);
        assert_eq!(before, (wire.gap(), wire.whole()));
    }

    #[test]
    fn long_ranges_are_divided_where_one_connection_is_slow() {
        assert_eq!(u64::MAX, Wire::default().longest());
        assert!((140_000..160_000).contains(&wire(30, 5_000_000).longest()));
        assert!((1_400_000..1_600_000).contains(&wire(0, 1_000_000_000).longest()));
    }

    #[test]
    fn what_is_not_known_is_no_reason_for_a_large_fetch() {
        let wire = Wire::default();
        wire.note(Duration::from_secs(1), 1_000, Duration::ZERO);
        assert_eq!(1 << 20, wire.whole());
        assert!(wire.gap() < 256 << 10);
    }
}
