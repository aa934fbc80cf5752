//! Admission: the process-wide bounds and the permits drawn from them.
//!
//! A unit takes what it needs in one order, always: chunk, local slot, bytes, request, CPU. Nothing takes
//! bytes while it holds bytes, or a request while it holds one, and a unit that holds a request or the CPU
//! waits for nothing before it; so no two units can wait for each other. A write takes its request twice,
//! for the get and for the put, and gives it back in between. The queues are first come, first served, and
//! a batch stands in them with one unit at a time (see `turn`). The CPU queue comes after the fetch, where
//! a batch has many units at once; a bound of the batch's own keeps it to a few places there.
//!
//! A unit of a foreign store waits for Python code, and that code may call the engine again. So foreign
//! stores draw from bounds of their own, one pair for each event loop, and a batch of theirs of which no
//! unit runs is admitted whatever the bounds say: what a store's own code reads makes progress.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::adaptive::AdaptiveBound;
use crate::limits::bound::{Bound, Permit};

/// Bytes of one permit of the byte budget: permits are counted in 32 bits.
const GRAIN: u64 = 1024;

/// Bytes in memory and requests in flight, for units that are awaited.
#[derive(Debug)]
pub(crate) struct Bounds {
    bytes: Arc<Bound>,
    requests: Arc<Bound>,
}

impl Bounds {
    pub(crate) const fn requests(&self) -> &Arc<Bound> {
        &self.requests
    }

    /// Bytes that may be in memory in all.
    pub(crate) fn byte_budget(&self) -> u64 {
        self.bytes.size() as u64 * GRAIN
    }

    async fn take(&self, bytes: u64) -> (Permit, Permit) {
        let bytes = self.bytes.take(grains(bytes)).await;
        (bytes, self.requests.take(1).await)
    }
}

/// The units of one batch that run.
#[derive(Debug, Default)]
pub(crate) struct Running {
    count: AtomicUsize,
    idle: Notify,
}

/// Counts as one running unit until dropped.
#[derive(Debug)]
struct RunningUnit(Arc<Running>);

impl Running {
    /// Waits until no unit of the batch runs.
    async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl RunningUnit {
    fn new(running: &Arc<Running>) -> Self {
        running.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(running))
    }
}

impl Drop for RunningUnit {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The process-wide bounds.
#[derive(Debug)]
pub(crate) struct Admission {
    native: Arc<Bounds>,
    /// By scope: foreign stores of one event loop.
    foreign: Mutex<HashMap<u64, Weak<Bounds>>>,
    pub(crate) adaptive: Arc<AdaptiveBound>,
    /// Local units that hold bytes: few, since only those that run use them.
    local: Arc<Bound>,
    cpu: Arc<Bound>,
    /// Jobs with foreign codecs, whose code may call the engine again.
    foreign_cpu: Arc<Bound>,
}

/// What one unit holds while it runs.
#[derive(Debug)]
pub(crate) struct Permits {
    _chunk: Option<Permit>,
    _local: Option<Permit>,
    _bytes: Option<Permit>,
    request: Option<Permit>,
    /// Set for a unit of a foreign store.
    foreign: Option<RunningUnit>,
}

/// What one CPU job holds.
#[derive(Debug)]
pub(crate) struct CpuPermit {
    _of_batch: Permit,
    _cpu: Permit,
}

impl Admission {
    pub(crate) fn new(bytes: u64, requests: Option<usize>, threads: usize) -> Self {
        let adaptive = AdaptiveBound::new(requests);
        Self {
            native: Arc::new(Bounds {
                bytes: Bound::new(grains(bytes)),
                requests: Arc::clone(adaptive.bound()),
            }),
            foreign: Mutex::default(),
            adaptive,
            local: Bound::new(local_permits(threads)),
            cpu: Bound::new(cpu_permits(threads)),
            foreign_cpu: Bound::new(cpu_permits(threads)),
        }
    }

    pub(crate) fn resize(&self, bytes: u64, requests: Option<usize>, threads: usize) {
        self.native.bytes.resize(grains(bytes));
        self.adaptive.set(requests);
        self.local.resize(local_permits(threads));
        self.cpu.resize(cpu_permits(threads));
        self.foreign_cpu.resize(cpu_permits(threads));
        for bounds in self.foreign.lock().values().filter_map(Weak::upgrade) {
            bounds.bytes.resize(grains(bytes));
            bounds.requests.resize(self.native.requests.size());
        }
    }

    /// The bounds that units draw from: those of native stores, or of foreign ones in this scope.
    pub(crate) fn bounds(&self, foreign_scope: Option<u64>) -> Arc<Bounds> {
        let Some(scope) = foreign_scope else {
            return Arc::clone(&self.native);
        };
        let mut foreign = self.foreign.lock();
        if let Some(bounds) = foreign.get(&scope).and_then(Weak::upgrade) {
            return bounds;
        }
        foreign.retain(|_, bounds| bounds.strong_count() > 0);
        let bounds = Arc::new(Bounds {
            bytes: Bound::new(self.native.bytes.size()),
            requests: Bound::new(self.native.requests.size()),
        });
        foreign.insert(scope, Arc::downgrade(&bounds));
        bounds
    }

