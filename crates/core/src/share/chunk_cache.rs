//! Decoded chunks and subchunks, kept within a number of bytes, and only such as can be validated.
//!
//! As with shard indexes, what is kept is never believed by itself: whoever uses it has seen that the object
//! still is in the state whose validator stands here, which is what the file says that is looked at, or what a
//! server answers to a conditional request. Where the user allows it, a state counts for some time without.
//! Our own writes drop what is known of the object.
//!
//! A chunk of which a part is wanted is kept at once, since the rest may be wanted next. One that is wanted
//! whole is kept when it is wanted again: a scan of a large array, which reads each chunk once, neither copies
//! its chunks into the cache nor drives others out of it. So is one of which a part can be decoded by itself.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

use crate::batch::Spec;
use crate::chunk::decode::Keep;
use crate::store::{ObjectId, Validator};

/// Bytes that an entry takes besides its chunk.
const OVERHEAD: usize = 128;
/// A chunk may take this part of the cache at most.
const LARGEST: usize = 4;
/// Chunks that are remembered for having been wanted.
const REMEMBERED: usize = 1 << 13;

/// The decoded chunks of all objects.
#[derive(Debug)]
pub(crate) struct ChunkCache(Mutex<Entries>);

/// The chunks of one object in one state.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Never used twice.
    number: u64,
    pub validator: Validator,
    /// When the object was last seen in this state; `None` where it may have been written since.
    seen: Option<Instant>,
}

/// Where the chunks of an object go that are decoded.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    pub cache: &'a ChunkCache,
    pub id: ObjectId,
    pub spec: &'a Arc<Spec>,
    pub validator: Validator,
    /// When the store was asked for what is decoded.
    pub asked: Instant,
}

#[derive(Debug)]
struct Entries {
    objects: HashMap<ObjectId, Object, RandomState>,
    /// By number of the state, and number of the subchunk in C order; a plain chunk is the first of its object.
    chunks: LruCache<(u64, usize), Chunk, RandomState>,
    /// Hashes of chunks that were wanted and not kept.
    remembered: LruCache<u64, (), RandomState>,
    next: u64,
    /// When the last write of this process ended.
    written: Option<Instant>,
    nbytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Object {
    kept: Kept,
    spec: Arc<Spec>,
    /// Chunks of this state.
    count: usize,
}

#[derive(Debug)]
struct Chunk {
    id: ObjectId,
    decoded: Bytes,
}

impl ChunkCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Mutex::new(Entries {
            objects: HashMap::default(),
            chunks: LruCache::unbounded_with_hasher(RandomState::default()),
            remembered: LruCache::unbounded_with_hasher(RandomState::default()),
            next: 0,
            written: None,
            nbytes: 0,
            limit,
        }))
    }

    pub(crate) fn resize(&self, limit: usize) {
        let mut entries = self.0.lock();
        entries.limit = limit;
        entries.shrink();
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.0.lock().limit > 0
    }

    /// In which state an object's chunks are kept; `None` where none is.
    pub(crate) fn of(&self, id: &ObjectId, spec: &Spec) -> Option<Kept> {
        let entries = self.0.lock();
        let object = entries.objects.get(id)?;
        object.spec.decodes_like(spec).then(|| object.kept.clone())
    }

    /// A chunk in a state that the caller has validated.
    pub(crate) fn get(&self, kept: &Kept, subchunk: usize) -> Option<Bytes> {
        let mut entries = self.0.lock();
        let chunk = entries.chunks.get(&(kept.number, subchunk))?;
        Some(chunk.decoded.clone())
    }

    /// See [`Keep::wants`].
    fn wants(&self, id: &ObjectId, subchunk: usize, nbytes: usize, at_once: bool) -> bool {
        let mut entries = self.0.lock();
        if nbytes > entries.limit / LARGEST {
            return false;
        }
        if at_once {
            return true;
        }
        let hash = entries.objects.hasher().hash_one((id, subchunk));
        let again = entries.remembered.put(hash, ()).is_some();
        if entries.remembered.len() > REMEMBERED {
            entries.remembered.pop_lru();
        }
        again
    }

    /// Keeps a chunk; those of other states of the object are of no use any more.
    fn keep(&self, of: &Keeper<'_>, subchunk: usize, decoded: Bytes) {
        let Keeper {
            id,
            spec,
            validator,
            asked,
            ..
        } = of;
        let mut entries = self.0.lock();
        let entries = &mut *entries;
        let same =
            |object: &Object| object.kept.validator == *validator && object.spec.decodes_like(spec);
        if !entries.objects.get(id).is_some_and(same) {
            let number = entries.next;
            entries.next += 1;
            let object = Object {
                kept: Kept {
                    number,
                    validator: validator.clone(),
                    seen: entries.unless_written(*asked),
                },
                spec: Arc::clone(spec),
                count: 0,
            };
            entries.objects.insert(id.clone(), object);
        }
        let Some(object) = entries.objects.get_mut(id) else {
            return;
        };
        object.count += 1;
        let at = (object.kept.number, subchunk);
        entries.nbytes += size(&decoded);
        let id = id.clone();
        if let Some((at, old)) = entries.chunks.push(at, Chunk { id, decoded }) {
            entries.dropped(at.0, &old);
        }
        entries.shrink();
    }

    /// Notes that an object was in this state when the store was asked.
    pub(crate) fn note_seen(&self, id: &ObjectId, kept: &Kept, asked: Instant) {
        let mut entries = self.0.lock();
        let seen = entries.unless_written(asked);
        let object = entries.objects.get_mut(id);
        if let Some(object) = object.filter(|object| object.kept.number == kept.number) {
            object.kept.seen = object.kept.seen.max(seen);
        }
    }

    /// Drops what is known of an object; its chunks, which nothing finds any more, go when room is needed.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let mut entries = self.0.lock();
        entries.objects.remove(id);
        entries.written = Some(Instant::now());
    }

    /// Bytes that are kept.
    #[cfg(test)]
    fn nbytes(&self) -> usize {
        self.0.lock().nbytes
    }
}

