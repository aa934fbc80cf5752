//! A store as the engine sees it: local files, an object store on the wire, or a foreign one.
//!
//! The three differ in where their work happens. A local read is an open and a `pread` inside the CPU
//! job that decodes what it read; a remote one is awaited with a request permit held; a foreign one is
//! awaited too, but the store's own code (Python's, in `crates/py`) does it.

mod build;
mod door;
mod hedge;
mod local;
mod remote;
mod retry;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub(crate) use build::Registry;
pub use build::{RemoteConfig, RemoteKind};
pub(crate) use door::Door;
pub(crate) use hedge::Hedge;
pub use local::LocalStore;
pub(crate) use local::{Directories, Opened};
pub use remote::RemoteStore;

use crate::error::Error;

/// Where objects are.
#[derive(Debug, Clone)]
pub enum Store {
    /// Files under a directory.
    Local(Arc<LocalStore>),
    /// An object store reached over HTTP.
    Remote(Arc<RemoteStore>),
    /// A store that somebody else implements.
    Foreign(Arc<dyn ForeignStore>),
}

/// A store implemented outside the engine.
pub trait ForeignStore: Debug + Send + Sync {
    /// Names the store's contents: two stores with one identity hold the same objects.
    fn identity(&self) -> u64;

    /// Fetches are shared between batches of one realm only: those that can wait for each other.
    fn realm(&self) -> u64;

    /// Names the store in errors.
    fn name(&self) -> String;

    /// The object, or the part of it; `None` where there is none.
    fn get(&self, key: &str, range: Part) -> BoxFuture<'static, Result<Option<Bytes>, Error>>;

    /// Replaces the object.
    fn put(&self, key: &str, bytes: Bytes) -> BoxFuture<'static, Result<(), Error>>;

    /// Removes the object; not an error where there is none.
    fn delete(&self, key: &str) -> BoxFuture<'static, Result<(), Error>>;
}

/// Which bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of them.
    Whole,
    /// These.
    Range(Range<u64>),
    /// The last so many.
    Suffix(u64),
}

/// What tells one state of an object from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Validator {
    /// The `ETag` that an object store gave.
    ETag(String),
    /// Device, inode, size in bytes and time of the last change (ctime: no tool sets it back) in nanoseconds of a local file.
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
    /// The store's own number for this state, where it has such.
    pub version: Option<String>,
}

/// What came of a get.
#[derive(Debug, Clone)]
pub(crate) enum Get {
    Found(Fetched),
    Missing,
    /// The object is not the one that the validator named.
    Changed,
    /// It has so many bytes, more than the caller would take.
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

impl Store {
    /// Names the store's contents together with a key: one identity, one object.
    pub(crate) fn identity(&self) -> u64 {
        match self {
            // All local stores are one: their objects are named by absolute paths.
            Self::Local(_) => 0,
            Self::Remote(store) => store.location(),
            Self::Foreign(store) => store.identity(),
        }
    }

    /// Names the store to people, without credentials.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Local(store) => store.name(),
            Self::Remote(store) => store.name().to_owned(),
            Self::Foreign(store) => store.name(),
        }
    }

    /// Where fetches may be shared.
    pub(crate) fn realm(&self) -> u64 {
        match self {
            Self::Foreign(store) => store.realm(),
            Self::Remote(store) => store.identity(),
            Self::Local(_) => 0,
        }
    }

    /// Whether a fetch is a wait for somebody else, not work of this machine.
    pub(crate) const fn is_awaited(&self) -> bool {
        !matches!(self, Self::Local(_))
    }
}
