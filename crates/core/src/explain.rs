//! What a read would do, told without doing it.
//!
//! The plan is made by the same decisions that a read makes: by which road each chunk goes, and how the
//! byte ranges of a shard are merged. Where a shard's index is not cached, its ranges cannot be known, nor
//! whether there are any; the plan then counts the index alone, and says that it is not exact.

use crate::batch::Batch;
use crate::coalesce::coalesce;
use crate::engine::Engine;
use crate::layout::Layout;
use crate::read::{Road, road};
use crate::read_shard::split;
use crate::shard::{IndexLocation, Sharding};
use crate::store::Store;

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
    pub fn explain(&self, batch: &Batch) -> Plan {
        let awaited = batch.array.store.is_awaited();
        let budget = self.admission.byte_budget();
        let mut plan = Plan {
            chunks: batch.items.len(),
            units: 0,
            requests: 0,
            bytes: Some(0),
            round_trips: 0,
            index_hits: 0,
            index_misses: 0,
            exact: true,
        };
        let jobs = self.jobs(batch);
        // Of the local job that is being filled.
        let (mut chunks, mut nbytes) = (0, 0);
        for item in &batch.items {
            match (&batch.array.layout, road(batch, item, budget)) {
                (Layout::Shard(sharding), Road::Parts) => {
                    self.parts(batch, item, sharding, &mut plan);
                }
                _ if awaited => {
                    plan.units += 1;
                    plan.requests += 1;
                    plan.round_trips = plan.round_trips.max(1);
                    plan.bytes = None;
                }
                _ => {
                    plan.bytes = None;
                    if chunks == 0 || !jobs.has_room(chunks, nbytes) {
                        plan.units += 1;
                        (chunks, nbytes) = (0, 0);
                    }
                    chunks += 1;
                    nbytes += item.touched_bytes(&batch.array.layout);
                }
            }
        }
        plan
    }

    fn parts(
        &self,
        batch: &Batch,
        item: &crate::batch::Item,
        sharding: &Sharding,
        plan: &mut Plan,
    ) {
        let id = batch.array.object(&item.key);
        let Some(located) = self.indexes.get(&id, item.spec.fingerprint) else {
            let trips = index_trips(batch, sharding);
            plan.index_misses += 1;
            plan.requests += trips;
            plan.round_trips = plan.round_trips.max(trips + 1);
            plan.bytes = None;
            plan.exact = false;
            return;
        };
        plan.index_hits += 1;
        let (present, _) = split(sharding, &item.spec.chunk, &located, &item.selection);
        if present.is_empty() {
            // No request for data would notice that the index is stale, so it is fetched again.
            let trips = index_trips(batch, sharding);
            plan.index_misses += 1;
            plan.requests += trips;
            plan.round_trips = plan.round_trips.max(trips);
            let nbytes = sharding.index_size(&item.spec.chunk);
            plan.bytes = plan.bytes.map(|bytes| bytes + nbytes);
            return;
        }
        let ranges: Vec<_> = present.into_iter().map(|(range, _)| range).collect();
        let groups = coalesce(&ranges, batch.coalesce_gap, batch.coalesce_max);
        plan.units += groups.len();
        plan.requests += groups.len();
        plan.round_trips = plan.round_trips.max(1);
        let bytes: u64 = groups
            .iter()
            .map(|(range, _)| range.end - range.start)
            .sum();
        plan.bytes = plan.bytes.map(|all| all + bytes);
    }
}

/// Requests that bring a shard index, one after the other.
fn index_trips(batch: &Batch, sharding: &Sharding) -> usize {
    let asks_length = sharding.location == IndexLocation::End
        && matches!(&batch.array.store, Store::Remote(store) if !store.takes_suffixes());
    1 + usize::from(asks_length)
}
