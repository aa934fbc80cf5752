//! Whether, when and how often a request is tried again, and what is said when it is not.
//!
//! Decided here and not in `object_store`, because here every kind of failure meets: a status, a reset, a
//! body that ends early. The store's own retry settings bound the attempts; `Retry-After` is honoured; the
//! error after the last try says how many there were, and how long they took.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{BackoffConfig, RetryConfig};
use tokio::time::Instant;

use super::answer::{Answer, Said};
use super::body::Stalled;
use super::remote::RemoteStore;
use crate::error::{Error, StoreError, StoreErrorKind};

/// How long nothing may arrive before an attempt is given up, unless the store's options say otherwise.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// How retries are bounded where the store's settings do not say.
///
/// The pauses of ten retries are about 4 s together, and 8.4 s at most. A server that says nothing is tried
/// twice, which takes two stall timeouts; whatever fails, no attempt but the first retry begins later than
/// 20 s, so that the last has ended 35 s after the first began.
pub(super) fn defaults() -> RetryConfig {
    RetryConfig {
        max_retries: 10,
        retry_timeout: Duration::from_secs(20),
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
    }
}

/// What is said of a URL without TLS that was not allowed.
const NO_TLS: &str = "URL scheme is not allowed";

/// A failure after the last attempt, with what the caller may still decide by.
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) status: Option<u16>,
    unsupported: bool,
}

/// One failed attempt.
struct Failure {
    error: object_store::Error,
    said: Said,
    operation: &'static str,
}

/// A body that ended before its announced length.
#[derive(Debug, thiserror::Error)]
#[error("the body ended after {0} of {1} bytes")]
pub(super) struct Truncated(pub(super) usize, pub(super) u64);

/// A body that goes on behind its announced length.
#[derive(Debug, thiserror::Error)]
#[error("the body has more than the {0} bytes that were announced")]
pub(super) struct Overlong(pub(super) u64);

/// A bucket that does not exist, as against an object.
#[derive(Debug, thiserror::Error)]
#[error("the bucket does not exist")]
pub(super) struct NoBucket;

impl RemoteStore {
    /// Makes attempts until one succeeds, cannot succeed, or the store's retry settings say stop.
    pub(super) async fn retrying<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        operation: &'static str,
        key: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Box<Refusal>> {
        let mut pauses = Pauses::new(&self.retry.backoff);
        let mut attempts = 0;
        let mut request = self.failing.request();
        let mut slot = self.throttle.slot(&self.stats).await;
        let mut began = Instant::now();
        loop {
            attempts += 1;
            let answer = Arc::new(Answer::default());
            let error = match answer.noting(attempt()).await {
                Ok(done) => {
                    slot.taken();
                    return Ok(done);
                }
                Err(error) => error,
            };
            let failure = Failure {
                error,
                said: answer.said(),
                operation,
            };
            if failure.turned_away() {
                slot.turned_away();
            } else {
                slot.taken();
            }
            let pause = failure.said.retry_after.unwrap_or_else(|| pauses.next());
            // A long body that broke off by chance is worth one more attempt, however long it took.
            let first = attempts == 1 && !self.retry_timeout_set;
            let in_time = pause < self.retry.retry_timeout
                && (first || began.elapsed() + pause < self.retry.retry_timeout);
            if !(failure.may_pass() && in_time && attempts as usize <= self.retry.max_retries) {
                let took = began.elapsed();
                return Err(Box::new(
                    self.refusal(operation, key, attempts, took, &failure),
                ));
            }
            request.failed(self.failed(operation, key, attempts, &failure));
            tokio::time::sleep(pause).await;
            // The server is not to blame for the time in which nothing is asked of it.
            let waiting = Instant::now();
            slot = self.throttle.slot(&self.stats).await;
            began += waiting.elapsed();
            self.stats.retries.add(1);
        }
    }

