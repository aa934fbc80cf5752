//! The shard index: where each subchunk's encoded bytes stand in their shard.
//!
//! The format is the specification's (<https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/>):
//! one pair of 64-bit numbers, offset and length, per subchunk in C order; all bits set
//! where there is none. An index is distrusted: its checksum is compared, and an entry that leaves the
//! shard or runs into the index is an error, not a read somewhere else.

use std::borrow::Cow;
use std::ops::Range;

use crate::codec::checksum::Checksum;
use crate::codec::element::ChunkSpec;
use crate::codec::layout::Sharding;
use crate::codec::stage::DecodeOptions;
use crate::error::Error;
use crate::memory::reserve;

/// Both numbers of an entry without a subchunk.
const ABSENT: u64 = u64::MAX;

/// A decoded shard index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardIndex {
    entries: Vec<(u64, u64)>,
}

impl ShardIndex {
    /// An index without any subchunk.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for its entries.
    pub(crate) fn absent(subchunks: usize) -> Result<Self, Error> {
        let mut entries = Vec::new();
        reserve(&mut entries, subchunks)?;
        entries.resize(subchunks, (ABSENT, ABSENT));
        Ok(Self { entries })
    }

    /// Decodes an index, and checks every entry against the part of the shard that holds subchunks.
    ///
    /// # Errors
    /// [`Error::Decode`] when the checksum, the size or an entry is wrong.
    pub(crate) fn decode(
        encoded: &[u8],
        sharding: &Sharding,
        spec: &ChunkSpec,
        shard_size: u64,
        options: DecodeOptions,
    ) -> Result<Self, Error> {
        let damaged = |reason: String| Error::decode("sharding_indexed", reason);
        if encoded.len() as u64 != sharding.index_size(spec) {
            return Err(damaged(format!("its index has {} bytes", encoded.len())));
        }
        let entries = if sharding.checksum {
            Checksum::CRC32C.strip(Cow::Borrowed(encoded), options.validate_checksums)?
        } else {
            Cow::Borrowed(encoded)
        };
        let section = sharding.data_section(spec, shard_size);
        let subspec = spec.with_shape(&sharding.chunk_shape);
        let longest = sharding.inner.max_encoded(&subspec);
        let (pairs, _) = entries.as_chunks::<16>();
        let number = |bytes: [u8; 8]| {
            if sharding.big_endian_index {
                u64::from_be_bytes(bytes)
            } else {
                u64::from_le_bytes(bytes)
            }
        };
        let mut index = Self::absent(pairs.len())?;
        for (entry, pair) in index.entries.iter_mut().zip(pairs) {
            let (halves, _) = pair.as_chunks::<8>();
            let (offset, length) = (number(halves[0]), number(halves[1]));
            let end = offset.checked_add(length);
            let present = (offset, length) != (ABSENT, ABSENT);
            if present && length > longest {
                return Err(damaged(format!(
                    "its index has a subchunk of {length} bytes"
                )));
            }
            if present && (offset < section.start || end.is_none_or(|end| end > section.end)) {
                return Err(damaged(format!(
                    "its index points to bytes {offset}+{length} of a shard of {shard_size}"
                )));
            }
            *entry = (offset, length);
        }
        Ok(index)
    }

    /// Appends the encoded index to `into`.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for it.
    pub(crate) fn encode(&self, sharding: &Sharding, into: &mut Vec<u8>) -> Result<(), Error> {
        let start = into.len();
        reserve(into, self.nbytes() + 4)?;
        for number in self
            .entries
            .iter()
            .flat_map(|(offset, length)| [offset, length])
        {
            into.extend_from_slice(&if sharding.big_endian_index {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            });
        }
        if sharding.checksum {
            let checksum = crc32c::crc32c(&into[start..]);
            into.extend_from_slice(&checksum.to_le_bytes());
        }
        Ok(())
    }

