//! A batch's turn: one place in the process-wide queues, which its units use one after the other.
//!
//! The queues for permits are first come, first served. A batch stands in them with one unit at a time,
//! because a unit waits for permits only while it holds the batch's [`Turn`]. That is round robin between
//! batches: a small read never waits for all of a large one. A unit drops its turn once it is admitted.
//! A unit that joins a fetch of another batch, or fails, drops it as well, so no turn is ever lost.
//!
//! Dropping the batch drops its units: their work ends with the last batch that waits for it.

use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;

use crate::limits::bound::{Bound, Permit};

/// The turn of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Turns(std::sync::Arc<Bound>);

/// The right of one unit to wait for permits.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held until dropped")] Permit);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Bound::new(1))
    }

    /// Waits for the batch's turn.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue.
    pub(crate) async fn take(&self) -> Turn {
        Turn(self.0.take(1).await)
    }

    /// The turn that was handed over, the first time; after that, waits for the batch's turn.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue.
    pub(crate) async fn take_or(&self, handed: &mut Option<Turn>) -> Turn {
        match handed.take() {
            Some(turn) => turn,
            None => self.take().await,
        }
    }

    /// Starts one unit after the other, each when the one before has dropped its turn, and runs all of
    /// them to their end, or until `stop` says that nothing more is wanted.
    ///
    /// # Cancel safety
    /// Dropping the future drops every unit that runs.
    pub(crate) async fn drive<'a, U>(&self, units: impl Iterator<Item = U>, stop: impl Fn() -> bool)
    where
        U: FnOnce(Turn) -> BoxFuture<'a, ()>,
    {
        let mut units = units;
        let mut running = FuturesUnordered::new();
        let mut next = units.next();
        // Kept from one iteration to the next, with its place in the queue; none once nothing is to start.
        let mut turn = OptionFuture::from(next.is_some().then(|| Box::pin(self.take())));
        while !stop() {
            tokio::select! {
                biased;
                Some(taken) = &mut turn => {
                    running.extend(next.take().map(|unit| unit(taken)));
                    next = units.next();
                    turn = next.is_some().then(|| Box::pin(self.take())).into();
                }
                Some(()) = running.next() => {}
                else => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, poll};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_unit_starts_once_the_one_before_has_dropped_its_turn() {
        let turns = Turns::new();
        let started = Mutex::new(Vec::new());
        let (admit, admitted): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel::<()>()).unzip();
        let units = admitted.into_iter().enumerate().map(|(at, admitted)| {
            let started = &started;
            move |turn: Turn| {
                async move {
                    started.lock().unwrap().push(at);
                    admitted.await.ok();
                    drop(turn);
                }
                .boxed()
            }
        });
        let batch = turns.drive(units, || false);
        tokio::pin!(batch);
        for (at, admit) in admit.into_iter().enumerate() {
            assert!(poll!(&mut batch).is_pending());
            assert_eq!(*started.lock().unwrap(), (0..=at).collect::<Vec<_>>());
            admit.send(()).unwrap();
        }
        batch.await;
    }

    #[tokio::test]
    async fn a_unit_that_runs_may_take_the_turn_again() {
        let turns = Turns::new();
        let units = (0..3).map(|_| {
            let turns = turns.clone();
            move |turn: Turn| {
                async move {
                    drop(turn);
                    drop(turns.take().await);
                }
                .boxed()
            }
        });
        turns.drive(units, || false).await;
    }

    #[tokio::test]
    async fn nothing_starts_after_stop() {
        let turns = Turns::new();
        let units = (0..3).map(|_| |_: Turn| -> BoxFuture<'_, ()> { panic!("started") });
        turns.drive(units, || true).await;
    }
}
