//! The client that sends requests, made from `object_store`'s options, and the redirects that it follows.
//!
//! `object_store` makes such a client too, but one that takes every header along to whatever server a redirect
//! names, session tokens and customers' keys included, and the query of the URL as `Referer`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use http::header::{
    ACCEPT, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use object_store::client::{
    HttpClient, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::tls::Certificate;
use reqwest::{NoProxy, Proxy};
use url::Url;

use super::location::is_true;

const USER_AGENT: &str = concat!("zarrs-async/", env!("CARGO_PKG_VERSION"));
/// Redirects that one request follows, as with most clients.
const MOST_REDIRECTS: usize = 10;
/// All that another server is told besides the URL: what is wanted of the object.
const TOLD_ELSEWHERE: &[HeaderName] = &[
    ACCEPT,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    RANGE,
];

/// A client with these options.
///
/// # Errors
/// When an option has a value that it cannot have.
pub(super) fn connect(options: &ClientOptions) -> object_store::Result<HttpClient> {
    Ok(HttpClient::new(FollowingClient {
        inner: HttpClient::new(Options(options).client()?),
        headers: options.get_default_headers().cloned().unwrap_or_default(),
    }))
}

/// Adds the store's headers, and follows the redirects of reads.
///
/// A write is answered with the redirect: to send its body once more, and to another server, is not for us to decide.
#[derive(Debug)]
struct FollowingClient {
    inner: HttpClient,
    headers: HeaderMap,
}

#[async_trait::async_trait]
impl HttpService for FollowingClient {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        for (name, value) in &self.headers {
            let entry = request.headers_mut().entry(name);
            entry.or_insert_with(|| value.clone());
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read || request.body().content_length() > 0 {
            return self.inner.execute(request).await;
        }
        let (mut head, _) = request.into_parts();
        for _ in 0..MOST_REDIRECTS {
            let request = HttpRequest::from_parts(head.clone(), HttpRequestBody::empty());
            let response = self.inner.execute(request).await?;
            let Some((next, is_elsewhere)) = redirect(&head.uri, &response) else {
                return Ok(response);
            };
            if is_elsewhere {
                let mut told = HeaderMap::new();
                for name in TOLD_ELSEWHERE {
                    if let Some(value) = head.headers.remove(name) {
                        told.insert(name, value);
                    }
                }
                head.headers = told;
            }
            head.uri = next;
        }
        let request = HttpRequest::from_parts(head, HttpRequestBody::empty());
        self.inner.execute(request).await
    }
}

/// Where an answer points, and whether that is another server; nothing where it points to no URL of HTTP.
fn redirect(from: &Uri, response: &HttpResponse) -> Option<(Uri, bool)> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
    let from = Url::parse(&from.to_string()).ok()?;
    let to = from.join(location.to_str().ok()?).ok()?;
    if !matches!(to.scheme(), "http" | "https") {
        return None;
    }
    let is_elsewhere = to.origin() != from.origin();
    Some((Uri::try_from(String::from(to)).ok()?, is_elsewhere))
}

/// Options as `object_store` gives them out: in words.
struct Options<'a>(&'a ClientOptions);