impl Kept {
    /// Whether the object was seen in this state within `age` before `now`.
    pub(crate) fn was_seen_within(&self, age: Duration, now: Instant) -> bool {
        let seen = self.seen.filter(|_| !age.is_zero());
        seen.is_some_and(|seen| now.saturating_duration_since(seen) < age)
    }
}

impl Keep for Keeper<'_> {
    fn wants(&self, subchunk: usize, nbytes: usize, at_once: bool) -> bool {
        self.cache.wants(&self.id, subchunk, nbytes, at_once)
    }

    fn keep(&self, subchunk: usize, decoded: Bytes) {
        self.cache.keep(self, subchunk, decoded);
    }
}

impl Entries {
    /// The time, unless a write has ended since: then what was seen may be what was there before.
    fn unless_written(&self, asked: Instant) -> Option<Instant> {
        Some(asked).filter(|asked| self.written.is_none_or(|written| written < *asked))
    }

    fn shrink(&mut self) {
        while self.nbytes > self.limit {
            let Some((at, old)) = self.chunks.pop_lru() else {
                return;
            };
            self.dropped(at.0, &old);
        }
    }

    /// Counts a chunk that is gone; an object goes with its last.
    fn dropped(&mut self, number: u64, chunk: &Chunk) {
        self.nbytes -= size(&chunk.decoded);
        let Some(object) = self.objects.get_mut(&chunk.id) else {
            return;
        };
        if object.kept.number == number {
            object.count -= 1;
            if object.count == 0 {
                self.objects.remove(&chunk.id);
            }
        }
    }
}

