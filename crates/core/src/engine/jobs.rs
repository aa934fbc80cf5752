//! The CPU jobs of one batch: which local files make one job, and how a job gets a thread.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Array, Batch};
use crate::chunk::decode::Work;
use crate::engine::Engine;
use crate::limits::bound::Bound;
use crate::limits::permits::CpuPermit;
use crate::limits::pool::Pool;

/// Jobs of at most this many decoded bytes run where their body arrived: they take some ten microseconds,
/// and to wake a thread of the pool takes as long.
const INLINE_BYTES: usize = 16 << 10;

/// Decoded bytes that one job of small local chunks takes on at most: enough that the job's own cost is
/// small, few enough that other batches get their turn soon.
const MAX_JOB_BYTES: usize = 1 << 20;
/// Lower bound for the bytes of a job, used when a batch has many small chunks.
const MIN_JOB_BYTES: usize = 128 << 10;
/// Chunks that one job takes on at most: with tiny chunks, opening the files is what takes time.
const MAX_JOB_CHUNKS: usize = 32;

/// Groups the items of a batch into jobs of about one size, as many for each of `threads`.
pub(crate) fn files(batch: &Batch, threads: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let items = batch.items.iter();
    let touched = items.map(|item| item.touched_bytes(&batch.array.layout));
    let touched: Vec<usize> = touched.collect();
    let total = touched.iter().copied().fold(0, usize::saturating_add);
    let jobs = total
        .div_ceil(MAX_JOB_BYTES)
        .max(1)
        .next_multiple_of(threads.max(1));
    let enough = total.div_ceil(jobs).max(MIN_JOB_BYTES);
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let mut nbytes = 0;
        while next < touched.len() && next - first < MAX_JOB_CHUNKS && nbytes < enough {
            nbytes += touched[next];
            next += 1;
        }
        (first < next).then_some(first..next)
    })
}

/// Runs the CPU jobs of one batch.
#[derive(Clone)]
pub(crate) struct Jobs {
    pub engine: Arc<Engine>,
    /// Bound on the jobs of the batch that wait for the CPU or have it.
    cpu: Arc<Bound>,
    /// Whether one shard may use several threads.
    spread: bool,
    /// Whether the jobs may wait, as they do with foreign codecs.
    foreign: bool,
}

impl Jobs {
    pub(crate) fn new(engine: &Arc<Engine>, batch: &Batch) -> Self {
        Self {
            engine: Arc::clone(engine),
            cpu: engine.admission.cpu_of_batch(),
            spread: engine.spread(&batch.array, batch.items.len()),
            foreign: batch.array.layout.is_foreign() || batch.buffer.may_wait(),
        }
    }

    /// Waits for the right to run one job.
    pub(crate) async fn cpu(&self) -> CpuPermit {
        self.engine.admission.cpu(&self.cpu, self.foreign).await
    }

    /// The threads that run the jobs.
    pub(crate) fn pool(&self) -> Arc<Pool> {
        if self.foreign {
            self.engine.foreign_pool()
        } else {
            self.engine.pool()
        }
    }

    /// What a job on chunks of this array needs besides data.
    pub(crate) fn work(&self, array: &Array) -> Work<'_> {
        Work {
            options: array.options(),
            stats: &self.engine.stats,
            parallel: self.spread,
            keep: None,
        }
    }

    /// Runs a job that decodes `nbytes`, and drops the permits after it.
    pub(crate) async fn decode(
        self,
        permits: impl Send + 'static,
        nbytes: usize,
        job: impl FnOnce(&Self) + Send + 'static,
    ) {
        if nbytes <= INLINE_BYTES && !self.foreign {
            job(&self);
            return;
        }
        let cpu = self.cpu().await;
        let pool = self.pool();
        let job = move || {
            job(&self);
            drop((permits, cpu));
            Ok(())
        };
        // The job has noted its outcome with every waiter.
        pool.run(job).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::buffer::OutBuffer;
    use crate::testing::{array, bytes, chunks, nowhere};

    #[test]
    fn each_thread_gets_as_many_jobs_of_small_files() {
        let small = |count: usize, len: u64| {
            let array = array(nowhere(), &bytes());
            let buffer = Arc::new(OutBuffer::empty());
            files(&chunks(&array, len, &vec!["a"; count], &buffer), 2).collect::<Vec<_>>()
        };
        assert_eq!(Vec::<Range<usize>>::new(), small(0, 1));
        assert_eq!(vec![0..1], small(1, 10));
        // Opening the files is what takes time.
        assert_eq!(vec![0..32, 32..64, 64..65], small(65, 10));
        // 1.5 MiB for two threads.
        assert_eq!(vec![0..12, 12..24], small(24, 64 << 10));
        // A chunk larger than a job is a job.
        assert_eq!(vec![0..1, 1..2], small(2, 4 << 20));
    }
}
