//! The requests of one batch to an awaited store.

use std::sync::Arc;

use crate::batch::Array;
use crate::engine::jobs::Jobs;
use crate::error::Error;
use crate::limits::permits::{Admission, Bounds, Permits, Running};
use crate::store::{Awaited, Get, Hedge, Part, State, Terms};

/// Makes the requests of one batch to an awaited store.
#[derive(Clone)]
pub(crate) struct Requests {
    pub store: Awaited,
    pub jobs: Jobs,
    pub bounds: Arc<Bounds>,
    /// The units of the batch that run, where the store is foreign.
    running: Option<Arc<Running>>,
}

impl Requests {
    pub(crate) fn new(jobs: Jobs, store: &Awaited) -> Self {
        Self {
            store: store.clone(),
            bounds: jobs.engine.admission.bounds(store.foreign_scope()),
            running: store.foreign_scope().map(|_| Arc::default()),
            jobs,
        }
    }

    /// Waits for the right to hold `nbytes` in memory and to have one more request in flight.
    pub(crate) async fn admit(&self, array: &Array, nbytes: u64) -> Permits {
        let chunks = array.chunks.as_ref();
        Admission::admit(&self.bounds, chunks, self.running.as_ref(), nbytes).await
    }

    /// Fetches an object, or a part of it, of at most `max_bytes`.
    pub(crate) async fn get(
        &self,
        array: &Array,
        key: &str,
        part: &Part,
        max_bytes: u64,
        wanted: State<'_>,
    ) -> Result<Get, Error> {
        let requests = self.bounds.requests();
        let hedge = array.settings.hedge_factor;
        let terms = Terms {
            max_bytes,
            state: wanted,
            hedge: hedge.map(|factor| Hedge { factor, requests }),
        };
        let stats = &self.jobs.engine.stats;
        self.store.get(key, part, terms, stats).await
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;
    use crate::Store;
    use crate::engine::Engine;
    use crate::testing::{LIMITS, Memory, MemoryStore, array, bytes, chunks};
    use crate::{Batch, Limits};

    fn requests(engine: &Arc<Engine>, store: &Store, batch: &Batch) -> Requests {
        let Store::Awaited(store) = store else {
            panic!("awaited")
        };
        Requests::new(Jobs::new(engine, batch), store)
    }

    #[tokio::test]
    async fn only_stores_of_one_event_loop_share_their_bounds_with_each_other() {
        let limits = Limits {
            requests: Some(1),
            ..LIMITS
        };
        let engine = Engine::new(limits).unwrap();
        let (first, second) = (MemoryStore::new(), MemoryStore::new());
        let stores = [
            first.foreign(),
            first.foreign(),
            second.foreign(),
            second.remote(),
        ];
        let mut bounds = Vec::new();
        for store in &stores {
            let array = array(store.clone(), &bytes());
            let batch = chunks(&array, 1, &["a"], &Memory::new(&[0]).buffer());
            bounds.push(requests(&engine, store, &batch).bounds);
        }
        let same = |one: usize, other: usize| Arc::ptr_eq(&bounds[one], &bounds[other]);
        assert!(same(0, 1) && !same(0, 2) && !same(0, 3) && !same(2, 3));
    }

    #[tokio::test]
    async fn a_request_waits_for_memory_and_for_its_turn_among_requests() {
        for (requests, memory_bytes) in [(1, 1 << 20), (2, 1 << 10)] {
            let limits = Limits {
                requests: Some(requests),
                memory_bytes,
                ..LIMITS
            };
            let engine = Engine::new(limits).unwrap();
            let store = MemoryStore::new().remote();
            let array = array(store.clone(), &bytes());
            let batch = chunks(&array, 1, &["a"], &Memory::new(&[0]).buffer());
            let requests = self::requests(&engine, &store, &batch);
            let first = requests.admit(&array, 1 << 10).await;
            let second = requests.admit(&array, 1 << 10);
            tokio::pin!(second);
            assert!(poll!(&mut second).is_pending());
            drop(first);
            assert!(poll!(&mut second).is_ready());
        }
    }
}
