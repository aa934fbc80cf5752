//! Blosc's container: a header, the start of each block, and blocks that are shuffled and compressed.
//!
//! c-blosc decodes straight into the chunk and encodes straight to the end of the object, on the thread
//! that calls it: its `_ctx` functions take no lock and start no threads. It reads how long its input is
//! from the input, so that is compared with the slice first
//! (<https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst>).

use std::ffi::{CStr, c_int};

use blosc_src::{
    BLOSC_BLOSCLZ_FORMAT, BLOSC_MAX_BUFFERSIZE, BLOSC_MAX_OVERHEAD, BLOSC_MAX_TYPESIZE,
    BLOSC_MEMCPYED, BLOSC_MIN_HEADER_LENGTH, blosc_compress_ctx, blosc_decompress_ctx,
    blosc_getitem,
};
use zarrs::metadata::v3::MetadataV3;
use zarrs::metadata_ext::codec::blosc::{
    BloscCodecConfigurationV1, BloscCompressor, BloscShuffleMode,
};

use crate::codec::zstd;
use crate::error::Error;
use crate::memory::reserve;

const NAME: &str = "blosc";
const DAMAGED: &str = "its blocks are damaged, or compressed by what is not known here";
/// What c-blosc may use besides the thread that calls it.
const ONE_THREAD: c_int = 1;
const HEADER: usize = BLOSC_MIN_HEADER_LENGTH as usize;
const MAX_TYPESIZE: usize = BLOSC_MAX_TYPESIZE as usize;
/// The most bytes that a container holds.
const MAX_NBYTES: usize = BLOSC_MAX_BUFFERSIZE as usize;
/// The largest block that c-blosc chooses by itself.
const MAX_AUTOMATIC_BLOCK: usize = 1 << 20;

/// How chunks are encoded. Decoding needs none of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blosc {
    compressor: &'static CStr,
    level: c_int,
    shuffle: c_int,
    typesize: usize,
    /// Zero leaves it to c-blosc.
    blocksize: usize,
}

impl Blosc {
    /// # Errors
    /// [`Error::Unsupported`] naming a setting with which numcodecs does not encode.
    pub(crate) fn new(codec: &MetadataV3) -> Result<Self, Error> {
        let refused = |why: &dyn std::fmt::Display| {
            Error::unsupported(format!("codec \"blosc\" is not known here: {why}"))
        };
        let settings: BloscCodecConfigurationV1 = codec
            .to_typed_configuration()
            .map_err(|error| refused(&error))?;
        let typesize = settings.typesize.unwrap_or(0);
        if typesize == 0 && settings.shuffle != BloscShuffleMode::NoShuffle {
            return Err(refused(&"it shuffles, and its typesize is not set"));
        }
        if c_int::try_from(settings.blocksize).is_err() {
            return Err(refused(&"its blocksize is 2 GiB or more"));
        }
        Ok(Self {
            compressor: match settings.cname {
                BloscCompressor::BloscLZ => c"blosclz",
                BloscCompressor::LZ4 => c"lz4",
                BloscCompressor::LZ4HC => c"lz4hc",
                BloscCompressor::Zlib => c"zlib",
                BloscCompressor::Zstd => c"zstd",
                // Not every numcodecs has it.
                BloscCompressor::Snappy => return Err(refused(&"its cname is \"snappy\"")),
            },
            level: u8::from(settings.clevel).into(),
            shuffle: match settings.shuffle {
                BloscShuffleMode::NoShuffle => 0,
                BloscShuffleMode::Shuffle => 1,
                BloscShuffleMode::BitShuffle => 2,
            },
            // What c-blosc takes larger elements for; it keeps 32 bits of the number.
            typesize: match typesize {
                1..=MAX_TYPESIZE => typesize,
                _ => 1,
            },
            blocksize: settings.blocksize,
        })
    }

