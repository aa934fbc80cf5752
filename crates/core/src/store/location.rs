//! The place that a remote store reaches: a number for whoever locks its objects, and a name for people.
//!
//! Both are made of the settings that say where objects are, never of those that say who asks for them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use object_store::path::Path;
use url::Url;

use super::{RemoteConfig, RemoteKind};

/// Buckets of Amazon's usual domain have one name for all regions and addresses.
const AMAZON: &str = "https://s3.amazonaws.com";
const GOOGLE: &str = "https://storage.googleapis.com";

impl RemoteConfig {
    /// Names the store to people: scheme, bucket and prefix.
    pub(super) fn name(&self) -> String {
        let bucket = self.bucket();
        let root = match self.kind {
            RemoteKind::S3 => format!("s3://{bucket}"),
            RemoteKind::Gcs => format!("gs://{bucket}"),
            RemoteKind::Azure => format!("az://{bucket}"),
            RemoteKind::Http => endpoint(&self.url),
        };
        format!("{root}/{}", self.prefix)
            .trim_end_matches('/')
            .to_owned()
    }

    /// A number for the place, one for all spellings of it, and the path within it at which the store begins.
    ///
    /// The prefix is not part of either. Nor is a URL's query: nobody can tell a credential of it, of which one object has
    /// many, from what names an object. One lock for two objects makes a write wait; two locks for one lose what is written.
    pub(super) fn location(&self) -> (u64, String) {
        let (service, base) = self.service();
        let mut hasher = DefaultHasher::new();
        (self.kind, service, self.bucket()).hash(&mut hasher);
        (hasher.finish(), base)
    }

    /// The setting that holds: the store's own before the environment's.
    pub(super) fn setting<K: FromStr + PartialEq>(&self, key: &K) -> Option<&str> {
        let is_meant = |(name, _): &&(String, String)| {
            let named = name.to_ascii_lowercase().parse::<K>();
            named.is_ok_and(|named| named == *key)
        };
        let own = self.options.iter().rev().find(is_meant);
        own.or_else(|| self.environment.iter().rev().find(is_meant))
            .map(|(_, value)| value.as_str())
    }

    fn bucket(&self) -> &str {
        let bucket = match self.kind {
            RemoteKind::S3 => self.setting(&AmazonS3ConfigKey::Bucket),
            RemoteKind::Gcs => self.setting(&GoogleConfigKey::Bucket),
            RemoteKind::Azure => self.setting(&AzureConfigKey::ContainerName),
            RemoteKind::Http => None,
        };
        bucket.unwrap_or_default()
    }

    /// Whose buckets are meant, and the path at which an HTTP store begins.
    fn service(&self) -> (String, String) {
        let service = match self.kind {
            RemoteKind::Http => return http_service(&self.url),
            RemoteKind::S3 => self.s3_service(),
            RemoteKind::Gcs => endpoint(self.setting(&GoogleConfigKey::BaseUrl).unwrap_or(GOOGLE)),
            RemoteKind::Azure => {
                let account = self.setting(&AzureConfigKey::AccountName);
                let default = format!(
                    "https://{}.blob.core.windows.net",
                    account.unwrap_or_default()
                );
                let named = endpoint(self.setting(&AzureConfigKey::Endpoint).unwrap_or(&default));
                // Other clouds under the same name.
                let emulator = self.setting(&AzureConfigKey::UseEmulator);
                let fabric = self.setting(&AzureConfigKey::UseFabricEndpoint);
                format!("{named} {emulator:?} {fabric:?}")
            }
        };
        (service, String::new())
    }

    fn s3_service(&self) -> String {
        let own = self.setting(&AmazonS3ConfigKey::S3Endpoint);
        let Some(named) = own.or_else(|| self.setting(&AmazonS3ConfigKey::Endpoint)) else {
            return AMAZON.to_owned();
        };
        let Ok(mut url) = Url::parse(named) else {
            return String::new();
        };
        if is_true(self.setting(&AmazonS3ConfigKey::VirtualHostedStyleRequest)) == Some(true) {
            // The bucket stands in the host then.
            let host = url.host_str().unwrap_or_default();
            let rest = host
                .strip_prefix(self.bucket())
                .and_then(|rest| rest.strip_prefix('.'));
            if let Some(rest) = rest.map(str::to_owned) {
                url.set_host(Some(&rest)).ok();
            }
        }
        let host = url.host_str().unwrap_or_default();
        if host.starts_with("s3.") && host.ends_with(".amazonaws.com") {
            return AMAZON.to_owned();
        }
        endpoint(url.as_str())
    }
}

/// Scheme, host, port and path of a URL, as every spelling of them comes out: no user, no password, no query.
/// Nothing of what is no URL, which no store can be made with.
fn endpoint(url: &str) -> String {
    Url::parse(url).map_or_else(
        |_| String::new(),
        |url| {
            let origin = url.origin().ascii_serialization();
            format!("{origin}{}", url.path().trim_end_matches('/'))
        },
    )
}

/// The server of a URL, and the path that objects have there below the store's.
fn http_service(url: &str) -> (String, String) {
    let Ok(url) = Url::parse(url) else {
        return Default::default();
    };
    let (origin, path) = (url.origin().ascii_serialization(), url.path());
    // An empty segment is one to a server, and so is an escaped slash: no path that is cut at slashes names them.
    let is_cut =
        path.contains("%2F") || path.contains("%2f") || (path.len() > 1 && path.ends_with('/'));
    match Path::from_url_path(path) {
        Ok(base) if !is_cut => (origin, base.to_string()),
        _ => (format!("{origin}{path}"), String::new()),
    }
}

