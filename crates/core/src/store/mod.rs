//! A store as the engine sees it: local files, an object store on the wire, or a foreign one.
//!
//! The three differ in where their work happens. A local read is an open and a `pread` inside the CPU
//! job that decodes what it read; a remote one is awaited with a request permit held; a foreign one is
//! awaited too, but the store's own code (Python's, in `crates/py`) does it.

mod answer;
mod body;
mod client;
mod failing;
mod hedge;
mod local;
mod location;
mod open;
mod remote;
mod retry;
mod throttle;
mod transport;
mod wire;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub(crate) use client::HttpClients;
pub(crate) use hedge::Hedge;
pub use local::LocalStore;
pub(crate) use local::{Directories, Opened};
pub(crate) use open::Registry;
pub use open::{RemoteConfig, RemoteKind};
pub use remote::RemoteStore;
pub(crate) use wire::Wire;

use crate::error::Error;
use crate::stats::Stats;

/// Where objects are.
#[derive(Debug, Clone)]
pub enum Store {
    /// Files under a directory, read and written inside CPU jobs.
    Local(Arc<LocalStore>),
    /// A store whose answers are awaited.
    Awaited(Awaited),
}

/// A store whose answers are awaited.
#[derive(Debug, Clone)]
pub enum Awaited {
    /// An object store reached over HTTP.
    Remote(Arc<RemoteStore>),
    /// A store that somebody else implements.
    Foreign(Arc<dyn ForeignStore>),
}

/// A store implemented outside the engine.
pub trait ForeignStore: Debug + Send + Sync {
    /// Names the store's contents: two stores with one place hold the same objects.
    fn place(&self) -> u64;

    /// Names those that may wait for each other: fetches are shared, and bounds drawn from, within one scope.
    fn scope(&self) -> u64;

    /// Names the store in errors.
    fn name(&self) -> String;

    /// The object, or the part of it; `None` where there is none.
    ///
    /// Dropping the future cancels the call.
    fn get(&self, key: &str, range: Part) -> BoxFuture<'static, Result<Option<Bytes>, Error>>;

    /// Replaces the object.
    fn put(&self, key: &str, bytes: Bytes) -> BoxFuture<'static, Result<(), Error>>;

    /// Removes the object; not an error where there is none.
    fn delete(&self, key: &str) -> BoxFuture<'static, Result<(), Error>>;

    /// Whether the store's own code can run now: false while its event loop is stopped.
    fn is_running(&self) -> BoxFuture<'static, bool>;
}

/// One object of one store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId {
    pub store: u64,
    pub key: Arc<[u8]>,
}

/// Which bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of them.
    Whole,
    /// These.
    Range(Range<u64>),
    /// The last `n` bytes.
    Suffix(u64),
}

/// What tells one state of an object from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Validator {
    /// The `ETag` that an object store gave.
    ETag(String),
    /// Device, inode, size in bytes and time of the last change (ctime: no tool sets it back) in nanoseconds of a local
    /// file; where there is no inode, seconds and nanoseconds of when it was made, in place of the first two.
    File(u64, u64, u64, i128),
}

impl Validator {
    /// Whether a store compares it for us (`If-Match` wants strong tags, RFC 9110, 13.1.1).
    pub(crate) fn strong_etag(&self) -> Option<&str> {
        match self {
            Self::ETag(tag) if !tag.starts_with("W/") => Some(tag),
            _ => None,
        }
    }
}

/// A fetched object, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Bytes,
    /// Size in bytes of the whole object, where the store told.
    pub size: Option<u64>,
    pub validator: Option<Validator>,
    /// The version that the store has given this state, where it keeps versions.
    pub version: Option<String>,
}

/// What came of a get.
#[derive(Debug, Clone)]
pub(crate) enum Get {
    Found(Fetched),
    Missing,
    /// The object is not the one that the validator named.
    Changed,
    /// The object still is the one that the caller has.
    Unchanged,
    /// The object has this many bytes, more than the caller takes.
    Oversized(u64),
}

/// What came of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    /// The object is not what the condition said.
    Conflict,
}

/// On what a put depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// There must be no such object.
    Absent,
    /// The object must be the one with this `ETag` and version.
    Match(String, Option<String>),
}