impl Options<'_> {
    /// The client that `object_store` would make, but for redirects and the name that it bears.
    fn client(&self) -> object_store::Result<reqwest::Client> {
        use ClientConfigKey as Key;
        let agent = self.text(Key::UserAgent);
        let mut builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .user_agent(agent.as_deref().unwrap_or(USER_AGENT))
            .https_only(!self.is_set(Key::AllowHttp)?)
            .danger_accept_invalid_certs(self.is_set(Key::AllowInvalidCertificates)?)
            .http2_keep_alive_while_idle(self.is_set(Key::Http2KeepAliveWhileIdle)?)
            .http2_max_frame_size(self.parsed(Key::Http2MaxFrameSize)?);
        if self.is_set(Key::NoSystemCertificates)? {
            builder = builder.tls_certs_only([]);
        }
        if let Some(proxy) = self.text(Key::ProxyUrl) {
            let mut proxy = Proxy::all(proxy).map_err(invalid)?;
            if let Some(certificate) = self.text(Key::ProxyCaCertificate) {
                let certificate = Certificate::from_pem(certificate.as_bytes()).map_err(invalid)?;
                builder = builder.tls_certs_merge([certificate]);
            }
            if let Some(excluded) = self.text(Key::ProxyExcludes) {
                proxy = proxy.no_proxy(NoProxy::from_string(&excluded));
            }
            builder = builder.proxy(proxy);
        }
        if let Some(timeout) = self.duration(Key::Timeout)? {
            builder = builder.timeout(timeout);
        }
        if let Some(timeout) = self.duration(Key::ConnectTimeout)? {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(timeout) = self.duration(Key::ReadTimeout)? {
            builder = builder.read_timeout(timeout);
        }
        if let Some(timeout) = self.duration(Key::PoolIdleTimeout)? {
            builder = builder.pool_idle_timeout(timeout);
        }
        if let Some(most) = self.parsed(Key::PoolMaxIdlePerHost)? {
            builder = builder.pool_max_idle_per_host(most);
        }
        if let Some(interval) = self.duration(Key::Http2KeepAliveInterval)? {
            builder = builder.http2_keep_alive_interval(interval);
        }
        if let Some(timeout) = self.duration(Key::Http2KeepAliveTimeout)? {
            builder = builder.http2_keep_alive_timeout(timeout);
        }
        if self.is_set(Key::Http1Only)? {
            builder = builder.http1_only();
        }
        if self.is_set(Key::Http2Only)? {
            builder = builder.http2_prior_knowledge();
        }
        if self.is_set(Key::RandomizeAddresses)? {
            builder = builder.dns_resolver(AnyAddress);
        }
        builder.build().map_err(invalid)
    }

    fn text(&self, key: ClientConfigKey) -> Option<String> {
        self.0.get_config_value(&key)
    }

    fn is_set(&self, key: ClientConfigKey) -> object_store::Result<bool> {
        let text = self.text(key);
        is_true(text.as_deref()).ok_or_else(|| invalid(NoBool(text.unwrap_or_default())))
    }

    fn parsed<T: FromStr>(&self, key: ClientConfigKey) -> object_store::Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let parsed = self.text(key).map(|text| text.parse()).transpose();
        parsed.map_err(invalid)
    }

    fn duration(&self, key: ClientConfigKey) -> object_store::Result<Option<Duration>> {
        let text = self.text(key);
        let parsed = text.map(|text| humantime::parse_duration(&text));
        parsed.transpose().map_err(invalid)
    }
}

fn invalid(source: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic {
        store: "HTTP client",
        source: Box::new(source),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither true nor false")]
struct NoBool(String);

/// Connects to any of the addresses of a host: a service's many servers share the load so.
struct AnyAddress;

impl Resolve for AnyAddress {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut found: Vec<SocketAddr> = found.collect();
            fastrand::shuffle(&mut found);
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_cannot_be_is_an_error() {
        use ClientConfigKey as Key;
        connect(&ClientOptions::new()).unwrap();
        for key in [
            Key::AllowHttp,
            Key::AllowInvalidCertificates,
            Key::NoSystemCertificates,
            Key::ConnectTimeout,
            Key::Http1Only,
            Key::Http2KeepAliveInterval,
            Key::Http2KeepAliveTimeout,
            Key::Http2KeepAliveWhileIdle,
            Key::Http2MaxFrameSize,
            Key::Http2Only,
            Key::PoolIdleTimeout,
            Key::PoolMaxIdlePerHost,
            Key::ProxyUrl,
            Key::RandomizeAddresses,
            Key::ReadTimeout,
            Key::Timeout,
        ] {
            let options = ClientOptions::new().with_config(key, "\u{1}");
            assert!(connect(&options).is_err(), "{key:?}");
        }
    }

    #[test]
    fn only_http_is_followed() {
        let from = Uri::from_static("http://user:pass@host/a/b?x=1");
        let to = |status: u16, location: &str| {
            let response = http::Response::builder()
                .status(status)
                .header(LOCATION, location);
            let body = bytes::Bytes::new().into();
            let followed = redirect(&from, &response.body(body).unwrap());
            followed.map(|(uri, elsewhere)| (uri.to_string(), elsewhere))
        };
        for (location, followed) in [
            ("c", Some(("http://user:pass@host/a/c", false))),
            ("http://host:80/c", Some(("http://host/c", false))),
            ("http://HOST/c", Some(("http://host/c", false))),
            ("//other/c", Some(("http://other/c", true))),
            ("https://host/c", Some(("https://host/c", true))),
            ("http://host:81/c", Some(("http://host:81/c", true))),
            ("file:///c", None),
            ("http://[", None),
        ] {
            let followed = followed.map(|(uri, elsewhere)| (uri.to_owned(), elsewhere));
            assert_eq!(followed, to(302, location), "{location}");
            assert_eq!(None, to(300, location), "{location}");
            assert_eq!(None, to(200, location), "{location}");
        }
    }
}
