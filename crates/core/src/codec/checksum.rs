//! Checksums of 32 bits that stand before or after the bytes that they are of, little-endian.

use std::borrow::Cow;

use serde_json::Value;
use zarrs::metadata::v3::MetadataV3;

use crate::error::Error;
use crate::memory::append;

/// Bytes of a checksum.
pub(crate) const CHECKSUM: usize = 4;

/// A checksum and its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checksum {
    sum: Sum,
    at_start: bool,
}

#[derive(Debug, Clone, Copy)]
enum Sum {
    Crc32c,
    Crc32,
    Adler32,
    Fletcher32,
    /// With this value to start from.
    Jenkins(u32),
}

impl Checksum {
    pub(crate) const CRC32C: Self = Self {
        sum: Sum::Crc32c,
        at_start: false,
    };

    /// The checksum that a codec names; `None` for a name that is none's.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a setting that is not known.
    pub(crate) fn new(codec: &MetadataV3) -> Result<Option<Self>, Error> {
        let name = codec.name();
        let setting = |name| codec.configuration().and_then(|values| values.get(name));
        let refused = |what: &str| Error::unsupported(format!("codec {name:?}: its {what}"));
        let (sum, start) = match name {
            "crc32c" => return Ok(Some(Self::CRC32C)),
            "numcodecs.crc32c" => (Sum::Crc32c, false),
            "numcodecs.crc32" => (Sum::Crc32, true),
            "numcodecs.adler32" => (Sum::Adler32, true),
            "numcodecs.fletcher32" => (Sum::Fletcher32, false),
            "numcodecs.jenkins_lookup3" => {
                let start = setting("initval").map_or(Some(0), Value::as_u64);
                let start = start.and_then(|start| u32::try_from(start).ok());
                if setting("prefix").is_some_and(|prefix| !prefix.is_null()) {
                    return Err(refused("prefix"));
                }
                (
                    Sum::Jenkins(start.ok_or_else(|| refused("initval"))?),
                    false,
                )
            }
            _ => return Ok(None),
        };
        let at_start = match setting("location").map(Value::as_str) {
            None => start,
            Some(Some("start")) => true,
            Some(Some("end")) => false,
            Some(_) => return Err(refused("location")),
        };
        Ok(Some(Self { sum, at_start }))
    }

    /// Appends `bytes` with their checksum to `into`.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for them.
    pub(crate) fn add(self, bytes: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        let sum = self.of(bytes).to_le_bytes();
        let (first, second) = if self.at_start {
            (&sum[..], bytes)
        } else {
            (bytes, &sum[..])
        };
        append(into, first)?;
        append(into, second)
    }

    /// Removes and, where wanted, compares the checksum of `encoded`.
    ///
    /// # Errors
    /// [`Error::Decode`] where it is not that of the bytes.
    pub(crate) fn strip(
        self,
        encoded: Cow<'_, [u8]>,
        validate: bool,
    ) -> Result<Cow<'_, [u8]>, Error> {
        let Some(len) = encoded.len().checked_sub(CHECKSUM) else {
            return Err(Error::decode(
                self.name(),
                "fewer bytes than a checksum has",
            ));
        };
        let (bytes, sum) = if self.at_start {
            (CHECKSUM..encoded.len(), 0..CHECKSUM)
        } else {
            (0..len, len..encoded.len())
        };
        if validate && self.of(&encoded[bytes.clone()]).to_le_bytes() != encoded[sum] {
            return Err(Error::decode(self.name(), "the checksum does not match"));
        }
        Ok(match encoded {
            Cow::Borrowed(encoded) => Cow::Borrowed(&encoded[bytes]),
            Cow::Owned(mut encoded) => {
                encoded.copy_within(bytes, 0);
                encoded.truncate(len);
                Cow::Owned(encoded)
            }
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self.sum {
            Sum::Crc32c => "crc32c",
            Sum::Crc32 => "crc32",
            Sum::Adler32 => "adler32",
            Sum::Fletcher32 => "fletcher32",
            Sum::Jenkins(_) => "jenkins_lookup3",
        }
    }

    fn of(self, bytes: &[u8]) -> u32 {
        match self.sum {
            Sum::Crc32c => crc32c::crc32c(bytes),
            Sum::Crc32 => crc32fast::hash(bytes),
            Sum::Adler32 => simd_adler32::adler32(&bytes),
            Sum::Fletcher32 => fletcher32(bytes),
            Sum::Jenkins(start) => jenkins_lookup3(bytes, start),
        }
    }
}

/// Fletcher's checksum of 16-bit words as HDF5 has it: big-endian words, a zero after an odd length, and
/// sums folded rather than reduced, so that 0xffff and 0 are two values
/// (<https://github.com/HDFGroup/hdf5/blob/develop/src/H5checksum.c>).
fn fletcher32(bytes: &[u8]) -> u32 {
    /// Words whose sums cannot overflow 32 bits.
    const WORDS: usize = 360;
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut first, mut second) = (0, 0);
    for block in bytes.chunks(2 * WORDS) {
        for word in block.chunks(2) {
            let low = word.get(1).copied().unwrap_or(0);
            first += u32::from(u16::from_be_bytes([word[0], low]));
            second += first;
        }
        (first, second) = (fold(first), fold(second));
    }
    fold(second) << 16 | fold(first)
}

/// Bob Jenkins' lookup3 as HDF5 has it, over little-endian words
/// (<https://burtleburtle.net/bob/c/lookup3.c>).
fn jenkins_lookup3(bytes: &[u8], start: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it wraps around")]
    let first = 0xdead_beef_u32
        .wrapping_add(bytes.len() as u32)
        .wrapping_add(start);
    let mut state = [first; 3];
    let add = |state: &mut [u32; 3], block: &[u8]| {
        let mut padded = [0; 12];
        padded[..block.len()].copy_from_slice(block);
        for (sum, word) in state.iter_mut().zip(padded.as_chunks::<4>().0) {
            *sum = sum.wrapping_add(u32::from_le_bytes(*word));
        }
    };
    // The last 1 to 12 bytes are mixed in another way, even where they are a whole block.
    let (blocks, last) = bytes.split_at(bytes.len().saturating_sub(1) / 12 * 12);
    for block in blocks.chunks_exact(12) {
        add(&mut state, block);
        let [mut a, mut b, mut c] = state;
        for (left, right) in [(4, 6), (16, 19)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(left);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(right);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(if left == 4 { 8 } else { 4 });
            b = b.wrapping_add(a);
        }
        state = [a, b, c];
    }
    if last.is_empty() {
        return state[2];
    }
    add(&mut state, last);
    let [mut a, mut b, mut c] = state;
    for (first, second, third) in [(14, 11, 25), (16, 4, 14)] {
        c = (c ^ b).wrapping_sub(b.rotate_left(first));
        a = (a ^ c).wrapping_sub(c.rotate_left(second));
        b = (b ^ a).wrapping_sub(a.rotate_left(third));
    }
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the comments of lookup3.c.
    #[test]
    fn lookup3_has_its_authors_values() {
        assert_eq!(0xdead_beef, jenkins_lookup3(b"", 0));
        assert_eq!(0xbd5b_7dde, jenkins_lookup3(b"", 0xdead_beef));
        let text = b"Four score and seven years ago";
        assert_eq!(0x1777_0551, jenkins_lookup3(text, 0));
        assert_eq!(0xcd62_8161, jenkins_lookup3(text, 1));
    }
}
