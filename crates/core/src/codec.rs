//! A codec chain: encoded bytes to one decoded chunk and back. With `stage`, sole owner of zarrs and zstd.
//!
//! Two coders behind one interface. The *direct* one does the chains that nearly every array has
//! (`transpose`, `bytes`, then any bytes-to-bytes codecs): a transposition is only a choice of strides
//! for the copy that follows anyway, byte order is changed in place, and zstd contexts live as long as
//! their thread (a new one for each chunk costs a fifth of the time at 64 KiB). Everything else that
//! zarrs knows goes through its `CodecChain`. A test holds the two equal.
//!
//! Decoders never trust a size that stored bytes declare: the chunk's own size is known, so whatever
//! is larger or smaller is refused before memory is taken for it.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;

use zarrs::array::codec::api::{ArrayToBytesCodecTraits, Codec};
use zarrs::array::{ArrayBytes, CodecChain, DataType, FillValue};
use zarrs::metadata::v3::MetadataV3;

use crate::element::{ChunkSpec, c_strides};
use crate::error::Error;
use crate::stage::{DecodeOptions, Stage, codec_options, same_size, stage_sizes};

/// How one array's chunks are encoded.
#[derive(Debug, Clone)]
pub struct Chain {
    coder: Coder,
    names: Arc<str>,
}

#[derive(Debug, Clone)]
enum Coder {
    Direct {
        order: Option<Vec<usize>>,
        swap: bool,
        stages: Vec<Stage>,
    },
    Zarrs {
        chain: Arc<CodecChain>,
        data_type: DataType,
    },
}

impl Chain {
    /// Builds the chain that `codecs` name, for elements of `data_type` held in `big_endian` memory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the codec or data type that is not known here.
    pub fn new(
        codecs: &[MetadataV3],
        data_type: &MetadataV3,
        big_endian: bool,
    ) -> Result<Self, Error> {
        let names: Vec<&str> = codecs.iter().map(MetadataV3::name).collect();
        let names: Arc<str> = names.join(", ").into();
        if let Some(coder) = Self::direct(codecs, big_endian)? {
            return Ok(Self { coder, names });
        }
        let data_type = DataType::from_metadata(data_type)
            .map_err(|error| Error::unsupported(format!("data type {data_type}: {error}")))?;
        if data_type.fixed_size().is_none() || big_endian {
            return Err(Error::unsupported(format!(
                "data type {data_type:?} with codecs {names}"
            )));
        }
        let chain = CodecChain::from_metadata(codecs)
            .map_err(|error| Error::unsupported(format!("codecs {names}: {error}")))?;
        Ok(Self {
            coder: Coder::Zarrs {
                chain: Arc::new(chain),
                data_type,
            },
            names,
        })
    }

    /// The chain that goes through zarrs whatever it is; the other side of the equality test.
    #[cfg(test)]
    fn through_zarrs(codecs: &[MetadataV3], data_type: &MetadataV3) -> Self {
        let chain = Arc::new(CodecChain::from_metadata(codecs).unwrap());
        let data_type = DataType::from_metadata(data_type).unwrap();
        Self {
            coder: Coder::Zarrs { chain, data_type },
            names: "".into(),
        }
    }

    fn direct(codecs: &[MetadataV3], big_endian: bool) -> Result<Option<Coder>, Error> {
        let unsupported = |codec: &MetadataV3, why: &dyn std::fmt::Display| {
            Error::unsupported(format!("codec {:?} is not known here: {why}", codec.name()))
        };
        let mut order: Option<Vec<usize>> = None;
        let mut swap = None;
        let mut stages = Vec::new();
        for codec in codecs {
            let setting = |name| codec.configuration().and_then(|values| values.get(name));
            match codec.name() {
                "transpose" if swap.is_none() => {
                    let axes = setting("order").and_then(serde_json::Value::as_array);
                    let axes = axes.map(|axes| axes.iter().map(index).collect::<Option<Vec<_>>>());
                    let Some(Some(axes)) =
                        axes.filter(|axes| axes.as_deref().is_some_and(is_order))
                    else {
                        return Err(unsupported(codec, &"its order is not a permutation"));
                    };
                    order = Some(match order {
                        Some(before) if before.len() == axes.len() => {
                            axes.iter().map(|axis| before[*axis]).collect()
                        }
                        Some(_) => return Err(unsupported(codec, &"its order has another length")),
                        None => axes,
                    });
                }
                "bytes" if swap.is_none() => {
                    let endian = setting("endian").and_then(serde_json::Value::as_str);
                    swap = Some(endian.is_some_and(|endian| (endian == "big") != big_endian));
                }
                _ if swap.is_none() => return Ok(None),
                _ => {
                    let zarrs =
                        Codec::from_metadata(codec).map_err(|error| unsupported(codec, &error))?;
                    let Codec::BytesToBytes(zarrs) = zarrs else {
                        return Ok(None);
                    };
                    stages.push(Stage::new(codec, zarrs));
                }
            }
        }
        Ok(swap.map(|swap| Coder::Direct {
            order,
            swap,
            stages,
        }))
    }

