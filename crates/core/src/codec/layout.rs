//! What a stored object is: one encoded chunk, or a shard of subchunks that are layouts again.
//!
//! Built once per array from its metadata. Zarr v2 metadata is put into v3 words on the way, so that
//! nothing behind this file knows of two formats.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};
use zarrs::metadata::v3::MetadataV3;

use crate::codec::chain::Chain;
use crate::codec::element::{ChunkSpec, Element};
use crate::codec::filter::Filter;
use crate::codec::foreign::ForeignCodec;
use crate::codec::numcodecs::in_v3;
use crate::codec::stage::max_encoded;
use crate::codec::write_order::WriteOrder;
use crate::error::Error;

/// How one array's stored objects are made.
#[derive(Debug, Clone)]
pub enum Layout {
    /// An object holds one encoded chunk.
    Chunk(Chain),
    /// An object holds a shard index and encoded subchunks.
    Shard(Box<Sharding>),
}

/// Where the index stands in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexLocation {
    /// Before the subchunks.
    Start,
    /// After them.
    End,
}

/// The settings of one `sharding_indexed` codec.
#[derive(Debug, Clone)]
pub struct Sharding {
    /// Shape of a subchunk.
    pub chunk_shape: Vec<u64>,
    /// How a subchunk is encoded.
    pub inner: Layout,
    /// Where the index stands.
    pub location: IndexLocation,
    /// Whether a CRC32C of the index follows it.
    pub checksum: bool,
    /// Whether the index is big-endian.
    pub big_endian_index: bool,
    /// In which order the subchunks of a shard are written.
    pub write_order: WriteOrder,
}

