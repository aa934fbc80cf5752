//! Codecs that somebody else implements: in Python, for all that is not known here.

use std::fmt::Debug;

use crate::error::Error;

/// One codec of a chain, or all of its first ones, which end in bytes.
///
/// It is called on threads of its own, on which it may wait.
pub trait ForeignCodec: Debug + Send + Sync {
    /// Names the codec in errors.
    fn name(&self) -> &str;

    /// Hands the decoded bytes to `then`: for the first codecs of a chain, the elements of a chunk of
    /// `shape` in C order, as they stand in the caller's array.
    ///
    /// # Errors
    /// [`Error::Foreign`] with what the codec raised, or what `then` gives.
    fn decode(
        &self,
        shape: &[u64],
        encoded: &[u8],
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Hands the encoded bytes to `then`; `decoded` is what [`ForeignCodec::decode`] gives. Says `false` and
    /// hands over nothing where the chunk shall not be stored.
    ///
    /// # Errors
    /// [`Error::Foreign`] with what the codec raised, or what `then` gives.
    fn encode(
        &self,
        shape: &[u64],
        decoded: &[u8],
        then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error>;

    /// Whether all elements of a chunk equal the fill value, for elements of
    /// [`Kind::Foreign`](crate::Kind::Foreign).
    ///
    /// # Errors
    /// [`Error::Foreign`] with what the comparison raised.
    fn is_empty(&self, shape: &[u64], decoded: &[u8]) -> Result<bool, Error>;
}
