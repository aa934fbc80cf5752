//! Admission: the process-wide bounds and the permits drawn from them. Sole owner of semaphores.
//!
//! A unit takes what it needs in one order, always: chunk, local slot, bytes, request, CPU. Nothing takes
//! bytes while it holds bytes, or a request while it holds one, and who holds a request or the CPU waits
//! for nothing before it; so no two units can wait for each other. A write takes its request twice, for
//! the get and for the put, and gives it back in between. The queues are first
//! come, first served, and a batch stands in them with one ticket at a time (its dispatcher waits until
//! one unit is admitted before it sends the next): that is round robin between batches, so a small read
//! is never behind all of a huge one. The CPU queue comes after the fetch, where a batch has many units
//! at once; a *lane* of each batch's own keeps it to a few tickets there.

use std::sync::Arc;

use parking_lot::Mutex;
#[expect(
    clippy::disallowed_types,
    reason = "this file is the owner of semaphores"
)]
use tokio::sync::Semaphore;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::pace::Pace;

/// Bytes of one permit of the byte budget: permits are counted in 32 bits.
const GRAIN: u64 = 1024;

/// More than the widest byte budget needs, and within what tokio's semaphore can count.
const MOST_PERMITS: usize = u32::MAX as usize;

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
        let size = size.clamp(1, MOST_PERMITS);
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
        loop {
            let resized = self.resized.notified();
            let wanted = u32::try_from(count.clamp(1, self.size())).unwrap_or(u32::MAX);
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

    /// Takes one permit if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Permit {
            permit: Some(permit),
            bound: Arc::clone(self),
        })
    }

    /// Changes the size; permits that are out stay valid, and none is ever lost.
    pub(crate) fn resize(&self, size: usize) {
        let size = size.clamp(1, MOST_PERMITS);
        let mut state = self.state.lock();
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

/// The process-wide bounds.
#[derive(Debug)]
pub(crate) struct Admission {
    bytes: Arc<Bound>,
    pub(crate) pace: Arc<Pace>,
    /// Local units that hold bytes: few, since only those that run use them.
    local: Arc<Bound>,
    cpu: Arc<Bound>,
}

/// What one unit holds while it is under way.
#[derive(Debug)]
pub(crate) struct Permits {
    _chunk: Option<Permit>,
    _local: Option<Permit>,
    _bytes: Permit,
    request: Option<Permit>,
}

/// What one CPU job holds.
#[derive(Debug)]
pub(crate) struct CpuPermit {
    _lane: Permit,
    _cpu: Permit,
}

impl Admission {
    pub(crate) fn new(bytes: u64, requests: Option<usize>, threads: usize) -> Self {
        Self {
            bytes: Bound::new(grains(bytes)),
            pace: Pace::new(requests),
            local: Bound::new(local_permits(threads)),
            cpu: Bound::new(cpu_permits(threads)),
        }
    }

    pub(crate) fn resize(&self, bytes: u64, requests: Option<usize>, threads: usize) {
        self.bytes.resize(grains(bytes));
        self.pace.set(requests);
        self.local.resize(local_permits(threads));
        self.cpu.resize(cpu_permits(threads));
    }

    pub(crate) fn requests(&self) -> &Arc<Bound> {
        self.pace.bound()
    }

    pub(crate) fn byte_budget(&self) -> u64 {
        self.bytes.size() as u64 * GRAIN
    }

    /// Waits for the right to hold `bytes` in memory and to have one more request in flight.
    pub(crate) async fn admit(&self, chunks: Option<&Arc<Bound>>, bytes: u64) -> Permits {
        let chunk = take_chunk(chunks).await;
        let bytes = self.bytes.take(grains(bytes)).await;
        Permits {
            _chunk: chunk,
            _local: None,
            _bytes: bytes,
            request: Some(self.requests().take(1).await),
        }
    }

    /// Waits for the right of a local unit to hold `bytes` in memory.
    pub(crate) async fn admit_local(&self, chunks: Option<&Arc<Bound>>, bytes: u64) -> Permits {
        Permits {
            _chunk: take_chunk(chunks).await,
            _local: Some(self.local.take(1).await),
            _bytes: self.bytes.take(grains(bytes)).await,
            request: None,
        }
    }

    /// Waits for the right to run one CPU job.
    pub(crate) async fn cpu(&self, lane: &Arc<Bound>) -> CpuPermit {
        let lane = lane.take(1).await;
        CpuPermit {
            _lane: lane,
            _cpu: self.cpu.take(1).await,
        }
    }

    /// A batch's own lane to the CPU queue.
    pub(crate) fn lane(&self) -> Arc<Bound> {
        Bound::new(self.cpu.size())
    }
}

impl Permits {
    /// Gives the request back: its body is complete.
    pub(crate) fn release_request(&mut self) {
        drop(self.request.take());
    }

    /// Waits for a request once more; whoever holds a request waits for nothing that we hold.
    pub(crate) async fn take_request(&mut self, admission: &Admission) {
        self.request = Some(admission.requests().take(1).await);
    }
}

async fn take_chunk(chunks: Option<&Arc<Bound>>) -> Option<Permit> {
    match chunks {
        Some(chunks) => Some(chunks.take(1).await),
        None => None,
    }
}

/// As many again wait for a CPU as run.
const fn local_permits(threads: usize) -> usize {
    2 * cpu_permits(threads)
}

/// One more than threads, so that none is idle while the next job is on its way.
const fn cpu_permits(threads: usize) -> usize {
    threads + 1
}

fn grains(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(GRAIN))
        .unwrap_or(usize::MAX)
        .clamp(1, u32::MAX as usize)
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
                    0 => held.extend(bound.try_take()),
                    1 => drop(held.pop()),
                    size => bound.resize(size - 1),
                }
            }
            let size = bound.size();
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
    async fn local_units_that_wait_leave_bytes_to_others() {
        let admission = Admission::new(64 * GRAIN, None, 1);
        let mut held = Vec::new();
        for _ in 0..local_permits(1) {
            held.push(admission.admit_local(None, GRAIN).await);
        }
        let next = admission.admit_local(None, GRAIN);
        tokio::pin!(next);
        assert!(poll!(&mut next).is_pending());
        let remote = admission.admit(None, GRAIN);
        tokio::pin!(remote);
        assert!(poll!(&mut remote).is_ready());
        held.pop();
        assert!(poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn tickets_are_served_in_turn() {
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
