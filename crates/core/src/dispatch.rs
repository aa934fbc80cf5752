//! Runs a batch's units: the next sets out when the one before has been admitted.
//!
//! That is what "one ticket per batch" means (see `admit`). All units of a batch are polled by the
//! batch's own task, so dropping the batch drops them.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;

/// Decoded bytes that one job of small local chunks takes on at most: enough that the job's own cost is
/// nothing, few enough that other batches get their turn soon.
const JOB_BYTES: usize = 1 << 20;
/// And at least, where there are so many.
const LEAST_JOB_BYTES: usize = 128 << 10;
/// Chunks that it takes on at most: of tiny ones, opening the files is what takes time.
const JOB_CHUNKS: usize = 32;

/// How small local chunks are put together into jobs: each thread gets as many, of about one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jobs {
    nbytes: usize,
}

impl Jobs {
    /// For chunks of so many decoded bytes in all.
    pub(crate) fn new(nbytes: usize, threads: usize) -> Self {
        let threads = threads.max(1);
        let jobs = nbytes.div_ceil(JOB_BYTES).max(1).next_multiple_of(threads);
        Self {
            nbytes: nbytes.div_ceil(jobs).max(LEAST_JOB_BYTES),
        }
    }

    /// Whether a job of so many chunks takes on one more.
    pub(crate) const fn has_room(self, chunks: usize, nbytes: usize) -> bool {
        chunks < JOB_CHUNKS && nbytes < self.nbytes
    }
}

/// What sets out in one step.
pub(crate) struct Launch<'a> {
    pub running: Vec<BoxFuture<'a, ()>>,
    /// The word that it was admitted; a sender that is dropped counts as that too.
    pub admitted: Option<oneshot::Receiver<()>>,
}

/// Runs all launches to their end, or until `stop` says that nothing more is wanted.
///
/// `first` hears when the first launch has been admitted.
pub(crate) async fn drive<'a>(
    launches: impl Iterator<Item = Launch<'a>>,
    stop: impl Fn() -> bool,
    first: Option<oneshot::Sender<()>>,
) {
    let mut launches = launches.fuse();
    let mut running = FuturesUnordered::new();
    let mut waiting: Option<oneshot::Receiver<()>> = None;
    let mut first = first;
    loop {
        if stop() {
            return;
        }
        if waiting.is_none()
            && let Some(launch) = launches.next()
        {
            running.extend(launch.running);
            waiting = launch.admitted;
            if waiting.is_none() {
                // It joined what others had set out with.
                first.take().map(|first| first.send(()));
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = async { waiting.as_mut()?.await.ok() }, if waiting.is_some() => {
                waiting = None;
                // Nobody listens any more when the whole batch has set out.
                first.take().map(|first| first.send(()));
            }
            Some(()) = running.next() => {}
            else => return,
        }
    }
}