    /// Byte range of the subchunk with this number in C order, where it is there.
    pub(crate) fn range(&self, subchunk: usize) -> Option<Range<u64>> {
        let (offset, length) = self.entries[subchunk];
        ((offset, length) != (ABSENT, ABSENT)).then(|| offset..offset + length)
    }

    pub(crate) fn set(&mut self, subchunk: usize, range: &Range<u64>) {
        self.entries[subchunk] = (range.start, range.end - range.start);
    }

    /// Bytes that the index takes in memory.
    pub(crate) fn nbytes(&self) -> usize {
        self.entries.len() * size_of::<(u64, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::element::{Element, Kind};
    use crate::codec::layout::Layout;
    use serde_json::json;

    const OPTIONS: DecodeOptions = DecodeOptions {
        validate_checksums: true,
    };

    fn sharding(location: &str) -> (Box<Sharding>, ChunkSpec) {
        sharding_with(location, "little")
    }

    fn sharding_with(location: &str, endian: &str) -> (Box<Sharding>, ChunkSpec) {
        let codecs = json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [2], "codecs": [{"name": "bytes"}], "index_location": location,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": endian}}, {"name": "crc32c"}]}}]);
        let Layout::Shard(sharding) = Layout::from_v3(&codecs, false, &[]).unwrap() else {
            panic!("not a shard")
        };
        let element = Element {
            size: 1,
            kind: Kind::Bits,
            swap_unit: 1,
            big_endian: false,
        };
        (
            sharding,
            ChunkSpec {
                shape: vec![6],
                element,
                fill: vec![0],
            },
        )
    }

    fn encoded(index: &ShardIndex, sharding: &Sharding) -> Vec<u8> {
        let mut encoded = Vec::new();
        index.encode(sharding, &mut encoded).unwrap();
        encoded
    }

    #[test]
    fn a_table_beyond_memory_is_an_error() {
        let refused = ShardIndex::absent(usize::MAX / 16);
        assert!(matches!(refused, Err(Error::Memory { .. })));
    }

    #[test]
    fn an_index_comes_back_as_it_went() {
        for endian in ["little", "big"] {
            comes_back(&sharding_with("end", endian));
        }
    }

    fn comes_back((sharding, spec): &(Box<Sharding>, ChunkSpec)) {
        let mut index = ShardIndex::absent(3).unwrap();
        index.set(2, &(0..7));
        let encoded = encoded(&index, sharding);
        assert_eq!(sharding.index_size(spec), encoded.len() as u64);
        let decoded = ShardIndex::decode(&encoded, sharding, spec, 7 + 52, OPTIONS).unwrap();
        assert_eq!(index, decoded);
        assert_eq!(
            vec![None, None, Some(0..7)],
            (0..3).map(|at| decoded.range(at)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_entry_outside_the_data_section_is_refused() {
        for (location, size, range, good) in [
            ("end", 60, 1..8, true),
            ("end", 60, 1..9, false),
            ("start", 60, 52..60, true),
            ("start", 60, 51..60, false),
            ("end", 60, u64::MAX - 1..u64::MAX, false),
        ] {
            let (sharding, spec) = sharding(location);
            let mut index = ShardIndex::absent(3).unwrap();
            index.set(1, &range);
            let decoded =
                ShardIndex::decode(&encoded(&index, &sharding), &sharding, &spec, size, OPTIONS);
            assert_eq!(good, decoded.is_ok(), "{location} {range:?}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused_unless_it_is_not_wanted() {
        let (sharding, spec) = sharding("end");
        let mut encoded = encoded(&ShardIndex::absent(3).unwrap(), &sharding);
        *encoded.last_mut().unwrap() ^= 1;
        assert!(ShardIndex::decode(&encoded, &sharding, &spec, 52, OPTIONS).is_err());
        let lenient = DecodeOptions {
            validate_checksums: false,
        };
        assert!(ShardIndex::decode(&encoded, &sharding, &spec, 52, lenient).is_ok());
    }
}
