//! A request that is far slower than its peers gets a second one beside it, as long as these are few.

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_ok;
use parking_lot::Mutex;

use super::remote::RemoteStore;
use super::retry::Refusal;
use crate::limits::bound::Bound;

/// Requests whose times are remembered.
const REMEMBERED: usize = 64;
/// Fewer than these do not make a median.
const LEAST: usize = 16;
/// A second request is never sent before this: below it, noise is all there is to beat.
const SOONEST: Duration = Duration::from_millis(10);
/// First requests for each second one that is allowed.
const SHARE: u64 = 20;

/// When and with what right a second request is sent for one that is far slower than its peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hedge<'a> {
    pub factor: f64,
    /// The bound on requests; a second one is sent only while one is free.
    pub requests: &'a Arc<Bound>,
}

/// How long recent requests of one store took.
#[derive(Debug, Default)]
pub(super) struct Times(Mutex<(Vec<Duration>, usize)>);

impl Times {
    /// Remembers how long a request took.
    pub(super) fn note(&self, time: Duration) {
        let mut times = self.0.lock();
        let (recent, next) = &mut *times;
        if recent.len() < REMEMBERED {
            recent.push(time);
        } else {
            recent[*next] = time;
        }
        *next = (*next + 1) % REMEMBERED;
    }

    /// After how long a request is `factor` times slower than its peers; `None` while that is not known.
    pub(super) fn patience(&self, factor: f64) -> Option<Duration> {
        let mut times = self.0.lock().0.clone();
        if times.len() < LEAST {
            return None;
        }
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let patience = Duration::try_from_secs_f64(median.as_secs_f64() * factor);
        Some(patience.unwrap_or(Duration::MAX).max(SOONEST))
    }
}

impl RemoteStore {
    /// Makes a request, and a second one beside it once it is far slower than its peers.
    pub(super) async fn hedged<T, F: Future<Output = Result<T, Box<Refusal>>>>(
        &self,
        request: impl Fn() -> F,
        hedge: Option<Hedge<'_>>,
    ) -> Result<T, Box<Refusal>> {
        let patience = hedge.and_then(|hedge| self.times.patience(hedge.factor));
        let Some((hedge, patience)) = hedge.zip(patience) else {
            return request().await;
        };
        let mut first = Box::pin(request());
        if let Ok(outcome) = tokio::time::timeout(patience, &mut first).await {
            return outcome;
        }
        let few = are_few(self.stats.hedges.get(), self.stats.requests.get());
        let Some(_permit) = few.then(|| hedge.requests.try_take(1)).flatten() else {
            return first.await;
        };
        self.stats.hedges.add(1);
        // Whichever succeeds first; the other is closed when it is dropped.
        let (done, _other) = select_ok([first, Box::pin(request())]).await?;
        Ok(done)
    }
}

/// Whether one more second request keeps them few.
const fn are_few(hedges: u64, requests: u64) -> bool {
    hedges * SHARE < requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_multiple_of_the_recent_median() {
        let times = Times::default();
        for _ in 0..LEAST - 1 {
            times.note(Duration::from_millis(20));
        }
        assert_eq!(None, times.patience(3.0));
        times.note(Duration::from_secs(9));
        assert_eq!(Some(Duration::from_millis(60)), times.patience(3.0));
        for _ in 0..REMEMBERED {
            times.note(Duration::from_millis(1));
        }
        assert_eq!(Some(SOONEST), times.patience(3.0));
    }

    #[test]
    fn second_requests_are_one_in_twenty() {
        assert!(are_few(0, 1));
        assert!(!are_few(1, 20));
        assert!(are_few(1, 21));
    }
}