    fn refusal(
        &self,
        operation: &'static str,
        key: &str,
        attempts: u32,
        took: Duration,
        failure: &Failure,
    ) -> Refusal {
        let mut error = self.failed(operation, key, attempts, failure);
        if attempts > 1 {
            error.reason = format!(
                "{}; given up after {:.1} s",
                error.reason,
                took.as_secs_f64()
            )
            .into();
        }
        let unsupported = matches!(
            failure.error,
            object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }
        );
        Refusal {
            status: error.status,
            error: error.into(),
            unsupported,
        }
    }

    /// A failure in words, with the number of attempts.
    fn failed(
        &self,
        operation: &'static str,
        key: &str,
        attempts: u32,
        failure: &Failure,
    ) -> StoreError {
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
        StoreError {
            kind,
            operation,
            key: key.into(),
            store: self.name.as_str().into(),
            status,
            attempts,
            reason: failure.reason().into(),
            source: None,
        }
    }
}

impl Refusal {
    /// Whether the store does not do what was asked for, as against not now or not for us.
    pub(super) fn refuses(&self) -> bool {
        self.unsupported || self.status == Some(501)
    }

    /// Whether the store takes no suffix ranges at all.
    pub(super) fn refuses_suffix(&self) -> bool {
        self.refuses() || self.status == Some(405)
    }

    /// Whether the store may take no suffix ranges, or something else may be wrong with this one.
    pub(super) fn may_refuse_suffix(&self) -> bool {
        matches!(self.status, Some(400 | 416))
    }
}

impl Failure {
    /// The status, where it was what failed: a body may break off after a good one.
    fn failed_status(&self) -> Option<u16> {
        self.said
            .status
            .filter(|status| !(200..300).contains(status))
            .or_else(|| self.status_of_part())
    }