    /// Encodes to the end of `into`.
    ///
    /// # Errors
    /// [`Error::Encode`] for 2 GiB or more; [`Error::Memory`] when there is no memory.
    #[expect(unsafe_code, reason = "c-blosc is called")]
    pub(crate) fn encode(&self, decoded: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        if decoded.len() > MAX_NBYTES {
            return Err(Error::encode(NAME, "a chunk has less than 2 GiB"));
        }
        ask_for_blocks(self.blocksize.min(decoded.len()))?;
        // As numcodecs: with as much c-blosc always succeeds, and with more it would store larger blocks.
        let most = decoded.len() + BLOSC_MAX_OVERHEAD as usize;
        reserve(into, most)?;
        let room = &mut into.spare_capacity_mut()[..most];
        // SAFETY: `decoded` is readable and `room` writable for the lengths that are passed, a slice and
        // the rest of a `&mut Vec` do not overlap, and the name is a C string. The lengths and the block
        // size fit the 32 bits that c-blosc keeps of them, the element size is 1 to 255, the level 0 to 9.
        let written = unsafe {
            blosc_compress_ctx(
                self.level,
                self.shuffle,
                self.typesize,
                decoded.len(),
                decoded.as_ptr().cast(),
                room.as_mut_ptr().cast(),
                room.len(),
                self.compressor.as_ptr(),
                self.blocksize,
                ONE_THREAD,
            )
        };
        match usize::try_from(written) {
            Ok(written) if (1..=most).contains(&written) => {
                let len = into.len() + written;
                // SAFETY: after its length the vector has `most` bytes, of which c-blosc wrote the first
                // `written`.
                unsafe { into.set_len(len) };
                Ok(())
            }
            _ => Err(Error::encode(NAME, format!("c-blosc gives {written}"))),
        }
    }
}

/// The decoded size that `encoded` declares; `None` where `encoded` is too short to hold as much.
pub(crate) fn declared(encoded: &[u8]) -> Option<usize> {
    let size = Header::of(encoded)?.nbytes;
    // Of all compressors, zstd makes the most of a byte.
    (size <= encoded.len().saturating_mul(zstd::RATIO)).then_some(size)
}

/// Decodes into a buffer of the decoded size.
///
/// # Errors
/// [`Error::Decode`] when that is not what the bytes declare and hold; [`Error::Memory`] when there is no
/// memory for a block.
#[expect(unsafe_code, reason = "c-blosc is called")]
pub(crate) fn decode(encoded: &[u8], decoded: &mut [u8]) -> Result<(), Error> {
    let header = Header::checked(encoded, decoded.len())?;
    if decoded.is_empty() {
        return Ok(());
    }
    ask_for_blocks(header.blocksize)?;
    // SAFETY: `encoded` is readable for the length that its header declares, and c-blosc reads no further:
    // it compares the starts of blocks and the lengths of their parts with that. `decoded` is writable for
    // the length that is passed, and a `&mut` slice overlaps no other. Both lengths fit the 32 bits that
    // c-blosc keeps of them, and so do the lengths of all matches.
    let written = unsafe {
        blosc_decompress_ctx(
            encoded.as_ptr().cast(),
            decoded.as_mut_ptr().cast(),
            decoded.len(),
            ONE_THREAD,
        )
    };
    // Less than all: c-blosc leaves the end of a part of a block to whatever was in its memory.
    if usize::try_from(written) != Ok(decoded.len()) {
        return Err(Error::decode(NAME, DAMAGED));
    }
    Ok(())
}

/// Decodes the bytes of a chunk of `nbytes` that `decoded` has room for, from `start`; no more than the blocks that
/// hold them.
///
/// # Errors
/// As for [`decode`], where the damage is in these blocks; [`Error::Decode`] for parts of elements, too.
#[expect(unsafe_code, reason = "c-blosc is called")]
pub(crate) fn decode_part(
    encoded: &[u8],
    start: usize,
    decoded: &mut [u8],
    nbytes: usize,
) -> Result<(), Error> {
    let damaged = || Error::decode(NAME, DAMAGED);
    let header = Header::checked(encoded, nbytes)?;
    let size = header.typesize;
    let is_inside = nbytes - start >= decoded.len();
    if size == 0 || !start.is_multiple_of(size) || !decoded.len().is_multiple_of(size) || !is_inside
    {
        return Err(damaged());
    }
    let number = |bytes: usize| c_int::try_from(bytes / size).map_err(|_| damaged());
    let (first, items) = (number(start)?, number(decoded.len())?);
    ask_for_blocks(header.blocksize)?;
    // SAFETY: as in `decode`; the elements lie within the chunk, and `decoded` has room for just these.
    let written = unsafe {
        blosc_getitem(
            encoded.as_ptr().cast(),
            first,
            items,
            decoded.as_mut_ptr().cast(),
        )
    };
    if usize::try_from(written) != Ok(decoded.len()) {
        return Err(damaged());
    }
    Ok(())
}

