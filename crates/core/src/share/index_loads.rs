//! The fetches of shard indexes under way: batches that need the same index share one request.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use foldhash::fast::RandomState;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::batch::Spec;
use crate::error::Error;
use crate::share::index_cache::Located;
use crate::share::shared_future::{SharedFuture, WeakSharedFuture};
use crate::store::ObjectId;

/// The index with its validator; `None` where there is no shard.
pub(crate) type Loaded = Option<Located>;

/// When the request for an index was sent; empty while it waits for permits.
pub(crate) type Began = Arc<OnceLock<Instant>>;

/// The index fetches under way.
#[derive(Debug, Default)]
pub(crate) struct IndexLoads(Mutex<HashMap<ObjectId, Load, RandomState>>);

/// One index fetch under way.
#[derive(Debug)]
struct Load {
    spec: Arc<Spec>,
    began: Began,
    work: WeakSharedFuture<Loaded>,
}

/// Where an index comes from.
pub(crate) enum Source<'a> {
    Cached(Located),
    /// A fetch, and whether this call has started it.
    Fetch(Waiting<'a>, bool),
}

/// One task's wait for an index fetch.
pub(crate) struct Waiting<'a> {
    work: Option<SharedFuture<Loaded>>,
    id: ObjectId,
    loads: &'a IndexLoads,
}

impl IndexLoads {
    /// Joins the fetch of this index or starts one; or gives what a fetch that ended meanwhile has cached.
    ///
    /// A batch that began at `since` joins no fetch whose request was sent before. A fetch that is waited for
    /// `alone` needs no task of its own.
    pub(crate) fn join(
        &self,
        id: &ObjectId,
        spec: &Arc<Spec>,
        since: Instant,
        alone: bool,
        cached: impl FnOnce() -> Option<Located>,
        start: impl FnOnce(Began) -> BoxFuture<'static, Result<Loaded, Error>>,
    ) -> Source<'_> {
        let mut loads = self.0.lock();
        let under_way = loads.get(id).filter(|load| {
            load.spec.decodes_like(spec) && load.began.get().is_none_or(|began| *began >= since)
        });
        if let Some(work) = under_way.and_then(|load| load.work.upgrade()) {
            return Source::Fetch(self.wait(id, work), false);
        }
        // An index is cached before its fetch is removed from here, so it is seen in one place or the other.
        if let Some(located) = cached() {
            return Source::Cached(located);
        }
        let began = Began::default();
        let work = SharedFuture::start(start(Arc::clone(&began)), alone);
        let load = Load {
            spec: Arc::clone(spec),
            began,
            work: work.downgrade(),
        };
        loads.insert(id.clone(), load);
        Source::Fetch(self.wait(id, work), true)
    }

    /// Lets nothing join a fetch that began before now.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let forgotten = self.0.lock().remove(id);
        drop(forgotten);
    }

    /// Indexes that are being fetched.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn wait(&self, id: &ObjectId, work: SharedFuture<Loaded>) -> Waiting<'_> {
        Waiting {
            work: Some(work),
            id: id.clone(),
            loads: self,
        }
    }
}

impl Waiting<'_> {
    pub(crate) async fn done(mut self) -> Result<Loaded, Error> {
        match &mut self.work {
            Some(work) => work.await,
            None => Ok(None),
        }
    }
}

impl Drop for Waiting<'_> {
    /// Removes the entry of a fetch that has ended, or that nobody waits for any more.
    fn drop(&mut self) {
        drop(self.work.take());
        let mut loads = self.loads.0.lock();
        let ended = loads
            .get(&self.id)
            .is_some_and(|load| load.work.upgrade().is_none_or(|work| work.is_done()));
        if ended {
            loads.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::testing::{array, bytes, nowhere, spec};

    #[tokio::test]
    async fn a_fetch_that_is_given_up_leaves_no_entry() {
        let loads = IndexLoads::default();
        let id = ObjectId {
            store: 0,
            key: b"a"[..].into(),
        };
        let spec = spec(&array(nowhere(), &bytes()), 4);
        let begin = || {
            loads.join(
                &id,
                &spec,
                Instant::now(),
                false,
                || None,
                |_| std::future::pending().boxed(),
            )
        };
        let (first, second) = (begin(), begin());
        assert!(matches!(first, Source::Fetch(_, true)));
        assert!(matches!(second, Source::Fetch(_, false)));
        drop(first);
        assert_eq!(1, loads.0.lock().len());
        drop(second);
        assert!(loads.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_batch_does_not_join_a_request_that_was_sent_before_it_began() {
        let loads = IndexLoads::default();
        let id = ObjectId {
            store: 0,
            key: b"a"[..].into(),
        };
        let spec = spec(&array(nowhere(), &bytes()), 4);
        let send = |began: Began| {
            began.get_or_init(Instant::now);
            std::future::pending().boxed()
        };
        let first = loads.join(&id, &spec, Instant::now(), false, || None, send);
        let second = loads.join(&id, &spec, Instant::now(), false, || None, send);
        assert!(matches!(first, Source::Fetch(_, true)));
        assert!(matches!(second, Source::Fetch(_, true)));
    }
}