/// What `object_store` takes the value of a switch for: nothing where it is neither true nor false.
pub(super) fn is_true(value: Option<&str>) -> Option<bool> {
    match value.unwrap_or("false").to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::open::tests::{clients, config};

    #[test]
    fn one_object_has_one_name_whatever_the_store_begins_at() {
        let clients = clients();
        let store = |url: &str, prefix: &str| {
            let plain = config(RemoteKind::Http, &[]);
            let config = RemoteConfig {
                url: url.into(),
                prefix: prefix.into(),
                ..plain
            };
            config.build(&clients).unwrap()
        };
        let root = store("http://localhost:1", "");
        for (other, key) in [
            (store("http://u:p@localhost:1/a", ""), "b/c/0"),
            (store("HTTP://LocalHost:01/x/../a?x=1", "b"), "c/0"),
            (store("http://localhost:1/%61", "b"), "c/0"),
        ] {
            assert_eq!(root.location(), other.location());
            assert_eq!(root.full_path("a/b/c/0"), other.full_path(key));
            assert_ne!(root.identity(), other.identity());
        }
        assert_ne!(root.location(), store("http://localhost:2", "").location());
    }

    #[test]
    fn two_objects_never_have_one_name() {
        let clients = clients();
        let name = |url: &str| {
            let plain = config(RemoteKind::Http, &[]);
            let config = RemoteConfig {
                url: url.into(),
                prefix: String::new(),
                ..plain
            };
            let store = config.build(&clients).unwrap();
            (store.location(), store.full_path("c/0"))
        };
        // Each is asked for at another path.
        let urls = [
            "a", "a/", "a//", "/a", "A", "a%2Fb", "a/b", "a%2fb", "a//b", "a%25", "a%2525",
        ];
        let names: HashSet<_> = urls
            .map(|path| name(&format!("http://localhost:1/{path}")))
            .into();
        assert_eq!(urls.len(), names.len());
    }

    type Settings = &'static [(&'static str, &'static str)];

    /// Settings and environments; those of a group are of one place.
    const SPELLINGS: &[(RemoteKind, &[(Settings, Settings)])] = &[
        (
            RemoteKind::S3,
            &[
                (&[("aws_bucket", "b"), ("aws_region", "eu-west-1")], &[]),
                (&[("bucket", "b")], &[("AWS_REGION", "eu-west-2")]),
                (
                    &[
                        ("bucket_name", "b"),
                        ("endpoint", "https://s3.eu-west-1.amazonaws.com"),
                    ],
                    &[],
                ),
                (
                    &[
                        ("bucket", "b"),
                        ("endpoint", "https://b.s3.eu-west-1.amazonaws.com/"),
                        ("virtual_hosted_style_request", "true"),
                    ],
                    &[],
                ),
            ],
        ),
        (
            RemoteKind::S3,
            &[
                (&[("bucket", "b"), ("endpoint", "http://Host:80/")], &[]),
                (
                    &[("bucket", "b")],
                    &[("AWS_ENDPOINT_URL_S3", "http://host")],
                ),
                (
                    &[("bucket", "b"), ("aws_endpoint_url", "http://u:p@host?x")],
                    &[("AWS_ENDPOINT", "http://other")],
                ),
            ],
        ),
        (
            RemoteKind::S3,
            &[(&[("bucket", "b"), ("endpoint", "http://host:81")], &[])],
        ),
        (
            RemoteKind::S3,
            &[(&[("bucket", "b"), ("endpoint", "http://host/sub")], &[])],
        ),
        (
            RemoteKind::S3,
            &[(&[("bucket", "B"), ("endpoint", "http://host")], &[])],
        ),
        (
            RemoteKind::S3,
            &[(
                &[
                    ("bucket", "b"),
                    ("endpoint", "https://s3.cn-north-1.amazonaws.com.cn"),
                ],
                &[],
            )],
        ),
        (
            RemoteKind::Gcs,
            &[
                (&[("bucket", "b")], &[]),
                (
                    &[("google_bucket", "b")],
                    &[("GOOGLE_BASE_URL", "https://storage.googleapis.com/")],
                ),
            ],
        ),
        (
            RemoteKind::Gcs,
            &[(&[("bucket", "b"), ("base_url", "http://host")], &[])],
        ),
        (
            RemoteKind::Azure,
            &[
                (&[("container_name", "b"), ("account_name", "a")], &[]),
                (
                    &[
                        ("azure_container_name", "b"),
                        ("endpoint", "https://a.blob.core.windows.net/"),
                    ],
                    &[("AZURE_STORAGE_ACCOUNT_NAME", "other")],
                ),
            ],
        ),
        (
            RemoteKind::Azure,
            &[(&[("container_name", "b"), ("account_name", "c")], &[])],
        ),
        (
            RemoteKind::Azure,
            &[(&[("container_name", "c"), ("account_name", "a")], &[])],
        ),
    ];

    #[test]
    fn one_bucket_has_one_place_however_it_is_spelled() {
        let place = |kind, options: Settings, environment: Settings| {
            let owned = |pairs: Settings| {
                let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
                owned.collect::<Vec<(String, String)>>()
            };
            let config = RemoteConfig {
                options: owned(options),
                environment: owned(environment),
                ..config(kind, &[])
            };
            config.location()
        };
        let mut places = HashSet::new();
        for (kind, spellings) in SPELLINGS {
            let [first, others @ ..] = *spellings else {
                continue;
            };
            let known = place(*kind, first.0, first.1);
            for other in others {
                assert_eq!(known, place(*kind, other.0, other.1), "{other:?}");
            }
            assert!(places.insert(known), "{first:?}");
        }
    }
}
