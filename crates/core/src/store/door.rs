//! The one door to the wire: every HTTP request of every store passes here.
//!
//! It counts requests and those in flight, times answers, notes what the server said for whoever decides about a
//! retry, and makes a `206` of the `200` with which some servers answer a range they ignore.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use lru::LruCache;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::pace::Pace;
use crate::stats::{InFlight, Stats};

tokio::task_local! {
    /// What the server said to the request that this task is making.
    static ANSWER: Arc<Answer>;
}

/// What is known of one attempt besides the error that `object_store` makes of it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    status: AtomicU16,
    /// Milliseconds plus one; zero for none.
    retry_after: AtomicU64,
}

impl Answer {
    /// Runs one attempt, and notes in `self` what the server answers.
    pub(super) async fn noting<F: Future>(self: &Arc<Self>, attempt: F) -> F::Output {
        ANSWER.scope(Arc::clone(self), attempt).await
    }

    pub(super) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .map(Duration::from_millis)
    }

    /// The status of the last answer to the request that this task is making.
    pub(super) fn last_status() -> Option<u16> {
        ANSWER.try_with(|answer| answer.status()).ok().flatten()
    }

    fn note(&self, response: &HttpResponse) {
        self.status
            .store(response.status().as_u16(), Ordering::Relaxed);
        // Seconds only; the other form, a date, is not worth a clock's trust here.
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        if let Some(seconds) = seconds.and_then(|value| value.trim().parse::<u64>().ok()) {
            self.retry_after.store(
                seconds.saturating_mul(1000).saturating_add(1),
                Ordering::Relaxed,
            );
        }
    }
}

/// Bytes per second that an upload makes at least: what 128 at once share of 34 Mbit/s.
const SLOWEST_UPLOAD: u64 = 32 << 10;
/// Bytes that are taken of a body whose length the server does not tell.
const MOST_UNMEASURED: usize = 1 << 30;
/// HTTP clients that are kept, with their open connections.
const KEPT_CLIENTS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// What the clients of all stores share, and the clients: stores whose client has the same settings share
/// one, with its connections, since to make one costs as much as some ten requests.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(super) stats: Arc<Stats>,
    pace: Arc<Pace>,
    clients: Arc<Mutex<LruCache<ClientSettings, HttpClient>>>,
}

/// All that tells one HTTP client from another. Not shown: there are secrets in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientSettings {
    pub(super) options: Vec<(String, String)>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// What `object_store` itself adds, for clients of metadata services for one.
    pub(super) made: String,
}

impl Door {
    pub(crate) fn new(stats: &Arc<Stats>, pace: &Arc<Pace>) -> Self {
        Self {
            stats: Arc::clone(stats),
            pace: Arc::clone(pace),
            clients: Arc::new(Mutex::new(LruCache::new(KEPT_CLIENTS))),
        }
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.clients.lock().len()
    }
}

/// Makes the clients of one store: those whose requests pass the door.
pub(super) struct Connector {
    pub(super) door: Door,
    pub(super) settings: ClientSettings,
    /// How long nothing may arrive.
    pub(super) stall: Duration,
}

impl std::fmt::Debug for Connector {
    /// Leaves out the settings.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let settings = ClientSettings {
            made: format!("{options:?}{:?}", proxies()),
            ..self.settings.clone()
        };
        let mut clients = self.door.clients.lock();
        if let Some(client) = clients.get(&settings) {
            return Ok(client.clone());
        }
        let client = HttpClient::new(Doorkeeper {
            inner: ReqwestConnector::default().connect(options)?,
            stats: Arc::clone(&self.door.stats),
            pace: Arc::clone(&self.door.pace),
            stall: self.stall,
        });
        clients.put(settings, client.clone());
        Ok(client)
    }
}

/// What the environment says of proxies, which a client heeds when it is made.
fn proxies() -> Vec<(String, String)> {
    let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    std::env::vars()
        .filter(|(name, _)| names.contains(&name.to_ascii_lowercase().as_str()))
        .collect()
}

#[derive(Debug)]
struct Doorkeeper {
    inner: HttpClient,
    stats: Arc<Stats>,
    pace: Arc<Pace>,
    stall: Duration,
}

/// Nothing has arrived for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing arrived for {0:?}")]
struct Stalled(Duration);

/// A body whose length was not told has not ended.
#[derive(Debug, thiserror::Error)]
#[error("the body has no announced length and more than {MOST_UNMEASURED} bytes")]
struct Endless;

fn stalled(after: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Stalled(after))
}

