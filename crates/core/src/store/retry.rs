//! Whether, when and how often a request is tried again, and what is said when it is not.
//!
//! Decided here and not in `object_store`, because here every kind of failure meets: a status, a reset, a
//! body that ends early. The store's own retry settings bound the attempts; `Retry-After` is honoured; the
//! error after the last try says how many there were.

use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::RetryConfig;
use object_store::client::{HttpError, HttpErrorKind};

use super::door::Answer;
use super::remote::RemoteStore;
use crate::error::{Error, StoreError, StoreErrorKind};

/// A failure after the last attempt, with what the caller may still decide by.
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) status: Option<u16>,
    unsupported: bool,
}

/// One failed attempt.
struct Failure {
    error: object_store::Error,
    answer: Arc<Answer>,
    operation: &'static str,
}

/// A body that ended before its announced length.
#[derive(Debug, thiserror::Error)]
#[error("the body ended after {0} of {1} bytes")]
pub(super) struct Truncated(pub(super) usize, pub(super) u64);

impl RemoteStore {
    /// Makes attempts until one succeeds, cannot succeed, or the store's retry settings say stop.
    pub(super) async fn retrying<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        operation: &'static str,
        key: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Box<Refusal>> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = Arc::new(Answer::default());
            let error = match answer.noting(attempt()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let failure = Failure {
                error,
                answer,
                operation,
            };
            let pause = failure
                .may_pass()
                .then(|| failure.pause(&self.retry, attempts))
                .filter(|pause| began.elapsed() + *pause < self.retry.retry_timeout)
                .filter(|_| attempts as usize <= self.retry.max_retries);
            let Some(pause) = pause else {
                return Err(Box::new(self.refusal(operation, key, attempts, &failure)));
            };
            self.stats.retries.add(1);
            tokio::time::sleep(pause).await;
        }
    }

    fn refusal(
        &self,
        operation: &'static str,
        key: &str,
        attempts: u32,
        failure: &Failure,
    ) -> Refusal {
        let status = failure.failed_status();
        let kind = match (&failure.error, status) {
            (
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. },
                _,
            )
            | (_, Some(401 | 403)) => StoreErrorKind::Permission,
            (_, Some(408 | 504)) => StoreErrorKind::Timeout,
            _ if failure.timed_out() => StoreErrorKind::Timeout,
            _ => StoreErrorKind::Other,
        };
        let error = StoreError {
            kind,
            operation,
            key: key.into(),
            store: self.name.as_str().into(),
            status,
            attempts,
            reason: failure.reason().into(),
            source: None,
        };
        let unsupported = matches!(
            failure.error,
            object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }
        );
        Refusal {
            error: error.into(),
            status,
            unsupported,
        }
    }
}

impl Refusal {
    /// Whether the store does not do what was asked for, as against not now or not for us.
    pub(super) fn refuses(&self) -> bool {
        self.unsupported || self.status == Some(501)
    }

    pub(super) fn refuses_suffix(&self) -> bool {
        self.refuses() || matches!(self.status, Some(400 | 405))
    }
}

impl Failure {
    /// The status, where it was what failed: a body may break off after a good one.
    fn failed_status(&self) -> Option<u16> {
        self.answer
            .status()
            .filter(|status| !(200..300).contains(status))
    }

    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        match (&self.error, self.failed_status()) {
            (_, Some(status)) => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            (object_store::Error::Generic { .. }, None) => self.broke_off(),
            _ => false,
        }
    }

    /// Whether the wire failed, as against a request that could not be made or an answer that makes no sense.
    fn broke_off(&self) -> bool {
        if self.last_words() == "URL scheme is not allowed" {
            return false;
        }
        if let Some(kind) = self.http_kind() {
            return kind != HttpErrorKind::Decode;
        }
        // S3 may begin an answer with a good status and end it with an error.
        self.operation != "get" || self.causes().any(<dyn std::error::Error>::is::<Truncated>)
    }

    fn timed_out(&self) -> bool {
        self.http_kind() == Some(HttpErrorKind::Timeout)
    }

    fn http_kind(&self) -> Option<HttpErrorKind> {
        self.causes()
            .find_map(|error| error.downcast_ref::<HttpError>())
            .map(HttpError::kind)
    }

    /// The error and what it comes from, outermost first.
    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let error: &(dyn std::error::Error + 'static) = &self.error;
        std::iter::successors(Some(error), |error| error.source())
    }

    /// How long to wait before the next attempt: what the server asks for, else exponential with jitter.
    fn pause(&self, retry: &RetryConfig, attempts: u32) -> Duration {
        self.answer.retry_after().unwrap_or_else(|| {
            let exponent = i32::try_from(attempts - 1).unwrap_or(i32::MAX);
            let longest =
                retry.backoff.init_backoff.as_secs_f64() * retry.backoff.base.powi(exponent);
            let longest = longest.min(retry.backoff.max_backoff.as_secs_f64());
            Duration::from_secs_f64(longest * jitter())
        })
    }

    /// The failure in words that hold no URL, no header and no body: those may hold secrets.
    fn reason(&self) -> String {
        if let Some(status) = self.failed_status() {
            let words = http::StatusCode::from_u16(status)
                .ok()
                .and_then(|code| code.canonical_reason());
            return format!("the server answered {status} {}", words.unwrap_or(""))
                .trim_end()
                .to_owned();
        }
        if self.timed_out() {
            return "nothing arrived within the timeout of its client options".to_owned();
        }
        let words = self.last_words();
        if words.contains('<') {
            return "the server sent an error where the object should be".to_owned();
        }
        words
    }

    /// What the innermost error says.
    fn last_words(&self) -> String {
        self.causes()
            .last()
            .map_or_else(String::new, ToString::to_string)
    }
}

/// A fraction between one half and one, different for each call.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0);
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}
