//! The requests of one batch to an awaited store.

use std::sync::Arc;

use crate::batch::Array;
use crate::engine::jobs::Jobs;
use crate::error::Error;
use crate::limits::permits::{Admission, Bounds, Permits, Running};
use crate::store::{Awaited, Get, Hedge, Part, Terms, Validator};

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
        expected: Option<&Validator>,
    ) -> Result<Get, Error> {
        let requests = self.bounds.requests();
        let hedge = array.settings.hedge_factor;
        let terms = Terms {
            max_bytes,
            expected,
            hedge: hedge.map(|factor| Hedge { factor, requests }),
        };
        let stats = &self.jobs.engine.stats;
        self.store.get(key, part, terms, stats).await
    }
}
