//! What is asked: an array, the chunks of one `read` or `write` call, and how each of them went.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::codec::element::ChunkSpec;
use crate::codec::layout::Layout;
use crate::codec::stage::DecodeOptions;
use crate::copy::buffer::OutBuffer;
use crate::copy::selection::{Selection, covered};
use crate::error::Error;
use crate::limits::bound::Bound;
use crate::store::{ObjectId, Store};

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
    decoding: Arc<Decoding>,
}

/// What two arrays must have in common for one decoded chunk to serve both.
#[derive(Debug, PartialEq, Eq)]
struct Decoding {
    /// Codecs and data type, in words that are equal for equal ones.
    metadata: String,
    validate_checksums: bool,
    /// Where fetches may be shared, see [`Store::scope`].
    scope: u64,
}

/// A chunk's shape, element and fill value, checked against an array's layout.
#[derive(Debug)]
pub struct Spec {
    pub(crate) chunk: ChunkSpec,
    /// Bytes of the decoded chunk.
    pub(crate) nbytes: usize,
    /// Bytes that the encoded chunk cannot exceed.
    pub(crate) max_encoded: u64,
    /// Bytes that it does not exceed but where a foreign codec makes more of them than others would.
    pub(crate) usual_encoded: u64,
    decoding: Arc<Decoding>,
}

/// One chunk of a batch.
#[derive(Debug)]
pub struct Item {
    /// Key of the chunk, or of the shard.
    pub key: Arc<str>,
    /// Its shape, element and fill value.
    pub spec: Arc<Spec>,
    /// Which elements, and where they stand in the caller's buffer. A write takes the values of one selection
    /// after those of the one before.
    pub selections: Arc<[Selection]>,
    /// Whether zarr counts the chunk as wholly selected, which at the array's edge is true of less
    /// than all elements.
    pub complete: bool,
}

impl Item {
    /// Whether one of the selections covers the chunk.
    pub(crate) fn covers(&self) -> bool {
        covered(&self.selections, self.spec.shape())
    }

    /// Decoded bytes of what is touched: the chunk, or those subchunks of a shard that the selection may
    /// fall into.
    pub(crate) fn touched_bytes(&self, layout: &Layout) -> usize {
        match layout {
            Layout::Chunk(_) => self.spec.nbytes,
            Layout::Shard(sharding) => {
                let subspec = self.spec.chunk.with_shape(&sharding.chunk_shape);
                let selections = self.selections.iter();
                let touched = selections.map(|selection| selection.touches(&sharding.chunk_shape));
                let subchunks = touched.fold(0, usize::saturating_add);
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
    /// Byte ranges of one shard closer than this are fetched as one, and a shard that is not larger is fetched
    /// whole; `None` for what the wire is measured to be worth.
    pub coalesce_gap: Option<u64>,
    /// … unless that makes more than this many bytes.
    pub coalesce_max: u64,
    /// Whether chunks that equal the fill value are stored.
    pub write_empty_chunks: bool,
    /// When the call began: fetches that began earlier are not shared with this batch, so that it never
    /// gets bytes that are older than the call.
    pub since: Instant,
}

impl Batch {
    /// Makes one item of those that are of one object; of each item as it was, tells which one it is part of now.
    ///
    /// So an object is opened once, its index looked up once, and each subchunk decoded once.
    pub(crate) fn merge_items(&mut self) -> Vec<usize> {
        if self.items.len() < 2 {
            return (0..self.items.len()).collect();
        }
        let mut first: HashMap<Arc<str>, usize, RandomState> = HashMap::default();
        first.reserve(self.items.len());
        let (mut merged, mut more): (Vec<Item>, Vec<Vec<Selection>>) = (Vec::new(), Vec::new());
        let places = std::mem::take(&mut self.items).into_iter().map(|item| {
            let at = *first.entry(Arc::clone(&item.key)).or_insert(merged.len());
            match merged.get_mut(at) {
                // One key has one shape, unless the caller errs.
                Some(same) if same.spec.chunk == item.spec.chunk => {
                    same.complete |= item.complete;
                    more[at].extend(item.selections.iter().cloned());
                    at
                }
                _ => {
                    merged.push(item);
                    more.push(Vec::new());
                    merged.len() - 1
                }
            }
        });
        let places = places.collect();
        for (item, more) in merged.iter_mut().zip(more) {
            if !more.is_empty() {
                item.selections = item.selections.iter().cloned().chain(more).collect();
            }
        }
        self.items = merged;
        places
    }
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
    /// Refuses an object that has more bytes than an encoded chunk can have, before it is read.
    ///
    /// # Errors
    /// [`Error::Decode`] saying how many there are.
    pub(crate) fn check_stored(&self, size: u64) -> Result<(), Error> {
        if size > self.max_encoded {
            let reason = format!("{size} bytes are no chunk of this shape");
            return Err(Error::decode("bytes", reason));
        }
        Ok(())
    }

    /// Elements along each axis.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.chunk.shape
    }

    /// Whether equal bytes decode to equal elements under both.
    pub(crate) fn decodes_like(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.decoding, &other.decoding) || self.decoding == other.decoding)
            && self.chunk == other.chunk
    }
}

