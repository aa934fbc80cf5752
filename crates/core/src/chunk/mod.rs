//! One object in memory and the caller's buffer: decode and scatter, gather and encode.

pub(crate) mod decode;
pub(crate) mod encode;
mod texts;
