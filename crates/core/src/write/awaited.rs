//! Objects of awaited stores: read what is stored, merge, encode, and put under a condition.

use std::sync::Arc;
use std::time::Duration;

use super::{Writer, Writing};
use crate::batch::Item;
use crate::chunk::encode::encode_empty;
use crate::codec::layout::Layout;
use crate::engine::requests::Requests;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::limits::permits::Permits;
use crate::limits::turn::Turn;
use crate::store::{Awaited, Condition, Fetched, Get, Part, Put, RemoteStore, State, Validator};

/// How often a put may be refused because somebody else was faster.
const TRIES: u32 = 100;
/// How often in a row a put may be refused while nobody replaces the object: a service may refuse what another
/// request to the same object is under way for, but not for ever.
const TRIES_UNCHANGED: u32 = 20;
const REFUSED_UNCHANGED: &str = "the store refuses to replace the object, though nobody else has replaced it: \
    see whether it is locked, held or kept from changes";
/// The longest pause before a refused put is tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Requests beside its own that a large object's parts may use, as far as they are free.
const EXTRA_REQUESTS: usize = 7;

/// What one attempt to replace an object came to.
enum Attempt {
    Done,
    /// The put was refused for what it depends on: somebody else should have replaced the object since it was read.
    Conflict(Condition),
    /// The stored shard has this many bytes, more than memory was reserved for.
    Larger(u64),
}

impl Writer {
    /// Writes one object to an awaited store; again while somebody else is faster.
    pub(super) async fn object(self: &Arc<Self>, requests: &Requests, index: usize, turn: Turn) {
        let outcome = match self.lock_in_turn(index, turn).await {
            Ok((writing, turn)) => {
                self.attempts(requests, index, Arc::new(writing), turn)
                    .await
            }
            Err(error) => Err(error),
        };
        self.results.set(index, outcome.map(|()| false));
    }

    async fn attempts(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: Arc<Writing>,
        turn: Turn,
    ) -> Result<(), Error> {
        let item = &self.batch.items[index];
        let (mut turn, mut stored, mut conflicts) = (Some(turn), 0, 0);
        let (mut refused, mut unchanged) = (None, 0);
        loop {
            let turn = self.turns.take_or(&mut turn).await;
            match self
                .attempt(requests, index, &writing, stored, turn)
                .await?
            {
                Attempt::Done => return Ok(()),
                Attempt::Larger(size) => stored = size,
                Attempt::Conflict(condition) => {
                    self.jobs.engine.stats.write_conflicts.add(1);
                    conflicts += 1;
                    let condition = Some(condition);
                    unchanged = if condition == refused {
                        unchanged + 1
                    } else {
                        1
                    };
                    refused = condition;
                    if conflicts == TRIES || unchanged == TRIES_UNCHANGED {
                        let mut error = self.conflict(item);
                        error.attempts = conflicts;
                        if unchanged == TRIES_UNCHANGED {
                            error.kind = StoreErrorKind::Other;
                            error.reason = REFUSED_UNCHANGED.into();
                        }
                        return Err(error.into());
                    }
                    tokio::time::sleep(pause(conflicts)).await;
                }
            }
        }
    }

    /// Reads, merges and puts once, with memory for a stored object of `stored` bytes.
    async fn attempt(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: &Arc<Writing>,
        stored: u64,
        turn: Turn,
    ) -> Result<Attempt, Error> {
        let (array, item) = (&self.batch.array, &self.batch.items[index]);
        let mut permits = requests.admit(array, self.memory(item, stored)).await;
        drop(turn);
        let before = if self.is_whole(item) {
            None
        } else {
            let max_bytes = item.spec.usual_encoded.max(stored);
            match requests
                .get(array, &item.key, &Part::Whole, max_bytes, State::Any)
                .await?
            {
                Get::Found(fetched) => Some(fetched),
                Get::Missing => None,
                Get::Changed | Get::Unchanged => {
                    return Err(StoreError::changed(array.store_name(), &item.key).into());
                }
                // A shard may hold any number of bytes that belong to no subchunk.
                Get::Oversized(size)
                    if matches!(array.layout, Layout::Shard(_))
                        || size <= item.spec.max_encoded =>
                {
                    return Ok(Attempt::Larger(size));
                }
                Get::Oversized(size) => {
                    return Err(StoreError::oversized(array.store_name(), &item.key, size).into());
                }
            }
        };
        permits.release_request();
        let condition = self.condition(&requests.store, item, before.as_ref());
        let existing = before.as_ref().map(|fetched| fetched.bytes.clone());
        let mut after = self.encode(index, before).await?;
        if after.is_none() && existing.is_some() && condition != Condition::None {
            // There is no conditional delete: an unconditional one could remove what another process has
            // just written. An object of fill values in its place cannot.
            after = self.encode_empty(index).await?;
        }
        if after.is_none() && existing.is_none() && !self.is_whole(item) {
            return Ok(Attempt::Done);
        }
        if matches!(condition, Condition::Match(..)) && after.as_deref() == existing.as_deref() {
            // The object holds these bytes already, as it does where a put was sent again after its answer was lost.
            return Ok(Attempt::Done);
        }
        drop(existing);
        permits.take_request(&requests.bounds).await;
        let put = self.put(requests, index, writing, after, &condition, permits);
        Ok(match put.await? {
            Put::Done => Attempt::Done,
            Put::Conflict => Attempt::Conflict(condition),
        })
    }

