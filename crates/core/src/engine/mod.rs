//! The engine: what all batches of a process share.

pub(crate) mod jobs;
pub(crate) mod requests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::batch::Array;
use crate::error::{Error, StoreError};
use crate::limits::permits::Admission;
use crate::limits::pool::Pool;
use crate::share::chunk_cache::{ChunkCache, Kept};
use crate::share::fetches::{Fetches, Selections, Span, Subchunks, Whole};
use crate::share::index_cache::IndexCache;
use crate::share::index_loads::IndexLoads;
use crate::share::locks::KeyLocks;
use crate::stats::Stats;
use crate::store::{HttpClients, ObjectId, Registry, RemoteConfig, RemoteStore};

/// The process-wide bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Threads that decode and encode.
    pub threads: usize,
    /// Requests in flight at most; `None` for as many as the latency of the stores asks for.
    pub requests: Option<usize>,
    /// Bytes of encoded and decoded data in memory at most, besides the callers' own arrays.
    pub memory_bytes: u64,
    /// Bytes of decoded shard indexes kept at most.
    pub shard_index_cache_bytes: usize,
    /// Bytes of decoded chunks kept at most; half of `memory_bytes` is the most, of which they are part.
    pub chunk_cache_bytes: usize,
    /// How long a remote object counts as unchanged after it was last seen, where its chunks are kept.
    pub chunk_cache_recheck: Duration,
}

impl Limits {
    /// Bytes of decoded chunks that are kept, and bytes that are left to batches.
    fn memory(&self) -> (usize, u64) {
        let half = usize::try_from(self.memory_bytes / 2).unwrap_or(usize::MAX);
        let kept = self.chunk_cache_bytes.min(half);
        (kept, self.memory_bytes - kept as u64)
    }
}

/// What all batches of a process share: pools, bounds, fetches, indexes, locks and counters.
#[derive(Debug)]
pub struct Engine {
    pub(crate) stats: Arc<Stats>,
    pub(crate) admission: Admission,
    /// Fetches of whole objects, and of byte ranges of shards.
    pub(crate) objects: Arc<Fetches<Whole, Selections>>,
    pub(crate) spans: Arc<Fetches<Span, Subchunks>>,
    pub(crate) indexes: IndexCache,
    pub(crate) index_loads: IndexLoads,
    pub(crate) chunks: ChunkCache,
    pub(crate) locks: Arc<KeyLocks>,
    /// Writes that have ended: how a read in parts sees those of stores that do not name states of objects.
    pub(crate) writes_ended: AtomicU64,
    limits: RwLock<Limits>,
    pool: RwLock<Arc<Pool>>,
    /// Threads that run foreign codecs, from their first use.
    foreign_pool: RwLock<Option<Arc<Pool>>>,
    stores: Registry,
    clients: HttpClients,
}

impl Engine {
    /// An engine with these bounds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when its threads cannot be started.
    pub fn new(limits: Limits) -> Result<Arc<Self>, Error> {
        let stats = Arc::default();
        let (kept, memory) = limits.memory();
        let admission = Admission::new(memory, limits.requests, limits.threads);
        Ok(Arc::new(Self {
            clients: HttpClients::new(&stats, &admission.adaptive),
            stats,
            admission,
            objects: Arc::default(),
            spans: Arc::default(),
            indexes: IndexCache::new(limits.shard_index_cache_bytes),
            index_loads: IndexLoads::default(),
            chunks: ChunkCache::new(kept),
            locks: Arc::default(),
            writes_ended: AtomicU64::new(0),
            limits: RwLock::new(limits),
            pool: RwLock::new(Arc::new(Pool::new("cpu", limits.threads)?)),
            foreign_pool: RwLock::default(),
            stores: Registry::default(),
        }))
    }

