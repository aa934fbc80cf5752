//! A future that several tasks wait for: it goes on while one of them is left, and is dropped with the last.
//!
//! The work has a task of its own, the [`Driver`], so the units of one batch run on whichever threads of the
//! runtime are free; a batch only waits for outcomes. A batch that waits for nothing else polls the driver
//! itself, which spares waking a thread twice. The driver does not keep the work going: dropping the last
//! [`SharedFuture`] drops the work before it returns. A panic in the work becomes an error for every task
//! that waits.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::error::Error;
use crate::limits::pool::panicked;

/// What the work gives, or why it gives nothing.
type Outcome<T> = Result<T, Error>;

/// One task's hold on the work.
pub(crate) struct SharedFuture<T: Send + Sync + 'static> {
    hold: Arc<Hold<T>>,
    /// Made before `outcome` is looked at, so that no notice is missed.
    done: Pin<Box<OwnedNotified>>,
    /// Dropped after the hold.
    inline: Option<Inline<T>>,
}

/// A reference for tasks that may come later; it does not keep the work going.
pub(crate) struct WeakSharedFuture<T>(Weak<Hold<T>>);

/// What has to be polled for the work to go on; ends with it, or when nobody waits for it.
pub(crate) struct Driver<T>(Arc<Shared<T>>);

/// A driver that a task polls with its hold; it gets a task of its own where others wait when that is dropped.
struct Inline<T: Send + Sync + 'static>(Option<Driver<T>>);

struct Shared<T> {
    work: Mutex<Work<T>>,
    outcome: OnceLock<Outcome<T>>,
    done: Arc<Notify>,
}

struct Work<T> {
    /// `None` once it is done or nobody waits for it.
    future: Option<BoxFuture<'static, Outcome<T>>>,
    /// Wakes the driver.
    driver: Option<Waker>,
}

/// Drops the work once nobody waits for it.
struct Hold<T>(Arc<Shared<T>>);

impl<T: Send + Sync + 'static> SharedFuture<T> {
    /// Starts the work: in a task of the runtime or, if the caller waits for it `alone`, in the caller's own.
    pub(crate) fn start(
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        alone: bool,
    ) -> Self {
        let (mut shared, driver) = Self::new(work);
        if alone {
            shared.inline = Some(Inline(Some(driver)));
        } else {
            tokio::spawn(driver);
        }
        shared
    }

    /// The work, and its driver.
    pub(crate) fn new(
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> (Self, Driver<T>) {
        let work = AssertUnwindSafe(work)
            .catch_unwind()
            .map(|done| done.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
        let shared = Arc::new(Shared {
            work: Mutex::new(Work {
                future: Some(work.boxed()),
                driver: None,
            }),
            outcome: OnceLock::new(),
            done: Arc::default(),
        });
        let hold = Arc::new(Hold(Arc::clone(&shared)));
        (Self::of(hold), Driver(shared))
    }
}

impl<T: Send + Sync + 'static> SharedFuture<T> {
    fn of(hold: Arc<Hold<T>>) -> Self {
        let done = Box::pin(Arc::clone(&hold.0.done).notified_owned());
        let inline = None;
        Self { hold, done, inline }
    }

    pub(crate) fn downgrade(&self) -> WeakSharedFuture<T> {
        WeakSharedFuture(Arc::downgrade(&self.hold))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.hold.0.outcome.get().is_some()
    }
}

impl<T: Send + Sync + 'static> Clone for SharedFuture<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.hold))
    }
}

impl<T: Send + Sync + 'static> WeakSharedFuture<T> {
    pub(crate) fn upgrade(&self) -> Option<SharedFuture<T>> {
        self.0.upgrade().map(SharedFuture::of)
    }
}

impl<T: Clone + Send + Sync + 'static> Future for SharedFuture<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        if let Some(Inline(Some(driver))) = &mut self.inline {
            std::task::ready!(driver.poll_unpin(context));
        } else if !self.is_done() {
            std::task::ready!(self.done.as_mut().poll(context));
        }
        let ended = || Err(Error::internal("work ended without an outcome"));
        Poll::Ready(self.hold.0.outcome.get().cloned().unwrap_or_else(ended))
    }
}

