//! A codec chain: encoded bytes to one decoded chunk and back.
//!
//! `transpose`, filters, `bytes`, then any bytes-to-bytes codecs; nearly every array has no filters. A transposition
//! is only a choice of strides for the copy that follows anyway, byte order is changed in place.
//! Other chains are left to zarr's own pipeline. A test holds this one equal to zarrs' `CodecChain`.
//!
//! Decoders never trust a size that stored bytes declare: the chunk's own size is known, so whatever
//! is larger or smaller is refused before memory is taken for it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use zarrs::metadata::v3::MetadataV3;

use crate::codec::element::{ChunkSpec, Element, Kind, c_strides};
use crate::codec::filter::Filter;
use crate::codec::foreign::ForeignCodec;
use crate::codec::stage::{DecodeOptions, Size, Stage, same_size, stage_sizes};
use crate::error::Error;
use crate::memory::{append, resize, with_decoded, zeroed};

/// How one array's chunks are encoded.
#[derive(Debug, Clone)]
pub struct Chain {
    order: Option<Vec<usize>>,
    filters: Vec<Filter>,
    elements: Elements,
    swap: bool,
    stages: Vec<Stage>,
    names: Arc<str>,
}

/// What elements a chain's codec to bytes takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elements {
    Fixed,
    Variable,
    /// It is foreign.
    Any,
}