impl Layout {
    /// From the `codecs` of Zarr v3 metadata.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming what is not known here.
    pub fn from_v3(
        codecs: &Value,
        big_endian: bool,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> Result<Self, Error> {
        let codecs: Vec<MetadataV3> =
            serde_json::from_value(codecs.clone()).map_err(|error| unparsed(&error))?;
        Self::new(&codecs, big_endian, foreign)
    }

    /// From the `filters`, `compressor`, `order` and number of axes, `ndim`, of Zarr v2 metadata; `first`,
    /// where there is one, is the number of the foreign codec that all of it is.
    ///
    /// `texts` is the name of the filter, no other, that makes bytes of elements of variable length. Another
    /// filter has a `dtype` and an `astype` where its data types matter, and stands before those of
    /// whole bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming what is not known here.
    pub fn from_v2(
        metadata: &Value,
        element: &Element,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> Result<Self, Error> {
        let mut codecs = Vec::new();
        if let Some(first) = metadata["first"].as_u64() {
            codecs.push(json!({"name": "foreign", "configuration": {"number": first}}));
            return Self::from_v3(&Value::Array(codecs), element.big_endian, foreign);
        }
        let ndim = metadata["ndim"].as_u64().unwrap_or(0);
        if metadata["order"] == "F" && ndim > 1 {
            let order: Vec<u64> = (0..ndim).rev().collect();
            codecs.push(json!({"name": "transpose", "configuration": {"order": order}}));
        }
        let texts = &metadata["texts"];
        let mut itemsize = if texts.is_null() { element.size } else { 1 };
        let mut stages = Vec::new();
        // The data types of v2 name their byte orders, and so does the caller's array: there is no other.
        let mut big_endian = element.big_endian;
        let filters = metadata["filters"].as_array().into_iter().flatten();
        let compressor = &metadata["compressor"];
        for codec in filters.chain((!compressor.is_null()).then_some(compressor)) {
            let described = in_v3(codec, itemsize)?;
            let parsed: MetadataV3 =
                serde_json::from_value(described.clone()).map_err(|error| unparsed(&error))?;
            match Filter::new(&parsed)? {
                Some(filter) if stages.is_empty() => {
                    (itemsize, big_endian) = (filter.encoded().size(), filter.encoded().big_endian);
                    codecs.push(described);
                }
                _ => {
                    itemsize = 1;
                    stages.push(described);
                }
            }
        }
        if texts.is_null() {
            let endian = if big_endian { "big" } else { "little" };
            codecs.push(json!({"name": "bytes", "configuration": {"endian": endian}}));
        } else {
            codecs.push(json!({"name": texts}));
        }
        codecs.append(&mut stages);
        Self::from_v3(&Value::Array(codecs), element.big_endian, foreign)
    }

    fn new(
        codecs: &[MetadataV3],
        big_endian: bool,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> Result<Self, Error> {
        if let [codec] = codecs
            && codec.name() == "sharding_indexed"
        {
            return Ok(Self::Shard(Box::new(Self::sharding(
                codec, big_endian, foreign,
            )?)));
        }
        Chain::new(codecs, big_endian, foreign).map(Self::Chunk)
    }

    fn sharding(
        codec: &MetadataV3,
        big_endian: bool,
        foreign: &[Arc<dyn ForeignCodec>],
    ) -> Result<Sharding, Error> {
        let setting = |name: &str| codec.configuration().and_then(|values| values.get(name));
        let invalid =
            |what: &str| Error::unsupported(format!("codec \"sharding_indexed\": its {what}"));
        let parse = |value: Option<&Value>, what: &str| -> Result<Vec<MetadataV3>, Error> {
            serde_json::from_value(value.cloned().unwrap_or_default()).map_err(|_| invalid(what))
        };
        let chunk_shape: Vec<u64> =
            serde_json::from_value(setting("chunk_shape").cloned().unwrap_or_default())
                .map_err(|_| invalid("chunk_shape"))?;
        if chunk_shape.contains(&0) {
            return Err(invalid("chunk_shape has a length of zero"));
        }
        let location = match setting("index_location").and_then(Value::as_str) {
            None | Some("end") => IndexLocation::End,
            Some("start") => IndexLocation::Start,
            Some(_) => return Err(invalid("index_location")),
        };
        let index_codecs = parse(setting("index_codecs"), "index_codecs")?;
        let names: Vec<&str> = index_codecs.iter().map(MetadataV3::name).collect();
        let checksum = match names.as_slice() {
            ["bytes"] => false,
            ["bytes", "crc32c"] => true,
            _ => return Err(invalid("index_codecs")),
        };
        let endian = index_codecs[0]
            .configuration()
            .and_then(|values| values.get("endian"));
        let big_endian_index = match endian.and_then(Value::as_str) {
            Some("little") => false,
            Some("big") => true,
            _ => return Err(invalid("index_codecs have no byte order")),
        };
        let codecs = parse(setting("codecs"), "codecs")?;
        let write_order = setting("subchunk_write_order").and_then(Value::as_str);
        let write_order = WriteOrder::new(write_order.unwrap_or("morton"))
            .ok_or_else(|| invalid("subchunk_write_order"))?;
        Ok(Sharding {
            chunk_shape,
            inner: Self::new(&codecs, big_endian, foreign)?,
            location,
            checksum,
            big_endian_index,
            write_order,
        })
    }

    /// Checks what only the chunk's own shape can tell.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the shape and the codecs do not go together.
    pub fn check(&self, spec: &ChunkSpec) -> Result<(), Error> {
        match self {
            Self::Chunk(chain) => chain.check(spec),
            Self::Shard(sharding) => {
                let divides = sharding.chunk_shape.len() == spec.shape.len()
                    && spec
                        .shape
                        .iter()
                        .zip(&sharding.chunk_shape)
                        .all(|(all, one)| all % one == 0);
                if !divides {
                    return Err(Error::unsupported(
                        "subchunks that do not divide their shard",
                    ));
                }
                sharding
                    .inner
                    .check(&spec.with_shape(&sharding.chunk_shape))
            }
        }
    }

    /// Bytes that an encoded chunk cannot exceed; of foreign codecs and of elements of variable length nobody
    /// knows.
    pub(crate) fn max_encoded(&self, spec: &ChunkSpec) -> u64 {
        if self.is_foreign() || spec.element.kind.is_variable() {
            return u64::MAX;
        }
        self.usual_encoded(spec)
    }

    /// Bytes that an encoded chunk has at most, if its codecs behave as those do that are known here;
    /// indexes of shards come on top of what they make.
    pub(crate) fn usual_encoded(&self, spec: &ChunkSpec) -> u64 {
        let nbytes = spec.nbytes().unwrap_or(usize::MAX);
        let (mut layout, mut spec) = (self, spec.clone());
        let (mut count, mut indexes) = (1_u64, 0_u64);
        loop {
            match layout {
                Self::Chunk(chain) => {
                    let most = max_encoded(chain.widest(nbytes)) as u64;
                    return most.saturating_add(indexes);
                }
                Self::Shard(sharding) => {
                    indexes =
                        indexes.saturating_add(sharding.index_size(&spec).saturating_mul(count));
                    let subchunks: u64 = sharding.grid(&spec).iter().product();
                    count = count.saturating_mul(subchunks);
                    (layout, spec) = (&sharding.inner, spec.with_shape(&sharding.chunk_shape));
                }
            }
        }
    }

    /// Whether some of its codecs are foreign: they may wait, and an encoded chunk may have any size.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        match self {
            Self::Chunk(chain) => chain.is_foreign(),
            Self::Shard(sharding) => sharding.inner.is_foreign(),
        }
    }

    /// Whether one codec hands a whole chunk to the next while it is encoded.
    pub(crate) const fn has_intermediates(&self) -> bool {
        match self {
            Self::Chunk(chain) => chain.has_intermediates(),
            // Those of a shard are as large as a subchunk.
            Self::Shard(_) => false,
        }
    }

    /// One line that says what the layout is.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Chunk(chain) => chain.names().to_owned(),
            Self::Shard(sharding) => format!(
                "sharding_indexed of {:?} [{}]",
                sharding.chunk_shape,
                sharding.inner.describe()
            ),
        }
    }
}

