//! A bound on how much of something is in use: a semaphore that can be resized. Sole owner of semaphores.

use std::sync::Arc;

use parking_lot::Mutex;
#[expect(
    clippy::disallowed_types,
    reason = "this file is the owner of semaphores"
)]
use tokio::sync::Semaphore;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// What tokio's semaphore can count, and 32 bits.
const MAX_PERMITS: usize = u32::MAX as usize;

/// A bound that can be resized while permits are out.
#[derive(Debug)]
pub(crate) struct Bound {
    #[expect(
        clippy::disallowed_types,
        reason = "this file is the owner of semaphores"
    )]
    semaphore: Arc<Semaphore>,
    state: Mutex<Resizing>,
    resized: Notify,
}

#[derive(Debug)]
struct Resizing {
    size: usize,
    /// Permits that were out when the bound shrank, and vanish when they come back.
    debt: usize,
}

/// Permits of one [`Bound`]; they return when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    bound: Arc<Bound>,
}

impl Bound {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let size = size.clamp(1, MAX_PERMITS);
        let state = Mutex::new(Resizing { size, debt: 0 });
        #[expect(
            clippy::disallowed_types,
            reason = "this file is the owner of semaphores"
        )]
        let semaphore = Arc::new(Semaphore::new(size));
        Arc::new(Self {
            semaphore,
            state,
            resized: Notify::new(),
        })
    }

    pub(crate) fn size(&self) -> usize {
        self.state.lock().size
    }

    /// Takes `count` permits, or all there can be where that is fewer.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue, never a permit.
    pub(crate) async fn take(self: &Arc<Self>, count: usize) -> Permit {
        // Nobody is overtaken: while somebody waits, what is free is set aside for them.
        if let Some(permit) = self.try_take(count) {
            return permit;
        }
        loop {
            let resized = self.resized.notified();
            let wanted = u32::try_from(count.clamp(1, self.settle())).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                permit = Arc::clone(&self.semaphore).acquire_many_owned(wanted) => {
                    return Permit { permit: permit.ok(), bound: Arc::clone(self) };
                }
                // A smaller bound may not be able to give what was asked for; a larger one can give more.
                () = resized => {}
            }
        }
    }

    /// As [`Bound::take`], but gives `None` where the permits are not free now.
    pub(crate) fn try_take(self: &Arc<Self>, count: usize) -> Option<Permit> {
        let wanted = u32::try_from(count.clamp(1, self.settle())).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.semaphore)
            .try_acquire_many_owned(wanted)
            .ok()?;
        Some(Permit {
            permit: Some(permit),
            bound: Arc::clone(self),
        })
    }

    /// Pays debt from what is free, and gives the size. There can be both: permits that were set aside
    /// for a wait come back when it is given up, without being a [`Permit`].
    fn settle(&self) -> usize {
        let mut state = self.state.lock();
        if state.debt > 0 {
            state.debt -= self.semaphore.forget_permits(state.debt);
        }
        state.size
    }

    /// Changes the size; permits that are out stay valid, and none is ever lost.
    pub(crate) fn resize(&self, size: usize) {
        let size = size.clamp(1, MAX_PERMITS);
        let mut state = self.state.lock();
        if size == state.size {
            return;
        }
        if size > state.size {
            let grown = size - state.size;
            let repaid = grown.min(state.debt);
            state.debt -= repaid;
            self.semaphore.add_permits(grown - repaid);
        } else {
            let shrunk = state.size - size;
            state.debt += shrunk - self.semaphore.forget_permits(shrunk);
        }
        state.size = size;
        drop(state);
        self.resized.notify_waiters();
    }

    /// Permits that are out.
    pub(crate) fn held(&self) -> usize {
        let state = self.state.lock();
        (state.size + state.debt).saturating_sub(self.semaphore.available_permits())
    }

    #[cfg(test)]
    fn free(&self) -> usize {
        self.semaphore.available_permits()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(mut permit) = self.permit.take() else {
            return;
        };
        let mut state = self.bound.state.lock();
        let owed = state.debt.min(permit.num_permits());
        if let Some(paid) = permit.split(owed) {
            paid.forget();
            state.debt -= owed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;

    #[tokio::test]
    async fn permits_return_after_any_sequence_of_resizes() {
        // Every sequence of five operations out of take, drop, and three sizes.
        for sequence in 0..5_usize.pow(5) {
            let bound = Bound::new(2);
            let mut held = Vec::new();
            for step in 0..5 {
                match sequence / 5_usize.pow(step) % 5 {
                    0 => held.extend(bound.try_take(1)),
                    1 => drop(held.pop()),
                    size => bound.resize(size - 1),
                }
            }
            let size = bound.size();
            assert_eq!(held.len(), bound.held(), "sequence {sequence}");
            held.clear();
            assert_eq!(size, bound.free(), "sequence {sequence}");
        }
    }

    #[tokio::test]
    async fn a_want_beyond_the_bound_is_clamped_also_while_it_waits() {
        let bound = Bound::new(4);
        let first = bound.take(3).await;
        let large = bound.take(100);
        tokio::pin!(large);
        assert!(poll!(&mut large).is_pending());
        bound.resize(2);
        assert!(poll!(&mut large).is_pending());
        drop(first);
        assert!(poll!(&mut large).is_ready());
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_no_permit() {
        let bound = Bound::new(1);
        let held = bound.take(1).await;
        {
            let wait = bound.take(1);
            tokio::pin!(wait);
            assert!(poll!(&mut wait).is_pending());
        }
        drop(held);
        assert_eq!(1, bound.free());
    }

    #[tokio::test]
    async fn waiters_are_served_in_turn() {
        let bound = Bound::new(1);
        let held = bound.take(1).await;
        let (first, second) = (bound.take(1), bound.take(1));
        tokio::pin!(first, second);
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());
        drop(held);
        assert!(poll!(&mut second).is_pending());
        let permit = first.await;
        assert!(poll!(&mut second).is_pending());
        drop(permit);
        assert!(poll!(&mut second).is_ready());
    }
}