impl Chain {
    /// Builds the chain that `codecs` name, for elements held in `big_endian` memory; a codec called
    /// `foreign` stands for the one of that `number` in `foreign`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the codec that is not known here.
    pub fn new(
        codecs: &[MetadataV3],
        big_endian: bool,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> Result<Self, Error> {
        let unsupported = |codec: &MetadataV3, why: &str| {
            Error::unsupported(format!("codec {:?}: {why}", codec.name()))
        };
        let mut order: Option<Vec<usize>> = None;
        let mut swap = None;
        let mut elements = Elements::Fixed;
        let mut filters: Vec<Filter> = Vec::new();
        let mut stages = Vec::new();
        for codec in codecs {
            let setting = |name| codec.configuration().and_then(|values| values.get(name));
            match codec.name() {
                // Some filters leave one axis only.
                "transpose" if swap.is_none() && filters.is_empty() => {
                    let axes = setting("order").and_then(serde_json::Value::as_array);
                    let axes = axes.map(|axes| axes.iter().map(index).collect::<Option<Vec<_>>>());
                    let Some(Some(axes)) =
                        axes.filter(|axes| axes.as_deref().is_some_and(is_order))
                    else {
                        return Err(unsupported(codec, "its order is not a permutation"));
                    };
                    order = Some(match order {
                        Some(before) if before.len() == axes.len() => {
                            axes.iter().map(|axis| before[*axis]).collect()
                        }
                        Some(_) => return Err(unsupported(codec, "its order has another length")),
                        None => axes,
                    });
                }
                "bytes" if swap.is_none() => {
                    let endian = setting("endian").and_then(serde_json::Value::as_str);
                    let filtered = filters.last().map(|filter| filter.encoded().big_endian);
                    let big_endian = filtered.unwrap_or(big_endian);
                    swap = Some(endian.is_some_and(|endian| (endian == "big") != big_endian));
                }
                "vlen-utf8" | "vlen-bytes" if swap.is_none() && filters.is_empty() => {
                    (swap, elements) = (Some(false), Elements::Variable);
                }
                "sharding_indexed" => {
                    return Err(unsupported(codec, "beside other codecs"));
                }
                "foreign" => {
                    let number = setting("number").and_then(index);
                    let foreign = number.and_then(|number| foreign.get(number));
                    let foreign = foreign.ok_or_else(|| unsupported(codec, "there is none"))?;
                    // The first codecs of a chain, as one, for elements of any kind.
                    if swap.is_none() {
                        (swap, elements) = (Some(false), Elements::Any);
                    }
                    stages.push(Stage::Foreign(Arc::clone(foreign)));
                }
                _ if swap.is_none() => match Filter::new(codec)? {
                    Some(filter) => filters.push(filter),
                    None => return Err(unsupported(codec, "before \"bytes\"")),
                },
                _ => stages.push(Stage::new(codec)?),
            }
        }
        let mut known = codecs.iter().map(MetadataV3::name);
        let mut foreign = stages.iter().filter_map(Stage::foreign);
        let names: Vec<&str> = std::iter::from_fn(|| match known.next()? {
            "foreign" => foreign.next().map(ForeignCodec::name),
            name => Some(name),
        })
        .collect();
        let names = names.join(", ").into();
        let swap = swap.ok_or_else(|| {
            Error::unsupported(format!("codecs {names:?} without one to \"bytes\""))
        })?;
        Ok(Self {
            order,
            filters,
            elements,
            swap,
            stages,
            names,
        })
    }

    /// Names of the codecs, in order.
    #[must_use]
    pub fn names(&self) -> &str {
        &self.names
    }

    /// Whether some of its codecs are foreign.
    pub(crate) fn is_foreign(&self) -> bool {
        self.stages.iter().any(|stage| stage.foreign().is_some())
    }

    /// Whether every element equals the fill value.
    ///
    /// # Errors
    /// [`Error::Foreign`] where a foreign codec is asked and fails.
    pub(crate) fn is_empty(&self, spec: &ChunkSpec, decoded: &[u8]) -> Result<bool, Error> {
        match (&spec.element.kind, self.stages.first()) {
            (Kind::Foreign, Some(Stage::Foreign(codec))) => codec.is_empty(&spec.shape, decoded),
            _ => Ok(spec.is_empty(decoded)),
        }
    }

    /// Whether one codec hands a whole chunk to the next while it is encoded.
    pub(crate) const fn has_intermediates(&self) -> bool {
        self.swap || !self.filters.is_empty() || self.stages.len() > 1
    }

    /// Bytes that `nbytes` of elements may be on their way through the filters, at most.
    pub(crate) fn widest(&self, nbytes: usize) -> usize {
        self.filtered(nbytes).into_iter().fold(nbytes, usize::max)
    }

    /// Checks what only the chunk's own shape can tell.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a transposition has another number of axes than the chunk, or a filter
    /// is of elements of another size.
    pub fn check(&self, spec: &ChunkSpec) -> Result<(), Error> {
        match &self.order {
            Some(order) if order.len() != spec.shape.len() => {
                return Err(Error::unsupported(
                    "codec \"transpose\" has another number of axes than the chunk",
                ));
            }
            _ => {}
        }
        let fits = match self.elements {
            Elements::Any => true,
            Elements::Variable => spec.element.kind.is_variable(),
            Elements::Fixed => !spec.element.kind.is_variable(),
        };
        if !fits {
            return Err(Error::unsupported(
                "codecs that are not for elements of this length",
            ));
        }
        let mut item = spec.element.size;
        for filter in &self.filters {
            if filter.decoded_item() != item {
                return Err(Error::unsupported(
                    "a filter of elements of another size than there are",
                ));
            }
            item = filter.encoded().size();
        }
        Ok(())
    }

    /// Strides in bytes, per axis of the chunk, of what [`Chain::decode`] gives.
    #[must_use]
    pub fn strides(&self, spec: &ChunkSpec) -> Vec<i64> {
        let Some(order) = &self.order else {
            return c_strides(&spec.shape, spec.element.size);
        };
        let shape: Vec<u64> = order.iter().map(|axis| spec.shape[*axis]).collect();
        let encoded = c_strides(&shape, spec.element.size);
        let mut strides = vec![0; order.len()];
        for (stride, axis) in encoded.iter().zip(order) {
            strides[*axis] = *stride;
        }
        strides
    }

    /// Decodes one chunk: borrows `encoded` where it is the decoded chunk already, else fills `scratch`.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are not a chunk of this shape, [`Error::Memory`] when there is
    /// no memory for it.
    pub(crate) fn decode<'a>(
        &self,
        spec: &ChunkSpec,
        encoded: &'a [u8],
        scratch: &'a mut Vec<u8>,
        options: DecodeOptions,
    ) -> Result<&'a [u8], Error> {
        let nbytes = nbytes(spec)?;
        if !self.swap && self.filters.is_empty() && self.stages.is_empty() {
            same_size("bytes", encoded.len(), nbytes)?;
            return Ok(encoded);
        }
        resize(scratch, nbytes)?;
        self.decode_into(spec, encoded, scratch, options)?;
        Ok(scratch)
    }

    /// Of the bytes of a decoded chunk, how many [`Chain::decode_part`] leaves out where `part` is wanted.
    pub(crate) fn spared(&self, part: &Range<usize>, nbytes: usize) -> usize {
        self.last_decoded()
            .map_or(0, |stage| stage.spared(part, nbytes))
    }

    /// Decodes one chunk as [`Chain::decode`] does, but no more of it than is needed for the bytes in `part`, which
    /// must be whole elements. Gives what is decoded, and where in the chunk that begins.
    ///
    /// # Errors
    /// As for [`Chain::decode`]; but damage to what is not decoded is not noticed, nor is it where a checksum covers
    /// what was decoded from the same stream.
    pub(crate) fn decode_part<'a>(
        &self,
        spec: &ChunkSpec,
        encoded: &'a [u8],
        part: &Range<usize>,
        scratch: &'a mut Vec<u8>,
        options: DecodeOptions,
    ) -> Result<(usize, &'a [u8]), Error> {
        let nbytes = nbytes(spec)?;
        let Some(stage) = self.last_decoded() else {
            return Ok((0, self.decode(spec, encoded, scratch, options)?));
        };
        let size = Size::Exactly(nbytes);
        let bytes = self.decode_outer(&spec.shape, encoded, size, options)?;
        let start = stage.part_start(part);
        resize(scratch, part.end - start)?;
        let decoded = &mut scratch[..part.end - start];
        if stage.decode_part(&bytes, start, decoded, nbytes).is_err() {
            // What is wrong with it is told by decoding the whole, if anything is.
            return Ok((0, self.decode(spec, encoded, scratch, options)?));
        }
        if self.swap {
            spec.element.swap(&mut decoded[part.start - start..]);
        }
        Ok((start, &scratch[..part.end - start]))
    }

    /// Decodes one chunk of elements of variable length, to what `vlen-utf8` or `vlen-bytes` have made.
    ///
    /// # Errors
    /// As for [`Chain::decode`].
    pub(crate) fn decode_variable<'a>(
        &self,
        spec: &ChunkSpec,
        encoded: &'a [u8],
        options: DecodeOptions,
    ) -> Result<Cow<'a, [u8]>, Error> {
        let sizes = stage_sizes(&self.stages, Size::AtMost(isize::MAX as usize));
        let mut bytes = Cow::Borrowed(encoded);
        for (stage, size) in self.stages.iter().zip(&sizes).rev() {
            bytes = stage.decode(bytes, *size, &spec.shape, options)?;
        }
        Ok(bytes)
    }

    /// Decodes one chunk into `decoded`, which has the chunk's size.
    ///
    /// # Errors
    /// As for [`Chain::decode`].
    pub(crate) fn decode_into(
        &self,
        spec: &ChunkSpec,
        encoded: &[u8],
        decoded: &mut [u8],
        options: DecodeOptions,
    ) -> Result<(), Error> {
        let sizes = self.filtered(nbytes(spec)?);
        let Some(filtered) = sizes.last() else {
            return self.decode_bytes(&spec.element, &spec.shape, encoded, decoded, options);
        };
        with_decoded(|bytes| {
            resize(bytes, *filtered)?;
            self.decode_bytes(
                &self.filtered_element(spec),
                &spec.shape,
                encoded,
                bytes,
                options,
            )?;
            unfilter(&self.filters, &sizes, bytes, decoded)
        })
    }

    /// Decodes to what the filters have made, of these elements.
    fn decode_bytes(
        &self,
        element: &Element,
        shape: &[u64],
        encoded: &[u8],
        decoded: &mut [u8],
        options: DecodeOptions,
    ) -> Result<(), Error> {
        let size = Size::Exactly(decoded.len());
        let bytes = self.decode_outer(shape, encoded, size, options)?;
        if let Some(stage) = self.stages.first() {
            stage.decode_into(&bytes, decoded, shape, options)?;
        } else {
            same_size("bytes", bytes.len(), decoded.len())?;
            decoded.copy_from_slice(&bytes);
        }
        if self.swap {
            element.swap(decoded);
        }
        Ok(())
    }

    /// The stage that gives the decoded chunk, where no filter comes after it.
    fn last_decoded(&self) -> Option<&Stage> {
        self.stages.first().filter(|_| self.filters.is_empty())
    }

    /// Undoes all stages but the first, which gave something for a chunk of this `size`.
    fn decode_outer<'a>(
        &self,
        shape: &[u64],
        encoded: &'a [u8],
        size: Size,
        options: DecodeOptions,
    ) -> Result<Cow<'a, [u8]>, Error> {
        let sizes = stage_sizes(&self.stages, size);
        let mut bytes = Cow::Borrowed(encoded);
        for (stage, size) in self.stages.iter().zip(&sizes).skip(1).rev() {
            bytes = stage.decode(bytes, *size, shape, options)?;
        }
        Ok(bytes)
    }

    /// Bytes that each filter makes of a chunk of `nbytes`.
    fn filtered(&self, nbytes: usize) -> Vec<usize> {
        let mut size = nbytes;
        let filters = self.filters.iter();
        filters
            .map(|filter| {
                size = filter.encoded_size(size);
                size
            })
            .collect()
    }

    /// What the `bytes` codec encodes.
    fn filtered_element(&self, spec: &ChunkSpec) -> Element {
        match self.filters.last() {
            None => spec.element.clone(),
            Some(filter) => Element {
                size: filter.encoded().size(),
                kind: Kind::Bits,
                swap_unit: filter.encoded().size(),
                big_endian: filter.encoded().big_endian,
            },
        }
    }

    /// Encodes one chunk that is laid out as [`Chain::strides`] says, to the end of `into`; appends nothing and says
    /// `false` where a foreign codec wants it not to be stored.
    ///
    /// # Errors
    /// [`Error::Encode`] when a codec refuses, [`Error::Memory`] when there is no memory for it.
    pub(crate) fn encode(
        &self,
        spec: &ChunkSpec,
        decoded: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let mut elements = Cow::Borrowed(decoded);
        for (filter, size) in self.filters.iter().zip(self.filtered(decoded.len())) {
            let mut filtered = zeroed(size)?;
            filter.encode(&elements, &mut filtered)?;
            elements = Cow::Owned(filtered);
        }
        let mut bytes = self.filtered_element(spec).swapped(&elements, self.swap)?;
        let Some((last, stages)) = self.stages.split_last() else {
            return append(into, &bytes).map(|()| true);
        };
        for stage in stages {
            let mut encoded = Vec::new();
            if !stage.encode(&bytes, &spec.shape, &mut encoded)? {
                return Ok(false);
            }
            bytes = Cow::Owned(encoded);
        }
        last.encode(&bytes, &spec.shape, into)
    }
}