impl<T> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut work = self.0.work.lock();
        let Some(future) = &mut work.future else {
            return Poll::Ready(());
        };
        let Poll::Ready(outcome) = future.poll_unpin(context) else {
            match &mut work.driver {
                Some(driver) => driver.clone_from(context.waker()),
                driver => *driver = Some(context.waker().clone()),
            }
            return Poll::Pending;
        };
        let future = work.future.take();
        drop(work);
        drop(future);
        self.0.end(outcome);
        Poll::Ready(())
    }
}

impl<T> Shared<T> {
    fn end(&self, outcome: Outcome<T>) {
        self.outcome.get_or_init(|| outcome);
        self.done.notify_waiters();
    }
}

impl<T> Drop for Driver<T> {
    /// Without its driver the work ends: a runtime that is shut down drops both.
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.end(Err(Error::internal("the runtime has ended")));
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Inline<T> {
    fn drop(&mut self) {
        let wanted = |driver: &Driver<T>| driver.0.work.lock().future.is_some();
        if let Some(driver) = self.0.take().filter(wanted)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(driver);
        }
    }
}

impl<T> Drop for Hold<T> {
    /// Drops the work, after a poll that is under way, and lets the driver end.
    fn drop(&mut self) {
        let mut work = self.0.work.lock();
        let (future, driver) = (work.future.take(), work.driver.take());
        drop(work);
        drop(future);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for SharedFuture<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedFuture").finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for WeakSharedFuture<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeakSharedFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn every_task_that_waits_gets_the_outcome() {
        let (go_on, wait) = tokio::sync::oneshot::channel();
        let first = SharedFuture::start(
            async move {
                wait.await.ok();
                Ok(7)
            },
            false,
        );
        let mut second = first.clone();
        assert!(poll!(&mut second).is_pending());
        go_on.send(()).unwrap();
        for outcome in [first.clone().await, second.await, first.await] {
            assert!(matches!(outcome, Ok(7)));
        }
    }

    #[tokio::test]
    async fn work_that_one_task_drives_goes_on_when_that_task_is_gone() {
        let (go_on, wait) = tokio::sync::oneshot::channel();
        let mut first = SharedFuture::start(
            async move {
                wait.await.ok();
                Ok(7)
            },
            true,
        );
        let mut second = first.clone();
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());
        drop(first);
        go_on.send(()).unwrap();
        assert!(matches!(second.await, Ok(7)));
    }

    #[tokio::test]
    async fn work_that_one_task_drives_ends_for_all() {
        let first = SharedFuture::start(async { Ok(7) }, true);
        let second = first.clone();
        let (first, second) = futures::join!(second, first);
        assert!(matches!((first, second), (Ok(7), Ok(7))));
    }

    #[tokio::test]
    async fn the_work_is_gone_when_the_last_hold_is() {
        struct Alive(Arc<AtomicBool>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        let alive = Arc::new(AtomicBool::new(true));
        let guard = Alive(Arc::clone(&alive));
        let (first, driver) = SharedFuture::<()>::new(async move {
            let _guard = guard;
            std::future::pending().await
        });
        let (second, weak) = (first.clone(), first.downgrade());
        tokio::pin!(driver);
        assert!(poll!(&mut driver).is_pending());
        drop(first);
        assert!(alive.load(Ordering::SeqCst));
        drop(second);
        assert!(!alive.load(Ordering::SeqCst));
        assert!(weak.upgrade().is_none());
        driver.await;
    }

    #[tokio::test]
    async fn work_without_a_driver_ends_in_an_error() {
        let (work, driver) = SharedFuture::<()>::new(std::future::pending());
        drop(driver);
        assert!(matches!(work.await, Err(Error::Internal { .. })));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_every_task_that_waits() {
        for alone in [false, true] {
            let first: SharedFuture<u8> = SharedFuture::start(async { panic!("odd") }, alone);
            let second = first.clone();
            for outcome in [first.await, second.await] {
                assert!(matches!(outcome, Err(Error::Internal { .. })));
            }
        }
    }
}