    /// What Azure said of a deletion, which is sent as a batch of one: `object_store` tells it in words only.
    fn status_of_part(&self) -> Option<u16> {
        let words = self.last_words();
        let (_, code) = words.strip_suffix(')')?.rsplit_once("(code: ")?;
        code.parse().ok().filter(|_| self.operation == "delete")
    }

    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        match (&self.error, self.failed_status()) {
            (_, Some(status)) => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            (object_store::Error::Generic { .. }, None) => self.broke_off(),
            _ => false,
        }
    }

    /// Whether the server may have been asked for too much: it said so, or gave no answer.
    fn turned_away(&self) -> bool {
        match self.said.status {
            Some(status) => matches!(status, 429 | 503),
            None => self.may_pass(),
        }
    }

    /// Whether the wire failed, as against a request that could not be made or an answer that makes no sense.
    fn broke_off(&self) -> bool {
        let words = self.last_words();
        if words == NO_TLS || words.contains("certificate") {
            return false;
        }
        if let Some(kind) = self.http_kind() {
            return kind != HttpErrorKind::Decode;
        }
        // S3 may begin an answer with a good status and end it with an error.
        self.operation != "get" || self.comes_of::<Truncated>()
    }

    fn timed_out(&self) -> bool {
        self.http_kind() == Some(HttpErrorKind::Timeout)
    }

    fn http_kind(&self) -> Option<HttpErrorKind> {
        self.causes()
            .find_map(|error| error.downcast_ref::<HttpError>())
            .map(HttpError::kind)
    }

    fn comes_of<E: std::error::Error + 'static>(&self) -> bool {
        self.causes().any(<dyn std::error::Error>::is::<E>)
    }

    /// The error and what it comes from, outermost first.
    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let error: &(dyn std::error::Error + 'static) = &self.error;
        std::iter::successors(Some(error), |error| error.source())
    }

    /// The failure in words that hold no URL, no header and no body: those may hold secrets.
    fn reason(&self) -> String {
        if let Some(status) = self.failed_status() {
            let status_code = http::StatusCode::from_u16(status).ok();
            let words = status_code.and_then(|code| code.canonical_reason());
            let mut reason = format!("the server answered {status} {}", words.unwrap_or(""));
            reason.truncate(reason.trim_end().len());
            if let Some(code) = self.said.code {
                let _ = write!(reason, " ({code})");
            }
            if status == 404 && self.said.no_bucket() {
                let _ = write!(reason, ": {NoBucket}");
            }
            if self.said.leased() {
                reason.push_str(": somebody has a lease on the blob, and must release it first");
            }
            return reason;
        }
        let words = self.last_words();
        if self.timed_out() && !self.comes_of::<Stalled>() {
            return "it was not done within the timeout of the store's client options".to_owned();
        }
        if words.contains('<') {
            return "the server sent an error where the object should be".to_owned();
        }
        if words == NO_TLS {
            return format!(
                "{NO_TLS}: to do without TLS, set allow_http among the store's client options"
            );
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

/// Pauses between attempts: exponential, with the decorrelated jitter of `object_store`, so that requests that
/// failed together are not tried again together.
struct Pauses {
    init: f64,
    longest: f64,
    base: f64,
    last: f64,
}

impl Pauses {
    fn new(backoff: &BackoffConfig) -> Self {
        let init = backoff.init_backoff.as_secs_f64();
        Self {
            init,
            longest: backoff.max_backoff.as_secs_f64(),
            base: backoff.base,
            last: init,
        }
    }

    fn next(&mut self) -> Duration {
        let above = (self.last * self.base - self.init).max(0.0);
        self.last = (self.init + above * fastrand::f64()).min(self.longest);
        Duration::try_from_secs_f64(self.last).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::{Body, Frame};
    use object_store::ClientOptions;
    use object_store::client::{
        HttpClient, HttpConnector, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    };
    use object_store::http::HttpBuilder;

    use super::super::{Get, HttpClients, Part, State};
    use super::*;
    use crate::limits::adaptive::AdaptiveBound;

    /// A server that fails each request in the same way.
    #[derive(Debug, Clone, Copy)]
    enum Server {
        Refuses,
        Resets,
        Answers(u16),
        Truncates,
        SaysNothing,
        Stalls,
        StallsInError,
    }

    #[async_trait::async_trait]
    impl HttpService for Server {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let failure = |kind| HttpError::new(kind, std::io::Error::other("as told"));
            let (status, body) = match self {
                Self::Refuses => return Err(failure(HttpErrorKind::Connect)),
                Self::Resets => return Err(failure(HttpErrorKind::Interrupted)),
                Self::SaysNothing => std::future::pending().await,
                Self::Answers(status) => (*status, Bytes::new().into()),
                Self::Truncates => (200, Bytes::from_static(b"half").into()),
                Self::Stalls => (200, HttpResponseBody::new(Nothing)),
                Self::StallsInError => (404, HttpResponseBody::new(Nothing)),
            };
            let response = http::Response::builder()
                .status(status)
                .header("Content-Length", "8");
            Ok(response.body(body).unwrap())
        }
    }

    /// A server that takes eight requests at once, and resets the others.
    #[derive(Debug, Clone, Default)]
    struct Crowded(Arc<Crowd>);

    #[derive(Debug, Default)]
    struct Crowd {
        taken: AtomicUsize,
        reset: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl HttpService for Crowded {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.0.taken.fetch_add(1, Ordering::Relaxed) >= 8 {
                self.0.taken.fetch_sub(1, Ordering::Relaxed);
                self.0.reset.fetch_add(1, Ordering::Relaxed);
                let reset = std::io::Error::other("as told");
                return Err(HttpError::new(HttpErrorKind::Interrupted, reset));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.0.taken.fetch_sub(1, Ordering::Relaxed);
            let response = http::Response::builder().header("Content-Length", "8");
            Ok(response
                .body(Bytes::from_static(b"answered").into())
                .unwrap())
        }
    }

    impl<S: HttpService + Clone> HttpConnector for Connects<S> {
        fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
            let clients = HttpClients::new(&Arc::default(), &AdaptiveBound::new(None));
            Ok(clients.metered(HttpClient::new(self.0.clone()), STALL_TIMEOUT))
        }
    }

    #[derive(Debug)]
    struct Connects<S>(S);

    /// A body of which nothing ever arrives.
    struct Nothing;

    impl Body for Nothing {
        type Data = Bytes;
        type Error = HttpError;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
            Poll::Pending
        }
    }

    fn store(server: impl HttpService + Clone) -> RemoteStore {
        let client = HttpBuilder::new()
            .with_url("http://localhost")
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            })
            .with_http_connector(Connects(server))
            .build();
        RemoteStore {
            retry: defaults(),
            conditions: AtomicBool::new(false),
            ..RemoteStore::around(Arc::new(client.unwrap()), 0)
        }
    }

    /// What a read ends in, and after how many seconds.
    async fn failed(store: &RemoteStore) -> (Arc<StoreError>, f64) {
        let began = Instant::now();
        let outcome = store
            .get("c/0", &Part::Whole, State::Any, 1 << 20, None)
            .await;
        let Err(Error::Store(error)) = outcome else {
            panic!("a read of a server that fails: {outcome:?}");
        };
        (error, began.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_always_fails_is_given_up_within_ten_seconds() {
        for server in [
            Server::Refuses,
            Server::Resets,
            Server::Answers(500),
            Server::Answers(503),
            Server::Truncates,
        ] {
            let (error, took) = failed(&store(server)).await;
            assert_eq!(11, error.attempts, "{server:?}");
            assert!((1.0..10.0).contains(&took), "{server:?}: {took} s");
            let said = error.to_string();
            assert!(
                said.contains(&format!("given up after {took:.1} s")),
                "{said}"
            );
            assert!(said.contains("after 11 attempts"), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_resets_a_crowd_meets_none_again() {
        let server = Crowded::default();
        let store = store(server.clone());
        let mut batches = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            let reads = (0..128).map(|_| store.get("c/0", &Part::Whole, State::Any, 1 << 20, None));
            for read in futures::future::join_all(reads).await {
                assert!(matches!(read, Ok(Get::Found(_))), "{read:?}");
            }
            let reset = server.0.reset.swap(0, Ordering::Relaxed);
            batches.push((reset, began.elapsed().as_secs_f64()));
        }
        assert!(batches[0].0 >= 120, "{batches:?}");
        assert!(
            batches[1..]
                .iter()
                .all(|(reset, took)| *reset < 32 && *took < 1.0),
            "{batches:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_tried_twice_and_given_up_within_35_seconds() {
        for server in [Server::SaysNothing, Server::Stalls, Server::StallsInError] {
            let (error, took) = failed(&store(server)).await;
            assert_eq!((StoreErrorKind::Timeout, 2), (error.kind, error.attempts));
            assert!((30.0..35.0).contains(&took), "{server:?}: {took} s");
            assert!(
                error.reason.starts_with("nothing arrived for 15s"),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_settings_of_the_store_come_first() {
        let retry = RetryConfig {
            retry_timeout: Duration::from_secs(10),
            ..defaults()
        };
        let strict = RemoteStore {
            retry,
            retry_timeout_set: true,
            ..store(Server::SaysNothing)
        };
        assert_eq!(1, failed(&strict).await.0.attempts);
        let patient = RemoteStore {
            retry: RetryConfig {
                max_retries: 40,
                retry_timeout: Duration::from_hours(1),
                backoff: BackoffConfig {
                    init_backoff: Duration::from_secs(30),
                    max_backoff: Duration::from_secs(30),
                    base: 2.0,
                },
            },
            retry_timeout_set: true,
            ..store(Server::Refuses)
        };
        let (error, took) = failed(&patient).await;
        assert_eq!((41, 1200.0), (error.attempts, took.round()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_tried_again_tells_its_last_failure_until_it_ends() {
        let store = store(Server::Answers(503));
        let read = store.get("c/0", &Part::Whole, State::Any, 1 << 20, None);
        assert!(store.failing.now().is_empty());
        let waited = tokio::time::timeout(Duration::from_millis(150), read).await;
        assert!(waited.is_err());
        assert!(store.failing.now().is_empty(), "nobody waits any more");
        let mut read = Box::pin(store.get("c/0", &Part::Whole, State::Any, 1 << 20, None));
        let waited = tokio::time::timeout(Duration::from_millis(50), read.as_mut()).await;
        assert!(waited.is_err());
        let [failure] = store.failing.now().try_into().unwrap();
        assert_eq!((1, Some(503)), (failure.attempts, failure.status));
        assert!(read.await.is_err());
        assert!(store.failing.now().is_empty());
    }

    #[test]
    fn pauses_grow_at_random_and_ten_are_short_of_ten_seconds() {
        let mut sums = Vec::new();
        for seed in 0..200 {
            fastrand::seed(seed);
            let mut pauses = Pauses::new(&defaults().backoff);
            let ten: Vec<f64> = (0..10).map(|_| pauses.next().as_secs_f64()).collect();
            assert!((0.1..=0.2).contains(&ten[0]));
            assert!(ten.iter().all(|pause| (0.1..=1.0).contains(pause)));
            sums.push(ten.iter().sum::<f64>());
        }
        assert!(sums.iter().all(|sum| *sum < 8.5));
        let mean = sums.iter().sum::<f64>() / 200.0;
        assert!((3.0..5.0).contains(&mean), "{mean}");
    }
}
