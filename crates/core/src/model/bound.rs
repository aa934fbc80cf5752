//! A bound loses and makes no permits, never gives more than there are, and wakes whoever waits.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::{Task, cancellable, explore, step, task};
use crate::limits::bound::Bound;

/// How many permits are out, and how many there may be.
#[derive(Clone)]
struct Watch {
    bound: Arc<Bound>,
    out: Rc<Cell<usize>>,
    /// Whether the bound has shrunk: more may be out then than it gives.
    shrunk: Rc<Cell<bool>>,
}

/// Counts permits as out until dropped.
struct Held(Rc<Cell<usize>>, usize);

impl Watch {
    fn new(size: usize) -> Self {
        Self {
            bound: Bound::new(size),
            out: Rc::default(),
            shrunk: Rc::default(),
        }
    }

    fn held(&self, count: usize) -> Held {
        self.out.set(self.out.get() + count);
        assert!(self.shrunk.get() || self.out.get() <= self.bound.size());
        Held(Rc::clone(&self.out), count)
    }

    /// Takes, holds for a step and gives back. `count` is at most the bound's smallest size.
    fn taker(&self, count: usize) -> impl Future<Output = ()> + 'static {
        let watch = self.clone();
        async move {
            let permit = watch.bound.take(count).await;
            let held = watch.held(count);
            step().await;
            drop(held);
            drop(permit);
        }
    }

    /// Takes more than there may be, which is all there are.
    fn greedy(&self) -> impl Future<Output = ()> + 'static {
        let bound = Arc::clone(&self.bound);
        async move {
            let permit = bound.take(100).await;
            step().await;
            drop(permit);
        }
    }

    fn resizer(&self, sizes: &'static [usize]) -> Task {
        let watch = self.clone();
        task(async move {
            for size in sizes {
                watch
                    .shrunk
                    .set(watch.shrunk.get() || *size < watch.bound.size());
                watch.bound.resize(*size);
                step().await;
            }
        })
    }

    /// After all: as many can be taken as the bound says, no more and no fewer.
    fn check(self) {
        let all: Vec<_> = std::iter::from_fn(|| self.bound.try_take(1)).collect();
        assert_eq!(self.bound.size(), all.len());
        assert_eq!(0, self.out.get());
    }
}

#[test]
fn permits_are_neither_lost_nor_made_by_takers_that_may_be_cancelled() {
    explore(|| {
        let watch = Watch::new(2);
        let tasks = vec![
            cancellable(watch.taker(2)),
            cancellable(watch.taker(1)),
            cancellable(watch.taker(1)),
        ];
        (tasks, || watch.check())
    });
}

#[test]
fn a_bound_that_shrinks_while_some_wait_ends_at_its_size() {
    explore(|| {
        let watch = Watch::new(4);
        let tasks = vec![
            task(watch.taker(1)),
            cancellable(watch.greedy()),
            watch.resizer(&[2]),
            task(watch.taker(2)),
        ];
        (tasks, || watch.check())
    });
}

#[test]
fn a_bound_that_shrinks_and_grows_again_ends_at_its_size() {
    explore(|| {
        let watch = Watch::new(3);
        let tasks = vec![
            task(watch.taker(1)),
            cancellable(watch.taker(1)),
            cancellable(watch.greedy()),
            watch.resizer(&[1, 2]),
        ];
        (tasks, || watch.check())
    });
}

#[test]
fn who_tries_takes_nothing_from_who_waits() {
    explore(|| {
        let watch = Watch::new(1);
        let tries = watch.clone();
        let tasks = vec![
            task(watch.taker(1)),
            cancellable(watch.taker(1)),
            task(async move {
                for _ in 0..2 {
                    let permit = tries.bound.try_take(1);
                    let held = permit.as_ref().map(|_| tries.held(1));
                    step().await;
                    drop((held, permit));
                }
            }),
        ];
        (tasks, || watch.check())
    });
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() - self.1);
    }
}
