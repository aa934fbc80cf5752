//! Shared fetches: concurrent batches that need the same bytes share one fetch and one decode.
//!
//! A [`Fetch`] is one object, or one merged byte range of a shard, that is being fetched. Until its bytes
//! are decoded, any batch may add itself as one more [`Waiter`]. The work is a [`SharedFuture`]: it goes on
//! while one of them is left and is dropped, request included, with the last.
//!
//! A batch never gets bytes older than its own call. It joins a fetch only if no request of that fetch was
//! sent before the batch began ([`Batch::since`](crate::Batch::since)), and none that began before one of
//! the engine's own writes to the object ended.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::batch::{Array, Results, Spec};
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::Selection;
use crate::copy::split::{PartId, Splits};
use crate::error::Error;
use crate::share::shared_future::{SharedFuture, WeakSharedFuture};
use crate::stats::Stats;
use crate::store::{ObjectId, Validator};

/// A whole object. What is wanted of it are selections of the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole;

/// One merged byte range of a shard in the state that the validator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub range: Range<u64>,
    pub validator: Option<Validator>,
}

/// The subchunks that a batch wants of a [`Span`].
#[derive(Debug)]
pub(crate) struct Subchunks {
    pub splits: Arc<Splits>,
    /// Byte range in the shard of a subchunk, and a part of `splits` that it serves.
    pub members: Vec<(Range<u64>, PartId)>,
}

pub(crate) type Selections = Arc<[Selection]>;
pub(crate) type ObjectFetch = Fetch<Whole, Selections>;
pub(crate) type SpanFetch = Fetch<Span, Subchunks>;

/// What is to be fetched, for a batch that began at `since`.
pub(crate) struct Request<S> {
    pub array: Arc<Array>,
    pub spec: Arc<Spec>,
    pub key: Arc<str>,
    pub source: S,
    pub since: Instant,
}

/// What one batch wants of a fetch, where it goes, and where the outcome is noted.
#[derive(Debug)]
pub(crate) struct Waiter<W> {
    pub wanted: W,
    pub out: Arc<OutBuffer>,
    pub results: Arc<Results>,
    /// Index in `results`.
    pub index: usize,
}

impl<W> Waiter<W> {
    pub(crate) fn finish(&self, outcome: Result<bool, Error>) {
        self.results.set(self.index, outcome);
    }
}

/// An object or a byte range that is being fetched.
#[derive(Debug)]
pub(crate) struct Fetch<S, W> {
    pub array: Arc<Array>,
    pub spec: Arc<Spec>,
    pub key: Arc<str>,
    pub source: S,
    pub id: ObjectId,
    /// When the first request was sent.
    began: OnceLock<Instant>,
    /// `None` once the decoding has begun.
    waiters: Mutex<Option<Vec<Waiter<W>>>>,
    work: OnceLock<WeakSharedFuture<()>>,
    registry: Weak<Fetches<S, W>>,
}

impl<S, W> Fetch<S, W> {
    /// Notes that the store is asked now: batches that begin later do not join.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// All batches that wait for this fetch; no other can join from now on.
    pub(crate) fn take_waiters(&self) -> Vec<Waiter<W>> {
        self.waiters.lock().take().unwrap_or_default()
    }

    /// Adds the waiter; gives it back where the fetch has begun too early or is too far.
    fn join(&self, since: Instant, waiter: Waiter<W>) -> Result<SharedFuture<()>, Waiter<W>> {
        if self.began.get().is_some_and(|began| *began < since) {
            return Err(waiter);
        }
        let mut waiters = self.waiters.lock();
        let Some(waiters) = waiters.as_mut() else {
            return Err(waiter);
        };
        // Not dropped here: the registry is locked, and dropping the last hold drops the fetch, which locks it too.
        let Some(work) = self.work.get().and_then(WeakSharedFuture::upgrade) else {
            return Err(waiter);
        };
        waiters.push(waiter);
        Ok(work)
    }
}

/// The fetches under way, by object.
#[derive(Debug)]
pub(crate) struct Fetches<S, W>(Mutex<UnderWay<S, W>>);

type UnderWay<S, W> = HashMap<ObjectId, Vec<Weak<Fetch<S, W>>>, RandomState>;

impl<S, W> Default for Fetches<S, W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: PartialEq, W> Fetches<S, W> {
    /// Joins the fetch of the same bytes that is under way, or starts `work` on a new one.
    ///
    /// Work that is waited for `alone`, as by a batch of one unit, needs no task of its own.
    pub(crate) fn share(
        self: &Arc<Self>,
        request: Request<S>,
        waiter: Waiter<W>,
        alone: bool,
        stats: &Stats,
        work: impl FnOnce(Arc<Fetch<S, W>>) -> BoxFuture<'static, ()>,
    ) -> SharedFuture<()> {
        let mut seen = Vec::new();
        let mut under_way = self.0.lock();
        let shared = match self.join_or_add(&mut under_way, request, waiter, &mut seen) {
            Ok(shared) => {
                stats.flights_shared.add(1);
                shared
            }
            Err(fetch) => {
                let new = std::slice::from_ref(&fetch);
                start(new, work(Arc::clone(&fetch)), alone)
            }
        };
        // Dropping a fetch takes the lock, so `seen` goes after it.
        drop(under_way);
        shared
    }