#[async_trait::async_trait]
impl HttpService for Doorkeeper {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let range = request
            .headers()
            .get(RANGE)
            .and_then(|range| range.to_str().ok());
        let range = range.and_then(Wanted::parse);
        let in_flight = self.stats.count_request();
        // The answer to a put waits for its body too.
        let is_get = request.method() == Method::GET;
        let sent = Pace::sent(self.stats.requests_in_flight.get()).filter(|_| is_get);
        // An answer comes when the whole request has arrived, and of that nothing is seen here.
        let upload = Duration::from_secs(request.body().content_length() as u64 / SLOWEST_UPLOAD);
        let patience = self.stall + upload;
        let response = tokio::time::timeout(patience, self.inner.execute(request))
            .await
            .map_err(|_| stalled(patience))??;
        if response.status().is_success() {
            self.pace.answered(sent);
        }
        ANSWER.try_with(|answer| answer.note(&response)).ok();
        let (mut parts, mut body) = response.into_parts();
        if is_get && parts.status.is_success() && length(&parts.headers).is_none() {
            // Sent as it was made. Nobody can use a body whose length is not known.
            let bytes = collect(body, self.stall).await?;
            let length = HeaderValue::from(bytes.len());
            parts.headers.insert(CONTENT_LENGTH, length);
            body = bytes.into();
        }
        let mut cut = Cut::default();
        if let Some((range, size)) = range
            .filter(|_| parts.status == StatusCode::OK)
            .zip(length(&parts.headers))
            && let Some((start, end)) = range.within(size)
        {
            cut = Cut {
                skip: start,
                take: Some(end - start),
            };
            parts.status = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {start}-{}/{size}", end - 1);
            if let Ok(value) = HeaderValue::try_from(value) {
                parts.headers.insert(CONTENT_RANGE, value);
            }
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from(end - start));
        }
        let body = HttpResponseBody::new(Passing {
            inner: body,
            cut,
            stall: self.stall,
            stalled: None,
            _in_flight: in_flight,
        });
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Takes in a body of unknown length.
async fn collect(mut body: HttpResponseBody, stall: Duration) -> Result<Bytes, HttpError> {
    let mut bytes = Vec::new();
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = tokio::time::timeout(stall, next).await;
        let Some(frame) = frame.map_err(|_| stalled(stall))?.transpose()? else {
            return Ok(bytes.into());
        };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MOST_UNMEASURED {
            return Err(HttpError::new(HttpErrorKind::Decode, Endless));
        }
    }
}

fn length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A `Range` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Bounded(u64, u64),
    From(u64),
    Suffix(u64),
}

impl Wanted {
    fn parse(header: &str) -> Option<Self> {
        let (start, end) = header.strip_prefix("bytes=")?.split_once('-')?;
        match (start.parse().ok(), end.parse().ok()) {
            (Some(start), Some(end)) => Some(Self::Bounded(start, end)),
            (Some(start), None) if end.is_empty() => Some(Self::From(start)),
            (None, Some(suffix)) if start.is_empty() => Some(Self::Suffix(suffix)),
            _ => None,
        }
    }

    /// Start and end within an object of `size` bytes; `None` where nothing is left.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            Self::Bounded(start, last) => (start, last.checked_add(1)?.min(size)),
            Self::From(start) => (start, size),
            Self::Suffix(suffix) => (size.saturating_sub(suffix), size),
        };
        (start < end).then_some((start, end))
    }
}

/// The part of a body that was asked for.
#[derive(Debug, Default)]
struct Cut {
    skip: u64,
    take: Option<u64>,
}

impl Cut {
    fn apply(&mut self, mut bytes: Bytes) -> Bytes {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
        if let Some(take) = &mut self.take {
            let taken = (*take).min(bytes.len() as u64);
            *take -= taken;
            bytes.truncate(usize::try_from(taken).unwrap_or(usize::MAX));
        }
        bytes
    }
}

struct Passing {
    inner: HttpResponseBody,
    cut: Cut,
    stall: Duration,
    /// Runs while a frame is waited for; most bodies have arrived with their head.
    stalled: Option<Pin<Box<Sleep>>>,
    _in_flight: InFlight,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.cut.take == Some(0) {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let after = self.stall;
            let timer = self
                .stalled
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
            return timer
                .as_mut()
                .poll(context)
                .map(|()| Some(Err(stalled(after))));
        };
        self.stalled = None;
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.cut.apply(data)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.cut.take == Some(0) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.cut
            .take
            .map_or_else(|| self.inner.size_hint(), SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_from_whole_bodies() {
        for (header, expected) in [
            ("bytes=2-4", Some(&b"cde"[..])),
            ("bytes=6-", Some(b"gh")),
            ("bytes=-3", Some(b"fgh")),
            ("bytes=-30", Some(b"abcdefgh")),
            ("bytes=9-12", None),
        ] {
            let cut = Wanted::parse(header).unwrap().within(8);
            assert_eq!(expected.is_some(), cut.is_some());
            let Some((start, end)) = cut else { continue };
            let mut cut = Cut {
                skip: start,
                take: Some(end - start),
            };
            let got: Vec<u8> = [&b"abc"[..], b"de", b"fgh"]
                .into_iter()
                .flat_map(|part| cut.apply(Bytes::from_static(part)))
                .collect();
            assert_eq!(expected.unwrap(), got);
        }
        assert_eq!(None, Wanted::parse("bytes=1-2,4-5"));
    }
}
