//! Remote stores from settings: one client and one connection pool per configuration.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use lru::LruCache;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;

use super::RemoteStore;
use super::client::{ClientSettings, Connector, HttpClients};
use super::hedge::Times;
use super::retry::{self, STALL_TIMEOUT};
use super::throttle::Throttle;
use super::wire::Wire;
use crate::error::Error;

/// Settings of the HTTP client that may come from the environment; all others have defaults of ours.
const FROM_ENVIRONMENT: &[ClientConfigKey] = &[
    ClientConfigKey::AllowHttp,
    ClientConfigKey::AllowInvalidCertificates,
    ClientConfigKey::ProxyUrl,
    ClientConfigKey::ProxyCaCertificate,
    ClientConfigKey::ProxyExcludes,
];

/// Which protocol a remote store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemoteKind {
    /// Amazon S3 and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Plain HTTP, `WebDAV` for writes.
    Http,
}

/// All that a remote store is made from; equal settings share one client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RemoteConfig {
    /// The protocol.
    pub kind: RemoteKind,
    /// The URL, for HTTP; empty for the others.
    pub url: String,
    /// Keys are relative to this path within the store.
    pub prefix: String,
    /// Settings of the protocol, by `object_store`'s names.
    pub options: Vec<(String, String)>,
    /// Settings of the HTTP client, by `object_store`'s names.
    pub client_options: Vec<(String, String)>,
    /// Headers that every request carries.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Variables of the environment, of which those that are settings hold where none is given.
    pub environment: Vec<(String, String)>,
    /// Retries at most; `None` for the default of 10.
    pub max_retries: Option<usize>,
    /// Milliseconds after which no retry is begun; `None` for the default.
    pub retry_timeout_ms: Option<u64>,
    /// Milliseconds of the first and the longest pause, and what each is multiplied by, in thousandths.
    pub backoff_ms: Option<(u64, u64, u64)>,
}

impl std::fmt::Debug for RemoteConfig {
    /// Shows the names of settings, never their values: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.options.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("RemoteConfig")
            .field("kind", &self.kind)
            .field("prefix", &self.prefix)
            .field("options", &names)
            .finish_non_exhaustive()
    }
}

/// Stores that are kept, with their open connections, for the next array that asks for them.
const KEPT_STORES: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// The stores in use lately, by what they were made from.
#[derive(Debug)]
pub(crate) struct Registry(Mutex<LruCache<RemoteConfig, Arc<RemoteStore>>>);

impl Default for Registry {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT_STORES)))
    }
}

impl Registry {
    /// The store of this configuration, made if there is none.
    pub(crate) fn open(
        &self,
        config: &RemoteConfig,
        clients: &HttpClients,
    ) -> Result<Arc<RemoteStore>, Error> {
        let mut stores = self.0.lock();
        if let Some(store) = stores.get(config) {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(config.build(clients)?);
        stores.put(config.clone(), Arc::clone(&store));
        Ok(store)
    }
}

impl RemoteConfig {
    pub(super) fn build(&self, clients: &HttpClients) -> Result<RemoteStore, Error> {
        let retry = self.retry();
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let conditions = match self.kind {
            RemoteKind::S3 => self.setting(&AmazonS3ConfigKey::ConditionalPut) != Some("disabled"),
            RemoteKind::Gcs | RemoteKind::Azure => true,
            RemoteKind::Http => false,
        };
        let (location, base) = self.location();
        Ok(RemoteStore {
            client: self.client(&retry, clients)?,
            prefix: Path::parse(&self.prefix).map_err(invalid)?,
            name: self.name(),
            identity: hasher.finish(),
            location,
            base,
            retry,
            retry_timeout_set: self.retry_timeout_ms.is_some(),
            stats: Arc::clone(&clients.stats),
            failing: Arc::clone(&clients.failing),
            times: Times::default(),
            wire: Wire::default(),
            throttle: Throttle::default(),
            suffixes: AtomicBool::new(self.kind != RemoteKind::Azure),
            conditions: AtomicBool::new(conditions),
        })
    }

