//! Model check of the engine's gate: once it has closed nobody uses what is behind it, and nobody waits for ever.
//!
//! Its file is compiled once more here, with loom's atomics. Loom runs every interleaving of them, with all
//! that their orderings allow, and finds an access to the memory behind the gate that is not ordered.
//! A package of its own, since loom would otherwise change what the engine's tests are built with.

#![cfg(test)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use self::gate::Gate;

#[path = "../../src/copy/gate.rs"]
mod gate;

/// Stands in for `crate::sync`.
mod sync {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};

    /// As tokio's, as far as the gate needs it: `notify_waiters` ends every wait that has begun, and one
    /// begins when `notified` is called, not when it is polled.
    #[derive(Debug)]
    pub(super) struct Notify {
        calls: AtomicUsize,
        waiters: Mutex<Vec<Waker>>,
    }

    pub(super) struct Notified<'a> {
        notify: &'a Notify,
        began: usize,
    }

    impl Notify {
        pub(super) fn new() -> Self {
            Self {
                calls: AtomicUsize::new(0),
                waiters: Mutex::new(Vec::new()),
            }
        }

        pub(super) fn notified(&self) -> Notified<'_> {
            Notified {
                notify: self,
                began: self.calls.load(Ordering::SeqCst),
            }
        }

        pub(super) fn notify_waiters(&self) {
            let mut waiters = self.waiters.lock().unwrap();
            self.calls.fetch_add(1, Ordering::SeqCst);
            let woken = std::mem::take(&mut *waiters);
            drop(waiters);
            woken.into_iter().for_each(Waker::wake);
        }
    }

    impl Future for Notified<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let mut waiters = self.notify.waiters.lock().unwrap();
            if self.notify.calls.load(Ordering::SeqCst) != self.began {
                return Poll::Ready(());
            }
            waiters.push(context.waker().clone());
            Poll::Pending
        }
    }
}

/// Runs every interleaving with at most two preemptions; more take minutes.
fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(check);
}

/// The gate, and memory that may be used by who is inside.
struct Guarded {
    gate: Gate,
    memory: [UnsafeCell<u8>; 2],
}

// SAFETY: loom tells whether each access to the cells is ordered after the one before.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            memory: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    /// Uses one part of the memory, if the gate is open.
    fn pass(&self, part: usize) {
        if self.gate.enter() {
            self.memory[part].with_mut(|_| {});
            self.gate.leave();
        }
    }

    /// Closes the gate, then uses all of the memory.
    fn close(&self) {
        loom::future::block_on(self.gate.closed());
        assert!(self.gate.is_closed());
        assert!(!self.gate.enter());
        for cell in &self.memory {
            cell.with_mut(|_| {});
        }
    }
}

#[test]
fn nobody_is_inside_once_closed_has_returned() {
    model(|| {
        let guarded = Guarded::new();
        let users: Vec<_> = (0..2)
            .map(|part| {
                let guarded = Arc::clone(&guarded);
                thread::spawn(move || guarded.pass(part))
            })
            .collect();
        guarded.close();
        for user in users {
            user.join().unwrap();
        }
    });
}

#[test]
fn a_user_that_comes_twice_and_an_early_close_change_nothing() {
    model(|| {
        let guarded = Guarded::new();
        let user = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || {
                guarded.pass(0);
                guarded.pass(0);
            })
        };
        let closer = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || guarded.gate.close())
        };
        guarded.close();
        user.join().unwrap();
        closer.join().unwrap();
    });
}

#[test]
fn each_of_two_that_wait_is_woken() {
    model(|| {
        let guarded = Guarded::new();
        assert!(guarded.gate.enter());
        let waiter = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || loom::future::block_on(guarded.gate.closed()))
        };
        let user = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || guarded.gate.leave())
        };
        loom::future::block_on(guarded.gate.closed());
        waiter.join().unwrap();
        user.join().unwrap();
    });
}
