//! The CPU pool: decoding and encoding happen here, but for bodies so small that handing them over costs
//! more (see `read`). Sole owner of rayon.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tokio::sync::oneshot;

use crate::error::Error;

/// A pool of threads for codecs.
#[derive(Debug)]
pub(crate) struct Pool {
    pool: rayon::ThreadPool,
}

impl Pool {
    /// `purpose` is part of the threads' names.
    pub(crate) fn new(purpose: &'static str, threads: usize) -> Result<Self, Error> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |at| format!("zarrs-async-{purpose}-{at}"))
            .build()
            .map(|pool| Self { pool })
            .map_err(|error| {
                Error::invalid(format!("{threads} threads cannot be started: {error}"))
            })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `job` on the pool. A panic in it becomes an error.
    ///
    /// # Cancel safety
    /// A job that has been handed over runs to its end; only its result is lost.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        self.pool.spawn_fifo(move || {
            // The receiver is gone when the batch was cancelled meanwhile.
            drop(done.send(guard(job)));
        });
        result
            .await
            .unwrap_or_else(|_| Err(Error::Stopped("the pool has ended".into())))
    }
}

/// Runs `job` for every item: on this thread, or on all of the pool's that this thread belongs to.
pub(crate) fn for_each<T: Send, R: Send>(
    items: Vec<T>,
    parallel: bool,
    job: impl Fn(T) -> Result<R, Error> + Send + Sync,
) -> Result<Vec<R>, Error> {
    if parallel && items.len() > 1 {
        items.into_par_iter().map(job).collect()
    } else {
        items.into_iter().map(job).collect()
    }
}

/// Calls `job`, and makes an error of a panic in it.
pub(crate) fn guard<T>(job: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

/// The error for a caught panic.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::internal(format!("a thread panicked: {}", message(panic)))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let pool = Pool::new("test", 1).unwrap();
        let error = pool
            .run(|| -> Result<(), Error> { panic!("odd bytes") })
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Internal { .. }));
        assert!(error.to_string().contains("odd bytes"));
        assert_eq!(7, pool.run(|| Ok(7)).await.unwrap());
    }
}
