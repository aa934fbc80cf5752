//! Object stores on the wire: gets, puts and deletes with retries and conditions.
//!
//! Retries are decided here and not in `object_store`, because here every kind of failure meets: a
//! status, a reset, a body that ends early. The store's own retry settings bound them; `Retry-After` is
//! honoured; the error after the last try says how many there were.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::select_ok;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    UpdateVersion,
};

use super::door::Answer;
use super::hedge::{self, Times};
use super::{Condition, Fetched, Get, Part, Put, Validator};
use crate::admit::Bound;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::stats::Stats;

/// Objects larger than this are put in parts; every service takes single puts of this size.
const MULTIPART_ABOVE: usize = 64 << 20;
/// Size of one part; S3 allows 5 MiB to 5 GiB and 10,000 of them.
const PART_SIZE: usize = 16 << 20;

/// An object store reached over HTTP.
pub struct RemoteStore {
    pub(super) client: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) name: String,
    pub(super) identity: u64,
    pub(super) location: u64,
    /// The path of an HTTP store's URL.
    pub(super) base: String,
    pub(super) retry: RetryConfig,
    pub(super) stats: Arc<Stats>,
    pub(super) times: Times,
    /// Whether the store takes suffix ranges; learnt from its first refusal.
    pub(super) suffixes: AtomicBool,
    /// Whether the store has conditional puts; learnt from its first refusal.
    pub(super) conditions: AtomicBool,
}

/// When and with what right a second request is sent for one that is far slower than its peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hedge<'a> {
    pub factor: f64,
    /// The bound on requests; a second one is sent only while one is free.
    pub requests: &'a Arc<Bound>,
}

/// One failed attempt.
struct Failure {
    error: object_store::Error,
    answer: Arc<Answer>,
}

impl std::fmt::Debug for RemoteStore {
    /// Names the store; the client behind it holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteStore").field(&self.name).finish()
    }
}

impl RemoteStore {
    /// Names the place, whoever asks with whatever settings.
    pub(super) const fn location(&self) -> u64 {
        self.location
    }

    /// Names all settings: only equal ones may see each other's objects.
    pub(super) const fn identity(&self) -> u64 {
        self.identity
    }