    /// Names of the codecs, in order.
    #[must_use]
    pub fn names(&self) -> &str {
        &self.names
    }

    /// Whether this is the one without zarrs' `CodecChain`.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        matches!(self.coder, Coder::Direct { .. })
    }

    /// Whether one codec hands a whole chunk to the next while it is encoded.
    pub(crate) const fn has_intermediates(&self) -> bool {
        match &self.coder {
            Coder::Direct { swap, stages, .. } => *swap || stages.len() > 1,
            Coder::Zarrs { .. } => true,
        }
    }

    /// Checks what only the chunk's own shape can tell.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a transposition has another number of axes than the chunk.
    pub fn check(&self, spec: &ChunkSpec) -> Result<(), Error> {
        match &self.coder {
            Coder::Direct {
                order: Some(order), ..
            } if order.len() != spec.shape.len() => Err(Error::unsupported(
                "codec \"transpose\" has another number of axes than the chunk",
            )),
            _ => Ok(()),
        }
    }

    /// Strides in bytes, per axis of the chunk, of what [`Chain::decode`] gives.
    #[must_use]
    pub fn strides(&self, spec: &ChunkSpec) -> Vec<i64> {
        match &self.coder {
            Coder::Direct {
                order: Some(order), ..
            } => {
                let shape: Vec<u64> = order.iter().map(|axis| spec.shape[*axis]).collect();
                let encoded = c_strides(&shape, spec.element.size);
                let mut strides = vec![0; order.len()];
                for (stride, axis) in encoded.iter().zip(order) {
                    strides[*axis] = *stride;
                }
                strides
            }
            _ => c_strides(&spec.shape, spec.element.size),
        }
    }

    /// Decodes one chunk: borrows `encoded` where it is the decoded chunk already, else fills `scratch`.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are not a chunk of this shape.
    pub(crate) fn decode<'a>(
        &self,
        spec: &ChunkSpec,
        encoded: &'a [u8],
        scratch: &'a mut Vec<u8>,
        options: DecodeOptions,
    ) -> Result<&'a [u8], Error> {
        let nbytes = nbytes(spec)?;
        if let Coder::Direct {
            swap: false,
            stages,
            ..
        } = &self.coder
            && stages.is_empty()
        {
            same_size("bytes", encoded.len(), nbytes)?;
            return Ok(encoded);
        }
        scratch.resize(nbytes, 0);
        self.decode_into(spec, encoded, scratch, options)?;
        Ok(scratch)
    }

    /// Decodes one chunk into `decoded`, which has the chunk's size.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are not a chunk of this shape.
    pub(crate) fn decode_into(
        &self,
        spec: &ChunkSpec,
        encoded: &[u8],
        decoded: &mut [u8],
        options: DecodeOptions,
    ) -> Result<(), Error> {
        let nbytes = nbytes(spec)?;
        match &self.coder {
            Coder::Direct { swap, stages, .. } => {
                let sizes = stage_sizes(stages, nbytes);
                let mut bytes = Cow::Borrowed(encoded);
                for (stage, size) in stages.iter().zip(&sizes).skip(1).rev() {
                    bytes = stage.decode(bytes, *size, options)?;
                }
                if let Some(stage) = stages.first() {
                    stage.decode_into(&bytes, decoded, options)?;
                } else {
                    same_size("bytes", bytes.len(), nbytes)?;
                    decoded.copy_from_slice(&bytes);
                }
                if *swap {
                    spec.element.swap(decoded);
                }
            }
            Coder::Zarrs { chain, data_type } => {
                let bytes = chain
                    .decode(
                        Cow::Borrowed(encoded),
                        &zarrs_shape(spec)?,
                        data_type,
                        &FillValue::new(spec.fill.clone()),
                        &codec_options(options),
                    )
                    .and_then(|bytes| Ok(bytes.into_fixed()?))
                    .map_err(|error| Error::decode(&self.names, error))?;
                same_size(&self.names, bytes.len(), nbytes)?;
                decoded.copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    /// Encodes one chunk that is laid out as [`Chain::strides`] says, to the end of `into`.
    ///
    /// # Errors
    /// [`Error::Encode`] when a codec refuses.
    pub(crate) fn encode(
        &self,
        spec: &ChunkSpec,
        decoded: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match &self.coder {
            Coder::Direct { swap, stages, .. } => {
                let mut bytes = spec.element.swapped(decoded, *swap);
                let Some((last, stages)) = stages.split_last() else {
                    into.extend_from_slice(&bytes);
                    return Ok(());
                };
                for stage in stages {
                    let mut encoded = Vec::new();
                    stage.encode(bytes, &mut encoded)?;
                    bytes = Cow::Owned(encoded);
                }
                last.encode(bytes, into)
            }
            Coder::Zarrs { chain, data_type } => {
                let encoded = chain
                    .encode(
                        ArrayBytes::new_flen(Cow::Borrowed(decoded)),
                        &zarrs_shape(spec)?,
                        data_type,
                        &FillValue::new(spec.fill.clone()),
                        &codec_options(DecodeOptions {
                            validate_checksums: true,
                        }),
                    )
                    .map_err(|error| Error::encode(&self.names, error))?;
                into.extend_from_slice(&encoded);
                Ok(())
            }
        }
    }
}

fn nbytes(spec: &ChunkSpec) -> Result<usize, Error> {
    spec.nbytes()
        .ok_or_else(|| Error::invalid("the chunk is larger than memory can be"))
}

fn zarrs_shape(spec: &ChunkSpec) -> Result<Vec<NonZeroU64>, Error> {
    spec.shape
        .iter()
        .map(|length| NonZeroU64::new(*length))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::invalid("a chunk has an axis of length zero"))
}

fn index(value: &serde_json::Value) -> Option<usize> {
    value.as_u64().and_then(|axis| usize::try_from(axis).ok())
}

fn is_order(axes: &[usize]) -> bool {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    sorted.iter().enumerate().all(|(at, axis)| at == *axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{Element, Kind};

    const OPTIONS: DecodeOptions = DecodeOptions {
        validate_checksums: true,
    };

    fn encode(chain: &Chain, spec: &ChunkSpec, decoded: &[u8]) -> Vec<u8> {
        let mut encoded = b"before".to_vec();
        chain.encode(spec, decoded, &mut encoded).unwrap();
        assert_eq!(b"before", &encoded[..6]);
        encoded.split_off(6)
    }

    fn metadata(json: &str) -> Vec<MetadataV3> {
        serde_json::from_str(json).unwrap()
    }

    fn uint16() -> MetadataV3 {
        MetadataV3::new("uint16")
    }

    fn spec(shape: &[u64]) -> ChunkSpec {
        let element = Element {
            size: 2,
            kind: Kind::Bits,
            swap_unit: 2,
            big_endian: false,
        };
        ChunkSpec {
            shape: shape.to_vec(),
            element,
            fill: vec![0, 0],
        }
    }

    const CHAINS: &[&str] = &[
        r#"[{"name":"bytes","configuration":{"endian":"little"}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"big"}},{"name":"zstd","configuration":{"level":1,"checksum":true}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"zstd","configuration":{"level":1,"checksum":false}},{"name":"crc32c"}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"crc32c"},{"name":"zstd","configuration":{"level":1,"checksum":false}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"gzip","configuration":{"level":5}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"gzip","configuration":{"level":5}},{"name":"zstd","configuration":{"level":1,"checksum":false}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"numcodecs.zlib","configuration":{"level":1}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"numcodecs.bz2","configuration":{"level":1}}]"#,
        r#"[{"name":"bytes","configuration":{"endian":"little"}},{"name":"blosc","configuration":{"cname":"lz4","clevel":5,"shuffle":"shuffle","typesize":2,"blocksize":0}}]"#,
    ];

    #[test]
    fn the_direct_coder_and_zarrs_read_each_other() {
        let spec = spec(&[3, 5, 7]);
        let decoded: Vec<u8> = (0..210).map(|byte: u8| byte.wrapping_mul(31)).collect();
        for json in CHAINS {
            let codecs = metadata(json);
            let direct = Chain::new(&codecs, &uint16(), false).unwrap();
            assert!(direct.is_direct());
            let zarrs = Chain::through_zarrs(&codecs, &uint16());
            for (writer, reader) in [(&direct, &zarrs), (&zarrs, &direct), (&direct, &direct)] {
                let encoded = encode(writer, &spec, &decoded);
                let mut scratch = Vec::new();
                let back = reader
                    .decode(&spec, &encoded, &mut scratch, OPTIONS)
                    .unwrap();
                assert_eq!(decoded, back, "{json}");
            }
        }
    }

    #[test]
    fn a_transposition_is_a_choice_of_strides() {
        let codecs = metadata(
            r#"[{"name":"transpose","configuration":{"order":[2,0,1]}},{"name":"bytes","configuration":{"endian":"little"}}]"#,
        );
        let spec = spec(&[2, 3, 4]);
        let direct = Chain::new(&codecs, &uint16(), false).unwrap();
        let zarrs = Chain::through_zarrs(&codecs, &uint16());
        let plain: Vec<u8> = (0..24_u16).flat_map(u16::to_le_bytes).collect();
        let encoded = encode(&zarrs, &spec, &plain);
        let strides = direct.strides(&spec);
        assert_eq!(vec![6, 2, 12], strides);
        let (mut scratch, mut seen) = (Vec::new(), Vec::new());
        let decoded = direct
            .decode(&spec, &encoded, &mut scratch, OPTIONS)
            .unwrap();
        for (a, b, c) in
            (0..2).flat_map(|a| (0..3).flat_map(move |b| (0..4).map(move |c| (a, b, c))))
        {
            let at = usize::try_from(a * strides[0] + b * strides[1] + c * strides[2]).unwrap();
            seen.extend_from_slice(&decoded[at..at + 2]);
        }
        assert_eq!(plain, seen);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let spec = spec(&[3, 5, 7]);
        let decoded = vec![7; 210];
        for json in CHAINS {
            let chain = Chain::new(&metadata(json), &uint16(), false).unwrap();
            let encoded = encode(&chain, &spec, &decoded);
            for bytes in [
                &encoded[..encoded.len() - 1],
                &[],
                &encoded[..encoded.len() / 2],
            ] {
                assert!(
                    chain
                        .decode(&spec, bytes, &mut Vec::new(), OPTIONS)
                        .is_err(),
                    "{json}"
                );
            }
        }
    }

    #[test]
    fn more_bytes_than_the_chunk_has_are_refused() {
        let (small, large) = (spec(&[3, 5, 7]), spec(&[3, 5, 700]));
        for codec in [
            r#"{"name": "zstd", "configuration": {"level": 1, "checksum": false}}"#,
            r#"{"name": "gzip", "configuration": {"level": 1}}"#,
            r#"{"name": "numcodecs.zlib", "configuration": {"level": 1}}"#,
            r#"{"name": "numcodecs.bz2", "configuration": {"level": 1}}"#,
        ] {
            let bytes = r#"{"name": "bytes", "configuration": {"endian": "little"}}"#;
            let json = format!("[{bytes}, {codec}]");
            let chain = Chain::new(&metadata(&json), &uint16(), false).unwrap();
            let encoded = encode(&chain, &large, &vec![0; 21_000]);
            let mut scratch = Vec::new();
            assert!(
                chain
                    .decode(&large, &encoded, &mut scratch, OPTIONS)
                    .is_ok()
            );
            let refused = chain.decode(&small, &encoded, &mut scratch, OPTIONS);
            assert!(refused.is_err(), "{codec}");
        }
    }

    #[test]
    fn a_header_that_declares_too_much_takes_no_memory() {
        let large = spec(&[1 << 20]);
        let small = spec(&[4]);
        for json in [CHAINS[1], CHAINS[4], CHAINS[6]] {
            let chain = Chain::new(&metadata(json), &uint16(), false).unwrap();
            let encoded = encode(&chain, &large, &vec![0; 2 << 20]);
            let mut scratch = Vec::new();
            assert!(
                chain
                    .decode(&small, &encoded, &mut scratch, OPTIONS)
                    .is_err()
            );
            assert!(scratch.capacity() < 1 << 10);
        }
    }

    #[test]
    fn an_unknown_codec_is_named() {
        let codecs = metadata(r#"[{"name":"bytes"},{"name":"nonesuch"}]"#);
        let error = Chain::new(&codecs, &uint16(), false).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported(text) if text.contains("nonesuch")),
            "{error}"
        );
    }
}
