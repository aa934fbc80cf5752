//! Counters of what the engine did; they only grow, but for the gauges of what is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The engine's counters.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Stats {
            /// Every counter with its name, in a fixed order.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// `read` and `write` calls that the engine ran.
    batches,
    /// Batches whose caller went away before they were done.
    batches_cancelled,
    /// Requests to stores that are awaited, retries included.
    requests,
    /// Requests whose body is not complete yet.
    requests_in_flight,
    /// The most that `requests_in_flight` has been.
    requests_in_flight_max,
    /// Requests sent again after a failure.
    retries,
    /// Requests that waited because their store had turned others away.
    requests_held_back,
    /// Second requests sent because the first was far slower than its peers.
    hedges,
    /// Encoded bytes that came from stores.
    bytes_read,
    /// Encoded bytes that went to stores.
    bytes_written,
    /// Chunks and subchunks decoded.
    chunks_decoded,
    /// Chunks and subchunks encoded.
    chunks_encoded,
    /// Calls of codecs that Python runs.
    python_codec_calls,
    /// Chunks that were not there and read as the fill value.
    chunks_missing,
    /// Chunks, ranges and indexes that a batch got from another batch's fetch.
    flights_shared,
    /// Chunks and subchunks that were kept decoded.
    chunk_cache_hits,
    /// Shard indexes found in the cache.
    shard_index_hits,
    /// Shard indexes that had to be fetched.
    shard_index_misses,
    /// Reads planned anew because a shard changed between two of their requests.
    replans,
    /// Conditional puts that were refused and merged again.
    write_conflicts,
    /// Results for which the event loop had closed.
    results_dropped,
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Stats>);

impl Stats {
    /// Counts one more request.
    pub(crate) fn count_request(self: &Arc<Self>) -> InFlight {
        self.requests.add(1);
        let now = self.requests_in_flight.add(1);
        self.requests_in_flight_max.raise(now);
        InFlight(Arc::clone(self))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests_in_flight.drop_one();
    }
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `count` and gives the value after.
    pub fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed) + count
    }

    /// Takes one away; for gauges.
    fn drop_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Raises the value to at least `value`.
    fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}
