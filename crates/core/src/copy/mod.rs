//! Which elements are wanted, where they stand in the caller's buffer, and the copies between the two.

pub(crate) mod buffer;
pub(crate) mod gate;
pub(crate) mod positions;
pub(crate) mod selection;
pub(crate) mod split;
pub(crate) mod strided;
pub(crate) mod sync;