    /// What the put of an object that was read as `before` depends on.
    fn condition(&self, store: &Awaited, item: &Item, before: Option<&Fetched>) -> Condition {
        if self.is_whole(item) || !store.has_conditions() {
            return Condition::None;
        }
        let Some(fetched) = before else {
            return Condition::Absent;
        };
        match fetched.validator.as_ref().and_then(Validator::strong_etag) {
            Some(etag) => Condition::Match(etag.to_owned(), fetched.version.clone()),
            None => Condition::None,
        }
    }

    /// The new object on the CPU pool; `None` where it is not stored.
    async fn encode(
        self: &Arc<Self>,
        index: usize,
        before: Option<Fetched>,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.on_pool(index, move |writer, item| {
            let existing = before.as_ref().map(|fetched| &*fetched.bytes);
            let mut after = Vec::new();
            let stored = writer.update(item, existing, &mut after)?;
            Ok(stored.then_some(after))
        })
        .await
    }

    /// An object of fill values, for where one cannot be deleted; `None` where its codecs store none.
    async fn encode_empty(self: &Arc<Self>, index: usize) -> Result<Option<Vec<u8>>, Error> {
        self.on_pool(index, |writer, item| {
            let mut empty = Vec::new();
            let stored = encode_empty(&writer.batch.array.layout, &item.spec.chunk, &mut empty)?;
            Ok(stored.then_some(empty))
        })
        .await
    }

    async fn on_pool<T: Send + 'static>(
        self: &Arc<Self>,
        index: usize,
        job: impl FnOnce(&Self, &Item) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cpu = self.jobs.cpu().await;
        let writer = Arc::clone(self);
        let key = &self.batch.items[index].key;
        let job = move || {
            let done = job(&writer, &writer.batch.items[index]);
            drop(cpu);
            done
        };
        let done = self.jobs.pool().run(job).await;
        done.map_err(|error| error.at(key))
    }

    /// Puts an object, or deletes it where `after` is none.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request. A foreign store may go on by itself when its call is given
    /// up, in a thread for instance, and undo a later write. So that call runs to its end, with the object
    /// locked, even if nobody waits for it.
    async fn put(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        writing: &Arc<Writing>,
        after: Option<Vec<u8>>,
        condition: &Condition,
        permits: Permits,
    ) -> Result<Put, Error> {
        let (store, key) = (&requests.store, &self.batch.items[index].key);
        if let Awaited::Remote(_) = store {
            return self.store(requests, index, after, condition).await;
        }
        let (writer, requests, writing) = (Arc::clone(self), requests.clone(), Arc::clone(writing));
        let call = async move {
            let done = writer
                .store(&requests, index, after, &Condition::None)
                .await;
            drop((writing, permits));
            done
        };
        let ended = tokio::spawn(call).await;
        ended.unwrap_or_else(|_| Err(Error::internal("a put ended without an answer").at(key)))
    }

    async fn store(
        self: &Arc<Self>,
        requests: &Requests,
        index: usize,
        after: Option<Vec<u8>>,
        condition: &Condition,
    ) -> Result<Put, Error> {
        let (store, stats) = (&requests.store, &self.jobs.engine.stats);
        let key = &self.batch.items[index].key;
        let Some(bytes) = after else {
            return store.delete(key, stats).await.map(|()| Put::Done);
        };
        let extra: Vec<_> = (0..RemoteStore::parts(bytes.len()).min(EXTRA_REQUESTS))
            .map_while(|_| requests.bounds.requests().try_take(1))
            .collect();
        let parallel = 1 + extra.len();
        store
            .put(key, bytes.into(), condition, parallel, stats)
            .await
    }
}

