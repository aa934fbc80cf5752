//! One bytes-to-bytes codec of a chain.
//!
//! zstd, gzip, zlib, bz2 and crc32c are decoded here: with contexts that live as long as their thread, straight into the
//! buffer that waits for them, never more than it holds. All others are zarrs'.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Read;
use std::sync::Arc;

use zarrs::array::codec::api::BytesToBytesCodecTraits;
use zarrs::array::{BytesRepresentation, CodecOptions};
use zarrs::metadata::v3::MetadataV3;

use crate::error::Error;

/// The most room that a thread keeps for compressing.
const KEPT_ROOM: usize = 8 << 20;

/// One bytes-to-bytes codec.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Zstd { level: i32, checksum: bool },
    Crc32c,
    Gzip(Arc<dyn BytesToBytesCodecTraits>),
    Zlib(Arc<dyn BytesToBytesCodecTraits>),
    Bz2(Arc<dyn BytesToBytesCodecTraits>),
    Blosc(Arc<dyn BytesToBytesCodecTraits>),
    Other(Arc<dyn BytesToBytesCodecTraits>),
}

/// Settings of one pipeline that decoding heeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeOptions {
    /// Whether checksums are compared.
    pub validate_checksums: bool,
}

impl Stage {
    pub(crate) fn new(codec: &MetadataV3, zarrs: Arc<dyn BytesToBytesCodecTraits>) -> Self {
        let setting = |name| codec.configuration().and_then(|values| values.get(name));
        match codec.name() {
            "zstd" => Self::Zstd {
                level: setting("level")
                    .and_then(serde_json::Value::as_i64)
                    .and_then(|level| i32::try_from(level).ok())
                    .unwrap_or(0),
                checksum: setting("checksum").and_then(serde_json::Value::as_bool) == Some(true),
            },
            "crc32c" => Self::Crc32c,
            "gzip" => Self::Gzip(zarrs),
            "zlib" | "numcodecs.zlib" => Self::Zlib(zarrs),
            "bz2" | "numcodecs.bz2" => Self::Bz2(zarrs),
            "blosc" => Self::Blosc(zarrs),
            _ => Self::Other(zarrs),
        }
    }

    /// What `size` bytes may become.
    pub(crate) fn encoded_size(&self, size: BytesRepresentation) -> BytesRepresentation {
        match self {
            Self::Zstd { .. } => size
                .size()
                .and_then(|size| usize::try_from(size).ok())
                .map_or(BytesRepresentation::UnboundedSize, |size| {
                    BytesRepresentation::BoundedSize(zstd::zstd_safe::compress_bound(size) as u64)
                }),
            Self::Crc32c => match size {
                BytesRepresentation::FixedSize(size) => BytesRepresentation::FixedSize(size + 4),
                BytesRepresentation::BoundedSize(size) => {
                    BytesRepresentation::BoundedSize(size + 4)
                }
                BytesRepresentation::UnboundedSize => size,
            },
            Self::Gzip(zarrs)
            | Self::Zlib(zarrs)
            | Self::Bz2(zarrs)
            | Self::Blosc(zarrs)
            | Self::Other(zarrs) => zarrs.encoded_representation(&size),
        }
    }

    /// Decodes into a buffer of the decoded size.
    pub(crate) fn decode_into(
        &self,
        encoded: &[u8],
        decoded: &mut [u8],
        options: DecodeOptions,
    ) -> Result<(), Error> {
        match self {
            Self::Zstd { .. } => {
                let written = unzstd(encoded, decoded)?;
                same_size("zstd", written, decoded.len())
            }
            Self::Gzip(_) => self.fill(flate2::read::MultiGzDecoder::new(encoded), decoded),
            Self::Zlib(_) => self.fill(flate2::read::ZlibDecoder::new(encoded), decoded),
            Self::Bz2(_) => self.fill(bzip2::read::MultiBzDecoder::new(encoded), decoded),
            _ => {
                let size = BytesRepresentation::FixedSize(decoded.len() as u64);
                let bytes = self.decode(Cow::Borrowed(encoded), size, options)?;
                same_size(self.name(), bytes.len(), decoded.len())?;
                decoded.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Decodes to what may have `size` bytes.
    pub(crate) fn decode<'a>(
        &self,
        encoded: Cow<'a, [u8]>,
        size: BytesRepresentation,
        options: DecodeOptions,
    ) -> Result<Cow<'a, [u8]>, Error> {
        match (self, size) {
            (
                Self::Zstd { .. } | Self::Gzip(_) | Self::Zlib(_) | Self::Bz2(_),
                BytesRepresentation::FixedSize(size),
            ) => {
                let size =
                    usize::try_from(size).map_err(|error| Error::decode(self.name(), error))?;
                let mut decoded = vec![0; size];
                self.decode_into(&encoded, &mut decoded, options)?;
                Ok(Cow::Owned(decoded))
            }
            (Self::Zstd { .. }, BytesRepresentation::BoundedSize(limit)) => {
                let limit = usize::try_from(limit).map_err(|error| Error::decode("zstd", error))?;
                let mut decoded = vec![0; limit];
                let written = unzstd(&encoded, &mut decoded)?;
                decoded.truncate(written);
                Ok(Cow::Owned(decoded))
            }
            (Self::Crc32c, _) => strip_crc32c(encoded, options.validate_checksums),
            (Self::Blosc(_), BytesRepresentation::FixedSize(size))
                if blosc_declares(&encoded).is_none_or(|declared| declared != size) =>
            {
                Err(Error::decode(
                    "blosc",
                    "its header declares another size than the chunk has",
                ))
            }
            (Self::Zstd { .. }, BytesRepresentation::UnboundedSize) => zstd::decode_all(&*encoded)
                .map(Cow::Owned)
                .map_err(|error| Error::decode("zstd", error)),
            (
                Self::Gzip(zarrs)
                | Self::Zlib(zarrs)
                | Self::Bz2(zarrs)
                | Self::Blosc(zarrs)
                | Self::Other(zarrs),
                _,
            ) => zarrs
                .decode(encoded, &size, &codec_options(options))
                .map_err(|error| Error::decode(self.name(), error)),
        }
    }

    /// Encodes to the end of `into`.
    pub(crate) fn encode(&self, decoded: Cow<'_, [u8]>, into: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Zstd { level, checksum } => enzstd(&decoded, *level, *checksum, into),
            Self::Crc32c => {
                into.extend_from_slice(&decoded);
                into.extend_from_slice(&crc32c::crc32c(&decoded).to_le_bytes());
                Ok(())
            }
            Self::Gzip(zarrs)
            | Self::Zlib(zarrs)
            | Self::Bz2(zarrs)
            | Self::Blosc(zarrs)
            | Self::Other(zarrs) => {
                let encoded = zarrs
                    .encode(
                        decoded,
                        &codec_options(DecodeOptions {
                            validate_checksums: true,
                        }),
                    )
                    .map_err(|error| Error::encode(self.name(), error))?;
                into.extend_from_slice(&encoded);
                Ok(())
            }
        }
    }

