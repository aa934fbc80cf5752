//! What a read would do, told without doing it.
//!
//! It follows the very plan of a read (`plan`). Where a shard's index is not cached, its ranges cannot be
//! known, nor whether there are any; the answer then counts the index alone, and is not exact.

use crate::batch::{Batch, Item};
use crate::codec::layout::{IndexLocation, Sharding};
use crate::engine::Engine;
use crate::engine::jobs::files;
use crate::read::plan::{self, How};
use crate::store::{Awaited, Store};

/// What a read would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Chunks, or shards, of the selection.
    pub chunks: usize,
    /// Units of work: what is fetched and decoded at once.
    pub units: usize,
    /// Requests to the store; none for a local one.
    pub requests: usize,
    /// Encoded bytes that would be fetched, as far as shard indexes tell.
    pub bytes: Option<u64>,
    /// Requests that must wait for one another, at most.
    pub round_trips: usize,
    /// Shard indexes that are cached.
    pub index_hits: usize,
    /// Shard indexes that would be fetched first.
    pub index_misses: usize,
    /// Whether requests and units are exact; otherwise they are the least that is needed.
    pub exact: bool,
}

impl Engine {
    /// Tells what reading this batch would do, from what is known now.
    #[must_use]
    pub fn explain(&self, mut batch: Batch) -> Plan {
        batch.merge_items();
        let batch = &batch;
        let mut told = Plan {
            chunks: batch.items.len(),
            units: 0,
            requests: 0,
            bytes: Some(0),
            round_trips: 0,
            index_hits: 0,
            index_misses: 0,
            exact: true,
        };
        match &batch.array.store {
            Store::Local(_) => {
                told.units = files(batch, self.pool().threads()).count();
                // The sizes of files are known when they are opened.
                told.bytes = told.bytes.filter(|_| batch.items.is_empty());
            }
            Store::Awaited(store) => {
                let merging = plan::merging(batch);
                let budget = self.admission.bounds(store.foreign_scope()).byte_budget();
                for item in &batch.items {
                    let known = self.indexes.get(&batch.array.object(&item.key), &item.spec);
                    match plan::how(batch, item, merging, budget, known.is_some()) {
                        How::Chunk | How::Shard(_) => {
                            told.units += 1;
                            told.requests += 1;
                            told.round_trips = told.round_trips.max(1);
                            told.bytes = None;
                        }
                        How::Parts(sharding) => {
                            self.explain_parts(batch, store, item, sharding, &mut told);
                        }
                    }
                }
            }
        }
        told
    }

    fn explain_parts(
        &self,
        batch: &Batch,
        store: &Awaited,
        item: &Item,
        sharding: &Sharding,
        told: &mut Plan,
    ) {
        let spec = &item.spec;
        let id = batch.array.object(&item.key);
        let located = self.indexes.get(&id, spec);
        let Some(located) = located else {
            let trips = index_trips(store, sharding);
            told.index_misses += 1;
            told.requests += trips;
            told.round_trips = told.round_trips.max(trips + 1);
            told.bytes = None;
            told.exact = false;
            return;
        };
        told.index_hits += 1;
        let grid = sharding.grid(&spec.chunk);
        let kept = self.chunks.of(&id, spec);
        let kept = kept.filter(|kept| Some(&kept.validator) == located.validator.as_ref());
        let decoded = |subchunk| self.chunks.get(kept.as_ref()?, subchunk);
        let (selections, merging) = (&item.selections, plan::merging(batch));
        let plan = plan::spans(
            sharding,
            &grid,
            &located.index,
            selections,
            merging,
            decoded,
        );
        if plan.spans.is_empty() && !plan.kept.is_empty() {
            // Whether the shard is still the same, unless it was seen a moment ago.
            let asks = usize::from(!kept.is_some_and(|kept| self.is_fresh(&kept)));
            told.units += asks;
            told.requests += asks;
            told.round_trips = told.round_trips.max(asks);
            return;
        }
        if plan.spans.is_empty() {
            // No data request would show that the index is stale, so it is fetched again.
            let trips = index_trips(store, sharding);
            told.index_misses += 1;
            told.requests += trips;
            told.round_trips = told.round_trips.max(trips);
            let nbytes = sharding.index_size(&spec.chunk);
            told.bytes = told.bytes.map(|bytes| bytes + nbytes);
            return;
        }
        told.units += plan.spans.len();
        told.requests += plan.spans.len();
        told.round_trips = told.round_trips.max(1);
        let spans = plan.spans.iter();
        let bytes: u64 = spans.map(|(range, _)| range.end - range.start).sum();
        told.bytes = told.bytes.map(|all| all + bytes);
    }
}

/// Requests that bring a shard index, one after the other.
fn index_trips(store: &Awaited, sharding: &Sharding) -> usize {
    let asks_length = sharding.location == IndexLocation::End && !store.takes_suffixes();
    1 + usize::from(asks_length)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Memory, MemoryStore, array, batch, bytes, chunks, engine, item, nowhere};
    use crate::testing::{range, shards, spec};
    use crate::{read, write};

    #[tokio::test]
    async fn chunks_are_a_request_each_and_local_ones_share_jobs() {
        let (memory, store) = (Memory::new(&[0; 3]), MemoryStore::new());
        let told = |store| {
            let array = array(store, &bytes());
            engine().explain(chunks(&array, 1, &["a", "b", "c"], &memory.buffer()))
        };
        let expected = Plan {
            chunks: 3,
            units: 3,
            requests: 3,
            bytes: None,
            round_trips: 1,
            index_hits: 0,
            index_misses: 0,
            exact: true,
        };
        assert_eq!(expected, told(store.remote()));
        let local = Plan {
            units: 1,
            requests: 0,
            round_trips: 0,
            ..expected
        };
        assert_eq!(local, told(nowhere()));
    }

    /// What is told is what happens, before and after the index of a shard is known.
    #[tokio::test]
    async fn a_part_of_a_shard_is_told_as_it_is_read() {
        let (store, engine) = (MemoryStore::new(), engine());
        let array = array(store.remote(), &shards(2, &bytes()));
        let whole = Memory::new(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let all = chunks(&array, 8, &["s"], &whole.buffer());
        write(crate::testing::engine(), all).await.unwrap();

        let memory = Memory::new(&[0; 2]);
        let part = || {
            let some = vec![item(&spec(&array, 8), "s", range(3, 5, 0))];
            batch(&array, some, &memory.buffer())
        };
        let first = engine.explain(part());
        assert_eq!(
            (1, 0, false),
            (first.index_misses, first.index_hits, first.exact)
        );
        let before = store.sent().len();
        read(Arc::clone(&engine), part()).await.unwrap();
        assert!(store.sent().len() - before >= first.requests);

        let second = engine.explain(part());
        assert_eq!(
            (0, 1, true),
            (second.index_misses, second.index_hits, second.exact)
        );
        assert_eq!((1, Some(4)), (second.requests, second.bytes));
        let before = store.sent().len();
        read(Arc::clone(&engine), part()).await.unwrap();
        assert_eq!(vec!["get s 2..6"], store.sent()[before..]);
        assert_eq!(vec![4, 5], memory.bytes());
    }
}
