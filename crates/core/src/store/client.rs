//! The HTTP clients of all stores: every request of every store passes through a [`MeteredClient`].
//!
//! It counts requests and those in flight, times answers, notes what the server said for whoever decides about a
//! retry, bounds what is taken of a body, and makes a `206` of the `200` with which some servers answer a range
//! they ignore.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lru::LruCache;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use parking_lot::Mutex;

use super::answer::Answer;
use super::body::{Cut, Passing, Wanted, first_bytes, measured, stalled};
use super::failing::Failing;
use super::transport;
use crate::error::StoreError;
use crate::limits::adaptive::AdaptiveBound;
use crate::stats::Stats;

/// Bytes per second that an upload makes at least: what 128 at once share of 34 Mbit/s.
const SLOWEST_UPLOAD: u64 = 32 << 10;
/// Bytes of an answer that is no object: of an error, all that is looked at.
const MOST_SAID: u64 = 1 << 20;
const MOST_OF_ERROR: usize = 16 << 10;
/// HTTP clients that are kept, with their open connections.
const KEPT_CLIENTS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// What the clients of all stores share, and the clients: stores whose client has the same settings share
/// one, with its connections, since to make one costs as much as some ten requests.
#[derive(Debug, Clone)]
pub(crate) struct HttpClients {
    pub(super) stats: Arc<Stats>,
    pub(super) failing: Arc<Failing>,
    adaptive: Arc<AdaptiveBound>,
    kept: Arc<Mutex<LruCache<ClientSettings, HttpClient>>>,
}

/// All that tells one HTTP client from another. Not shown: there are secrets in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientSettings {
    pub(super) options: Vec<(String, String)>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// What `object_store` itself adds, as it does for clients of metadata services.
    pub(super) made: String,
}

impl HttpClients {
    pub(crate) fn new(stats: &Arc<Stats>, adaptive: &Arc<AdaptiveBound>) -> Self {
        Self {
            stats: Arc::clone(stats),
            failing: Arc::default(),
            adaptive: Arc::clone(adaptive),
            kept: Arc::new(Mutex::new(LruCache::new(KEPT_CLIENTS))),
        }
    }

    /// A client that counts and times its requests, and gives them up when nothing arrives for this long.
    pub(super) fn metered(&self, inner: HttpClient, stall: Duration) -> HttpClient {
        HttpClient::new(MeteredClient {
            inner,
            stats: Arc::clone(&self.stats),
            adaptive: Arc::clone(&self.adaptive),
            stall,
        })
    }

    /// The last failures of requests that are being tried again.
    pub(crate) fn failing(&self) -> Vec<StoreError> {
        self.failing.now()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().len()
    }
}

/// Makes the clients of one store: metered ones.
pub(super) struct Connector {
    pub(super) clients: HttpClients,
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
        let mut kept = self.clients.kept.lock();
        if let Some(client) = kept.get(&settings) {
            return Ok(client.clone());
        }
        let inner = transport::connect(options)?;
        let client = self.clients.metered(inner, self.stall);
        kept.put(settings, client.clone());
        Ok(client)
    }
}

/// What the environment says of proxies, which a client heeds when it is made.
fn proxies() -> Vec<(OsString, OsString)> {
    let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    // `vars` panics at a variable that is not UTF-8, and shows it.
    std::env::vars_os()
        .filter(|(name, _)| names.iter().any(|proxy| name.eq_ignore_ascii_case(proxy)))
        .collect()
}

#[derive(Debug)]
struct MeteredClient {
    inner: HttpClient,
    stats: Arc<Stats>,
    adaptive: Arc<AdaptiveBound>,
    stall: Duration,
}

#[async_trait::async_trait]
impl HttpService for MeteredClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let range = request
            .headers()
            .get(RANGE)
            .and_then(|range| range.to_str().ok());
        let range = range.and_then(Wanted::parse);
        let in_flight = self.stats.count_request();
        // The answer to a put waits for its body too.
        let is_get = request.method() == Method::GET;
        let is_post = request.method() == Method::POST;
        let sent = AdaptiveBound::sent(self.stats.requests_in_flight.get()).filter(|_| is_get);
        // An answer comes when the whole request has arrived, and of that nothing is seen here.
        let upload = Duration::from_secs(request.body().content_length() as u64 / SLOWEST_UPLOAD);
        let patience = self.stall + upload;
        let response = tokio::time::timeout(patience, self.inner.execute(request))
            .await
            .map_err(|_| stalled(patience))??;
        if response.status().is_success() {
            self.adaptive.answered(sent);
        }
        Answer::note(&response);
        let (mut parts, mut body) = response.into_parts();
        if !parts.status.is_success() {
            // What an error says is looked at here, and shown to nobody.
            let said = match first_bytes(body, self.stall, MOST_OF_ERROR).await {
                // Until it has been read, a 404 may be of the bucket: it is as if nothing had been said.
                Err(error) if parts.status == StatusCode::NOT_FOUND => {
                    Answer::forget();
                    return Err(error);
                }
                said => said.unwrap_or_default(),
            };
            Answer::note_error(&parts.headers, &said);
            return Ok(HttpResponse::from_parts(parts, Bytes::new().into()));
        }
        let mut cut = Cut::default();
        let range = range.filter(|_| parts.status == StatusCode::OK);
        match length(&parts.headers) {
            _ if is_post => {
                // `object_store` takes it in whole.
                let (bytes, _) = measured(body, self.stall, None, MOST_SAID).await?;
                body = bytes.into();
            }
            None if is_get && parts.status == StatusCode::PARTIAL_CONTENT => {
                // Wanted by `object_store`, which then heeds the length in `Content-Range` alone.
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            }
            None if is_get => {
                // Sent as it was made. Nobody can use a body whose length is not known.
                let most = Answer::most().max(MOST_SAID);
                let (bytes, size) = measured(body, self.stall, range, most).await?;
                body = bytes.into();
                match range.and_then(|range| range.within(size)) {
                    Some((start, end)) => make_partial(&mut parts, start, end, size),
                    None => {
                        parts
                            .headers
                            .insert(CONTENT_LENGTH, HeaderValue::from(size));
                    }
                }
            }
            Some(size) => {
                if let Some((start, end)) = range.and_then(|range| range.within(size)) {
                    cut = Cut::new(start, end);
                    make_partial(&mut parts, start, end, size);
                }
            }
            None => {}
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

/// Makes the head of a `206` of that of a `200`.
fn make_partial(parts: &mut Parts, start: u64, end: u64, size: u64) {
    parts.status = StatusCode::PARTIAL_CONTENT;
    let value = format!("bytes {start}-{}/{size}", end - 1);
    if let Ok(value) = HeaderValue::try_from(value) {
        parts.headers.insert(CONTENT_RANGE, value);
    }
    parts
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from(end - start));
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
