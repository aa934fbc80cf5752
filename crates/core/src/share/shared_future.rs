//! A future that several tasks wait for: it goes on while one of them is left, and is dropped with the last.
//!
//! `futures::future::Shared` wakes every task that waits, but only one of them polls; the others rely on
//! that one. If that task is cancelled between its wake-up and its poll, nobody polls any more
//! (<https://github.com/rust-lang/futures-rs/issues/2706>). So a task that leaves before the end wakes the
//! others. A panic in the work becomes an error for every task that waits.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Notify;

use crate::error::Error;
use crate::limits::pool::panicked;

/// What the work gives, or why it gives nothing.
type Outcome<T> = Result<T, Error>;

/// One task's hold on the work.
#[derive(Debug, Clone)]
pub(crate) struct SharedFuture<T: Clone> {
    future: Shared<BoxFuture<'static, Outcome<T>>>,
    left: Arc<Notify>,
}

/// A reference for tasks that may come later; it does not keep the work going.
#[derive(Debug)]
pub(crate) struct WeakSharedFuture<T: Clone> {
    future: Option<WeakShared<BoxFuture<'static, Outcome<T>>>>,
    left: Arc<Notify>,
}

impl<T: Clone + Send + Sync + 'static> SharedFuture<T> {
    pub(crate) fn new(work: impl Future<Output = Outcome<T>> + Send + 'static) -> Self {
        let left = Arc::new(Notify::new());
        let someone_left = Arc::clone(&left);
        let work = AssertUnwindSafe(work).catch_unwind();
        let future = async move {
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => {
                        return done.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                    }
                    () = someone_left.notified() => {}
                }
            }
        };
        Self {
            future: future.boxed().shared(),
            left,
        }
    }

    pub(crate) fn downgrade(&self) -> WeakSharedFuture<T> {
        WeakSharedFuture {
            future: self.future.downgrade(),
            left: Arc::clone(&self.left),
        }
    }
}

impl<T: Clone> SharedFuture<T> {
    pub(crate) fn is_done(&self) -> bool {
        self.future.peek().is_some()
    }
}

impl<T: Clone> WeakSharedFuture<T> {
    pub(crate) fn upgrade(&self) -> Option<SharedFuture<T>> {
        Some(SharedFuture {
            future: self.future.as_ref()?.upgrade()?,
            left: Arc::clone(&self.left),
        })
    }
}

impl<T: Clone> Future for SharedFuture<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        self.future.poll_unpin(context)
    }
}

impl<T: Clone> Drop for SharedFuture<T> {
    fn drop(&mut self) {
        if !self.is_done() {
            self.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_that_leaves_passes_its_wake_up_on() {
        let (first_count, second_count) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let (first_waker, second_waker) = (
            Waker::from(Arc::clone(&first_count)),
            Waker::from(Arc::clone(&second_count)),
        );
        let other: Arc<Mutex<Option<SharedFuture<u8>>>> = Arc::default();
        let second = Arc::clone(&other);
        let waker = second_waker.clone();
        let mut polls = 0;
        let mut first = SharedFuture::new(std::future::poll_fn(move |context| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(Ok(7));
            }
            // The event happens while the first task polls, and the second task polls before that has ended.
            context.waker().wake_by_ref();
            if let Some(second) = second.lock().unwrap().as_mut() {
                assert!(
                    Pin::new(second)
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
            Poll::Pending
        }));
        *other.lock().unwrap() = Some(first.clone());
        assert!(
            Pin::new(&mut first)
                .poll(&mut Context::from_waker(&first_waker))
                .is_pending()
        );
        assert_eq!(1, first_count.0.load(Ordering::Relaxed));
        assert_eq!(0, second_count.0.load(Ordering::Relaxed));
        drop(first);
        assert_eq!(1, second_count.0.load(Ordering::Relaxed));
        let mut second = other.lock().unwrap().take().unwrap();
        let done = Pin::new(&mut second).poll(&mut Context::from_waker(&second_waker));
        assert!(matches!(done, Poll::Ready(Ok(7))));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_every_task_that_waits() {
        let first: SharedFuture<u8> = SharedFuture::new(async { panic!("odd") });
        let second = first.clone();
        for outcome in [first.await, second.await] {
            assert!(matches!(outcome, Err(Error::Internal { .. })));
        }
    }
}
