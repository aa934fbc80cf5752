//! What the engine's tests have in common: arrays of bytes, batches on memory, and a store that obeys.
//!
//! Every array has one axis and elements of one byte, so a position is an offset in bytes.

mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::batch::{Array, Batch, Item, Settings, Spec};
use crate::codec::element::{ChunkSpec, Element, Kind};
use crate::codec::layout::Layout;
use crate::copy::buffer::OutBuffer;
use crate::copy::positions::Positions;
use crate::copy::selection::{Axis, Selection};
use crate::engine::{Engine, Limits};
use crate::store::{LocalStore, Store};

pub(crate) use store::MemoryStore;

/// What an element has where nothing is stored.
pub(crate) const FILL: u8 = 9;

/// The bounds of [`engine`].
pub(crate) const LIMITS: Limits = Limits {
    threads: 2,
    requests: Some(16),
    memory_bytes: 64 << 20,
    shard_index_cache_bytes: 1 << 20,
    chunk_cache_bytes: 0,
    chunk_cache_recheck: std::time::Duration::ZERO,
};

/// An engine on which no bound is felt.
pub(crate) fn engine() -> Arc<Engine> {
    Engine::new(LIMITS).unwrap()
}

/// Codecs of chunks that are stored as they are.
pub(crate) fn bytes() -> Value {
    json!([{"name": "bytes"}])
}

/// Codecs of shards whose subchunks have `len` elements and the codecs `inner`; the index is at the end.
pub(crate) fn shards(len: u64, inner: &Value) -> Value {
    json!([{"name": "sharding_indexed", "configuration": {
        "chunk_shape": [len], "codecs": inner,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}}])
}

/// A store for tests that only look at data.
pub(crate) fn nowhere() -> Store {
    Store::Local(Arc::new(LocalStore::new("/".as_ref(), false)))
}

pub(crate) fn array(store: Store, codecs: &Value) -> Arc<Array> {
    let layout = Layout::from_v3(codecs, false, &[]).unwrap();
    let settings = Settings {
        chunk_concurrent_maximum: None,
        chunk_concurrent_minimum: 4,
        validate_checksums: true,
        hedge_factor: None,
    };
    Arc::new(Array::new(store, layout, "", settings))
}

/// Chunks of `len` elements.
pub(crate) fn spec(array: &Array, len: u64) -> Arc<Spec> {
    let element = Element {
        size: 1,
        kind: Kind::Bits,
        swap_unit: 1,
        big_endian: false,
    };
    let chunk = ChunkSpec {
        shape: vec![len],
        element,
        fill: vec![FILL],
    };
    Arc::new(array.spec(chunk).unwrap())
}

/// `len` elements from `start`, each `step` after the one before; they lie side by side in the buffer, from `at`.
pub(crate) fn steps(start: i64, step: i64, len: usize, at: i64) -> Selection {
    let axis = Axis {
        chunk: Positions::Range { start, step, len },
        out: Positions::Range {
            start: 0,
            step: 1,
            len,
        },
    };
    Selection::Grid {
        axes: vec![axis],
        base: at,
    }
}

/// The elements from `start` to `end`, which lie side by side in the buffer, from `at`.
pub(crate) fn range(start: i64, end: i64, at: i64) -> Selection {
    steps(start, 1, usize::try_from(end - start).unwrap(), at)
}

/// A part of one chunk, or all of it.
pub(crate) fn item(spec: &Arc<Spec>, key: &str, selection: Selection) -> Item {
    Item {
        key: key.into(),
        complete: selection.covers(spec.shape()),
        spec: Arc::clone(spec),
        selections: [selection].into(),
    }
}

/// A batch that begins now and merges no byte ranges.
pub(crate) fn batch(array: &Arc<Array>, items: Vec<Item>, buffer: &Arc<OutBuffer>) -> Batch {
    Batch {
        array: Arc::clone(array),
        items,
        buffer: Arc::clone(buffer),
        coalesce_gap: Some(0),
        coalesce_max: 1 << 20,
        write_empty_chunks: false,
        since: Instant::now(),
    }
}

/// A batch of whole chunks, one after the other in the buffer.
pub(crate) fn chunks(
    array: &Arc<Array>,
    len: u64,
    keys: &[&str],
    buffer: &Arc<OutBuffer>,
) -> Batch {
    let (spec, len) = (spec(array, len), i64::try_from(len).unwrap());
    let items = (0..)
        .zip(keys)
        .map(|(at, key)| item(&spec, key, range(0, len, len * at)));
    batch(array, items.collect(), buffer)
}

/// The caller's memory.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<[AtomicU8]>);

impl Memory {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| AtomicU8::new(*byte)).collect())
    }

    /// A buffer of all of it.
    pub(crate) fn buffer(&self) -> Arc<OutBuffer> {
        let extent = 0..i64::try_from(self.0.len()).unwrap();
        let base = self.0.as_ptr().cast_mut().cast();
        let owner = Box::new(Arc::clone(&self.0));
        #[expect(unsafe_code, reason = "as a caller of the engine does")]
        // SAFETY: `owner` keeps the bytes alive, and atomics may be written to through a shared pointer.
        // Tests read them once the batch has ended, or `closed` has returned.
        let buffer = unsafe { OutBuffer::new(base, extent, owner) };
        Arc::new(buffer)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect()
    }
}

/// Runs a batch as far as it goes without an answer of its store.
pub(crate) async fn advance<T>(batch: &mut (impl Future<Output = T> + Unpin)) {
    // Its tasks wake each other, a few times for each step of a unit.
    for _ in 0..100 {
        assert!(futures::poll!(&mut *batch).is_pending());
        tokio::task::yield_now().await;
    }
}

/// Lets other tasks and threads go on until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Asserts that no batch holds anything of the engine any more.
#[track_caller]
pub(crate) fn assert_idle(engine: &Engine) {
    assert!(
        engine.held().iter().all(|(_, held)| *held == 0),
        "{:?}",
        engine.held()
    );
}