    /// Joins the fetches that are under way, and starts `work` on all others together.
    pub(crate) fn share_all(
        self: &Arc<Self>,
        wanted: impl Iterator<Item = (Request<S>, Waiter<W>)>,
        alone: bool,
        stats: &Stats,
        work: impl FnOnce(Vec<Arc<Fetch<S, W>>>) -> BoxFuture<'static, ()>,
    ) -> Vec<SharedFuture<()>> {
        let (mut shared, mut new, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let mut under_way = self.0.lock();
        for (request, waiter) in wanted {
            match self.join_or_add(&mut under_way, request, waiter, &mut seen) {
                Ok(joined) => shared.push(joined),
                Err(fetch) => new.push(fetch),
            }
        }
        stats.flights_shared.add(shared.len() as u64);
        if !new.is_empty() {
            shared.push(start(&new, work(new.clone()), alone && shared.is_empty()));
        }
        drop(under_way);
        shared
    }

    /// Lets no batch join what began before now for this object: it has just been written.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let forgotten = self.0.lock().remove(id);
        drop(forgotten);
    }

    /// Objects that are being fetched.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// The work of a fetch that was joined, or a new fetch without work.
    fn join_or_add(
        self: &Arc<Self>,
        under_way: &mut UnderWay<S, W>,
        request: Request<S>,
        mut waiter: Waiter<W>,
        seen: &mut Vec<Arc<Fetch<S, W>>>,
    ) -> Result<SharedFuture<()>, Arc<Fetch<S, W>>> {
        let id = request.array.object(&request.key);
        let entry = under_way.entry(id.clone()).or_default();
        for fetch in entry.iter().filter_map(Weak::upgrade) {
            let same = fetch.source == request.source && fetch.spec.decodes_like(&request.spec);
            seen.push(Arc::clone(&fetch));
            if same {
                match fetch.join(request.since, waiter) {
                    Ok(work) => return Ok(work),
                    Err(refused) => waiter = refused,
                }
            }
        }
        let fetch = Arc::new(Fetch {
            array: request.array,
            spec: request.spec,
            key: request.key,
            source: request.source,
            id,
            began: OnceLock::new(),
            waiters: Mutex::new(Some(vec![waiter])),
            work: OnceLock::new(),
            registry: Arc::downgrade(self),
        });
        entry.push(Arc::downgrade(&fetch));
        seen.push(Arc::clone(&fetch));
        Err(fetch)
    }
}

/// Makes one shared future of the work on these fetches.
fn start<S, W>(
    fetches: &[Arc<Fetch<S, W>>],
    work: BoxFuture<'static, ()>,
    alone: bool,
) -> SharedFuture<()> {
    let work = SharedFuture::start(work.map(Ok), alone);
    for fetch in fetches {
        fetch.work.get_or_init(|| work.downgrade());
    }
    work
}

impl<S, W> Drop for Fetch<S, W> {
    fn drop(&mut self) {
        let Some(fetches) = self.registry.upgrade() else {
            return;
        };
        let mut under_way = fetches.0.lock();
        if let Some(entry) = under_way.get_mut(&self.id) {
            entry.retain(|fetch| fetch.strong_count() > 0);
            if entry.is_empty() {
                under_way.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{array, bytes, nowhere, range, spec};

    type Objects = Arc<Fetches<Whole, Selections>>;

    /// Asks for one object; tells whether a fetch was started for it, which begins at once if `sent`.
    fn ask(objects: &Objects, since: Instant, sent: bool) -> (bool, SharedFuture<()>) {
        let array = array(nowhere(), &bytes());
        let request = Request {
            spec: spec(&array, 4),
            array,
            key: "c/0".into(),
            source: Whole,
            since,
        };
        let waiter = Waiter {
            wanted: [range(0, 1, 0)].into(),
            out: Arc::new(OutBuffer::empty()),
            results: Results::new(1),
            index: 0,
        };
        let mut started = false;
        let work = objects.share(request, waiter, false, &Stats::default(), |fetch| {
            started = true;
            if sent {
                fetch.begin();
            }
            // The work holds its fetch, as a unit does.
            async move {
                std::future::pending::<()>().await;
                drop(fetch);
            }
            .boxed()
        });
        (started, work)
    }

    #[tokio::test]
    async fn a_fetch_that_was_not_sent_is_joined_by_any_batch() {
        let objects = Objects::default();
        let (first, _work) = ask(&objects, Instant::now(), false);
        let (second, _same) = ask(&objects, Instant::now(), false);
        assert!(first && !second);
    }

    #[tokio::test]
    async fn a_fetch_that_was_sent_is_joined_by_batches_that_began_before() {
        let objects = Objects::default();
        let before = Instant::now();
        let (first, _work) = ask(&objects, before, true);
        let (second, _same) = ask(&objects, before, true);
        let (third, _own) = ask(&objects, Instant::now(), true);
        assert!(first && !second && third);
    }

    #[tokio::test]
    async fn nothing_joins_what_was_forgotten() {
        let objects = Objects::default();
        let (_, _work) = ask(&objects, Instant::now(), false);
        objects.forget(&array(nowhere(), &bytes()).object(&"c/0".into()));
        assert!(ask(&objects, Instant::now(), false).0);
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_waits_for_leaves_no_entry() {
        let objects = Objects::default();
        let (_, work) = ask(&objects, Instant::now(), false);
        assert_eq!(1, objects.len());
        drop(work);
        assert_eq!(0, objects.len());
    }
}