fn size(decoded: &Bytes) -> usize {
    decoded.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, array, bytes, nowhere};

    fn id(key: &str) -> ObjectId {
        ObjectId {
            store: 1,
            key: key.as_bytes().into(),
        }
    }

    fn spec() -> Arc<Spec> {
        testing::spec(&array(nowhere(), &bytes()), 4)
    }

    fn state(name: &str) -> Validator {
        Validator::ETag(name.into())
    }

    fn keep(
        cache: &ChunkCache,
        key: &str,
        spec: &Arc<Spec>,
        name: &str,
        subchunk: usize,
        len: usize,
    ) {
        let keeper = Keeper {
            cache,
            id: id(key),
            spec,
            validator: state(name),
            asked: Instant::now(),
        };
        Keep::keep(&keeper, subchunk, chunk(len));
    }

    fn chunk(len: usize) -> Bytes {
        vec![7; len].into()
    }

    #[test]
    fn chunks_of_one_state_are_found_and_those_of_another_are_not() {
        let (cache, spec) = (ChunkCache::new(1 << 20), spec());
        keep(&cache, "a", &spec, "one", 3, 4);
        let one = cache.of(&id("a"), &spec).unwrap();
        assert_eq!(state("one"), one.validator);
        assert_eq!(Some(chunk(4)), cache.get(&one, 3));
        assert_eq!(None, cache.get(&one, 2));
        keep(&cache, "a", &spec, "two", 2, 5);
        let two = cache.of(&id("a"), &spec).unwrap();
        assert_eq!(
            (None, Some(chunk(5))),
            (cache.get(&two, 3), cache.get(&two, 2))
        );
        assert!(cache.of(&id("b"), &spec).is_none());
    }

    #[test]
    fn another_way_to_decode_finds_nothing() {
        let (cache, one) = (ChunkCache::new(1 << 20), spec());
        keep(&cache, "a", &one, "one", 0, 4);
        let other = testing::spec(&array(nowhere(), &bytes()), 5);
        assert!(cache.of(&id("a"), &other).is_none());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_takes_its_object_along() {
        let (cache, spec) = (ChunkCache::new(3 * (100 + OVERHEAD)), spec());
        for key in ["a", "b", "c"] {
            keep(&cache, key, &spec, "one", 0, 100);
        }
        let a = cache.of(&id("a"), &spec).unwrap();
        assert!(cache.get(&a, 0).is_some());
        keep(&cache, "d", &spec, "one", 0, 100);
        assert!(cache.of(&id("b"), &spec).is_none());
        for key in ["a", "c", "d"] {
            let kept = cache.of(&id(key), &spec).unwrap();
            assert!(cache.get(&kept, 0).is_some());
        }
        cache.resize(0);
        assert_eq!(0, cache.nbytes());
        assert!(cache.0.lock().objects.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_not_found_and_makes_room() {
        let (cache, spec) = (ChunkCache::new(1 << 20), spec());
        keep(&cache, "a", &spec, "one", 0, 100);
        cache.forget(&id("a"));
        assert!(cache.of(&id("a"), &spec).is_none());
        keep(&cache, "a", &spec, "one", 0, 100);
        assert!(cache.of(&id("a"), &spec).is_some());
        cache.resize(100 + OVERHEAD);
        assert!(cache.of(&id("a"), &spec).is_some());
    }

    #[test]
    fn a_chunk_that_is_wanted_whole_is_kept_the_second_time() {
        let cache = ChunkCache::new(1 << 20);
        assert!(cache.wants(&id("a"), 0, 100, true));
        assert!(!cache.wants(&id("a"), 1, 100, false));
        assert!(cache.wants(&id("a"), 1, 100, false));
        assert!(!cache.wants(&id("a"), 2, 100, false));
        assert!(!cache.wants(&id("a"), 0, 1 << 20, true));
    }

    #[test]
    fn a_state_counts_for_as_long_as_the_user_says() {
        let (cache, spec) = (ChunkCache::new(1 << 20), spec());
        keep(&cache, "a", &spec, "one", 0, 4);
        let kept = cache.of(&id("a"), &spec).unwrap();
        let (second, seen) = (Duration::from_secs(1), kept.seen.unwrap());
        assert!(!kept.was_seen_within(Duration::ZERO, seen));
        assert!(kept.was_seen_within(second, seen + second / 2));
        assert!(!kept.was_seen_within(second, seen + second));
    }

    #[test]
    fn what_was_asked_for_before_a_write_ended_is_validated_first() {
        let (cache, spec, asked) = (ChunkCache::new(1 << 20), spec(), Instant::now());
        cache.forget(&id("b"));
        let validator = state("one");
        let id = id("a");
        let keeper = Keeper {
            cache: &cache,
            id: id.clone(),
            spec: &spec,
            validator,
            asked,
        };
        Keep::keep(&keeper, 0, chunk(4));
        let kept = cache.of(&id, &spec).unwrap();
        assert_eq!(None, kept.seen);
        cache.note_seen(&id, &kept, asked);
        assert_eq!(None, cache.of(&id, &spec).unwrap().seen);
        cache.note_seen(&id, &kept, Instant::now());
        assert!(cache.of(&id, &spec).unwrap().seen.is_some());
    }
}