    /// The object's path from the root of the place.
    pub(crate) fn full_path(&self, key: &str) -> Arc<str> {
        let parts = [self.base.as_str(), self.prefix.as_ref(), key];
        let parts = parts.iter().flat_map(|part| part.split('/'));
        parts
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/")
            .into()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Fetches an object or a part of it, if it is still the one that `expected` names and what is
    /// wanted of it has at most `most` bytes.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request.
    pub(crate) async fn get(
        &self,
        key: &str,
        part: &Part,
        expected: Option<&Validator>,
        most: u64,
        hedge: Option<Hedge<'_>>,
    ) -> Result<Get, Error> {
        let path = self.path(key)?;
        let (part, expected) = match part {
            Part::Suffix(len) if !self.takes_suffixes() => {
                match self.last_bytes(key, &path, *len).await? {
                    Some((range, validator)) => (Part::Range(range), validator),
                    None => return Ok(Get::Missing),
                }
            }
            part => (part.clone(), expected.cloned()),
        };
        let expected = expected.as_ref();
        let request = || self.retrying("get", key, || self.get_once(&path, &part, expected, most));
        let began = Instant::now();
        let outcome = self.hedged(request, hedge).await;
        if outcome.is_ok() {
            self.times.note(began.elapsed());
        }
        if let (Part::Suffix(_), Err(failure)) = (&part, &outcome) {
            // A 416 is also what the last bytes of an empty object are answered with: the length tells.
            let refused = failure.refuses_suffix()
                || (failure.status == Some(416) && self.last_bytes(key, &path, 1).await.is_ok());
            if refused {
                self.suffixes.store(false, Ordering::Relaxed);
                return Box::pin(self.get(key, &part, expected, most, hedge)).await;
            }
        }
        let get = outcome.map_err(|failure| failure.error)?;
        if let Get::Found(fetched) = &get {
            self.stats.bytes_read.add(fetched.bytes.len() as u64);
        }
        Ok(get)
    }

    /// Makes a request, and a second one beside it once it is far slower than its peers.
    async fn hedged<T, F: Future<Output = Result<T, Box<Refusal>>>>(
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
        let few = hedge::are_few(self.stats.hedges.get(), self.stats.requests.get());
        let Some(_permit) = few.then(|| hedge.requests.try_take()).flatten() else {
            return first.await;
        };
        self.stats.hedges.add(1);
        // Whichever succeeds first; the other is closed when it is dropped.
        let (done, _other) = select_ok([first, Box::pin(request())]).await?;
        Ok(done)
    }

    async fn get_once(
        &self,
        path: &Path,
        part: &Part,
        expected: Option<&Validator>,
        most: u64,
    ) -> object_store::Result<Get> {
        let range = match part {
            Part::Whole => None,
            Part::Range(range) => Some(GetRange::Bounded(range.clone())),
            Part::Suffix(len) => Some(GetRange::Suffix(*len)),
        };
        let if_match = expected.and_then(Validator::strong_etag).map(str::to_owned);
        let options = GetOptions {
            range,
            if_match,
            ..GetOptions::default()
        };
        let result = match self.client.get_opts(path, options).await {
            Err(object_store::Error::NotFound { .. }) if says_missing() => return Ok(Get::Missing),
            Err(object_store::Error::Precondition { .. }) => return Ok(Get::Changed),
            other => other?,
        };
        let validator = result.meta.e_tag.clone().map(Validator::ETag);
        // A server may ignore If-Match, and a weak tag is not sent at all.
        if expected.is_some() && validator.as_ref() != expected {
            return Ok(Get::Changed);
        }
        let size = Some(result.meta.size);
        let version = result.meta.version.clone();
        let wanted = result.range.end - result.range.start;
        if wanted > most {
            let source = format!("{wanted} bytes are more than a chunk of this array can have");
            return Err(object_store::Error::NotSupported {
                source: source.into(),
            });
        }
        let bytes = result.bytes().await?;
        if bytes.len() as u64 != wanted {
            let source = format!("the body ended after {} of {wanted} bytes", bytes.len());
            return Err(object_store::Error::Generic {
                store: "HTTP",
                source: source.into(),
            });
        }
        Ok(Get::Found(Fetched {
            bytes,
            size,
            validator,
            version,
        }))
    }

    /// The last `len` bytes as a plain range of the object as it is now, for stores that refuse suffixes.
    async fn last_bytes(
        &self,
        key: &str,
        path: &Path,
        len: u64,
    ) -> Result<Option<(Range<u64>, Option<Validator>)>, Error> {
        let first = Part::Range(0..1);
        let request = || self.get_once(path, &first, None, 1);
        let get = self.retrying("get", key, request).await;
        match get.map_err(|failure| failure.error)? {
            Get::Found(Fetched {
                size: Some(size),
                validator,
                ..
            }) => Ok(Some((size.saturating_sub(len)..size, validator))),
            _ => Ok(None),
        }
    }

    /// Replaces an object, if `condition` allows; in several parts at once where it is large.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request; the old object or the new one is there afterwards.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        lanes: usize,
    ) -> Result<Put, Error> {
        let path = self.path(key)?;
        let len = bytes.len();
        let mode = match condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Match(etag, version) => PutMode::Update(UpdateVersion {
                e_tag: Some(etag.clone()),
                version: version.clone(),
            }),
        };
        let outcome = self
            .retrying("put", key, || async {
                if len > MULTIPART_ABOVE && mode == PutMode::Overwrite {
                    match self.put_parts(&path, &bytes, lanes).await {
                        Err(object_store::Error::NotImplemented { .. }) => {}
                        other => return other.map(|()| Put::Done),
                    }
                }
                let payload = PutPayload::from_bytes(bytes.clone());
                match self
                    .client
                    .put_opts(&path, payload, mode.clone().into())
                    .await
                {
                    Ok(_) => Ok(Put::Done),
                    Err(
                        object_store::Error::Precondition { .. }
                        | object_store::Error::AlreadyExists { .. },
                    ) => Ok(Put::Conflict),
                    // The object that was to be replaced is gone.
                    Err(object_store::Error::NotFound { .. })
                        if matches!(mode, PutMode::Update(_)) =>
                    {
                        Ok(Put::Conflict)
                    }
                    Err(error) => Err(error),
                }
            })
            .await;
        if let (Err(failure), true) = (&outcome, *condition != Condition::None)
            && failure.refuses()
        {
            self.conditions.store(false, Ordering::Relaxed);
            return Ok(Put::Conflict);
        }
        let outcome = outcome.map_err(|failure| failure.error);
        if matches!(outcome, Ok(Put::Done)) {
            self.stats.bytes_written.add(len as u64);
        }
        outcome
    }

    /// Parts that an object of `len` bytes is put in besides the first.
    pub(crate) const fn parts(len: usize) -> usize {
        if len > MULTIPART_ABOVE {
            len.div_ceil(PART_SIZE) - 1
        } else {
            0
        }
    }

    async fn put_parts(
        &self,
        path: &Path,
        bytes: &Bytes,
        lanes: usize,
    ) -> object_store::Result<()> {
        let mut upload = self.client.put_multipart(path).await?;
        let parts: Vec<_> = (0..bytes.len())
            .step_by(PART_SIZE)
            .map(|start| bytes.slice(start..bytes.len().min(start + PART_SIZE)))
            .map(|part| upload.put_part(part.into()))
            .collect();
        let mut parts = futures::stream::iter(parts).buffer_unordered(lanes.max(1));
        while let Some(part) = parts.next().await {
            if let Err(error) = part {
                drop(parts);
                // The upload has failed already; what it left is the store's to expire.
                upload.abort().await.ok();
                return Err(error);
            }
        }
        drop(parts);
        upload.complete().await.map(drop)
    }

    /// Removes an object; not an error where there is none.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key)?;
        self.retrying("delete", key, || async {
            match self.client.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        })
        .await
        .map_err(|failure| failure.error)
    }

    /// Whether the last bytes of an object can be asked for without its length, as far as is known.
    pub(crate) fn takes_suffixes(&self) -> bool {
        self.suffixes.load(Ordering::Relaxed)
    }

    /// Whether a put may depend on what is stored.
    pub(crate) fn has_conditions(&self) -> bool {
        self.conditions.load(Ordering::Relaxed)
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        let key = Path::parse(key)
            .map_err(|error| Error::invalid(format!("key {key:?} is not a path: {error}")))?;
        Ok(self.prefix.parts().chain(key.parts()).collect())
    }

    /// Makes attempts until one succeeds, cannot succeed, or the store's retry settings say stop.
    async fn retrying<T, F: Future<Output = object_store::Result<T>>>(
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
            let failure = Failure { error, answer };
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

/// A failure after the last attempt, with what the caller may still decide by.
struct Refusal {
    error: Error,
    status: Option<u16>,
    unsupported: bool,
}

/// Whether an object is missing: `object_store` says so of a 405 as well.
fn says_missing() -> bool {
    Answer::last_status().is_none_or(|status| status == 404)
}

impl Refusal {
    /// Whether the store does not do what was asked for, as against not now or not for us.
    fn refuses(&self) -> bool {
        self.unsupported || self.status == Some(501)
    }

    fn refuses_suffix(&self) -> bool {
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
            (object_store::Error::Generic { .. }, None) => !self.misbuilt(),
            _ => false,
        }
    }

    /// Whether the request never left because it could not be made.
    fn misbuilt(&self) -> bool {
        if self.last_words() == "URL scheme is not allowed" {
            return true;
        }
        let mut source = std::error::Error::source(&self.error);
        while let Some(error) = source {
            if let Some(http) = error.downcast_ref::<object_store::client::HttpError>() {
                return http.kind() == object_store::client::HttpErrorKind::Decode;
            }
            source = error.source();
        }
        false
    }

    fn timed_out(&self) -> bool {
        let mut source = std::error::Error::source(&self.error);
        while let Some(error) = source {
            if let Some(http) = error.downcast_ref::<object_store::client::HttpError>() {
                return http.kind() == object_store::client::HttpErrorKind::Timeout;
            }
            source = error.source();
        }
        false
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
        self.last_words()
    }

    /// What the innermost error says.
    fn last_words(&self) -> String {
        let mut last: &dyn std::error::Error = &self.error;
        while let Some(source) = last.source() {
            last = source;
        }
        last.to_string()
    }
}

/// A fraction between one half and one, different for each call.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0);
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}
