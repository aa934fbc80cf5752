//! Parts of a remote shard: its index, then merged byte ranges, all of one state of the object.
//!
//! The data requests carry the validator that came with the index. When the object turns out to be
//! another, the units under way are waited for, the index is fetched again and everything is planned
//! anew: what the buffer holds in the end is of one object, never a mix.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::batch::{Item, Slots};
use crate::coalesce::coalesce;
use crate::dispatch::drive;
use crate::element::ChunkSpec;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::flight::{Cargo, Flight, Wants};
use crate::index_cache::Located;
use crate::layout::Layout;
use crate::out::OutBuffer;
use crate::place::{Want, Work, as_wants, bytes_of, fill, place};
use crate::pool;
use crate::read::{Reader, UnitRun, work};
use crate::selection::Selection;
use crate::shard::{Sharding, ravel};
use crate::store::{Get, Part, Store};

/// How often a shard may change under one read before the read gives up.
const PLANS: usize = 10;

/// The byte ranges that one request brings, with the selection that each subchunk serves.
type Pieces = Vec<(Range<u64>, Selection)>;

impl Reader {
    /// Reads the selected parts of a shard; tells whether the shard was missing.
    pub(crate) async fn read_shard(
        &self,
        item: &Item,
        mut admitted: Option<oneshot::Sender<()>>,
    ) -> Result<bool, Error> {
        let array = &self.batch.array;
        let Layout::Shard(sharding) = &array.layout else {
            return Err(Error::invalid("only a shard has parts"));
        };
        for _ in 0..PLANS {
            let located = self
                .engine
                .locate(array, &item.spec, sharding, &item.key, &mut admitted)
                .await;
            let located = match located {
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Changed => {
                    self.engine.stats.replans.add(1);
                    continue;
                }
                located => located?,
            };
            let Some((located, cached)) = located else {
                self.fill(item, vec![item.selection.clone()], None).await?;
                return Ok(true);
            };
            if located.validator.is_none() && matches!(array.store, Store::Remote(_)) {
                // Nothing would tie ranges to the index: only one body is of one state for certain.
                return self.read_whole(item, admitted.take()).await;
            }
            let (present, absent) = split(sharding, &item.spec.chunk, &located, &item.selection);
            if cached && present.is_empty() {
                // No request would notice that the index is stale: ask for it again.
                self.engine.indexes.forget(&array.object(&item.key));
                continue;
            }
            if !absent.is_empty() {
                self.fill(item, absent, Some(sharding)).await?;
            }
            match self
                .fetch_parts(item, sharding, &located, present, admitted.take())
                .await
            {
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Changed => {
                    self.engine.stats.replans.add(1);
                    self.engine.indexes.forget(&array.object(&item.key));
                }
                outcome => return outcome.map(|()| false),
            }
        }
        let failed = StoreError::changed(array, &item.key);
        Err(StoreError {
            attempts: u32::try_from(PLANS).unwrap_or(u32::MAX),
            ..failed
        }
        .into())
    }

    /// Reads the selected parts of a shard that is fetched whole.
    pub(crate) async fn read_whole(
        &self,
        item: &Item,
        admitted: Option<oneshot::Sender<()>>,
    ) -> Result<bool, Error> {
        let slots = Slots::new(1);
        let wants = || Wants::Object(item.selection.clone());
        let ticket = self.ticket(item, Cargo::Object, &slots, 0, wants);
        let launch = self.launch(vec![ticket], |unit, flights, admitted| async move {
            unit.object(&flights[0], admitted).await;
        });
        drive(std::iter::once(launch), || false, admitted).await;
        let outcome = slots.outcome(|_| Arc::clone(&item.key));
        outcome
            .map(|missing| missing[0])
            .map_err(|failed| failed.error)
    }

    async fn fetch_parts(
        &self,
        item: &Item,
        sharding: &Sharding,
        located: &Located,
        present: Pieces,
        admitted: Option<oneshot::Sender<()>>,
    ) -> Result<(), Error> {
        let ranges: Vec<Range<u64>> = present.iter().map(|(range, _)| range.clone()).collect();
        let groups = coalesce(&ranges, self.batch.coalesce_gap, self.batch.coalesce_max);
        let mut present: Vec<Option<(Range<u64>, Selection)>> =
            present.into_iter().map(Some).collect();
        let slots = Slots::new(groups.len());
        let inner = Arc::new(sharding.clone());
        let launches = groups
            .into_iter()
            .enumerate()
            .map(|(slot, (range, members))| {
                let pieces = members
                    .into_iter()
                    .filter_map(|member| present[member].take())
                    .collect();
                let cargo = Cargo::Range(range, located.validator.clone());
                let ticket = self.ticket(item, cargo, &slots, slot, || Wants::Pieces(pieces));
                let inner = Arc::clone(&inner);
                self.launch(vec![ticket], move |unit, flights, admitted| async move {
                    unit.range(inner, Arc::clone(&flights[0]), admitted).await;
                })
            });
        // Units are waited for also when one has failed: a plan that is made anew must be the last
        // to write.
        drive(launches, || false, admitted).await;
        slots
            .outcome(|_| Arc::clone(&item.key))
            .map(drop)
            .map_err(|failed| failed.error)
    }

