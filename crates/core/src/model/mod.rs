//! Model checks of what the engine's concurrency stands on: every schedule of a few small tasks.
//!
//! [`explore`] runs a scenario once for each order in which its tasks can be polled, and for each point at
//! which one that may be cancelled is dropped. A task is polled only after it was woken, so a lost wake-up
//! ends in a state where tasks are left and none is awake: that fails. This is exhaustive for what happens
//! between two polls, on one thread. Inside of a poll, the engine relies on tokio, futures and `parking_lot`.
//! The gate has atomics of its own: loom runs it under every interleaving of those, in `crates/core/loom`.

#![expect(clippy::future_not_send, reason = "a schedule runs on one thread")]

mod bound;
mod locks;
mod shared_future;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A scenario with more schedules than this is too large to be checked with all other tests.
const MOST_RUNS: usize = 2_000_000;

/// One task of a scenario.
pub(super) struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    /// Whether it may be dropped before its end.
    cancellable: bool,
    wakes: Arc<Wakes>,
}

/// The choices that lead through one run.
#[derive(Debug, Default)]
struct Path {
    /// What was chosen at each step, out of how many.
    steps: Vec<(usize, usize)>,
    at: usize,
}

struct Wakes(AtomicBool);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A task that runs to its end.
pub(super) fn task(future: impl Future<Output = ()> + 'static) -> Task {
    Task {
        future: Box::pin(future),
        cancellable: false,
        wakes: Arc::new(Wakes(AtomicBool::new(true))),
    }
}

/// A task that may be dropped at any time.
pub(super) fn cancellable(future: impl Future<Output = ()> + 'static) -> Task {
    Task {
        cancellable: true,
        ..task(future)
    }
}

/// Lets other tasks go on before this one does.
pub(super) async fn step() {
    let mut polled = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs a scenario under every schedule; `scenario` makes its tasks, and what is checked at the end.
pub(super) fn explore<C: FnOnce()>(scenario: impl Fn() -> (Vec<Task>, C)) {
    let mut path = Path::default();
    for run in 1_usize.. {
        assert!(run <= MOST_RUNS, "too many schedules");
        path.at = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (tasks, check) = scenario();
            path.run(tasks);
            check();
        }));
        if let Err(panic) = outcome {
            let schedule: Vec<usize> = path.steps.iter().map(|(chosen, _)| *chosen).collect();
            println!("run {run}, schedule {schedule:?}");
            resume_unwind(panic);
        }
        if !path.advance() {
            println!("{run} schedules");
            return;
        }
    }
}

impl Path {
    fn run(&mut self, tasks: Vec<Task>) {
        let mut tasks: Vec<Option<Task>> = tasks.into_iter().map(Some).collect();
        loop {
            let left = || {
                tasks
                    .iter()
                    .enumerate()
                    .filter_map(|(at, task)| Some((at, task.as_ref()?)))
            };
            let awake: Vec<usize> = left()
                .filter(|(_, task)| task.wakes.0.load(Ordering::SeqCst))
                .map(|(at, _)| at)
                .collect();
            if awake.is_empty() {
                let stuck: Vec<usize> = left().map(|(at, _)| at).collect();
                assert!(
                    stuck.is_empty(),
                    "tasks {stuck:?} wait and nothing wakes them"
                );
                return;
            }
            let droppable: Vec<usize> = left()
                .filter(|(_, task)| task.cancellable)
                .map(|(at, _)| at)
                .collect();
            let chosen = self.choose(awake.len() + droppable.len());
            if let Some(at) = awake.get(chosen) {
                if tasks[*at].as_mut().is_some_and(Task::poll) {
                    tasks[*at] = None;
                }
            } else {
                tasks[droppable[chosen - awake.len()]] = None;
            }
        }
    }

    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.steps.len() {
            self.steps.push((0, of));
        }
        let (chosen, before) = self.steps[self.at];
        assert_eq!(before, of, "a scenario must do the same each time");
        self.at += 1;
        chosen
    }

    /// Goes to the next path in order; `false` after the last.
    fn advance(&mut self) -> bool {
        while let Some((chosen, of)) = self.steps.pop() {
            if chosen + 1 < of {
                self.steps.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

impl Task {
    /// Tells whether it has ended.
    fn poll(&mut self) -> bool {
        self.wakes.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    }
}

#[test]
fn every_order_is_run_once() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    explore(|| {
        let order = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
        let writer = |letter| {
            let order = std::rc::Rc::clone(&order);
            task(async move {
                order.borrow_mut().push(letter);
                step().await;
                order.borrow_mut().push(letter);
            })
        };
        let tasks = vec![writer('a'), writer('b')];
        let seen = std::rc::Rc::clone(&seen);
        (tasks, move || {
            seen.borrow_mut().push(order.borrow().clone());
        })
    });
    let all = ["aabb", "abab", "abba", "baab", "baba", "bbaa"];
    assert_eq!(all.as_slice(), seen.borrow().as_slice());
}

#[test]
#[should_panic(expected = "nothing wakes them")]
fn a_lost_wake_up_is_found() {
    explore(|| (vec![task(std::future::pending())], || {}));
}