impl Sharding {
    /// Subchunks along each axis of a shard.
    #[must_use]
    pub fn grid(&self, spec: &ChunkSpec) -> Vec<u64> {
        spec.shape
            .iter()
            .zip(&self.chunk_shape)
            .map(|(all, one)| all / one)
            .collect()
    }

    /// Bytes of the encoded index.
    #[must_use]
    pub fn index_size(&self, spec: &ChunkSpec) -> u64 {
        let subchunks: u64 = self.grid(spec).iter().product();
        subchunks
            .saturating_mul(16)
            .saturating_add(if self.checksum { 4 } else { 0 })
    }

    /// Bytes of a shard of `size` bytes in which subchunks may stand.
    pub(crate) fn data_section(&self, spec: &ChunkSpec, size: u64) -> Range<u64> {
        let index = self.index_size(spec);
        match self.location {
            IndexLocation::Start => index..size,
            IndexLocation::End => 0..size.saturating_sub(index),
        }
    }

    /// The encoded index within a whole shard.
    ///
    /// # Errors
    /// [`Error::Decode`] when the shard is shorter than its index.
    pub(crate) fn index_of<'a>(
        &self,
        spec: &ChunkSpec,
        shard: &'a [u8],
    ) -> Result<&'a [u8], Error> {
        usize::try_from(self.index_size(spec))
            .ok()
            .and_then(|size| match self.location {
                IndexLocation::Start => shard.get(..size),
                IndexLocation::End => shard.get(shard.len().checked_sub(size)?..),
            })
            .ok_or_else(|| {
                let len = shard.len();
                Error::decode(
                    "sharding_indexed",
                    format!("{len} bytes are less than its index"),
                )
            })
    }
}

fn unparsed(error: &serde_json::Error) -> Error {
    Error::unsupported(format!("its metadata: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::element::Kind;

    #[test]
    fn nested_shards_are_layouts_of_layouts() {
        let index =
            json!([{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]);
        let inner = json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [2, 2], "codecs": [{"name": "bytes"}], "index_codecs": index,
            "index_location": "start"}}]);
        let outer = json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [4, 8], "codecs": inner, "index_codecs": index}}]);
        let layout = Layout::from_v3(&outer, false, &[]).unwrap();
        assert_eq!(
            "sharding_indexed of [4, 8] [sharding_indexed of [2, 2] [bytes]]",
            layout.describe()
        );
        let element = Element {
            size: 1,
            kind: Kind::Bits,
            swap_unit: 1,
            big_endian: false,
        };
        let spec = ChunkSpec {
            shape: vec![8, 8],
            element,
            fill: vec![0],
        };
        assert!(layout.check(&spec).is_ok());
        assert!(layout.check(&spec.with_shape(&[8, 12])).is_err());
    }

    #[test]
    fn unknown_compressors_of_v2_are_named() {
        let element = Element {
            size: 4,
            kind: Kind::Float,
            swap_unit: 4,
            big_endian: true,
        };
        let v2 = |compressor: Value| {
            let metadata = json!({"compressor": compressor, "order": "F", "ndim": 2});
            Layout::from_v2(&metadata, &element, &[])
        };
        let blosc = json!({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": -1});
        let layout = v2(blosc).unwrap();
        assert_eq!("transpose, bytes, blosc", layout.describe());
        let error = v2(json!({"id": "lz77"})).unwrap_err();
        assert!(error.to_string().contains("lz77"));
    }
}