    /// Writes the fill value where a shard, or some of its subchunks, are not.
    async fn fill(
        &self,
        item: &Item,
        selections: Vec<Selection>,
        sharding: Option<&Sharding>,
    ) -> Result<(), Error> {
        let shape = sharding.map_or(&item.spec.chunk.shape, |sharding| &sharding.chunk_shape);
        let spec = item.spec.chunk.with_shape(shape);
        let out = Arc::clone(&self.batch.buffer);
        let job = move || {
            for selection in &selections {
                fill(
                    &spec,
                    &[Want {
                        selection,
                        out: &out,
                    }],
                );
            }
            Ok(())
        };
        self.engine.pool().run(job).await
    }
}

impl UnitRun {
    /// Fetches one merged byte range, then decodes the subchunks in it.
    async fn range(
        self,
        sharding: Arc<Sharding>,
        flight: Arc<Flight>,
        admitted: oneshot::Sender<()>,
    ) {
        let Cargo::Range(range, validator) = flight.cargo().clone() else {
            return;
        };
        let len = range.end - range.start;
        let subspec = flight.spec.chunk.with_shape(&sharding.chunk_shape);
        let nbytes = len + subspec.nbytes().unwrap_or(0) as u64;
        let chunks = flight.array.chunks.as_ref();
        let mut permits = self.engine.admission.admit(chunks, nbytes).await;
        // Nobody listens any more when the batch that asked is gone.
        admitted.send(()).ok();
        let part = Part::Range(range.clone());
        let fetched = self
            .engine
            .fetch(&flight.array, &flight.key, &part, validator.as_ref(), len)
            .await;
        permits.release_request();
        self.decode(permits, flight.spec.nbytes, move |run| {
            let targets = flight.board();
            let outcome = pool::guard(|| match fetched {
                Ok(Get::Found(fetched)) if fetched.bytes.len() as u64 == len => {
                    let mut pieces: BTreeMap<(u64, u64), Vec<(Selection, &OutBuffer)>> =
                        BTreeMap::new();
                    for target in &targets {
                        let Wants::Pieces(wanted) = &target.wants else {
                            continue;
                        };
                        for (piece, selection) in wanted {
                            let at = (piece.start - range.start, piece.end - range.start);
                            pieces
                                .entry(at)
                                .or_default()
                                .push((selection.clone(), &target.out));
                        }
                    }
                    let work = work(run, &flight);
                    let inner = Work {
                        parallel: false,
                        ..work
                    };
                    let pieces = pieces.into_iter().collect();
                    pool::for_each(pieces, work.parallel, |((start, end), parts)| {
                        let bytes = bytes_of(&fetched.bytes, &(start..end))?;
                        place(&sharding.inner, &subspec, bytes, &as_wants(&parts), inner)
                    })
                    .map(|_| false)
                }
                Ok(Get::Found(_)) if validator.is_none() => Err(Error::decode(
                    "sharding_indexed",
                    "a subchunk leaves its shard",
                )),
                Ok(Get::Oversized(size)) => {
                    Err(StoreError::oversized(&flight.array, &flight.key, size).into())
                }
                Ok(_) => Err(StoreError::changed(&flight.array, &flight.key).into()),
                Err(error) => Err(error),
            })
            .map_err(|error| error.at(&flight.key));
            for target in &targets {
                target.finish(outcome.clone());
            }
        })
        .await;
    }
}

/// Parts of the selection whose subchunks are there, with their byte ranges, and parts whose are not.
pub(crate) fn split(
    sharding: &Sharding,
    spec: &ChunkSpec,
    located: &Located,
    selection: &Selection,
) -> (Pieces, Vec<Selection>) {
    let grid = sharding.grid(spec);
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for (coords, part) in selection.split(&sharding.chunk_shape) {
        match located.index.range(ravel(&coords, &grid)) {
            Some(range) => present.push((range, part)),
            None => absent.push(part),
        }
    }
    (present, absent)
}
