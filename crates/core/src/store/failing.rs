//! Requests that failed and are about to be tried again: what is said to a caller who waits no longer.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::error::StoreError;

/// The requests of all stores that are being tried again, with their last failures.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    failures: BTreeMap<u64, StoreError>,
}

/// One request; it leaves the table when it has ended, or nobody waits for it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    failing: &'a Failing,
    number: Option<u64>,
}

impl Failing {
    /// The last failure of each request, oldest request first.
    pub(crate) fn now(&self) -> Vec<StoreError> {
        self.0.lock().failures.values().cloned().collect()
    }

    /// A request that has not failed yet.
    pub(super) const fn request(&self) -> Request<'_> {
        Request {
            failing: self,
            number: None,
        }
    }
}

impl Request<'_> {
    /// Notes a failure, in place of an earlier one.
    pub(super) fn failed(&mut self, failure: StoreError) {
        let mut table = self.failing.0.lock();
        let number = *self.number.get_or_insert_with(|| {
            table.last += 1;
            table.last
        });
        table.failures.insert(number, failure);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.failing.0.lock().failures.remove(&number);
        }
    }
}
