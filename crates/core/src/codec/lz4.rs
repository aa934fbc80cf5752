//! LZ4 as numcodecs frames it: the decoded size as 32 bits, little-endian, then one block.

use std::ffi::{c_char, c_int};

use lz4::block::{CompressionMode, compress_bound, compress_to_buffer, decompress_to_buffer};

use crate::error::Error;
use crate::memory::resize;

/// Bytes of the decoded size.
const SIZE: usize = 4;

/// What a byte of a block becomes at most, by the format.
const RATIO: usize = 255;

/// The decoded size that `encoded` declares; `None` where `encoded` is too short to hold as much.
pub(crate) fn declared(encoded: &[u8]) -> Option<usize> {
    let (size, block) = encoded.split_first_chunk::<SIZE>()?;
    let size = usize::try_from(i32::from_le_bytes(*size)).ok()?;
    (size <= block.len().saturating_mul(RATIO)).then_some(size)
}

/// Decodes into a buffer of the decoded size.
///
/// # Errors
/// [`Error::Decode`] when that is not what the bytes declare and hold.
pub(crate) fn decode(encoded: &[u8], decoded: &mut [u8]) -> Result<(), Error> {
    let damaged = |reason: String| Error::decode("lz4", reason);
    let size = declared(encoded).and_then(|size| i32::try_from(size).ok());
    let Some(size) = size.filter(|size| usize::try_from(*size) == Ok(decoded.len())) else {
        return Err(damaged(
            "it declares another size than the chunk has".into(),
        ));
    };
    let written = decompress_to_buffer(&encoded[SIZE..], Some(size), decoded);
    match written {
        Ok(written) if written == decoded.len() => Ok(()),
        Ok(written) => Err(damaged(format!("it holds {written} bytes"))),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// Decodes the first bytes of a chunk of `nbytes`, and hardly more.
///
/// # Errors
/// [`Error::Decode`] when the bytes are damaged so far, or declare another size.
pub(crate) fn decode_first(encoded: &[u8], decoded: &mut [u8], nbytes: usize) -> Result<(), Error> {
    let damaged = || Error::decode("lz4", "it is damaged, or another size than the chunk");
    if declared(encoded) != Some(nbytes) {
        return Err(damaged());
    }
    let block = &encoded[SIZE..];
    let len = |bytes: &[u8]| c_int::try_from(bytes.len()).map_err(|_| damaged());
    let (read, wanted) = (len(block)?, len(decoded)?);
    #[expect(unsafe_code, reason = "liblz4 is called")]
    // SAFETY: `block` is readable and `decoded` writable for the lengths that are passed, which liblz4 heeds on
    // damaged bytes too; a `&mut` slice overlaps no other.
    let written = unsafe {
        LZ4_decompress_safe_partial(
            block.as_ptr().cast(),
            decoded.as_mut_ptr().cast(),
            read,
            wanted,
            wanted,
        )
    };
    (written == wanted).then_some(()).ok_or_else(damaged)
}

/// Encodes to the end of `into`.
///
/// # Errors
/// [`Error::Encode`] when LZ4 refuses, as for more than 2 GB; [`Error::Memory`] when there is no memory.
pub(crate) fn encode(decoded: &[u8], acceleration: i32, into: &mut Vec<u8>) -> Result<(), Error> {
    let refused = |error: std::io::Error| Error::encode("lz4", error);
    let bound = compress_bound(decoded.len()).map_err(refused)? + SIZE;
    let start = into.len();
    resize(into, start + bound)?;
    let mode = CompressionMode::FAST(acceleration);
    let written = compress_to_buffer(decoded, Some(mode), true, &mut into[start..]);
    into.truncate(start + written.map_err(refused)?);
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "a function of liblz4 that the lz4 crate links and does not declare"
)]
unsafe extern "C" {
    /// Decodes up to `wanted` bytes; gives how many, or something negative where `source` is damaged.
    fn LZ4_decompress_safe_partial(
        source: *const c_char,
        target: *mut c_char,
        source_size: c_int,
        wanted: c_int,
        target_size: c_int,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_declare_no_gibibytes() {
        assert_eq!(None, declared(&[0xff, 0xff, 0xff, 0x7f, 0]));
        let mut encoded = Vec::new();
        encode(&vec![0; 1 << 20], 1, &mut encoded).unwrap();
        assert_eq!(Some(1 << 20), declared(&encoded));
        let mut decoded = vec![1; 1 << 20];
        decode(&encoded, &mut decoded).unwrap();
        assert!(decoded.iter().all(|byte| *byte == 0));
    }
}