/// What a container says of itself.
struct Header {
    flags: u32,
    typesize: usize,
    nbytes: usize,
    blocksize: usize,
}

impl Header {
    /// `None` unless it is the header of just these bytes.
    fn of(encoded: &[u8]) -> Option<Self> {
        let header = encoded.first_chunk::<HEADER>()?;
        let (numbers, _) = header.as_chunks::<4>();
        let number = |at: usize| usize::try_from(u32::from_le_bytes(numbers[at])).ok();
        let cbytes = c_int::try_from(number(3)?).ok()?;
        (usize::try_from(cbytes) == Ok(encoded.len())).then_some(Self {
            flags: header[2].into(),
            typesize: header[3].into(),
            nbytes: number(1)?,
            blocksize: number(2)?,
        })
    }

    /// The header of a chunk of `nbytes` that c-blosc may be given.
    fn checked(encoded: &[u8], nbytes: usize) -> Result<Self, Error> {
        let damaged = |reason: &str| Err(Error::decode(NAME, reason));
        let Some(header) = Self::of(encoded) else {
            return damaged("it has no header, or one that declares another length");
        };
        if header.nbytes != nbytes || nbytes > MAX_NBYTES {
            return damaged("its header declares another size than the chunk has");
        }
        if nbytes > 0 && !(1..=nbytes).contains(&header.blocksize) {
            return damaged("its header declares blocks of another size than the chunk can have");
        }
        if header.is_blosclz() && overflows_blosclz(encoded) {
            return damaged("a match is longer than a chunk can be");
        }
        Ok(header)
    }

    /// Whether blocks are decoded by blosclz.
    const fn is_blosclz(&self) -> bool {
        /// Where the flags name the compressor.
        const COMPRESSOR: u32 = 5;
        self.flags & BLOSC_MEMCPYED == 0 && self.flags >> COMPRESSOR == BLOSC_BLOSCLZ_FORMAT
    }
}

/// Whether the length of a match may be beyond 32 bits, which c-blosc does not check: it would write
/// outside of the chunk.
///
/// That takes a run of 2³¹ / 255 bytes of 255. Half of it is a match of 1 GiB, longer than any block.
fn overflows_blosclz(encoded: &[u8]) -> bool {
    const HALF: usize = (1 << 30) / 255;
    encoded
        .chunks_exact(HALF)
        .any(|part| part.iter().all(|byte| *byte == u8::MAX))
}