impl Array {
    /// An array whose chunks lie in `store`, encoded by `layout`.
    ///
    /// `metadata` is what `layout` was made from, as text: arrays of one text decode alike.
    #[must_use]
    pub fn new(store: Store, layout: Layout, metadata: &str, settings: Settings) -> Self {
        let chunks = settings.chunk_concurrent_maximum.map(Bound::new);
        let decoding = Arc::new(Decoding {
            metadata: metadata.to_owned(),
            validate_checksums: settings.validate_checksums,
            scope: store.scope(),
        });
        Self {
            store,
            layout,
            settings,
            chunks,
            decoding,
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
        Ok(Spec {
            max_encoded: self.layout.max_encoded(&chunk),
            usual_encoded: self.layout.usual_encoded(&chunk),
            chunk,
            nbytes,
            decoding: Arc::clone(&self.decoding),
        })
    }

    /// Whether `spec` was made by this array.
    #[must_use]
    pub fn made(&self, spec: &Spec) -> bool {
        Arc::ptr_eq(&self.decoding, &spec.decoding)
    }

    /// The same array in another store, with a bound of its own on its chunks.
    ///
    /// Two event loops must not wait for each other, so they share no bound.
    #[must_use]
    pub fn in_store(&self, store: Store) -> Self {
        let (layout, settings) = (self.layout.clone(), self.settings.clone());
        Self::new(store, layout, &self.decoding.metadata, settings)
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
            Store::Awaited(store) => store.full_path(key).into(),
        };
        ObjectId {
            store: self.store.place(),
            key,
        }
    }

    /// Names an object to those who write it: one that two paths lead to has one name.
    ///
    /// Reads need no such name: a file is opened after the last batch has joined its fetch.
    pub(crate) fn written_object(&self, key: &Arc<str>) -> ObjectId {
        match &self.store {
            Store::Local(store) => ObjectId {
                store: self.store.place(),
                key: store.real_path(key),
            },
            Store::Awaited(_) => self.object(key),
        }
    }
}

/// How each chunk of a batch, or each byte range of a shard, went.
#[derive(Debug)]
pub(crate) struct Results(Mutex<Outcomes>);

#[derive(Debug)]
struct Outcomes {
    /// Whether each chunk was missing; `None` while it is not known.
    missing: Vec<Option<bool>>,
    failures: Vec<(usize, Error)>,
}

impl Results {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Outcomes {
            missing: vec![None; count],
            failures: Vec::new(),
        })))
    }

    pub(crate) fn set(&self, index: usize, outcome: Result<bool, Error>) {
        let mut outcomes = self.0.lock();
        match outcome {
            Ok(missing) => outcomes.missing[index] = Some(missing),
            Err(error) => outcomes.failures.push((index, error)),
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !self.0.lock().failures.is_empty()
    }

    /// Whether each chunk was missing, or what failed; `key` gives the key of an index.
    pub(crate) fn outcome(&self, key: impl Fn(usize) -> Arc<str>) -> Result<Vec<bool>, BatchError> {
        let outcomes = self.0.lock();
        if let Some(((index, error), others)) = outcomes.failures.split_first() {
            return Err(BatchError {
                error: error.clone().at(&key(*index)),
                others: others.iter().map(|(index, _)| key(*index)).collect(),
            });
        }
        outcomes
            .missing
            .iter()
            .map(|missing| {
                missing.ok_or_else(|| Error::internal("a unit ended without a result").into())
            })
            .collect()
    }
}
