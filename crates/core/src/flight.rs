//! Flights: concurrent batches that need the same bytes share one fetch and one decode.
//!
//! A flight is one object (or one merged byte range of one) on its way. Until its bytes are decoded,
//! any batch may add itself as one more target. The work itself is a *unit*, a shared future that every
//! interested batch polls: it goes on while one of them is left and is dropped, requests and all, with
//! the last. Nothing joins a flight that set out before one of our own writes to its object ended.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::batch::{Array, Slots, Spec};
use crate::common::{Common, WeakCommon};
use crate::error::Error;
use crate::out::OutBuffer;
use crate::place::Want;
use crate::selection::Selection;
use crate::stats::Stats;
use crate::store::Validator;

/// One object of one store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId {
    pub store: u64,
    pub key: Arc<str>,
}

/// What a flight carries, besides of which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cargo {
    Object,
    Range(Range<u64>, Option<Validator>),
}

/// What one batch wants of a flight, and where its outcome is noted.
#[derive(Debug)]
pub(crate) struct Target {
    pub slots: Arc<Slots>,
    pub slot: usize,
    pub out: Arc<OutBuffer>,
    pub wants: Wants,
}

/// The wanted elements: of a whole object, or of the subchunks at byte ranges of a shard.
#[derive(Debug)]
pub(crate) enum Wants {
    Object(Selection),
    Pieces(Vec<(Range<u64>, Selection)>),
}

/// The work of one or more flights, polled by every batch that wants some of it.
pub(crate) type Unit = Common<()>;

/// One object or range on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub array: Arc<Array>,
    pub spec: Arc<Spec>,
    pub key: Arc<str>,
    id: ObjectId,
    cargo: Cargo,
    /// `None` once the decoding has begun.
    targets: Mutex<Option<Vec<Target>>>,
    unit: OnceLock<WeakCommon<()>>,
    flights: Weak<Flights>,
}

/// The flights under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    objects: Mutex<HashMap<ObjectId, Vec<Weak<Flight>>>>,
}

/// A flight that a batch would join or start.
pub(crate) struct Ticket {
    pub array: Arc<Array>,
    pub spec: Arc<Spec>,
    pub key: Arc<str>,
    pub cargo: Cargo,
    pub target: Target,
}

/// What a batch must poll after [`Flights::launch`].
pub(crate) struct Launched {
    pub joined: Vec<Unit>,
    /// The unit that this batch started, and the word that it was admitted.
    pub led: Option<(Unit, oneshot::Receiver<()>)>,
}

impl Flights {
    /// Joins the flights that are under way, and makes one unit of all others.
    pub(crate) fn launch(
        self: &Arc<Self>,
        tickets: Vec<Ticket>,
        stats: &Stats,
        work: impl FnOnce(Vec<Arc<Flight>>, oneshot::Sender<()>) -> BoxFuture<'static, ()>,
    ) -> Launched {
        let mut joined = Vec::new();
        let mut led = Vec::new();
        // Upgraded flights are dropped after the lock is: a flight's own drop takes it.
        let mut seen = Vec::new();
        let mut objects = self.objects.lock();
        for ticket in tickets {
            let id = ticket.array.object(&ticket.key);
            let entry = objects.entry(id.clone()).or_default();
            let mut target = Some(ticket.target);
            for flight in entry.iter().filter_map(Weak::upgrade) {
                if flight.carries(&ticket.cargo, &ticket.spec)
                    && let Some(unit) = flight.join(&mut target)
                {
                    joined.push(unit);
                }
                seen.push(flight);
                if target.is_none() {
                    break;
                }
            }
            let Some(target) = target else { continue };
            let flight = Arc::new(Flight {
                array: ticket.array,
                spec: ticket.spec,
                key: ticket.key,
                id,
                cargo: ticket.cargo,
                targets: Mutex::new(Some(vec![target])),
                unit: OnceLock::new(),
                flights: Arc::downgrade(self),
            });
            entry.push(Arc::downgrade(&flight));
            led.push(flight);
        }
        stats.flights_shared.add(joined.len() as u64);
        let led = (!led.is_empty()).then(|| {
            let (admitted, heard) = oneshot::channel();
            let own = led.clone();
            let unit = Common::new(work(led, admitted));
            for flight in &own {
                flight.unit.get_or_init(|| unit.downgrade());
            }
            seen.extend(own);
            (unit, heard)
        });
        drop(objects);
        Launched { joined, led }
    }

    /// Lets nothing join what set out before now for this object: it has just been written.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let forgotten = self.objects.lock().remove(id);
        drop(forgotten);
    }
}

impl Flight {
    fn carries(&self, cargo: &Cargo, spec: &Spec) -> bool {
        self.cargo == *cargo && self.spec.fingerprint == spec.fingerprint
    }

    fn join(&self, target: &mut Option<Target>) -> Option<Unit> {
        let unit = self.unit.get()?.upgrade()?;
        let mut targets = self.targets.lock();
        let targets = targets.as_mut()?;
        targets.extend(target.take());
        Some(unit)
    }

    /// All who want this, from now on nobody else.
    pub(crate) fn board(&self) -> Vec<Target> {
        self.targets.lock().take().unwrap_or_default()
    }

    pub(crate) const fn cargo(&self) -> &Cargo {
        &self.cargo
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(flights) = self.flights.upgrade() else {
            return;
        };
        let mut objects = flights.objects.lock();
        if let Some(entry) = objects.get_mut(&self.id) {
            entry.retain(|flight| flight.strong_count() > 0);
            if entry.is_empty() {
                objects.remove(&self.id);
            }
        }
    }
}

impl Target {
    /// Notes how it went.
    pub(crate) fn finish(&self, outcome: Result<bool, Error>) {
        self.slots.set(self.slot, outcome);
    }

    /// The wanted elements of the whole object.
    pub(crate) fn want(&self) -> Option<Want<'_>> {
        match &self.wants {
            Wants::Object(selection) => Some(Want {
                selection,
                out: &self.out,
            }),
            Wants::Pieces(_) => None,
        }
    }
}