    fn client(
        &self,
        retry: &RetryConfig,
        clients: &HttpClients,
    ) -> Result<Arc<dyn ObjectStore>, Error> {
        // One attempt for each call: retries are `RemoteStore`'s.
        let once = RetryConfig {
            max_retries: 0,
            ..retry.clone()
        };
        let client_options = self.client_options()?;
        let stall = client_options
            .get_config_value(&ClientConfigKey::ReadTimeout)
            .map(|timeout| humantime::parse_duration(&timeout).map_err(invalid))
            .transpose()?;
        // `MeteredClient` has its own: the client's would count from the first byte of an upload, however long that is.
        let client_options = client_options.with_read_timeout_disabled();
        let connector = Connector {
            clients: clients.clone(),
            stall: stall.unwrap_or(STALL_TIMEOUT),
            settings: ClientSettings {
                options: self.client_options.clone(),
                headers: self.headers.clone(),
                made: String::new(),
            },
        };
        // The services' builders have methods in common, and no trait.
        macro_rules! built {
            ($builder:expr) => {{
                let builder = $builder.with_retry(once).with_http_connector(connector);
                let store = builder.build().map_err(|error| self.told(&error))?;
                Ok(Arc::new(store))
            }};
        }
        macro_rules! cloud {
            ($builder:ty, $key:ty) => {{
                let mut builder = <$builder>::new();
                for (key, value) in self.settings::<$key>()? {
                    builder = builder.with_config(key, value);
                }
                // `with_client_options` would replace what the environment says.
                let mut client_options = client_options;
                for key in FROM_ENVIRONMENT {
                    let told = builder.get_config_value(&<$key>::Client(*key));
                    if let Some(value) = told.filter(|_| !self.has_client_option(*key)) {
                        client_options = client_options.with_config(*key, value);
                    }
                }
                built!(builder.with_client_options(client_options))
            }};
        }
        match self.kind {
            RemoteKind::S3 => cloud!(AmazonS3Builder, AmazonS3ConfigKey),
            RemoteKind::Gcs => cloud!(GoogleCloudStorageBuilder, GoogleConfigKey),
            RemoteKind::Azure => cloud!(MicrosoftAzureBuilder, AzureConfigKey),
            RemoteKind::Http => {
                let builder = HttpBuilder::new().with_url(&self.url);
                built!(builder.with_client_options(client_options))
            }
        }
    }

    /// All settings in their order: each holds against those before it.
    fn settings<K: FromStr>(&self) -> Result<Vec<(K, &str)>, Error> {
        // Other programs have variables of this kind too.
        let environment = self.environment.iter().filter_map(|(name, value)| {
            let key = name.to_ascii_lowercase().parse().ok()?;
            Some(Ok((key, value.as_str())))
        });
        // One object at a time is deleted here: bulk deletion hides the status of a refusal.
        let default =
            (self.kind == RemoteKind::S3).then(|| Ok((parse("aws_disable_bulk_delete")?, "true")));
        let own = self.options.iter();
        let own = own.map(|(name, value)| Ok((parse(name)?, value.as_str())));
        environment.chain(default).chain(own).collect()
    }

    /// What a builder says, without the URL and the values that it may repeat.
    fn told(&self, error: &object_store::Error) -> Error {
        let mut words = error.to_string();
        if !self.url.is_empty() {
            words = words.replace(&self.url, "its URL");
        }
        let settings = [&self.options, &self.client_options, &self.environment];
        for (_, value) in settings.into_iter().flatten() {
            if value.len() > "false".len() {
                words = words.replace(value, "…");
            }
        }
        invalid(words)
    }

    fn retry(&self) -> RetryConfig {
        let mut retry = retry::defaults();
        if let Some(retries) = self.max_retries {
            retry.max_retries = retries;
        }
        if let Some(timeout) = self.retry_timeout_ms {
            retry.retry_timeout = Duration::from_millis(timeout);
        }
        if let Some((init, max, base)) = self.backoff_ms {
            retry.backoff = BackoffConfig {
                init_backoff: Duration::from_millis(init),
                max_backoff: Duration::from_millis(max),
                base: Duration::from_millis(base).as_secs_f64(),
            };
        }
        retry
    }

    fn has_client_option(&self, key: ClientConfigKey) -> bool {
        self.client_options
            .iter()
            .any(|(name, _)| ClientConfigKey::from_str(name).is_ok_and(|named| named == key))
    }

