//! What is asked: an array, the chunks of one `read` or `write` call, and how each of them went.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::admit::Bound;
use crate::element::ChunkSpec;
use crate::error::Error;
use crate::flight::ObjectId;
use crate::layout::Layout;
use crate::out::OutBuffer;
use crate::selection::Selection;
use crate::stage::DecodeOptions;
use crate::store::Store;

/// Settings of one pipeline, fixed when it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Chunks in flight at most; `None` for no bound of its own.
    pub chunk_concurrent_maximum: Option<usize>,
    /// Chunks in flight before the threads of one chunk are more than one.
    pub chunk_concurrent_minimum: usize,
    /// Whether checksums are compared.
    pub validate_checksums: bool,
    /// How many times slower than its peers' median a request is when a second one is sent; `None` for
    /// never.
    pub hedge_factor: Option<f64>,
}

/// One array: where its chunks are and how they are encoded.
#[derive(Debug)]
pub struct Array {
    pub(crate) store: Store,
    pub(crate) layout: Layout,
    pub(crate) settings: Settings,
    pub(crate) chunks: Option<Arc<Bound>>,
    /// Equal for layouts that decode alike.
    fingerprint: u64,
}

/// A chunk's shape, element and fill value, checked against an array's layout.
#[derive(Debug)]
pub struct Spec {
    pub(crate) chunk: ChunkSpec,
    /// Bytes of the decoded chunk.
    pub(crate) nbytes: usize,
    /// Bytes that the encoded chunk cannot exceed.
    pub(crate) most_encoded: u64,
    /// Equal for chunks that decode alike.
    pub(crate) fingerprint: u64,
}

/// One chunk of a batch.
#[derive(Debug)]
pub struct Item {
    /// Key of the chunk, or of the shard.
    pub key: Arc<str>,
    /// Its shape, element and fill value.
    pub spec: Arc<Spec>,
    /// Which elements, and where they stand in the caller's buffer.
    pub selection: Selection,
    /// Whether zarr counts the chunk as wholly selected, which at the array's edge is true of less
    /// than all elements.
    pub complete: bool,
}

impl Item {
    /// Decoded bytes of what is touched: the chunk, or those subchunks of a shard that the selection may
    /// fall into.
    pub(crate) fn touched_bytes(&self, layout: &Layout) -> usize {
        match layout {
            Layout::Chunk(_) => self.spec.nbytes,
            Layout::Shard(sharding) => {
                let subspec = self.spec.chunk.with_shape(&sharding.chunk_shape);
                let subchunks = self.selection.touches(&sharding.chunk_shape);
                let nbytes = subspec.nbytes().unwrap_or(self.spec.nbytes);
                nbytes.saturating_mul(subchunks).min(self.spec.nbytes)
            }
        }
    }
}

/// The chunks of one call, and the buffer they come from or go to.
#[derive(Debug)]
pub struct Batch {
    /// The array.
    pub array: Arc<Array>,
    /// Its chunks.
    pub items: Vec<Item>,
    /// The caller's buffer.
    pub buffer: Arc<OutBuffer>,
    /// Byte ranges of one shard closer than this are fetched as one.
    pub coalesce_gap: u64,
    /// … unless that makes more than this many bytes.
    pub coalesce_max: u64,
    /// Whether chunks that equal the fill value are stored.
    pub write_empty_chunks: bool,
}

/// What failed in a batch: the first failure, and the keys of other chunks that failed too.
#[derive(Debug, Clone)]
pub struct BatchError {
    /// The first failure.
    pub error: Error,
    /// Keys of the others.
    pub others: Vec<Arc<str>>,
}

impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        Self {
            error,
            others: Vec::new(),
        }
    }
}

impl Spec {
    /// Elements along each axis.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.chunk.shape
    }
}

impl Array {
    /// An array whose chunks lie in `store`, encoded by `layout`.
    #[must_use]
    pub fn new(store: Store, layout: Layout, settings: Settings) -> Self {
        let chunks = settings.chunk_concurrent_maximum.map(Bound::new);
        let mut hasher = DefaultHasher::new();
        format!("{layout:?}").hash(&mut hasher);
        (settings.validate_checksums, store.realm()).hash(&mut hasher);
        Self {
            store,
            layout,
            settings,
            chunks,
            fingerprint: hasher.finish(),
        }
    }

    /// Checks that chunks of this shape and element can be encoded and decoded.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where shape and codecs do not go together.
    pub fn spec(&self, chunk: ChunkSpec) -> Result<Spec, Error> {
        self.layout.check(&chunk)?;
        let nbytes = chunk
            .nbytes()
            .ok_or_else(|| Error::unsupported("chunks beyond memory"))?;
        let mut hasher = DefaultHasher::new();
        self.fingerprint.hash(&mut hasher);
        chunk.hash(&mut hasher);
        Ok(Spec {
            most_encoded: self.layout.most_encoded(&chunk),
            chunk,
            nbytes,
            fingerprint: hasher.finish(),
        })
    }

    /// The same array in another store, within the same bound on its chunks.
    #[must_use]
    pub fn in_store(&self, store: Store) -> Self {
        let other = Self::new(store, self.layout.clone(), self.settings.clone());
        Self {
            chunks: self.chunks.clone(),
            ..other
        }
    }

    /// Names the store, without credentials.
    #[must_use]
    pub fn store_name(&self) -> String {
        self.store.name()
    }

    pub(crate) const fn options(&self) -> DecodeOptions {
        DecodeOptions {
            validate_checksums: self.settings.validate_checksums,
        }
    }

    /// Names an object for as long as the process runs, whichever store reaches it.
    pub(crate) fn object(&self, key: &Arc<str>) -> ObjectId {
        let key = match &self.store {
            Store::Local(store) => store.full_path(key),
            Store::Remote(store) => store.full_path(key),
            Store::Foreign(_) => Arc::clone(key),
        };
        ObjectId {
            store: self.store.identity(),
            key,
        }
    }
}

/// How each chunk of a batch went.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<Outcomes>);

#[derive(Debug)]
struct Outcomes {
    /// Whether each chunk was missing; `None` while it is not known.
    missing: Vec<Option<bool>>,
    failures: Vec<(usize, Error)>,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Outcomes {
            missing: vec![None; count],
            failures: Vec::new(),
        })))
    }

    pub(crate) fn set(&self, slot: usize, outcome: Result<bool, Error>) {
        let mut outcomes = self.0.lock();
        match outcome {
            Ok(missing) => outcomes.missing[slot] = Some(missing),
            Err(error) => outcomes.failures.push((slot, error)),
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !self.0.lock().failures.is_empty()
    }

    /// Whether each chunk was missing, or what failed; `key` names a slot.
    pub(crate) fn outcome(&self, key: impl Fn(usize) -> Arc<str>) -> Result<Vec<bool>, BatchError> {
        let outcomes = self.0.lock();
        if let Some(((slot, error), others)) = outcomes.failures.split_first() {
            return Err(BatchError {
                error: error.clone().at(&key(*slot)),
                others: others.iter().map(|(slot, _)| key(*slot)).collect(),
            });
        }
        outcomes
            .missing
            .iter()
            .map(|missing| {
                missing.ok_or_else(|| Error::Stopped("a unit ended without a result".into()).into())
            })
            .collect()
    }
}
