//! Local objects: written one after the other in a job, each by way of a file without a name.

use std::ops::Range;
use std::sync::Arc;

use super::{Writer, Writing};
use crate::batch::Item;
use crate::codec::layout::Layout;
use crate::error::Error;
use crate::limits::pool::guard;
use crate::limits::turn::Turn;
use crate::memory::with_encoded;
use crate::store::{Directories, LocalStore};

impl Writer {
    /// Finds out where a local array really is, once for each, before its first lock.
    pub(super) async fn resolve(&self, store: &Arc<LocalStore>) {
        if let Some(item) = self.batch.items.first().filter(|_| store.is_unresolved()) {
            let (store, key) = (Arc::clone(store), Arc::clone(&item.key));
            let job = move || {
                store.resolve(&key);
                Ok(())
            };
            // An array that cannot be resolved is known by its path.
            self.jobs.engine.pool().run(job).await.ok();
        }
    }

    /// Writes local objects: those that are free in one job, then the others, each once it is free.
    pub(super) async fn files(
        self: &Arc<Self>,
        store: &Arc<LocalStore>,
        items: Range<usize>,
        turn: Turn,
    ) {
        let (mut free, mut busy) = (Vec::new(), Vec::new());
        for index in items {
            match self.try_lock(index) {
                Some(writing) => free.push((index, writing)),
                None => busy.push(index),
            }
        }
        if free.is_empty() {
            drop(turn);
        } else {
            self.write_files(store, free, turn).await;
        }
        for index in busy {
            let turn = self.turns.take().await;
            match self.lock_in_turn(index, turn).await {
                Ok((writing, turn)) => self.write_files(store, vec![(index, writing)], turn).await,
                Err(error) => self.results.set(index, Err(error)),
            }
        }
    }

    /// Writes local objects one after the other, in one job; each is locked already.
    async fn write_files(
        self: &Arc<Self>,
        store: &Arc<LocalStore>,
        locked: Vec<(usize, Writing)>,
        turn: Turn,
    ) {
        let items = locked.iter().map(|(index, _)| &self.batch.items[*index]);
        let nbytes = items.map(|item| self.memory(item, 0)).max().unwrap_or(0);
        let (admission, chunks) = (&self.jobs.engine.admission, &self.batch.array.chunks);
        let permits = admission.admit_local(chunks.as_ref(), nbytes).await;
        let cpu = self.jobs.cpu().await;
        drop(turn);
        let (writer, store) = (Arc::clone(self), Arc::clone(store));
        let job = move || {
            let mut directories = Directories::default();
            for (index, writing) in locked {
                let item = &writer.batch.items[index];
                let outcome = guard(|| writer.write_file(item, &store, &mut directories))
                    .map_err(|error| error.at(&item.key));
                drop(writing);
                writer.results.set(index, outcome.map(|()| false));
            }
            drop((permits, cpu));
            Ok(())
        };
        // The job has noted its outcomes.
        self.jobs.pool().run(job).await.ok();
    }

    fn write_file(
        &self,
        item: &Item,
        store: &LocalStore,
        directories: &mut Directories,
    ) -> Result<(), Error> {
        let stats = &self.jobs.engine.stats;
        with_encoded(|before| {
            let opened = if self.is_whole(item) {
                None
            } else {
                store.open(&item.key)?
            };
            let existing = match opened {
                Some(opened) => {
                    if matches!(self.batch.array.layout, Layout::Chunk(_)) {
                        item.spec.check_stored(opened.size())?;
                    }
                    store.read(&item.key, &opened, 0..opened.size(), before)?;
                    stats.bytes_read.add(before.len() as u64);
                    Some(before.as_slice())
                }
                None => None,
            };
            with_encoded(|after| {
                if !self.update(item, existing, after)? {
                    return store.delete(&item.key);
                }
                store.put(&item.key, after, directories)?;
                stats.bytes_written.add(after.len() as u64);
                Ok(())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, advance, array, assert_idle, bytes, chunks, engine, until};
    use crate::{Store, write};

    #[tokio::test]
    async fn an_object_that_is_locked_does_not_hold_up_the_others_of_its_job() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::Local(Arc::new(LocalStore::new(root.path(), false)));
        let (array, engine) = (array(store, &bytes()), engine());
        let busy = array.written_object(&"a".into());
        let lock = engine.locks.lock(busy).await;
        let memory = Memory::new(&[1, 2]);
        let both = chunks(&array, 1, &["a", "b"], &memory.buffer());
        let mut written = Box::pin(write(Arc::clone(&engine), both));
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        while !b.exists() {
            advance(&mut written).await;
        }
        assert!(!a.exists());
        drop(lock);
        written.await.unwrap();
        assert_eq!(vec![1], std::fs::read(a).unwrap());
        until(|| engine.locks.is_empty()).await;
        assert_idle(&engine);
    }
}