    fn client_options(&self) -> Result<ClientOptions, Error> {
        // A body that still progresses is never too slow; one that stands still is.
        let mut options = ClientOptions::new()
            .with_allow_http2()
            .with_timeout_disabled()
            .with_read_timeout(STALL_TIMEOUT);
        for (name, value) in &self.client_options {
            options = options.with_config(parse::<ClientConfigKey>(name)?, value);
        }
        if self.headers.is_empty() {
            return Ok(options);
        }
        let headers = self.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_str(name).map_err(invalid)?;
            let mut value = HeaderValue::from_bytes(value).map_err(invalid)?;
            value.set_sensitive(true);
            Ok((name, value))
        });
        Ok(options.with_default_headers(headers.collect::<Result<HeaderMap, Error>>()?))
    }
}

fn parse<K: FromStr>(name: &str) -> Result<K, Error> {
    K::from_str(name).map_err(|_| Error::unsupported(format!("store option {name:?}")))
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the store cannot be opened: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::limits::adaptive::AdaptiveBound;

    pub(in crate::store) fn config(kind: RemoteKind, options: &[(&str, &str)]) -> RemoteConfig {
        RemoteConfig {
            kind,
            url: "http://user:hidden@localhost:1/data?token=hidden".into(),
            prefix: "a/b".into(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            client_options: vec![("allow_http".into(), "true".into())],
            headers: vec![("authorization".into(), b"hidden".to_vec())],
            environment: Vec::new(),
            max_retries: None,
            retry_timeout_ms: None,
            backoff_ms: None,
        }
    }

    pub(in crate::store) fn clients() -> HttpClients {
        HttpClients::new(&Arc::default(), &AdaptiveBound::new(None))
    }

    #[test]
    fn equal_settings_share_one_store() {
        let (registry, clients) = (Registry::default(), clients());
        let http = config(RemoteKind::Http, &[]);
        let one = registry.open(&http, &clients).unwrap();
        let two = registry.open(&http.clone(), &clients).unwrap();
        assert!(Arc::ptr_eq(&one, &two));
        let other = RemoteConfig {
            prefix: "a".into(),
            ..http
        };
        assert!(!Arc::ptr_eq(
            &one,
            &registry.open(&other, &clients).unwrap()
        ));
    }

    #[test]
    fn stores_share_a_client_where_all_its_settings_are_equal() {
        let clients = clients();
        let http = config(RemoteKind::Http, &[]);
        let elsewhere = RemoteConfig {
            url: "http://localhost:2".into(),
            ..http.clone()
        };
        let another_user = RemoteConfig {
            headers: vec![("authorization".into(), b"another".to_vec())],
            ..http.clone()
        };
        let stricter = RemoteConfig {
            client_options: Vec::new(),
            url: "https://localhost:1".into(),
            ..http.clone()
        };
        for (config, count) in [(http, 1), (elsewhere, 1), (another_user, 2), (stricter, 3)] {
            config.build(&clients).unwrap();
            assert_eq!(count, clients.len());
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let s3 = config(
            RemoteKind::S3,
            &[
                ("aws_bucket", "data"),
                ("aws_access_key_id", "hidden-id"),
                ("aws_secret_access_key", "hidden-key"),
                ("aws_region", "us-east-1"),
            ],
        );
        let clients = clients();
        for config in [s3, config(RemoteKind::Http, &[])] {
            let store = config.build(&clients).unwrap();
            let shown = format!("{config:?} {} {store:?}", store.name());
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }

    #[test]
    fn what_a_builder_says_shows_no_secret() {
        let url = RemoteConfig {
            url: "http://user:hidden@[::1/data".into(),
            ..config(RemoteKind::Http, &[])
        };
        let value = config(
            RemoteKind::S3,
            &[("aws_imdsv1_fallback", "hidden-by-mistake")],
        );
        for config in [url, value] {
            let error = config.build(&clients()).unwrap_err().to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = config(RemoteKind::S3, &[("aws_nonesuch", "1")]);
        let error = error.build(&clients()).unwrap_err();
        assert!(error.to_string().contains("aws_nonesuch"));
    }
}