/// On which state of the object a get depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State<'a> {
    Any,
    /// It must be this one.
    Is(&'a Validator),
    /// Nothing is wanted of this one, which the caller has.
    IsNot(&'a Validator),
}

/// A request of ours, as the store's own settings would have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Bytes that are taken at most.
    pub max_bytes: u64,
    pub state: State<'a>,
    pub hedge: Option<Hedge<'a>>,
}

impl Store {
    /// Names the store's contents together with a key: one place and key, one object.
    pub(crate) fn place(&self) -> u64 {
        match self {
            // All local stores are one: their objects are named by absolute paths.
            Self::Local(_) => 0,
            Self::Awaited(Awaited::Remote(store)) => store.location(),
            Self::Awaited(Awaited::Foreign(store)) => store.place(),
        }
    }

    /// Names the store to people, without credentials.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Local(store) => store.name(),
            Self::Awaited(store) => store.name(),
        }
    }

    /// Where fetches may be shared: among stores of equal settings, and within one event loop.
    pub(crate) fn scope(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::Awaited(Awaited::Remote(store)) => store.identity(),
            Self::Awaited(Awaited::Foreign(store)) => store.scope(),
        }
    }
}

impl Awaited {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Remote(store) => store.name().to_owned(),
            Self::Foreign(store) => store.name(),
        }
    }

    /// The scope of a foreign store.
    pub(crate) fn foreign_scope(&self) -> Option<u64> {
        match self {
            Self::Remote(_) => None,
            Self::Foreign(store) => Some(store.scope()),
        }
    }

    /// The object's key from the root of the place.
    pub(crate) fn full_path(&self, key: &Arc<str>) -> Arc<str> {
        match self {
            Self::Remote(store) => store.full_path(key),
            Self::Foreign(_) => Arc::clone(key),
        }
    }

    /// Whether a put may depend on what is stored.
    pub(crate) fn has_conditions(&self) -> bool {
        matches!(self, Self::Remote(store) if store.has_conditions())
    }

    /// Whether an answer says in which state the object is, so that two answers can be told to be of one.
    pub(crate) const fn has_validators(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// What is known of the wire; nothing of a foreign store's.
    pub(crate) fn wire(&self) -> Option<&Wire> {
        match self {
            Self::Remote(store) => Some(&store.wire),
            Self::Foreign(_) => None,
        }
    }

    /// Whether the last bytes of an object can be asked for without its length, as far as is known.
    pub(crate) fn takes_suffixes(&self) -> bool {
        match self {
            Self::Remote(store) => store.takes_suffixes(),
            Self::Foreign(_) => true,
        }
    }

    /// Fetches an object, or a part of it.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request, or cancels the call.
    pub(crate) async fn get(
        &self,
        key: &str,
        part: &Part,
        terms: Terms<'_>,
        stats: &Arc<Stats>,
    ) -> Result<Get, Error> {
        match self {
            Self::Remote(store) => {
                let Terms {
                    max_bytes,
                    state,
                    hedge,
                } = terms;
                store.get(key, part, state, max_bytes, hedge).await
            }
            Self::Foreign(store) => {
                let counted = stats.count_request();
                let bytes = store.get(key, part.clone()).await?;
                drop(counted);
                Ok(bytes.map_or(Get::Missing, |bytes| {
                    stats.bytes_read.add(bytes.len() as u64);
                    Get::Found(Fetched {
                        bytes,
                        size: None,
                        validator: None,
                        version: None,
                    })
                }))
            }
        }
    }

    /// Replaces an object; in parts, up to `parallel` at a time, where it is large.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        parallel: usize,
        stats: &Arc<Stats>,
    ) -> Result<Put, Error> {
        match self {
            Self::Remote(store) => store.put(key, bytes, condition, parallel).await,
            Self::Foreign(store) => {
                let counted = stats.count_request();
                let len = bytes.len() as u64;
                store.put(key, bytes).await?;
                drop(counted);
                stats.bytes_written.add(len);
                Ok(Put::Done)
            }
        }
    }

    /// Removes an object; not an error where there is none.
    pub(crate) async fn delete(&self, key: &str, stats: &Arc<Stats>) -> Result<(), Error> {
        match self {
            Self::Remote(store) => store.delete(key).await,
            Self::Foreign(store) => {
                let counted = stats.count_request();
                store.delete(key).await?;
                drop(counted);
                Ok(())
            }
        }
    }
}