/// A pause that grows with each refusal and differs between writers.
fn pause(attempt: u32) -> Duration {
    let longest = Duration::from_millis(2)
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST_PAUSE);
    longest.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{
        FILL, Memory, MemoryStore, array, assert_idle, batch, bytes, engine, item, range, spec,
    };
    use crate::{Array, Batch, Engine, write};

    /// A batch that writes these bytes to one chunk of 4, from an element on.
    fn part(array: &Arc<Array>, from: i64, values: &[u8]) -> Batch {
        let to = from + i64::try_from(values.len()).unwrap();
        let item = item(&spec(array, 4), "a", range(from, to, 0));
        batch(array, vec![item], &Memory::new(values).buffer())
    }

    /// Writes two of four elements, while another process puts all of them between the get and the put.
    async fn write_too_late(store: &MemoryStore, engine: &Arc<Engine>) {
        store.hold("put a");
        let array = array(store.remote(), &bytes());
        let written = tokio::spawn(write(Arc::clone(engine), part(&array, 0, &[2, 2])));
        store.sends(2).await;
        store.set("a", &[3, 3, 3, 3]).await;
        store.release("put a");
        written.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_that_another_process_was_faster_than_is_merged_again() {
        let (store, engine) = (MemoryStore::new(), engine());
        store.set("a", &[1, 1, 1, 1]).await;
        write_too_late(&store, &engine).await;
        assert_eq!(vec!["get a", "put a", "get a", "put a"], store.sent());
        assert_eq!(Some(vec![2, 2, 3, 3]), store.object("a").await);
        assert_eq!(1, engine.stats().write_conflicts.get());
        assert_idle(&engine);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_another_process_has_just_made_is_not_replaced() {
        let (store, engine) = (MemoryStore::new(), engine());
        write_too_late(&store, &engine).await;
        assert_eq!(Some(vec![2, 2, 3, 3]), store.object("a").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_that_is_always_refused_is_given_up() {
        for (replaced, tries) in [(false, TRIES_UNCHANGED), (true, TRIES)] {
            let (store, engine) = (MemoryStore::new(), engine());
            store.set("a", &[1; 4]).await;
            store.fail("put a", usize::MAX);
            if replaced {
                store.replace_before("put a");
            }
            let array = array(store.remote(), &bytes());
            let written = write(Arc::clone(&engine), part(&array, 0, &[2])).await;
            let failed = written.unwrap_err();
            let Error::Store(error) = &failed.error else {
                panic!("{failed:?}");
            };
            let kind = if replaced {
                StoreErrorKind::Changed
            } else {
                StoreErrorKind::Other
            };
            assert_eq!((kind, tries), (error.kind, error.attempts));
            assert_eq!(2 * tries as usize, store.sent().len());
            assert_idle(&engine);
        }
    }

    #[tokio::test]
    async fn what_is_written_already_is_not_put() {
        let (store, engine) = (MemoryStore::new(), engine());
        store.set("a", &[1, 2, 3, 4]).await;
        let array = array(store.remote(), &bytes());
        let same = part(&array, 1, &[2, 3]);
        write(Arc::clone(&engine), same).await.unwrap();
        assert_eq!(vec!["get a"], store.sent());
    }

    #[tokio::test]
    async fn a_chunk_that_becomes_all_fill_is_deleted_only_where_that_has_no_condition() {
        let (store, engine) = (MemoryStore::new(), engine());
        for (reached, left) in [
            (store.foreign(), None),
            (store.remote(), Some(vec![FILL; 4])),
        ] {
            store.set("a", &[1, FILL, FILL, FILL]).await;
            let array = array(reached, &bytes());
            let part = part(&array, 0, &[FILL]);
            write(Arc::clone(&engine), part).await.unwrap();
            assert_eq!(left, store.object("a").await);
        }
    }

    #[tokio::test]
    async fn fill_values_for_a_chunk_that_is_missing_send_nothing_but_the_get() {
        let (store, engine) = (MemoryStore::new(), engine());
        let array = array(store.remote(), &bytes());
        let part = part(&array, 0, &[FILL]);
        write(Arc::clone(&engine), part).await.unwrap();
        assert_eq!(vec!["get a"], store.sent());
    }
}