    /// Waits for the right to hold `bytes` in memory and to have one more request in flight.
    ///
    /// A batch of a foreign store says which of its units run: where none does, this one need not wait.
    pub(crate) async fn admit(
        bounds: &Bounds,
        chunks: Option<&Arc<Bound>>,
        foreign: Option<&Arc<Running>>,
        bytes: u64,
    ) -> Permits {
        let chunk = take_chunk(chunks).await;
        let idle = async {
            match foreign {
                Some(running) => running.idle().await,
                None => std::future::pending().await,
            }
        };
        let taken = tokio::select! {
            biased;
            taken = bounds.take(bytes) => Some(taken),
            () = idle => None,
        };
        let (bytes, request) = taken.unzip();
        Permits {
            _chunk: chunk,
            _local: None,
            _bytes: bytes,
            request,
            foreign: foreign.map(RunningUnit::new),
        }
    }

    /// Waits for the right of a local unit to hold `bytes` in memory.
    pub(crate) async fn admit_local(&self, chunks: Option<&Arc<Bound>>, bytes: u64) -> Permits {
        Permits {
            _chunk: take_chunk(chunks).await,
            _local: Some(self.local.take(1).await),
            _bytes: Some(self.native.bytes.take(grains(bytes)).await),
            request: None,
            foreign: None,
        }
    }

    /// Waits for the right to run one CPU job, with `foreign` codecs or without.
    pub(crate) async fn cpu(&self, of_batch: &Arc<Bound>, foreign: bool) -> CpuPermit {
        let of_batch = of_batch.take(1).await;
        let of_all = if foreign {
            &self.foreign_cpu
        } else {
            &self.cpu
        };
        CpuPermit {
            _of_batch: of_batch,
            _cpu: of_all.take(1).await,
        }
    }

    /// Permits of each kind that are out; those for bytes are counted in KiB.
    pub(crate) fn held(&self) -> [(&'static str, usize); 4] {
        let foreign = self.foreign.lock();
        let all = || {
            foreign
                .values()
                .filter_map(Weak::upgrade)
                .chain([Arc::clone(&self.native)])
        };
        [
            ("memory_kib", all().map(|bounds| bounds.bytes.held()).sum()),
            ("requests", all().map(|bounds| bounds.requests.held()).sum()),
            ("local_units", self.local.held()),
            ("cpu_jobs", self.cpu.held() + self.foreign_cpu.held()),
        ]
    }

    /// A bound on the CPU jobs of one batch.
    pub(crate) fn cpu_of_batch(&self) -> Arc<Bound> {
        Bound::new(self.cpu.size())
    }
}

impl Permits {
    /// Gives the request back: its body is complete.
    ///
    /// A unit of a foreign store keeps its request, so that it never waits for one again while Python code
    /// waits for it.
    pub(crate) fn release_request(&mut self) {
        if self.foreign.is_none() {
            drop(self.request.take());
        }
    }

    /// Waits for a request once more; a unit that holds a request waits for nothing that this one holds.
    pub(crate) async fn take_request(&mut self, bounds: &Bounds) {
        if self.foreign.is_none() {
            self.request = Some(bounds.requests.take(1).await);
        }
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
    async fn local_units_that_wait_leave_bytes_to_others() {
        let admission = Admission::new(64 * GRAIN, None, 1);
        let mut held = Vec::new();
        for _ in 0..local_permits(1) {
            held.push(admission.admit_local(None, GRAIN).await);
        }
        let next = admission.admit_local(None, GRAIN);
        tokio::pin!(next);
        assert!(poll!(&mut next).is_pending());
        let remote = Admission::admit(&admission.native, None, None, GRAIN);
        tokio::pin!(remote);
        assert!(poll!(&mut remote).is_ready());
        held.pop();
        assert!(poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn a_foreign_batch_of_which_no_unit_runs_is_admitted_whatever_others_hold() {
        let admission = Admission::new(GRAIN, Some(1), 1);
        let (bounds, running) = (&admission.native, Arc::default());
        let all = Admission::admit(bounds, None, None, GRAIN).await;
        let first = Admission::admit(bounds, None, Some(&running), GRAIN).await;
        let second = Admission::admit(bounds, None, Some(&running), GRAIN);
        tokio::pin!(second);
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
        drop(all);
    }

    #[tokio::test]
    async fn a_foreign_batch_of_which_a_unit_runs_keeps_to_the_bounds() {
        let admission = Admission::new(GRAIN, Some(1), 1);
        let (bounds, running) = (&admission.native, Arc::default());
        let first = Admission::admit(bounds, None, Some(&running), GRAIN).await;
        assert!(first.request.is_some());
        let second = Admission::admit(bounds, None, Some(&running), GRAIN);
        tokio::pin!(second);
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.request.is_some());
    }
}
