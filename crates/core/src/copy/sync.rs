//! What the gate is made of, by names for which its model check has others of the same kind.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use tokio::sync::Notify;
