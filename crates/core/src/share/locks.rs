//! One lock per object, so that writes to one chunk or shard happen one after the other.
//!
//! A lock is taken before any permit, never after, so who holds permits never waits for a lock.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::store::{ForeignStore, ObjectId};

/// The locks that are held or waited for.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<ObjectId, Entry, RandomState>>);

#[derive(Debug)]
struct Entry {
    lock: Weak<tokio::sync::Mutex<()>>,
    /// The foreign store that the write which holds the lock waits for.
    holder: Option<Arc<dyn ForeignStore>>,
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    guard: Option<OwnedMutexGuard<()>>,
    id: ObjectId,
    locks: Arc<KeyLocks>,
}

impl KeyLocks {
    /// Waits for the object's lock.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue.
    pub(crate) async fn lock(self: &Arc<Self>, id: ObjectId) -> KeyGuard {
        // Made first, so that a wait that is given up tidies too.
        let mut guard = KeyGuard {
            guard: None,
            id,
            locks: Arc::clone(self),
        };
        let lock = self.of(&guard.id);
        guard.guard = Some(lock.lock_owned().await);
        guard
    }

    /// Takes the object's lock if nobody holds it.
    pub(crate) fn try_lock(self: &Arc<Self>, id: ObjectId) -> Option<KeyGuard> {
        // As in `lock`: the holder may leave while the lock is refused to us, and then the last to tidy is us.
        let mut guard = KeyGuard {
            guard: None,
            id,
            locks: Arc::clone(self),
        };
        guard.guard = Some(self.of(&guard.id).try_lock_owned().ok()?);
        Some(guard)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// The foreign store that the write which holds the lock waits for, if it is one.
    pub(crate) fn holder(&self, id: &ObjectId) -> Option<Arc<dyn ForeignStore>> {
        self.0.lock().get(id)?.holder.clone()
    }

    /// Locks that are held or waited for.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn of(&self, id: &ObjectId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(id).and_then(|entry| entry.lock.upgrade()) {
            return lock;
        }
        let lock = Arc::default();
        let entry = Entry {
            lock: Arc::downgrade(&lock),
            holder: None,
        };
        locks.insert(id.clone(), entry);
        lock
    }
}

impl KeyGuard {
    /// Notes that the write which holds the lock waits for this store.
    pub(crate) fn held_for(&self, store: &Arc<dyn ForeignStore>) {
        if let Some(entry) = self.locks.0.lock().get_mut(&self.id) {
            entry.holder = Some(Arc::clone(store));
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut locks = self.locks.0.lock();
        if let (Some(entry), Some(_)) = (locks.get_mut(&self.id), &self.guard) {
            entry.holder = None;
        }
        drop(locks);
        drop(self.guard.take());
        let mut locks = self.locks.0.lock();
        if locks
            .get(&self.id)
            .is_some_and(|entry| entry.lock.strong_count() == 0)
        {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;

    #[tokio::test]
    async fn writers_of_one_object_take_turns_and_leave_nothing() {
        let locks: Arc<KeyLocks> = Arc::default();
        let id = ObjectId {
            store: 0,
            key: (*b"a").into(),
        };
        let first = locks.lock(id.clone()).await;
        assert!(locks.try_lock(id.clone()).is_none());
        {
            let second = locks.lock(id.clone());
            tokio::pin!(second);
            assert!(poll!(&mut second).is_pending());
            drop(first);
            drop(second.await);
        }
        assert!(locks.0.lock().is_empty());
        let held = locks.lock(id.clone()).await;
        {
            let given_up = locks.lock(id.clone());
            tokio::pin!(given_up);
            assert!(poll!(&mut given_up).is_pending());
            drop(held);
        }
        assert!(locks.0.lock().is_empty());
    }
}