    /// Changes the bounds; what is under way keeps what it holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the threads cannot be started.
    pub fn resize(&self, limits: Limits) -> Result<(), Error> {
        if self.pool().threads() != limits.threads {
            let pool = Arc::new(Pool::new("cpu", limits.threads)?);
            *self.pool.write() = pool;
            *self.foreign_pool.write() = None;
        }
        let (kept, memory) = limits.memory();
        self.admission
            .resize(memory, limits.requests, limits.threads);
        self.chunks.resize(kept);
        self.indexes.resize(limits.shard_index_cache_bytes);
        *self.limits.write() = limits;
        Ok(())
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What batches hold or wait for at this moment, by name; nothing is held when none is under way.
    #[must_use]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        let shared = [
            ("fetches", self.objects.len() + self.spans.len()),
            ("index_loads", self.index_loads.len()),
            ("locks", self.locks.len()),
        ];
        self.admission.held().into_iter().chain(shared).collect()
    }

    /// The last failures of requests that are being tried again, those of all batches.
    #[must_use]
    pub fn failing(&self) -> Vec<StoreError> {
        self.clients.failing()
    }

    /// The remote store of this configuration; equal configurations share one client and its pool.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a setting that is not known, [`Error::Invalid`] for a wrong value.
    pub fn remote(&self, config: &RemoteConfig) -> Result<Arc<RemoteStore>, Error> {
        self.stores.open(config, &self.clients)
    }

    /// Whether a remote object counts as what is kept of it, without a request.
    pub(crate) fn is_fresh(&self, kept: &Kept) -> bool {
        let age = self.limits.read().chunk_cache_recheck;
        kept.was_seen_within(age, Instant::now())
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.read())
    }

    /// Threads for jobs that may wait; the others, where none can be started.
    pub(crate) fn foreign_pool(&self) -> Arc<Pool> {
        if let Some(pool) = &*self.foreign_pool.read() {
            return Arc::clone(pool);
        }
        let mut kept = self.foreign_pool.write();
        match (&*kept, Pool::new("foreign", self.pool().threads())) {
            (Some(pool), _) => Arc::clone(pool),
            (None, Ok(pool)) => Arc::clone(kept.insert(Arc::new(pool))),
            (None, Err(_)) => self.pool(),
        }
    }

    /// Whether one chunk of `count` may use several threads: the balance of chunk and codec concurrency
    /// as zarrs has it, where the codecs get the threads that chunks leave.
    pub(crate) fn spread(&self, array: &Array, count: usize) -> bool {
        let threads = self.pool().threads();
        let most = array
            .settings
            .chunk_concurrent_maximum
            .unwrap_or(threads)
            .max(1);
        let least = array.settings.chunk_concurrent_minimum.min(most);
        let chunks = threads.clamp(least, most.max(least)).min(count).max(1);
        threads / chunks > 1
    }

    /// Drops all that is known of an object that has been, or may have been, written.
    pub(crate) fn forget(&self, id: &ObjectId) {
        self.indexes.forget(id);
        self.index_loads.forget(id);
        self.chunks.forget(id);
        self.objects.forget(id);
        self.spans.forget(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Settings;
    use crate::codec::layout::Layout;
    use crate::testing::{LIMITS, bytes, nowhere};

    #[test]
    fn a_chunk_gets_the_threads_that_the_others_leave() {
        let engine = Engine::new(Limits {
            threads: 4,
            ..LIMITS
        })
        .unwrap();
        let spread = |chunk_concurrent_minimum, chunk_concurrent_maximum, count| {
            let settings = Settings {
                chunk_concurrent_maximum,
                chunk_concurrent_minimum,
                validate_checksums: true,
                hedge_factor: None,
            };
            let layout = Layout::from_v3(&bytes(), false, &[]).unwrap();
            engine.spread(&Array::new(nowhere(), layout, "", settings), count)
        };
        assert!(spread(4, None, 1));
        assert!(spread(4, None, 2));
        assert!(!spread(4, None, 4));
        // At most two chunks at a time: two threads are left for each.
        assert!(spread(1, Some(2), 100));
        assert!(!spread(4, Some(4), 100));
    }

    #[test]
    fn other_bounds_hold_from_now_on() {
        let engine = Engine::new(LIMITS).unwrap();
        let before = engine.pool();
        let memory_bytes = LIMITS.memory_bytes / 2;
        engine
            .resize(Limits {
                memory_bytes,
                ..LIMITS
            })
            .unwrap();
        assert!(Arc::ptr_eq(&before, &engine.pool()));
        assert_eq!(memory_bytes, engine.limits().memory_bytes);
        assert_eq!(memory_bytes, engine.admission.bounds(None).byte_budget());
        engine
            .resize(Limits {
                threads: 3,
                ..LIMITS
            })
            .unwrap();
        assert_eq!(3, engine.pool().threads());
        // A job that has begun keeps its threads.
        assert_eq!(LIMITS.threads, before.threads());
    }

    #[test]
    fn foreign_codecs_have_one_pool_of_their_own() {
        let engine = Engine::new(LIMITS).unwrap();
        let foreign = engine.foreign_pool();
        assert!(Arc::ptr_eq(&foreign, &engine.foreign_pool()));
        assert!(!Arc::ptr_eq(&foreign, &engine.pool()));
    }
}
