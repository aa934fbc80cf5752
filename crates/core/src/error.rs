//! One error type for the engine, cheap to clone because a shared fetch hands it to every waiter.
//!
//! The variants follow what a caller can do about a failure; `crates/py` maps each to one Python class.

use std::sync::Arc;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What went wrong, in one word that stays the same from version to version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds there are.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// [`StoreErrorKind::Permission`].
    Permission = "permission",
    /// [`StoreErrorKind::Timeout`].
    Timeout = "timeout",
    /// [`StoreErrorKind::Changed`].
    Changed = "changed",
    /// [`StoreErrorKind::Oversized`].
    Oversized = "oversized",
    /// [`StoreErrorKind::Other`].
    Store = "store",
    /// [`Error::Decode`].
    Decode = "decode",
    /// [`Error::Encode`].
    Encode = "encode",
    /// [`Error::Foreign`].
    ForeignCodec = "foreign_codec",
    /// [`Error::Memory`].
    Memory = "memory",
    /// [`Error::Unsupported`].
    Unsupported = "unsupported",
    /// [`Error::Invalid`].
    Invalid = "invalid",
    /// [`Error::Internal`].
    Internal = "internal",
    /// [`Error::Stopped`].
    Stopped = "stopped",
}

/// Why a chunk could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed: a request, a file, or the Python store behind the bridge.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// The stored bytes are not what the codec chain says they are.
    #[error(
        "chunk {key:?} cannot be decoded by codec {codec:?}: {reason}; the stored object is damaged or was not written with this array's metadata"
    )]
    Decode {
        /// Key of the chunk or shard.
        key: Arc<str>,
        /// Name of the codec that refused.
        codec: Arc<str>,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The codec chain could not encode the values.
    #[error("chunk {key:?} cannot be encoded by codec {codec:?}: {reason}")]
    Encode {
        /// Key of the chunk or shard.
        key: Arc<str>,
        /// Name of the codec that refused.
        codec: Arc<str>,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// A foreign codec failed.
    #[error("chunk {key:?} cannot be {operation} by codec {codec:?}: {source}")]
    Foreign {
        /// Key of the chunk or shard.
        key: Arc<str>,
        /// Name of the codec.
        codec: Arc<str>,
        /// `decoded` or `encoded`.
        operation: &'static str,
        /// What the codec's own code raised.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// There is no memory for a chunk, or for the table of a shard's subchunks.
    #[error(
        "chunk {key:?} needs {nbytes} bytes of memory at once, which cannot be had; rewrite the array with smaller chunks, or read it where there is more memory"
    )]
    Memory {
        /// Key of the chunk or shard.
        key: Arc<str>,
        /// Bytes that were asked for.
        nbytes: usize,
    },
    /// Something this engine does not do; zarr's own pipeline may.
    #[error("{0}")]
    Unsupported(Arc<str>),
    /// The caller's selection, buffer or option does not fit.
    #[error("{0}")]
    Invalid(Arc<str>),
    /// A defect of this engine, or of a codec library: what is stored may well be sound.
    #[error(
        "a defect in zarrs-async stopped the work on {key:?}: {reason}; this says nothing about the stored object, please report it"
    )]
    Internal {
        /// Key of the chunk or shard.
        key: Arc<str>,
        /// What happened.
        reason: Arc<str>,
    },
    /// The batch was cancelled, or the engine is shutting down.
    #[error("the batch was stopped before it was done: {0}")]
    Stopped(Arc<str>),
}

/// What kind of store failure it was: what a handler would branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// HTTP 401 or 403, or a file that may not be opened.
    Permission,
    /// Nothing arrived for as long as the store's timeout allows.
    Timeout,
    /// The object kept changing while it was read or written.
    Changed,
    /// The object has more bytes than what was asked for can have.
    Oversized,
    /// Anything else.
    Other,
}

