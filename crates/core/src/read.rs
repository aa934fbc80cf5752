//! A read: plan, admit, fetch, decode, scatter.
//!
//! Each chunk goes one of two roads. An *object* is fetched whole: a plain chunk, a shard that is
//! wanted whole or is small; and everything that is local, because a local job opens the file and
//! reads just what it needs. The *parts* of a remote shard go the other: its index first, then byte
//! ranges (see `read_shard`).

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;

use crate::admit::Bound;
use crate::batch::{Batch, BatchError, Item, Slots};
use crate::dispatch::{Launch, drive};
use crate::engine::Engine;
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::flight::{Cargo, Flight, Target, Ticket, Wants};
use crate::layout::Layout;
use crate::local_read::read_local;
use crate::place::{Want, Work, fill, place};
use crate::pool::guard;
use crate::store::{Get, Part};

/// Up to so many decoded bytes a job is done where its body arrived: that takes some ten microseconds,
/// and to wake a thread of the pool for it takes as long.
const INLINE_BYTES: usize = 16 << 10;

/// Reads a batch; tells of each chunk whether it was missing.
///
/// # Errors
/// What failed first, with the keys of other chunks that failed.
///
/// # Cancel safety
/// Dropping the future closes its requests. Jobs that run already may still write to the buffer:
/// [`crate::OutBuffer::closed`] tells when nothing does any more.
pub async fn read(engine: Arc<Engine>, batch: Batch) -> Result<Vec<bool>, BatchError> {
    engine.stats.batches.add(1);
    let reader = Reader {
        slots: Slots::new(batch.items.len()),
        lane: engine.admission.lane(),
        spread: engine.spread(&batch.array, batch.items.len()),
        batch: Arc::new(batch),
        engine,
    };
    drive(reader.launches(), || reader.slots.failed(), None).await;
    let outcome = reader
        .slots
        .outcome(|slot| Arc::clone(&reader.batch.items[slot].key));
    if outcome.is_err() {
        reader.batch.buffer.closed().await;
    }
    if let Ok(missing) = &outcome {
        let missing = missing.iter().filter(|missing| **missing).count();
        reader.engine.stats.chunks_missing.add(missing as u64);
    }
    outcome
}

/// One batch on its way.
pub(crate) struct Reader {
    pub engine: Arc<Engine>,
    pub batch: Arc<Batch>,
    pub slots: Arc<Slots>,
    /// The batch's own lane to the CPU queue.
    pub lane: Arc<Bound>,
    /// Whether one shard may use several threads.
    pub spread: bool,
}

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    Object,
    Parts,
}

/// Decides by which road a chunk goes.
pub(crate) fn road(batch: &Batch, item: &Item, budget: u64) -> Road {
    let Layout::Shard(_) = batch.array.layout else {
        return Road::Object;
    };
    let nbytes = item.spec.nbytes as u64;
    let whole = item.complete || item.selection.covers(&item.spec.chunk.shape);
    if !batch.array.store.is_awaited() || nbytes <= batch.coalesce_gap {
        // One round trip; the bytes nobody asked for cost less than a second.
        Road::Object
    } else if whole && nbytes <= budget / 2 {
        Road::Object
    } else {
        Road::Parts
    }
}

impl Reader {
    fn launches(&self) -> impl Iterator<Item = Launch<'_>> {
        let items = &self.batch.items;
        let layout = &self.batch.array.layout;
        let budget = self.engine.admission.byte_budget();
        let jobs = self.engine.jobs(&self.batch);
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = items.get(next)?;
            let slot = next;
            next += 1;
            if self.batch.array.store.is_awaited() {
                return Some(match layout {
                    Layout::Shard(_) => self.launch_shard(slot, road(&self.batch, first, budget)),
                    Layout::Chunk(_) => self.launch_objects(slot..next),
                });
            }
            let mut nbytes = first.touched_bytes(layout);
            while let Some(item) = items
                .get(next)
                .filter(|_| jobs.has_room(next - slot, nbytes))
            {
                nbytes += item.touched_bytes(layout);
                next += 1;
            }
            Some(self.launch_objects(slot..next))
        })
    }

    fn launch_shard(&self, slot: usize, road: Road) -> Launch<'_> {
        let (admitted, word) = oneshot::channel();
        let running = async move {
            let item = &self.batch.items[slot];
            let outcome = match road {
                Road::Parts => self.read_shard(item, Some(admitted)).await,
                Road::Object => match self.read_whole(item, Some(admitted)).await {
                    // A shard may have bytes that belong to no subchunk, any number of them.
                    Err(Error::Store(error)) if error.kind == StoreErrorKind::Oversized => {
                        self.read_shard(item, None).await
                    }
                    outcome => outcome,
                },
            };
            self.slots.set(slot, outcome);
        };
        Launch {
            running: vec![running.boxed()],
            admitted: Some(word),
        }
    }

    fn launch_objects(&self, slots: std::ops::Range<usize>) -> Launch<'_> {
        let tickets = slots
            .map(|slot| {
                let item = &self.batch.items[slot];
                self.ticket(item, Cargo::Object, &self.slots, slot, || {
                    Wants::Object(item.selection.clone())
                })
            })
            .collect();
        let awaited = self.batch.array.store.is_awaited();
        self.launch(tickets, move |unit, flights, admitted| async move {
            if awaited {
                unit.object(&flights[0], admitted).await;
            } else {
                unit.local(flights, admitted).await;
            }
        })
    }

    pub(crate) fn ticket(
        &self,
        item: &Item,
        cargo: Cargo,
        slots: &Arc<Slots>,
        slot: usize,
        wants: impl FnOnce() -> Wants,
    ) -> Ticket {
        let out = Arc::clone(&self.batch.buffer);
        Ticket {
            array: Arc::clone(&self.batch.array),
            spec: Arc::clone(&item.spec),
            key: Arc::clone(&item.key),
            cargo,
            target: Target {
                slots: Arc::clone(slots),
                slot,
                out,
                wants: wants(),
            },
        }
    }

    /// Joins the flights that are under way and sends the others on theirs.
    pub(crate) fn launch<'a, F: Future<Output = ()> + Send + 'static>(
        &self,
        tickets: Vec<Ticket>,
        work: impl FnOnce(UnitRun, Vec<Arc<Flight>>, oneshot::Sender<()>) -> F,
    ) -> Launch<'a> {
        let run = UnitRun {
            engine: Arc::clone(&self.engine),
            lane: Arc::clone(&self.lane),
            spread: self.spread,
        };
        let launched =
            self.engine
                .flights
                .launch(tickets, &self.engine.stats, |flights, admitted| {
                    work(run, flights, admitted).boxed()
                });
        let (led, admitted) = launched.led.unzip();
        Launch {
            running: launched
                .joined
                .into_iter()
                .chain(led)
                .map(FutureExt::boxed)
                .collect(),
            admitted,
        }
    }
}

