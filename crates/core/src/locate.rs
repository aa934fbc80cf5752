//! Finds a shard's index: in the cache, in a fetch that is under way, or with one range request.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::batch::{Array, Spec};
use crate::common::{Common, WeakCommon};
use crate::engine::Engine;
use crate::error::{Error, StoreError};
use crate::flight::ObjectId;
use crate::index_cache::Located;
use crate::pool::guard;
use crate::shard::{IndexLocation, ShardIndex, Sharding};
use crate::store::{Get, Part};

type Load = Result<Option<Located>, Error>;

/// The index fetches under way.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<HashMap<ObjectId, (u64, WeakCommon<Load>)>>);

/// What came of asking for an index.
enum Joined {
    Kept(Located),
    UnderWay(Common<Load>),
    Started(Common<Load>),
}

impl Loads {
    /// Lets nothing join a fetch that began before now.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let forgotten = self.0.lock().remove(id);
        drop(forgotten);
    }

    /// Joins the fetch of this index, or starts one; or gives what a fetch that has ended by now has kept.
    fn join<F: Future<Output = Load> + Send + 'static>(
        &self,
        id: &ObjectId,
        fingerprint: u64,
        kept: impl FnOnce() -> Option<Located>,
        load: impl FnOnce() -> F,
    ) -> Joined {
        let mut loads = self.0.lock();
        let under_way = loads.get(id).filter(|(made_by, _)| *made_by == fingerprint);
        if let Some(load) = under_way.and_then(|(_, load)| load.upgrade()) {
            return Joined::UnderWay(load);
        }
        // Kept before it is removed from here, so a fetch is seen in one place or in the other.
        if let Some(located) = kept() {
            return Joined::Kept(located);
        }
        let load = Common::new(load());
        loads.insert(id.clone(), (fingerprint, load.downgrade()));
        Joined::Started(load)
    }

    /// Removes a fetch that has ended, unless another has taken its place.
    fn ended(&self, id: &ObjectId) {
        let mut loads = self.0.lock();
        if loads
            .get(id)
            .is_some_and(|(_, load)| load.upgrade().is_none_or(|load| load.is_done()))
        {
            loads.remove(id);
        }
    }
}

impl Engine {
    /// The index of a remote shard and whether it comes from the cache; `None` where there is no shard.
    ///
    /// `admitted` hears when the request for it was admitted; it is left where none is made.
    pub(crate) async fn locate(
        self: &Arc<Self>,
        array: &Arc<Array>,
        spec: &Arc<Spec>,
        sharding: &Sharding,
        key: &Arc<str>,
        admitted: &mut Option<oneshot::Sender<()>>,
    ) -> Result<Option<(Located, bool)>, Error> {
        let id = array.object(key);
        let kept = || {
            let located = self.indexes.get(&id, spec.fingerprint)?;
            self.stats.shard_index_hits.add(1);
            Some(located)
        };
        if let Some(located) = kept() {
            return Ok(Some((located, true)));
        }
        let joined = self.loads.join(&id, spec.fingerprint, kept, || {
            let engine = Arc::clone(self);
            let (array, spec, key) = (Arc::clone(array), Arc::clone(spec), Arc::clone(key));
            let (sharding, id, admitted) = (sharding.clone(), id.clone(), admitted.take());
            async move {
                engine.stats.shard_index_misses.add(1);
                engine
                    .load(&array, &spec, &sharding, &key, id, admitted)
                    .await
            }
        });
        let load = match joined {
            Joined::Kept(located) => return Ok(Some((located, true))),
            Joined::Started(load) => load,
            Joined::UnderWay(load) => {
                self.stats.flights_shared.add(1);
                // It was admitted for another batch: ours may go on.
                drop(admitted.take());
                load
            }
        };
        let located = load.await;
        self.loads.ended(&id);
        Ok(located?.map(|located| (located, false)))
    }

    async fn load(
        &self,
        array: &Array,
        spec: &Spec,
        sharding: &Sharding,
        key: &Arc<str>,
        id: ObjectId,
        admitted: Option<oneshot::Sender<()>>,
    ) -> Result<Option<Located>, Error> {
        let nbytes = sharding.index_size(&spec.chunk);
        let permits = self.admission.admit(array.chunks.as_ref(), nbytes).await;
        // Nobody listens any more when the batch that asked is gone.
        admitted.map(|admitted| admitted.send(()));
        let part = match sharding.location {
            IndexLocation::Start => Part::Range(0..nbytes),
            IndexLocation::End => Part::Suffix(nbytes),
        };
        let fetched = match self.fetch(array, key, &part, None, nbytes).await? {
            Get::Found(fetched) => fetched,
            Get::Missing => return Ok(None),
            Get::Changed => return Err(StoreError::changed(array, key).into()),
            Get::Oversized(size) => return Err(StoreError::oversized(array, key, size).into()),
        };
        drop(permits);
        // A foreign store does not tell the size; what leaves its shard fails when it is fetched.
        let size = fetched.size.unwrap_or(u64::MAX / 2);
        let index = guard(|| {
            let options = array.options();
            ShardIndex::decode(&fetched.bytes, sharding, &spec.chunk, size, options)
        })
        .map_err(|error| error.at(key))?;
        let located = Located {
            index: Arc::new(index),
            validator: fetched.validator,
        };
        self.indexes.keep(id, spec.fingerprint, &located);
        Ok(Some(located))
    }
}
