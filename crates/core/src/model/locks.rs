//! Of the locks of objects: one holder at a time, nobody waits for ever, nothing is left behind.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::{cancellable, explore, step, task};
use crate::share::locks::KeyLocks;
use crate::store::ObjectId;

fn id() -> ObjectId {
    ObjectId {
        store: 0,
        key: b"a"[..].into(),
    }
}

/// Counts holders; more than one is an error.
struct Inside(Rc<Cell<bool>>);

impl Inside {
    fn enter(inside: &Rc<Cell<bool>>) -> Self {
        assert!(!inside.replace(true), "two hold one lock");
        Self(Rc::clone(inside))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[test]
fn one_holds_at_a_time_and_nothing_is_left() {
    explore(|| {
        let locks: Arc<KeyLocks> = Arc::default();
        let inside: Rc<Cell<bool>> = Rc::default();
        let writer = || {
            let (locks, inside) = (Arc::clone(&locks), Rc::clone(&inside));
            async move {
                let guard = locks.lock(id()).await;
                let entered = Inside::enter(&inside);
                step().await;
                drop((entered, guard));
            }
        };
        let trier = {
            let (locks, inside) = (Arc::clone(&locks), Rc::clone(&inside));
            async move {
                let guard = locks.try_lock(id());
                let entered = guard.as_ref().map(|_| Inside::enter(&inside));
                step().await;
                drop((entered, guard));
            }
        };
        let tasks = vec![
            cancellable(writer()),
            cancellable(writer()),
            task(writer()),
            cancellable(trier),
        ];
        (tasks, move || assert!(locks.is_empty()))
    });
}