    /// Reads exactly as many bytes as are wanted; there must be no more.
    fn fill(&self, mut reader: impl Read, decoded: &mut [u8]) -> Result<(), Error> {
        let whole = reader
            .read_exact(decoded)
            .and_then(|()| reader.read(&mut [0]));
        match whole {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::decode(self.name(), "more bytes than the chunk has")),
            Err(error) => Err(Error::decode(self.name(), error)),
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Zstd { .. } => "zstd",
            Self::Crc32c => "crc32c",
            Self::Gzip(_) => "gzip",
            Self::Zlib(_) => "zlib",
            Self::Bz2(_) => "bz2",
            Self::Blosc(_) => "blosc",
            Self::Other(_) => "bytes-to-bytes",
        }
    }
}

/// Removes and, where wanted, compares the checksum that ends `encoded`.
pub(crate) fn strip_crc32c(encoded: Cow<'_, [u8]>, validate: bool) -> Result<Cow<'_, [u8]>, Error> {
    let Some(len) = encoded.len().checked_sub(4) else {
        return Err(Error::decode("crc32c", "fewer bytes than a checksum has"));
    };
    if validate && crc32c::crc32c(&encoded[..len]).to_le_bytes() != encoded[len..] {
        return Err(Error::decode("crc32c", "the checksum does not match"));
    }
    Ok(match encoded {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..len]),
        Cow::Owned(mut bytes) => {
            bytes.truncate(len);
            Cow::Owned(bytes)
        }
    })
}

/// A compressor with its settings, and room for what it makes of a chunk.
struct Compressor {
    level: i32,
    checksum: bool,
    context: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
    static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) };
}

fn unzstd(encoded: &[u8], decoded: &mut [u8]) -> Result<usize, Error> {
    DECOMPRESSOR
        .with_borrow_mut(|context| {
            let decompressor = match context {
                Some(decompressor) => decompressor,
                None => context.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(encoded, decoded)
        })
        .map_err(|error: std::io::Error| Error::decode("zstd", error))
}

fn enzstd(decoded: &[u8], level: i32, checksum: bool, into: &mut Vec<u8>) -> Result<(), Error> {
    COMPRESSOR
        .with_borrow_mut(|kept| {
            let compressor = match kept {
                Some(kept) if kept.level == level && kept.checksum == checksum => kept,
                _ => {
                    let mut context = zstd::bulk::Compressor::new(level)?;
                    context.include_checksum(checksum)?;
                    kept.insert(Compressor {
                        level,
                        checksum,
                        context,
                        room: Vec::new(),
                    })
                }
            };
            let bound = zstd::zstd_safe::compress_bound(decoded.len());
            if compressor.room.len() < bound {
                compressor.room.resize(bound, 0);
            }
            let len = compressor
                .context
                .compress_to_buffer(decoded, compressor.room.as_mut_slice())?;
            into.extend_from_slice(&compressor.room[..len]);
            if bound > KEPT_ROOM {
                compressor.room = Vec::new();
            }
            Ok(())
        })
        .map_err(|error: std::io::Error| Error::encode("zstd", error))
}

/// The decoded size in a blosc header: bytes 4 to 8, little-endian
/// (<https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst>).
fn blosc_declares(encoded: &[u8]) -> Option<u64> {
    let bytes: [u8; 4] = encoded.get(4..8)?.try_into().ok()?;
    (encoded.len() >= 16).then(|| u64::from(u32::from_le_bytes(bytes)))
}

/// What each stage decodes to, for a chunk of `nbytes`.
pub(crate) fn stage_sizes(stages: &[Stage], nbytes: usize) -> Vec<BytesRepresentation> {
    let mut size = BytesRepresentation::FixedSize(nbytes as u64);
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

/// One thread for each chunk: the engine's own jobs are what runs in parallel.
pub(crate) fn codec_options(options: DecodeOptions) -> CodecOptions {
    CodecOptions::default()
        .with_validate_checksums(options.validate_checksums)
        .with_concurrent_target(1)
}