/// Undoes the filters, from the last to the first; `sizes` says how many bytes each of them gave.
fn unfilter(
    filters: &[Filter],
    sizes: &[usize],
    bytes: &[u8],
    decoded: &mut [u8],
) -> Result<(), Error> {
    let Some((last, filters)) = filters.split_last() else {
        return Ok(());
    };
    let Some(before) = filters.len().checked_sub(1) else {
        return last.decode(bytes, decoded);
    };
    with_decoded(|between| {
        resize(between, sizes[before])?;
        last.decode(bytes, between)?;
        unfilter(filters, sizes, between, decoded)
    })
}

fn nbytes(spec: &ChunkSpec) -> Result<usize, Error> {
    spec.nbytes()
        .ok_or_else(|| Error::invalid("the chunk is larger than memory can be"))
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
    use std::num::NonZeroU64;

    use zarrs::array::codec::api::ArrayToBytesCodecTraits;
    use zarrs::array::data_type::uint16;
    use zarrs::array::{ArrayBytes, CodecChain, CodecOptions, FillValue};

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

    /// The same codecs in zarrs, for chunks of `spec`.
    struct Zarrs(CodecChain, Vec<NonZeroU64>);

    impl Zarrs {
        fn new(codecs: &[MetadataV3], spec: &ChunkSpec) -> Self {
            let shape = spec.shape.iter().copied().map(NonZeroU64::new);
            Self(
                CodecChain::from_metadata(codecs).unwrap(),
                shape.collect::<Option<_>>().unwrap(),
            )
        }

        fn encode(&self, decoded: &[u8]) -> Vec<u8> {
            let (fill, options) = (FillValue::from(0_u16), CodecOptions::default());
            let decoded = ArrayBytes::new_flen(decoded);
            self.0
                .encode(decoded, &self.1, &uint16(), &fill, &options)
                .unwrap()
                .into_owned()
        }

        fn decode(&self, encoded: &[u8]) -> Vec<u8> {
            let (fill, options) = (FillValue::from(0_u16), CodecOptions::default());
            let decoded = self
                .0
                .decode(encoded.into(), &self.1, &uint16(), &fill, &options)
                .unwrap();
            decoded.into_fixed().unwrap().into_owned()
        }
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

    fn bytes_and(codec: &str) -> Vec<MetadataV3> {
        let bytes = r#"{"name":"bytes","configuration":{"endian":"little"}}"#;
        metadata(&format!("[{bytes},{codec}]"))
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

    const STAGES: &[&str] = &[
        r#"{"name":"zstd","configuration":{"level":1,"checksum":true}}"#,
        r#"{"name":"gzip","configuration":{"level":1}}"#,
        r#"{"name":"numcodecs.zlib","configuration":{"level":1}}"#,
        r#"{"name":"numcodecs.bz2","configuration":{"level":1}}"#,
        r#"{"name":"blosc","configuration":{"cname":"lz4","clevel":5,"shuffle":"shuffle","typesize":2,"blocksize":0}}"#,
        r#"{"name":"numcodecs.shuffle","configuration":{"elementsize":2}}"#,
        r#"{"name":"crc32c"}"#,
        r#"{"name":"numcodecs.fletcher32"}"#,
        r#"{"name":"numcodecs.lz4"}"#,
        r#"{"name":"numcodecs.adler32"}"#,
        r#"{"name":"numcodecs.jenkins_lookup3"}"#,
    ];

    #[test]
    fn zarrs_and_this_read_each_other() {
        let spec = spec(&[3, 5, 7]);
        let decoded: Vec<u8> = (0..210).map(|byte: u8| byte.wrapping_mul(31)).collect();
        for json in CHAINS {
            let codecs = metadata(json);
            let (ours, zarrs) = (
                Chain::new(&codecs, false, &[]).unwrap(),
                Zarrs::new(&codecs, &spec),
            );
            assert_eq!(decoded, zarrs.decode(&encode(&ours, &spec, &decoded)));
            for encoded in [zarrs.encode(&decoded), encode(&ours, &spec, &decoded)] {
                let mut scratch = Vec::new();
                let back = ours.decode(&spec, &encoded, &mut scratch, OPTIONS).unwrap();
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
        let direct = Chain::new(&codecs, false, &[]).unwrap();
        let plain: Vec<u8> = (0..24_u16).flat_map(u16::to_le_bytes).collect();
        let encoded = Zarrs::new(&codecs, &spec).encode(&plain);
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
            let chain = Chain::new(&metadata(json), false, &[]).unwrap();
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
    fn more_bytes_than_the_chunk_has_are_refused_before_there_is_memory_for_them() {
        let (small, large) = (spec(&[4]), spec(&[1 << 20]));
        for inner in STAGES {
            for outer in ["", STAGES[0], STAGES[1], STAGES[6], STAGES[7]] {
                let comma = if outer.is_empty() { "" } else { "," };
                let codecs = bytes_and(&format!("{inner}{comma}{outer}"));
                let chain = Chain::new(&codecs, false, &[]).unwrap();
                let encoded = encode(&chain, &large, &vec![0; 2 << 20]);
                let mut scratch = Vec::new();
                let refused = chain.decode(&small, &encoded, &mut scratch, OPTIONS);
                assert!(refused.is_err(), "{inner} {outer}");
                assert!(scratch.capacity() < 1 << 10);
            }
        }
    }

    /// A zstd frame without its content's size has the decoder of streams take the window that it declares.
    #[test]
    fn a_window_larger_than_the_chunk_takes_no_memory() {
        let spec = spec(&[4]);
        let chain = Chain::new(&bytes_and(&[STAGES[0]; 2].join(",")), false, &[]).unwrap();
        let inner = Chain::new(&bytes_and(STAGES[0]), false, &[]).unwrap();
        let content = encode(&inner, &spec, &[7; 8]);
        // A window of 256 MiB, more than a stream may have, and one raw block.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3];
        let block = u8::try_from(content.len() << 3 | 1).unwrap();
        frame.extend_from_slice(&[block, 0, 0]);
        frame.extend_from_slice(&content);
        let mut scratch = Vec::new();
        let decoded = chain.decode(&spec, &frame, &mut scratch, OPTIONS);
        assert_eq!([7; 8], decoded.unwrap());
    }

    /// Damaged bytes were an error that told of a lack of memory, after all of it had been asked for.
    #[test]
    fn texts_take_no_more_memory_than_so_few_bytes_can_be() {
        let codecs = metadata(&format!(r#"[{{"name":"vlen-bytes"}},{}]"#, STAGES[0]));
        let chain = Chain::new(&codecs, false, &[]).unwrap();
        let frame = |header: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd], header, &[7; 9]].concat();
        // One declares 4 EiB, one nothing.
        let declares = [&[0xe0][..], &(1_u64 << 62).to_le_bytes()].concat();
        for damaged in [frame(&declares), frame(&[0, 18 << 3])] {
            let refused = chain.decode_variable(&spec(&[4]), &damaged, OPTIONS);
            assert!(matches!(refused, Err(Error::Decode { .. })), "{refused:?}");
        }
        let mut zeros = Vec::new();
        chain
            .encode(&spec(&[4]), &vec![0; 32 << 20], &mut zeros)
            .unwrap();
        let decoded = chain.decode_variable(&spec(&[4]), &zeros, OPTIONS);
        assert_eq!(32 << 20, decoded.unwrap().len());
    }

    /// What a stage may decode to doubles with each stage before it.
    #[test]
    fn a_long_chain_takes_no_more_memory_than_its_frames_declare() {
        let spec = spec(&[4]);
        let chain = Chain::new(&bytes_and(&[STAGES[0]; 44].join(",")), false, &[]).unwrap();
        let encoded = encode(&chain, &spec, &[7; 8]);
        let mut scratch = Vec::new();
        let decoded = chain.decode(&spec, &encoded, &mut scratch, OPTIONS);
        assert_eq!([7; 8], decoded.unwrap());
    }

    #[test]
    fn every_stage_stands_before_every_other() {
        let spec = spec(&[5, 7]);
        let decoded: Vec<u8> = (0..70).map(|byte: u8| byte.wrapping_mul(31)).collect();
        for inner in STAGES {
            for outer in STAGES {
                if outer.contains("shuffle") && !inner.contains("shuffle") {
                    continue; // what is shuffled must be whole elements
                }
                let chain =
                    Chain::new(&bytes_and(&format!("{inner},{outer}")), false, &[]).unwrap();
                let encoded = encode(&chain, &spec, &decoded);
                let mut scratch = Vec::new();
                let back = chain.decode(&spec, &encoded, &mut scratch, OPTIONS);
                assert_eq!(decoded, back.unwrap(), "{inner} {outer}");
            }
        }
    }

    /// Damages what each stage has encoded in every way that is drawn: it must end, in an error or data,
    /// without more memory than a chunk takes.
    #[test]
    fn damage_ends_in_an_error_or_in_data() {
        let spec = spec(&[40, 50]);
        let decoded: Vec<u8> = (0..2000_u16).flat_map(u16::to_le_bytes).collect();
        let mut random = fastrand::Rng::with_seed(7);
        let mut draw = |below: usize| random.usize(..below);
        for stage in STAGES {
            for outer in ["", STAGES[0], STAGES[1]] {
                let comma = if outer.is_empty() { "" } else { "," };
                let codecs = bytes_and(&format!("{stage}{comma}{outer}"));
                let chain = Chain::new(&codecs, false, &[]).unwrap();
                let good = encode(&chain, &spec, &decoded);
                for _ in 0..300 {
                    let mut bad = good.clone();
                    match draw(4) {
                        0 => bad.truncate(draw(good.len())),
                        1 => bad.extend_from_slice(&good[..draw(good.len())]),
                        2 => bad[draw(good.len().min(32))] = u8::try_from(draw(256)).unwrap(),
                        _ => (0..=draw(8)).for_each(|_| bad[draw(good.len())] ^= 1 << draw(8)),
                    }
                    let mut scratch = Vec::new();
                    for validate_checksums in [true, false] {
                        let options = DecodeOptions { validate_checksums };
                        if let Ok(decoded) = chain.decode(&spec, &bad, &mut scratch, options) {
                            assert_eq!(4000, decoded.len());
                        }
                    }
                }
            }
        }
    }

    const BLOSC: &[&str] = &[
        r#"{"cname":"blosclz","clevel":5,"shuffle":"bitshuffle","typesize":2,"blocksize":256}"#,
        r#"{"cname":"lz4","clevel":5,"shuffle":"shuffle","typesize":2,"blocksize":0}"#,
        r#"{"cname":"lz4hc","clevel":1,"shuffle":"noshuffle","typesize":1,"blocksize":1024}"#,
        r#"{"cname":"zlib","clevel":1,"shuffle":"shuffle","typesize":4,"blocksize":512}"#,
        r#"{"cname":"zstd","clevel":5,"shuffle":"shuffle","typesize":2,"blocksize":512}"#,
        r#"{"cname":"zstd","clevel":0,"shuffle":"shuffle","typesize":2,"blocksize":512}"#,
        r#"{"cname":"lz4","clevel":5,"shuffle":"shuffle","typesize":3,"blocksize":0}"#,
    ];

    /// All chains above, each stage by itself and beneath another, and Blosc in its forms; both byte orders.
    fn chains() -> Vec<Chain> {
        let blosc = BLOSC
            .iter()
            .map(|blosc| format!(r#"{{"name":"blosc","configuration":{blosc}}}"#));
        let stages: Vec<String> = blosc
            .chain(STAGES.iter().map(|stage| (*stage).into()))
            .collect();
        let beneath = stages.iter().map(|stage| format!("{stage},{}", STAGES[0]));
        let codecs = stages
            .iter()
            .cloned()
            .chain(beneath)
            .map(|stages| bytes_and(&stages));
        codecs
            .chain(CHAINS.iter().map(|chain| metadata(chain)))
            .flat_map(|codecs| [false, true].map(|big| Chain::new(&codecs, big, &[]).unwrap()))
            .collect()
    }

    #[test]
    fn a_part_is_what_it_is_in_the_whole() {
        let spec = spec(&[41, 50]);
        let mut random = fastrand::Rng::with_seed(7);
        let decoded: Vec<u8> = (0..4100).map(|_| random.u8(..6)).collect();
        for chain in chains() {
            let encoded = encode(&chain, &spec, &decoded);
            let mut spared = 0;
            for _ in 0..20 {
                let (a, b) = (2 * random.usize(..2050), 2 * random.usize(..=2050));
                let part = a.min(b)..a.max(b);
                spared += chain.spared(&part, 4100);
                let mut scratch = vec![0xee; random.usize(..5000)];
                let back = chain.decode_part(&spec, &encoded, &part, &mut scratch, OPTIONS);
                let (start, back) = back.unwrap();
                let back = &back[part.start - start..part.end - start];
                assert_eq!(decoded[part], *back, "{}", chain.names());
            }
            let first = chain.stages.first();
            let whole = matches!(first, None | Some(Stage::Shuffle(_) | Stage::Checksum(_)));
            assert_eq!(whole, spared == 0, "{}", chain.names());
        }
    }

    #[test]
    fn damage_to_what_is_wanted_is_an_error_or_data_and_other_damage_may_be_neither() {
        let spec = spec(&[40, 50]);
        let decoded: Vec<u8> = (0..2000_u16).flat_map(u16::to_le_bytes).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for chain in chains() {
            let good = encode(&chain, &spec, &decoded);
            for _ in 0..100 {
                let mut bad = good.clone();
                match random.u8(..3) {
                    0 => bad.truncate(random.usize(..good.len())),
                    1 => bad[random.usize(..good.len().min(32))] = random.u8(..),
                    _ => bad[random.usize(..good.len())] ^= 1 << random.u8(..8),
                }
                let start = 2 * random.usize(..2000);
                let part = start..start + 2 * random.usize(1..=(4000 - start) / 2);
                let mut scratch = Vec::new();
                let back = chain.decode_part(&spec, &bad, &part, &mut scratch, OPTIONS);
                assert!(
                    back.is_err() || back.is_ok_and(|(start, back)| start + back.len() >= part.end)
                );
            }
        }
        let chain = Chain::new(&bytes_and(STAGES[1]), false, &[]).unwrap();
        let mut bad = encode(&chain, &spec, &decoded);
        let half = bad.len() / 2;
        bad[half..].fill(0);
        let mut scratch = Vec::new();
        let back = chain.decode_part(&spec, &bad, &(0..100), &mut scratch, OPTIONS);
        assert_eq!((0, &decoded[..100]), back.unwrap());
        assert!(chain.decode(&spec, &bad, &mut scratch, OPTIONS).is_err());
    }

    const FILTERED: &str = r#"[
        {"name":"numcodecs.astype","configuration":{"dtype":"<u2","astype":">i8"}},
        {"name":"numcodecs.delta","configuration":{"dtype":">i8","astype":"<i4"}},
        {"name":"bytes","configuration":{"endian":"big"}},
        {"name":"crc32c"}]"#;

    #[test]
    fn filters_change_the_elements_that_become_bytes() {
        let spec = spec(&[3]);
        let chain = Chain::new(&metadata(FILTERED), false, &[]).unwrap();
        chain.check(&spec).unwrap();
        let decoded = [5_u16, 4, u16::MAX].map(u16::to_le_bytes).concat();
        let encoded = encode(&chain, &spec, &decoded);
        let differences = [5_i32, -1, 65531].map(i32::to_be_bytes).concat();
        assert_eq!(differences, encoded[..12]);
        let mut scratch = Vec::new();
        let back = chain.decode(&spec, &encoded, &mut scratch, OPTIONS);
        assert_eq!(decoded, back.unwrap());
        assert_eq!(24, chain.widest(6));
        let refused = chain.decode(&self::spec(&[4]), &encoded, &mut scratch, OPTIONS);
        assert!(matches!(refused, Err(Error::Decode { .. })));
    }

    #[test]
    fn a_filter_of_elements_of_another_size_is_refused() {
        let chain = Chain::new(&metadata(FILTERED), false, &[]).unwrap();
        let mut spec = spec(&[3]);
        spec.element.size = 4;
        assert!(matches!(chain.check(&spec), Err(Error::Unsupported(_))));
    }

    #[test]
    fn packed_bits_are_as_many_as_the_chunk_has() {
        let chain = r#"[{"name":"numcodecs.packbits"},{"name":"bytes"}]"#;
        let chain = Chain::new(&metadata(chain), false, &[]).unwrap();
        let mut spec = spec(&[10]);
        spec.element.size = 1;
        let mut scratch = Vec::new();
        let decoded = chain.decode(&spec, &[6, 0xff, 0x40], &mut scratch, OPTIONS);
        assert_eq!([1, 1, 1, 1, 1, 1, 1, 1, 0, 1], decoded.unwrap());
        for damaged in [&[5, 0xff, 0x40][..], &[200, 0xff, 0x40], &[6, 0xff], &[]] {
            let refused = chain.decode(&spec, damaged, &mut scratch, OPTIONS);
            assert!(refused.is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn an_unknown_codec_is_named() {
        let codecs = metadata(r#"[{"name":"bytes"},{"name":"nonesuch"}]"#);
        let error = Chain::new(&codecs, false, &[]).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported(text) if text.contains("nonesuch")),
            "{error}"
        );
    }
}
