//! A future that several tasks wait for: it goes on while one of them is left, and is dropped with the last.
//!
//! `Shared` of futures wakes all who wait, but only one of them polls; the others rely on that one. If it
//! is dropped between its wake-up and its poll, as a cancelled task is, nobody polls any more. So whoever
//! leaves before the end wakes the others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Notify;

/// One task's hold on the future.
#[derive(Debug, Clone)]
pub(crate) struct Common<T: Clone> {
    future: Shared<BoxFuture<'static, T>>,
    left: Arc<Notify>,
}

/// The way to the future for those who come later; it does not keep it going.
#[derive(Debug)]
pub(crate) struct WeakCommon<T: Clone> {
    future: Option<WeakShared<BoxFuture<'static, T>>>,
    left: Arc<Notify>,
}

impl<T: Clone + Send + Sync + 'static> Common<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        let left = Arc::new(Notify::new());
        let heard = Arc::clone(&left);
        let future = async move {
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    () = heard.notified() => {}
                }
            }
        };
        Self {
            future: future.boxed().shared(),
            left,
        }
    }

    pub(crate) fn downgrade(&self) -> WeakCommon<T> {
        WeakCommon {
            future: self.future.downgrade(),
            left: Arc::clone(&self.left),
        }
    }
}

impl<T: Clone> Common<T> {
    pub(crate) fn is_done(&self) -> bool {
        self.future.peek().is_some()
    }
}

impl<T: Clone> WeakCommon<T> {
    pub(crate) fn upgrade(&self) -> Option<Common<T>> {
        Some(Common {
            future: self.future.as_ref()?.upgrade()?,
            left: Arc::clone(&self.left),
        })
    }
}

impl<T: Clone> Future for Common<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.future.poll_unpin(context)
    }
}

impl<T: Clone> Drop for Common<T> {
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
    fn whoever_leaves_with_a_wake_up_passes_it_on() {
        let (first_count, second_count) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let (first_waker, second_waker) = (
            Waker::from(Arc::clone(&first_count)),
            Waker::from(Arc::clone(&second_count)),
        );
        let other: Arc<Mutex<Option<Common<u8>>>> = Arc::default();
        let second = Arc::clone(&other);
        let waker = second_waker.clone();
        let mut polls = 0;
        let mut first = Common::new(std::future::poll_fn(move |context| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(7);
            }
            // What is waited for happens while the first polls, and the second comes before that has ended.
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
        assert_eq!(Poll::Ready(7), done);
    }
}
