//! One bytes-to-bytes codec of a chain.
//!
//! The list is explicit: a codec is on it only if what zarr or numcodecs wrote is read to the bit, and
//! the other way round, which `tests/test_codecs.py` holds. All are decoded into no more memory than the
//! chunk's size allows, whatever the stored bytes declare.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;
use zarrs::metadata::v3::MetadataV3;

use crate::codec::blosc::{self, Blosc};
use crate::codec::checksum::{CHECKSUM, Checksum};
use crate::codec::foreign::ForeignCodec;
use crate::codec::{lz4, numcodecs, zstd};
use crate::error::Error;
use crate::memory::{append, resize, zeroed};

const MORE: &str = "more bytes than a chunk can have";

/// One bytes-to-bytes codec.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Zstd {
        level: i32,
        checksum: bool,
    },
    Gzip(flate2::Compression),
    Zlib(flate2::Compression),
    Bz2(bzip2::Compression),
    Blosc(Blosc),
    /// Elements of this many bytes are shuffled.
    Shuffle(usize),
    /// With this acceleration.
    Lz4(i32),
    Checksum(Checksum),
    Foreign(Arc<dyn ForeignCodec>),
}

/// Bytes that a stage decodes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Exactly(usize),
    AtMost(usize),
}

impl Size {
    fn check(self, codec: &str, got: usize) -> Result<(), Error> {
        match self {
            Self::Exactly(size) => same_size(codec, got, size),
            Self::AtMost(limit) if got <= limit => Ok(()),
            Self::AtMost(_) => Err(Error::decode(codec, "more bytes than a chunk can have")),
        }
    }
}

/// Settings of one pipeline that decoding heeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeOptions {
    /// Whether checksums are compared.
    pub validate_checksums: bool,
}

impl Stage {
    /// # Errors
    /// [`Error::Unsupported`] naming a codec that is not on the list, or whose settings are not.
    pub(crate) fn new(codec: &MetadataV3) -> Result<Self, Error> {
        let name = codec.name();
        let setting = |name| codec.configuration().and_then(|values| values.get(name));
        let refused = |why: &dyn std::fmt::Display| {
            Error::unsupported(format!("codec {name:?} is not known here: {why}"))
        };
        let level = |default: i64| match setting("level") {
            None => Ok(default),
            Some(level) => level
                .as_i64()
                .ok_or_else(|| refused(&format!("its level is {level}"))),
        };
        let deflate = |default| {
            let level = level(default)?;
            match u32::try_from(level) {
                Ok(level @ 0..=9) => Ok(flate2::Compression::new(level)),
                // zlib's own choice.
                Err(_) if level == -1 => Ok(flate2::Compression::default()),
                _ => Err(refused(&format!("its level is {level}"))),
            }
        };
        match name {
            "zstd" => Ok(Self::Zstd {
                level: i32::try_from(level(0)?).map_err(|error| refused(&error))?,
                checksum: setting("checksum").and_then(Value::as_bool) == Some(true),
            }),
            "gzip" => deflate(5).map(Self::Gzip),
            "numcodecs.zlib" => deflate(1).map(Self::Zlib),
            "numcodecs.bz2" => match u32::try_from(level(1)?) {
                Ok(level @ 1..=9) => Ok(Self::Bz2(bzip2::Compression::new(level))),
                _ => Err(refused(&"its level is not 1 to 9")),
            },
            "blosc" => Blosc::new(codec).map(Self::Blosc),
            "numcodecs.shuffle" => setting("elementsize")
                .and_then(Value::as_u64)
                .and_then(|size| usize::try_from(size).ok())
                // numcodecs takes none for bytes too.
                .map(|size| Self::Shuffle(size.max(1)))
                .ok_or_else(|| refused(&"its elementsize is not a number")),
            "numcodecs.lz4" => {
                let acceleration = setting("acceleration").map_or(Some(1), Value::as_i64);
                acceleration
                    .and_then(|acceleration| i32::try_from(acceleration).ok())
                    .map(Self::Lz4)
                    .ok_or_else(|| refused(&"its acceleration is not a number"))
            }
            "numcodecs.zstd" | "numcodecs.gzip" | "numcodecs.blosc" => {
                Self::new(&numcodecs::in_plain_words(codec)?)
            }
            _ => match Checksum::new(codec)? {
                Some(checksum) => Ok(Self::Checksum(checksum)),
                None => Err(Error::unsupported(format!("codec {name:?}"))),
            },
        }
    }

