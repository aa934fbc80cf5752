//! Decoded shard indexes, kept within a number of bytes, and only such as can be validated.
//!
//! An entry is never believed by itself: local readers compare its validator with the file they have
//! open, remote ones send it with every data request. What an object is replaced by is therefore seen,
//! whoever replaced it; our own writes drop the entry besides.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::batch::Spec;
use crate::codec::shard_index::ShardIndex;
use crate::store::{ObjectId, Validator};

/// Bytes that an entry takes besides its index: key, validator, list and map.
const OVERHEAD: usize = 256;

/// A decoded index, and of which state of the object it is.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub index: Arc<ShardIndex>,
    pub validator: Option<Validator>,
}

#[derive(Debug)]
pub(crate) struct IndexCache(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    /// By object; with the spec that decoded the index.
    lru: LruCache<ObjectId, (Arc<Spec>, Located)>,
    nbytes: usize,
    limit: usize,
}

impl IndexCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Mutex::new(Entries {
            lru: LruCache::unbounded(),
            nbytes: 0,
            limit,
        }))
    }

    pub(crate) fn resize(&self, limit: usize) {
        let mut entries = self.0.lock();
        entries.limit = limit;
        entries.shrink();
    }

    pub(crate) fn get(&self, id: &ObjectId, spec: &Spec) -> Option<Located> {
        let mut entries = self.0.lock();
        let (made_by, located) = entries.lru.get(id)?;
        made_by.decodes_like(spec).then(|| located.clone())
    }

    /// Keeps an index that has a validator; any other could be stale unseen.
    pub(crate) fn keep(&self, id: ObjectId, spec: &Arc<Spec>, located: &Located) {
        if located.validator.is_none() {
            return;
        }
        let mut entries = self.0.lock();
        entries.nbytes += size(located);
        if let Some((_, (_, old))) = entries.lru.push(id, (Arc::clone(spec), located.clone())) {
            entries.nbytes -= size(&old);
        }
        entries.shrink();
    }

    pub(crate) fn forget(&self, id: &ObjectId) {
        let mut entries = self.0.lock();
        if let Some((_, old)) = entries.lru.pop(id) {
            entries.nbytes -= size(&old);
        }
    }
}

impl Entries {
    fn shrink(&mut self) {
        while self.nbytes > self.limit {
            let Some((_, (_, old))) = self.lru.pop_lru() else {
                return;
            };
            self.nbytes -= size(&old);
        }
    }
}

fn size(located: &Located) -> usize {
    located.index.nbytes() + OVERHEAD
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

    fn located(subchunks: usize, validator: bool) -> Located {
        let validator = validator.then(|| Validator::ETag("a".into()));
        Located {
            index: Arc::new(ShardIndex::absent(subchunks).unwrap()),
            validator,
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = IndexCache::new(2 * (16 * 10 + OVERHEAD));
        for key in ["a", "b"] {
            cache.keep(id(key), &spec(), &located(10, true));
        }
        assert!(cache.get(&id("a"), &spec()).is_some());
        cache.keep(id("c"), &spec(), &located(10, true));
        assert!(cache.get(&id("b"), &spec()).is_none());
        assert!(cache.get(&id("a"), &spec()).is_some());
        cache.resize(OVERHEAD);
        assert!(cache.get(&id("a"), &spec()).is_none());
        assert_eq!(0, cache.0.lock().nbytes);
    }

    #[test]
    fn what_cannot_be_validated_is_not_kept() {
        let cache = IndexCache::new(1 << 20);
        cache.keep(id("a"), &spec(), &located(1, false));
        assert!(cache.get(&id("a"), &spec()).is_none());
    }

    #[test]
    fn another_layout_does_not_get_the_index() {
        let cache = IndexCache::new(1 << 20);
        cache.keep(id("a"), &spec(), &located(1, true));
        let other = testing::spec(&array(nowhere(), &bytes()), 9);
        assert!(cache.get(&id("a"), &other).is_none());
        cache.forget(&id("a"));
        assert!(cache.get(&id("a"), &spec()).is_none());
        assert_eq!(0, cache.0.lock().nbytes);
    }
}