/// A failed store operation, with all a user needs to look for the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} of {key:?} in {store} failed{}{}: {reason}", status_text(*.status), attempts_text(*.attempts))]
pub struct StoreError {
    /// What a handler would branch on.
    pub kind: StoreErrorKind,
    /// `get`, `put` or `delete`.
    pub operation: &'static str,
    /// Key of the object, relative to the store's root.
    pub key: Arc<str>,
    /// The store, without credentials.
    pub store: Arc<str>,
    /// HTTP status of the last answer, where there was one.
    pub status: Option<u16>,
    /// How many requests were made.
    pub attempts: u32,
    /// The last failure, in words.
    pub reason: Arc<str>,
    /// What the store's own code raised, where there is something.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An object that is not the one it was when the read of it began.
    pub(crate) fn changed(store: String, key: &Arc<str>) -> Self {
        Self {
            kind: StoreErrorKind::Changed,
            operation: "get",
            key: Arc::clone(key),
            store: store.into(),
            status: None,
            attempts: 1,
            reason: "the object was replaced while it was read".into(),
            source: None,
        }
    }

    /// An object of `size` bytes, more than any chunk of the array can have.
    pub(crate) fn oversized(store: String, key: &Arc<str>, size: u64) -> Self {
        Self {
            kind: StoreErrorKind::Oversized,
            reason: format!("{size} bytes are more than a chunk of this array can have").into(),
            ..Self::changed(store, key)
        }
    }
}

impl Error {
    /// What went wrong, in one word.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => match error.kind {
                StoreErrorKind::Permission => ErrorKind::Permission,
                StoreErrorKind::Timeout => ErrorKind::Timeout,
                StoreErrorKind::Changed => ErrorKind::Changed,
                StoreErrorKind::Oversized => ErrorKind::Oversized,
                StoreErrorKind::Other => ErrorKind::Store,
            },
            Self::Decode { .. } => ErrorKind::Decode,
            Self::Encode { .. } => ErrorKind::Encode,
            Self::Foreign { .. } => ErrorKind::ForeignCodec,
            Self::Memory { .. } => ErrorKind::Memory,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Internal { .. } => ErrorKind::Internal,
            Self::Stopped(_) => ErrorKind::Stopped,
        }
    }

    pub(crate) fn decode(codec: &str, reason: impl std::fmt::Display) -> Self {
        Self::Decode {
            key: "".into(),
            codec: codec.into(),
            reason: reason.to_string().into(),
        }
    }

    pub(crate) fn encode(codec: &str, reason: impl std::fmt::Display) -> Self {
        Self::Encode {
            key: "".into(),
            codec: codec.into(),
            reason: reason.to_string().into(),
        }
    }

    /// No memory for `nbytes` bytes, of a chunk that the engine names.
    #[must_use]
    pub fn no_memory(nbytes: usize) -> Self {
        Self::memory(nbytes)
    }

    pub(crate) fn memory(nbytes: usize) -> Self {
        Self::Memory {
            key: "".into(),
            nbytes,
        }
    }

    pub(crate) fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::Invalid(reason.to_string().into())
    }

    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::Internal {
            key: "".into(),
            reason: reason.to_string().into(),
        }
    }

    pub(crate) fn unsupported(reason: impl std::fmt::Display) -> Self {
        Self::Unsupported(reason.to_string().into())
    }

    /// Names the chunk in an error raised where only its bytes were known.
    #[must_use]
    pub(crate) fn at(mut self, chunk: &Arc<str>) -> Self {
        if let Self::Decode { key, .. }
        | Self::Encode { key, .. }
        | Self::Foreign { key, .. }
        | Self::Internal { key, .. }
        | Self::Memory { key, .. } = &mut self
        {
            *key = Arc::clone(chunk);
        }
        self
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

fn status_text(status: Option<u16>) -> String {
    status.map_or_else(String::new, |status| format!(" with HTTP status {status}"))
}

fn attempts_text(attempts: u32) -> String {
    if attempts > 1 {
        format!(" after {attempts} attempts")
    } else {
        String::new()
    }
}