    /// What `size` bytes may become.
    const fn encoded_size(&self, size: Size) -> Size {
        let (Size::Exactly(most) | Size::AtMost(most)) = size;
        match (self, size) {
            (Self::Shuffle(_), _) => size,
            (Self::Checksum(_), Size::Exactly(_)) => Size::Exactly(most.saturating_add(CHECKSUM)),
            (Self::Checksum(_), Size::AtMost(_)) => Size::AtMost(most.saturating_add(CHECKSUM)),
            // Nothing is known of it.
            (Self::Foreign(_), _) => Size::AtMost(isize::MAX as usize),
            _ => Size::AtMost(max_encoded(most)),
        }
    }

    /// Decodes into a buffer of the decoded size.
    pub(crate) fn decode_into(
        &self,
        encoded: &[u8],
        decoded: &mut [u8],
        shape: &[u64],
        options: DecodeOptions,
    ) -> Result<(), Error> {
        match self {
            Self::Foreign(codec) => codec.decode(shape, encoded, &mut |bytes| {
                same_size(codec.name(), bytes.len(), decoded.len())?;
                decoded.copy_from_slice(bytes);
                Ok(())
            }),
            Self::Zstd { .. } => {
                let written = zstd::decode(encoded, decoded)?;
                same_size(self.name(), written, decoded.len())
            }
            Self::Gzip(_) | Self::Zlib(_) | Self::Bz2(_) => self.fill(encoded, decoded),
            Self::Shuffle(size) => {
                same_size(self.name(), encoded.len(), decoded.len())?;
                transpose(encoded, decoded, *size, self.elements(encoded, *size)?);
                Ok(())
            }
            Self::Lz4(_) => lz4::decode(encoded, decoded),
            Self::Blosc(_) => blosc::decode(encoded, decoded),
            Self::Checksum(_) => {
                let size = Size::Exactly(decoded.len());
                let bytes = self.decode(Cow::Borrowed(encoded), size, shape, options)?;
                same_size(self.name(), bytes.len(), decoded.len())?;
                decoded.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Of the bytes of a chunk, how many need not be decoded where `part` is wanted.
    pub(crate) const fn spared(&self, part: &Range<usize>, nbytes: usize) -> usize {
        match self {
            Self::Zstd { .. }
            | Self::Gzip(_)
            | Self::Zlib(_)
            | Self::Bz2(_)
            | Self::Lz4(_)
            | Self::Blosc(_) => nbytes - (part.end - self.part_start(part)),
            Self::Shuffle(_) | Self::Checksum(_) | Self::Foreign(_) => 0,
        }
    }

    /// Where decoding begins that is to end with `part`: streams are decoded from their first byte.
    pub(crate) const fn part_start(&self, part: &Range<usize>) -> usize {
        match self {
            Self::Blosc(_) => part.start,
            _ => 0,
        }
    }

    /// Decodes as many bytes of a chunk of `nbytes` as `decoded` has room for, from `start`, which is what
    /// [`Stage::part_start`] gives.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are damaged so far, or the part cannot be had without the whole.
    pub(crate) fn decode_part(
        &self,
        encoded: &[u8],
        start: usize,
        decoded: &mut [u8],
        nbytes: usize,
    ) -> Result<(), Error> {
        match self {
            Self::Zstd { .. } => zstd::decode_first(encoded, decoded, nbytes),
            Self::Lz4(_) => lz4::decode_first(encoded, decoded, nbytes),
            Self::Blosc(_) => blosc::decode_part(encoded, start, decoded, nbytes),
            Self::Gzip(_)
            | Self::Zlib(_)
            | Self::Bz2(_)
            | Self::Shuffle(_)
            | Self::Checksum(_)
            | Self::Foreign(_) => self
                .reader(encoded)
                .and_then(|mut reader| reader.read_exact(decoded))
                .map_err(|error| Error::decode(self.name(), error)),
        }
    }

    /// Decodes to what may have `size` bytes.
    pub(crate) fn decode<'a>(
        &self,
        encoded: Cow<'a, [u8]>,
        size: Size,
        shape: &[u64],
        options: DecodeOptions,
    ) -> Result<Cow<'a, [u8]>, Error> {
        match (self, size) {
            (Self::Foreign(codec), _) => {
                let mut decoded = Vec::new();
                codec.decode(shape, &encoded, &mut |bytes| {
                    size.check(codec.name(), bytes.len())?;
                    append(&mut decoded, bytes)
                })?;
                Ok(Cow::Owned(decoded))
            }
            (Self::Checksum(sum), _) => sum.strip(encoded, options.validate_checksums),
            (Self::Shuffle(_), _) => {
                let mut decoded = zeroed(encoded.len())?;
                self.decode_into(&encoded, &mut decoded, shape, options)?;
                Ok(Cow::Owned(decoded))
            }
            (Self::Lz4(_) | Self::Blosc(_), Size::AtMost(limit)) => {
                let declared = match self {
                    Self::Lz4(_) => lz4::declared(&encoded),
                    _ => blosc::declared(&encoded),
                };
                let declared = declared.filter(|size| *size <= limit);
                let declared = declared.ok_or_else(|| Error::decode(self.name(), MORE))?;
                let mut decoded = zeroed(declared)?;
                self.decode_into(&encoded, &mut decoded, shape, options)?;
                Ok(Cow::Owned(decoded))
            }
            (_, Size::Exactly(size)) => {
                let mut decoded = zeroed(size)?;
                self.decode_into(&encoded, &mut decoded, shape, options)?;
                Ok(Cow::Owned(decoded))
            }
            // Not as a stream, which takes the window that the bytes declare: 128 MiB for any chunk.
            (Self::Zstd { .. }, Size::AtMost(limit)) => {
                zstd::decode_at_most(&encoded, limit).map(Cow::Owned)
            }
            (_, Size::AtMost(limit)) => self.grow(&encoded, limit).map(Cow::Owned),
        }
    }

    /// Encodes to the end of `into`; appends nothing and says `false` where a foreign codec wants the chunk not
    /// to be stored.
    pub(crate) fn encode(
        &self,
        decoded: &[u8],
        shape: &[u64],
        into: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let refused = |error: std::io::Error| Error::encode(self.name(), error);
        let encoded = match self {
            Self::Foreign(codec) => {
                return codec.encode(shape, decoded, &mut |bytes| append(into, bytes));
            }
            Self::Zstd { level, checksum } => zstd::encode(decoded, *level, *checksum, into),
            Self::Gzip(level) => {
                let mut encoder = flate2::write::GzEncoder::new(into, *level);
                encoder.write_all(decoded).map_err(refused)?;
                encoder.finish().map(drop).map_err(refused)
            }
            Self::Zlib(level) => {
                let mut encoder = flate2::write::ZlibEncoder::new(into, *level);
                encoder.write_all(decoded).map_err(refused)?;
                encoder.finish().map(drop).map_err(refused)
            }
            Self::Bz2(level) => {
                let mut encoder = bzip2::write::BzEncoder::new(into, *level);
                encoder.write_all(decoded).map_err(refused)?;
                encoder.finish().map(drop).map_err(refused)
            }
            Self::Blosc(blosc) => blosc.encode(decoded, into),
            Self::Shuffle(size) => {
                let elements = self
                    .elements(decoded, *size)
                    .map_err(|error| Error::encode(self.name(), error))?;
                let start = into.len();
                resize(into, start + decoded.len())?;
                transpose(decoded, &mut into[start..], elements, *size);
                Ok(())
            }
            Self::Lz4(acceleration) => lz4::encode(decoded, *acceleration, into),
            Self::Checksum(sum) => sum.add(decoded, into),
        };
        encoded.map(|()| true)
    }

    /// The codec, where it is foreign.
    pub(crate) fn foreign(&self) -> Option<&dyn ForeignCodec> {
        match self {
            Self::Foreign(codec) => Some(codec.as_ref()),
            _ => None,
        }
    }

    /// The decoded bytes as a stream, for codecs that have one.
    fn reader<'a>(&self, encoded: &'a [u8]) -> std::io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip(_) => Box::new(flate2::bufread::MultiGzDecoder::new(encoded)),
            Self::Zlib(_) => Box::new(flate2::bufread::ZlibDecoder::new(encoded)),
            Self::Bz2(_) => Box::new(bzip2::bufread::MultiBzDecoder::new(encoded)),
            _ => return Err(std::io::ErrorKind::Unsupported.into()),
        })
    }

    /// Reads exactly as many bytes as are wanted; there must be no more.
    fn fill(&self, encoded: &[u8], decoded: &mut [u8]) -> Result<(), Error> {
        let whole = self.reader(encoded).and_then(|mut reader| {
            reader.read_exact(decoded)?;
            reader.read(&mut [0])
        });
        match whole {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::decode(self.name(), "more bytes than the chunk has")),
            Err(error) => Err(Error::decode(self.name(), error)),
        }
    }

    /// Reads all there is, which must not be more than `limit` bytes.
    fn grow(&self, encoded: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        let mut decoded = Vec::new();
        let past = (limit as u64).saturating_add(1);
        self.reader(encoded)
            .and_then(|reader| reader.take(past).read_to_end(&mut decoded))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::OutOfMemory => Error::memory(limit),
                _ => Error::decode(self.name(), error),
            })?;
        if decoded.len() > limit {
            return Err(Error::decode(self.name(), MORE));
        }
        Ok(decoded)
    }

    /// How many elements the bytes are.
    fn elements(&self, bytes: &[u8], size: usize) -> Result<usize, Error> {
        if bytes.len().is_multiple_of(size) {
            return Ok(bytes.len() / size);
        }
        let len = bytes.len();
        let reason = format!("{len} bytes are not a multiple of its elementsize of {size}");
        Err(Error::decode(self.name(), reason))
    }

    fn name(&self) -> &str {
        match self {
            Self::Foreign(codec) => codec.name(),
            Self::Zstd { .. } => "zstd",
            Self::Gzip(_) => "gzip",
            Self::Zlib(_) => "zlib",
            Self::Bz2(_) => "bz2",
            Self::Blosc(_) => "blosc",
            Self::Shuffle(_) => "shuffle",
            Self::Lz4(_) => "lz4",
            Self::Checksum(sum) => sum.name(),
        }
    }
}

/// What `nbytes` may become at most: no codec makes more than twice of its input, but for what is left
/// of small ones.
pub(crate) const fn max_encoded(nbytes: usize) -> usize {
    const SLACK: usize = 1 << 20;
    nbytes.saturating_mul(2).saturating_add(SLACK)
}

/// Writes the rows of a table of bytes as columns.
fn transpose(from: &[u8], to: &mut [u8], rows: usize, columns: usize) {
    for (row, bytes) in from.chunks_exact(columns.max(1)).enumerate() {
        for (place, byte) in to[row..].iter_mut().step_by(rows).zip(bytes) {
            *place = *byte;
        }
    }
}

/// What each stage decodes to, for a chunk of this size.
pub(crate) fn stage_sizes(stages: &[Stage], mut size: Size) -> Vec<Size> {
    stages
        .iter()
        .map(|stage| {
            let encoded = stage.encoded_size(size);
            std::mem::replace(&mut size, encoded)
        })
        .collect()
}

pub(crate) fn same_size(codec: &str, got: usize, expected: usize) -> Result<(), Error> {
    if got == expected {
        return Ok(());
    }
    Err(Error::decode(
        codec,
        format!("it holds {got} bytes where the chunk has {expected}"),
    ))
}
