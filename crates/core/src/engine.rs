//! The engine: what all batches of a process share.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::admit::Admission;
use crate::batch::{Array, Batch};
use crate::dispatch::Jobs;
use crate::error::Error;
use crate::flight::{Flights, ObjectId};
use crate::index_cache::IndexCache;
use crate::locate::Loads;
use crate::locks::KeyLocks;
use crate::pool::Pool;
use crate::stats::Stats;
use crate::store::{
    Condition, Door, Fetched, Get, Hedge, Part, Put, Registry, RemoteConfig, RemoteStore, Store,
    Validator,
};

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
}

/// What all batches of a process share: pools, bounds, flights, indexes, locks and counters.
#[derive(Debug)]
pub struct Engine {
    pub(crate) stats: Arc<Stats>,
    pub(crate) admission: Admission,
    pub(crate) flights: Arc<Flights>,
    pub(crate) indexes: IndexCache,
    pub(crate) loads: Loads,
    pub(crate) locks: Arc<KeyLocks>,
    pool: RwLock<Arc<Pool>>,
    stores: Registry,
    door: Door,
}

impl Engine {
    /// An engine with these bounds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when its threads cannot be started.
    pub fn new(limits: Limits) -> Result<Arc<Self>, Error> {
        let stats = Arc::default();
        let admission = Admission::new(limits.memory_bytes, limits.requests, limits.threads);
        Ok(Arc::new(Self {
            door: Door::new(&stats, &admission.pace),
            stats,
            admission,
            flights: Arc::default(),
            indexes: IndexCache::new(limits.shard_index_cache_bytes),
            loads: Loads::default(),
            locks: Arc::default(),
            pool: RwLock::new(Arc::new(Pool::new(limits.threads)?)),
            stores: Registry::default(),
        }))
    }

    /// Changes the bounds; what is under way keeps what it holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the threads cannot be started.
    pub fn resize(&self, limits: Limits) -> Result<(), Error> {
        if self.pool().threads() != limits.threads {
            let pool = Arc::new(Pool::new(limits.threads)?);
            *self.pool.write() = pool;
        }
        self.admission
            .resize(limits.memory_bytes, limits.requests, limits.threads);
        self.indexes.resize(limits.shard_index_cache_bytes);
        Ok(())
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The remote store of this configuration; equal configurations share one client and its pool.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a setting that is not known, [`Error::Invalid`] for a wrong value.
    pub fn remote(&self, config: &RemoteConfig) -> Result<Arc<RemoteStore>, Error> {
        self.stores.open(config, &self.door)
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.read())
    }

    /// How the chunks of a batch are put together into jobs, where they are local.
    pub(crate) fn jobs(&self, batch: &Batch) -> Jobs {
        let layout = &batch.array.layout;
        let local = (!batch.array.store.is_awaited()).then_some(&batch.items);
        let nbytes = local
            .into_iter()
            .flatten()
            .map(|item| item.touched_bytes(layout))
            .fold(0, usize::saturating_add);
        Jobs::new(nbytes, self.pool().threads())
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

    /// Fetches an object, or a part of it, from a store that is awaited; at most `most` bytes.
    pub(crate) async fn fetch(
        &self,
        array: &Array,
        key: &str,
        part: &Part,
        expected: Option<&Validator>,
        most: u64,
    ) -> Result<Get, Error> {
        match &array.store {
            Store::Remote(store) => {
                let requests = self.admission.requests();
                let factor = array.settings.hedge_factor;
                let hedge = factor.map(|factor| Hedge { factor, requests });
                store.get(key, part, expected, most, hedge).await
            }
            Store::Foreign(store) => {
                let counted = self.stats.count_request();
                let bytes = store.get(key, part.clone()).await?;
                drop(counted);
                Ok(bytes.map_or(Get::Missing, |bytes| {
                    self.stats.bytes_read.add(bytes.len() as u64);
                    Get::Found(Fetched {
                        bytes,
                        size: None,
                        validator: None,
                        version: None,
                    })
                }))
            }
            Store::Local(_) => Err(Error::invalid("a local store is read inside its job")),
        }
    }

    /// Replaces an object in a store that is awaited.
    pub(crate) async fn put(
        &self,
        array: &Array,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        lanes: usize,
    ) -> Result<Put, Error> {
        match &array.store {
            Store::Remote(store) => store.put(key, bytes, condition, lanes).await,
            Store::Foreign(store) => {
                let counted = self.stats.count_request();
                let len = bytes.len() as u64;
                store.put(key, bytes).await?;
                drop(counted);
                self.stats.bytes_written.add(len);
                Ok(Put::Done)
            }
            Store::Local(_) => Err(Error::invalid("a local store is written inside its job")),
        }
    }

    /// Removes an object from a store that is awaited.
    pub(crate) async fn delete(&self, array: &Array, key: &str) -> Result<(), Error> {
        match &array.store {
            Store::Remote(store) => store.delete(key).await,
            Store::Foreign(store) => {
                let counted = self.stats.count_request();
                store.delete(key).await?;
                drop(counted);
                Ok(())
            }
            Store::Local(_) => Err(Error::invalid("a local store is written inside its job")),
        }
    }

    /// Drops all that is known of an object that has been, or may have been, written.
    pub(crate) fn forget(&self, id: &ObjectId) {
        self.indexes.forget(id);
        self.loads.forget(id);
        self.flights.forget(id);
    }
}
