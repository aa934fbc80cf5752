//! A gate: lets users in until it is closed, and tells when the last of them has left.

use super::sync::{AtomicUsize, Notify, Ordering};

/// Lets users in until it is closed.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Users inside, times two, plus one once closed.
    state: AtomicUsize,
    idle: Notify,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    /// Counts one more user, who must [leave](Self::leave); `false` once closed.
    pub(crate) fn enter(&self) -> bool {
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & 1 == 0).then_some(state + 2)
            })
            .is_ok()
    }

    /// What the user did happens before [`Self::closed`] returns.
    pub(crate) fn leave(&self) {
        if self.state.fetch_sub(2, Ordering::AcqRel) == 3 {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & 1 == 1
    }

    /// Lets nobody else in.
    pub(crate) fn close(&self) {
        self.state.fetch_or(1, Ordering::AcqRel);
    }

    /// Closes, and waits until nobody is inside.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn closed(&self) {
        self.close();
        loop {
            let idle = self.idle.notified();
            if self.state.load(Ordering::Acquire) == 1 {
                return;
            }
            idle.await;
        }
    }
}
