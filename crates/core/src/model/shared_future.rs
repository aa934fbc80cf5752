//! A shared future gives its result to every task that is left, and is dropped with the last.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{cancellable, explore, step, task};
use crate::share::shared_future::{Driver, SharedFuture};

/// Work that waits for as many events, and counts when it is dropped.
#[expect(
    clippy::disallowed_types,
    reason = "events that nobody misses, not permits"
)]
fn work(
    events: usize,
) -> (
    SharedFuture<u8>,
    Driver<u8>,
    Arc<tokio::sync::Semaphore>,
    Arc<AtomicUsize>,
) {
    let source = Arc::new(tokio::sync::Semaphore::new(0));
    let dropped = Arc::new(AtomicUsize::new(0));
    let guard = Dropped(Arc::clone(&dropped));
    let heard = Arc::clone(&source);
    let (work, driver) = SharedFuture::new(async move {
        let _guard = guard;
        for _ in 0..events {
            if let Ok(event) = heard.acquire().await {
                event.forget();
            }
        }
        Ok(7)
    });
    (work, driver, source, dropped)
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn whoever_is_left_gets_the_result_however_others_leave() {
    explore(|| {
        let (work, driver, events, dropped) = work(2);
        let done: Rc<Cell<usize>> = Rc::default();
        let waiter = |work: SharedFuture<u8>| {
            let done = Rc::clone(&done);
            async move {
                assert!(matches!(work.await, Ok(7)));
                done.set(done.get() + 1);
            }
        };
        let tasks = vec![
            cancellable(waiter(work.clone())),
            cancellable(waiter(work.clone())),
            task(waiter(work)),
            task(driver),
            task(async move {
                events.add_permits(1);
                step().await;
                events.add_permits(1);
            }),
        ];
        let check = move || {
            assert!(done.get() >= 1);
            assert_eq!(1, dropped.load(Ordering::SeqCst));
        };
        (tasks, check)
    });
}

#[test]
fn work_that_nobody_wants_is_dropped_and_none_comes_too_late() {
    explore(|| {
        let (work, driver, events, dropped) = work(1);
        let weak = work.downgrade();
        let seen = Arc::clone(&dropped);
        let late = async move {
            match weak.upgrade() {
                Some(work) => assert!(matches!(work.await, Ok(7))),
                // Ended, or left by all.
                None => assert_eq!(1, seen.load(Ordering::SeqCst)),
            }
        };
        let tasks = vec![
            cancellable(async move {
                work.await.ok();
            }),
            cancellable(late),
            task(driver),
            task(async move { events.add_permits(1) }),
        ];
        (tasks, move || {
            assert_eq!(1, dropped.load(Ordering::SeqCst));
        })
    });
}