/// Asks for the memory of three blocks, which c-blosc uses without looking whether it got any.
///
/// # Errors
/// [`Error::Memory`] where it is not there.
fn ask_for_blocks(blocksize: usize) -> Result<(), Error> {
    if blocksize <= MAX_AUTOMATIC_BLOCK {
        return Ok(());
    }
    let mut memory = Vec::<u8>::new();
    reserve(&mut memory, 3 * blocksize + 4 * MAX_TYPESIZE)?;
    // Or the compiler leaves out what is not used.
    std::hint::black_box(&memory);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPRESSORS: [&CStr; 6] = [c"blosclz", c"lz4", c"lz4hc", c"snappy", c"zlib", c"zstd"];

    fn blosc(compressor: &'static CStr) -> Blosc {
        Blosc {
            compressor,
            level: 5,
            shuffle: 1,
            typesize: 2,
            blocksize: 0,
        }
    }

    fn encoded(blosc: &Blosc, decoded: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        blosc.encode(decoded, &mut encoded).unwrap();
        encoded
    }

    fn values(len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| (at * at / 5000).to_le_bytes()[0])
            .collect()
    }

    /// A container of one block in one part.
    fn one_block(flags: u8, nbytes: u32, part: &[u8]) -> Vec<u8> {
        const DO_NOT_SPLIT: u8 = 0x10;
        let start = BLOSC_MIN_HEADER_LENGTH + 4;
        let part_len = u32::try_from(part.len()).unwrap();
        let mut container = vec![2, 1, flags | DO_NOT_SPLIT, 1];
        for number in [nbytes, nbytes, start + 4 + part_len, start, part_len] {
            container.extend(number.to_le_bytes());
        }
        container.extend(part);
        container
    }

    #[test]
    fn chunks_are_appended_and_decode_to_themselves() {
        for compressor in COMPRESSORS {
            for shuffle in 0..3 {
                for len in [0, 1, 7, 127, 128, 1000, 300_001] {
                    let blosc = Blosc {
                        shuffle,
                        ..blosc(compressor)
                    };
                    let decoded = values(len);
                    let mut object = b"before".to_vec();
                    blosc.encode(&decoded, &mut object).unwrap();
                    let container = object.strip_prefix(b"before").unwrap();
                    assert_eq!(Some(len), declared(container));
                    let mut back = vec![7; len];
                    decode(container, &mut back).unwrap();
                    assert_eq!(decoded, back, "{compressor:?} {shuffle} {len}");
                }
            }
        }
    }

    #[test]
    fn header_that_does_not_match_is_an_error() {
        let decoded = values(1000);
        let container = encoded(&blosc(c"lz4"), &decoded);
        for len in 0..container.len() {
            assert!(decode(&container[..len], &mut vec![0; 1000]).is_err());
        }
        for len in [0, 999, 1001] {
            assert!(decode(&container, &mut vec![0; len]).is_err());
        }
        let longer = [container.as_slice(), &[0]].concat();
        assert!(decode(&longer, &mut vec![0; 1000]).is_err());
        for at in [4, 8, 12] {
            for number in [0, 1001, 1 << 30, 1 << 31, u32::MAX] {
                let mut damaged = container.clone();
                damaged[at..at + 4].copy_from_slice(&number.to_le_bytes());
                assert!(decode(&damaged, &mut vec![0; 1000]).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn few_bytes_declare_no_gibibytes() {
        assert_eq!(None, declared(&one_block(0, 1 << 31, &[0; 8])));
        let zeros = vec![0; 32 << 20];
        for compressor in COMPRESSORS {
            let container = encoded(&blosc(compressor), &zeros);
            assert_eq!(Some(zeros.len()), declared(&container), "{compressor:?}");
        }
    }

    #[test]
    fn match_of_blosclz_beyond_32_bits_is_an_error() {
        const LITERAL: [u8; 2] = [0, 9];
        const LONG_MATCH: u8 = 0xe0;
        let valid = [&LITERAL[..], &[LONG_MATCH, 255, 0, 0, 0, 9]].concat();
        let mut decoded = vec![0; 266];
        decode(&one_block(0, 266, &valid), &mut decoded).unwrap();
        assert_eq!(vec![9; 266], decoded);

        let mut part = [&LITERAL[..], &[LONG_MATCH]].concat();
        part.resize(part.len() + (1 << 31) / 255 + 1, u8::MAX);
        part.extend([0, 0, 0]);
        let container = one_block(0, 1 << 22, &part);
        assert!(decode(&container, &mut vec![0; 1 << 22]).is_err());
        // The same bytes of a compressor that has no such matches, or of none.
        let white = vec![u8::MAX; 1 << 23];
        for level in [0, 5] {
            let container = encoded(
                &Blosc {
                    level,
                    ..blosc(c"blosclz")
                },
                &white,
            );
            let mut back = vec![0; white.len()];
            decode(&container, &mut back).unwrap();
            assert_eq!(white, back);
        }
    }

    #[test]
    fn settings_that_numcodecs_does_not_encode_with_are_refused() {
        for (settings, known) in [
            (r#""cname":"lz4","clevel":5,"blocksize":0"#, true),
            (
                r#""cname":"lz4","clevel":9,"shuffle":"noshuffle","blocksize":0"#,
                true,
            ),
            (
                r#""cname":"zstd","clevel":0,"shuffle":"shuffle","typesize":300,"blocksize":0"#,
                true,
            ),
            (r#""cname":"lz4","clevel":10,"blocksize":0"#, false),
            (r#""cname":"lz4","clevel":5,"blocksize":2147483648"#, false),
            (
                r#""cname":"lz4","clevel":5,"shuffle":"shuffle","blocksize":0"#,
                false,
            ),
            (
                r#""cname":"lz4","clevel":5,"shuffle":"bitshuffle","typesize":0,"blocksize":0"#,
                false,
            ),
            (r#""cname":"snappy","clevel":5,"blocksize":0"#, false),
        ] {
            let json = format!(r#"{{"name":"blosc","configuration":{{{settings}}}}}"#);
            let made = Blosc::new(&serde_json::from_str(&json).unwrap());
            assert_eq!(known, made.is_ok(), "{settings}");
        }
    }
}
