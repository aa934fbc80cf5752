//! Bounds of the whole process: permits, the turn of each batch, and the threads of the CPU pool.

pub(crate) mod adaptive;
pub(crate) mod bound;
pub(crate) mod permits;
pub(crate) mod pool;
pub(crate) mod turn;