/// What a unit needs when its batch may be gone.
pub(crate) struct UnitRun {
    pub engine: Arc<Engine>,
    lane: Arc<Bound>,
    spread: bool,
}

impl UnitRun {
    /// Reads local objects one after the other, in one job.
    async fn local(self, flights: Vec<Arc<Flight>>, admitted: oneshot::Sender<()>) {
        let array = Arc::clone(&flights[0].array);
        let nbytes = flights
            .iter()
            .map(|flight| flight.spec.nbytes)
            .max()
            .unwrap_or(0);
        let permits = self
            .engine
            .admission
            .admit_local(array.chunks.as_ref(), 2 * nbytes as u64)
            .await;
        let cpu = self.engine.admission.cpu(&self.lane).await;
        // Nobody listens any more when the batch that asked is gone.
        admitted.send(()).ok();
        let pool = self.engine.pool();
        let job = move || {
            for flight in &flights {
                let work = work(&self, flight);
                board(flight, |wants| {
                    read_local(&self.engine, flight, wants, work)
                });
            }
            drop((permits, cpu));
            Ok(())
        };
        // Outcomes are in the slots; a panic was caught for each flight.
        pool.run(job).await.ok();
    }

    /// Fetches a whole object, then decodes it.
    pub(crate) async fn object(self, flight: &Arc<Flight>, admitted: oneshot::Sender<()>) {
        let array = &flight.array;
        // The encoded bytes, and a decoded chunk that may have to stand aside before it is scattered.
        let nbytes = 2 * flight.spec.nbytes as u64;
        let mut permits = self
            .engine
            .admission
            .admit(array.chunks.as_ref(), nbytes)
            .await;
        admitted.send(()).ok();
        let fetched = self
            .engine
            .fetch(
                array,
                &flight.key,
                &Part::Whole,
                None,
                flight.spec.most_encoded,
            )
            .await;
        permits.release_request();
        let flight = Arc::clone(flight);
        self.decode(permits, flight.spec.nbytes, move |run| {
            board(&flight, |wants| match fetched {
                Ok(Get::Found(fetched)) => {
                    let work = work(run, &flight);
                    place(
                        &flight.array.layout,
                        &flight.spec.chunk,
                        &fetched.bytes,
                        wants,
                        work,
                    )?;
                    Ok(false)
                }
                Ok(Get::Missing) => {
                    fill(&flight.spec.chunk, wants);
                    Ok(true)
                }
                Ok(Get::Changed) => Err(StoreError::changed(&flight.array, &flight.key).into()),
                Ok(Get::Oversized(size)) => {
                    Err(StoreError::oversized(&flight.array, &flight.key, size).into())
                }
                Err(error) => Err(error),
            });
        })
        .await;
    }

    /// Runs a job that decodes `nbytes` of what was fetched.
    pub(crate) async fn decode(
        self,
        permits: crate::admit::Permits,
        nbytes: usize,
        job: impl FnOnce(&Self) + Send + 'static,
    ) {
        if nbytes <= INLINE_BYTES {
            job(&self);
            return;
        }
        let cpu = self.engine.admission.cpu(&self.lane).await;
        let pool = self.engine.pool();
        let job = move || {
            job(&self);
            drop((permits, cpu));
            Ok(())
        };
        // Outcomes are in the slots.
        pool.run(job).await.ok();
    }
}

pub(crate) fn work<'a>(run: &'a UnitRun, flight: &Flight) -> Work<'a> {
    Work {
        options: flight.array.options(),
        stats: &run.engine.stats,
        parallel: run.spread,
    }
}

/// Closes the flight to others, and does the work for all who joined it.
fn board(flight: &Flight, job: impl FnOnce(&[Want<'_>]) -> Result<bool, Error>) {
    let targets = flight.board();
    let wants: Vec<Want<'_>> = targets.iter().filter_map(Target::want).collect();
    let outcome = guard(|| job(&wants)).map_err(|error| error.at(&flight.key));
    for target in &targets {
        target.finish(outcome.clone());
    }
}
