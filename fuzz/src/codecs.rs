//! Choices of codecs.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

/// Numbers that filters store.
const NUMBERS: &[&str] = &[
    "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8",
];

/// A codec chain.
pub struct Codecs {
    /// As metadata has it.
    pub chain: Vec<Value>,
    /// Whether it ends in CRC32C.
    pub checked: bool,
    /// Whether the values are read back as they were.
    pub exact: bool,
}

/// A chain for elements of one size, `dtype` in numpy's words where filters know them.
pub fn chain(input: &mut Unstructured<'_>, ndim: usize, dtype: Option<&str>) -> Result<Codecs> {
    let mut chain = transpose(input, ndim)?;
    let mut exact = true;
    if let Some(dtype) = dtype
        && input.ratio(1, 3)?
    {
        let mut decoded = dtype.to_owned();
        for _ in 0..input.int_in_range(1..=2)? {
            let encoded = if input.ratio(1, 2)? {
                decoded.clone()
            } else {
                let number = input.choose(NUMBERS)?;
                self::dtype(number, input.ratio(1, 4)?)
            };
            let filter = filter(input, &decoded, &encoded)?;
            let wraps_back = filter["name"] == "numcodecs.delta" && !decoded.contains('f');
            exact &= wraps_back && decoded == encoded;
            chain.push(filter);
            decoded = encoded;
        }
    }
    chain.push(json!({"name": "bytes", "configuration": {"endian": endian(input)?}}));
    let mut checked = false;
    for _ in 0..input.int_in_range(0..=3)? {
        let codec = stage(input)?;
        checked = codec["name"] == "crc32c";
        chain.push(codec);
    }
    Ok(Codecs {
        chain,
        checked,
        exact,
    })
}

/// A chain for texts or byte strings, by the name of the codec that makes bytes of them.
///
/// Nothing but their compressor says how long they are, so there is one only; and not bz2, which rightly
/// makes 45 MB of 40 bytes.
pub fn variable(input: &mut Unstructured<'_>, ndim: usize, name: &str) -> Result<Codecs> {
    let mut chain = transpose(input, ndim)?;
    chain.push(json!({"name": name}));
    let compressor = stage(input)?;
    if compressor["name"] != "numcodecs.bz2" && input.ratio(3, 4)? {
        chain.push(compressor);
    }
    for _ in 0..input.int_in_range(0..=2)? {
        chain.push(checksum(input)?);
    }
    Ok(Codecs {
        chain,
        checked: false,
        exact: true,
    })
}

/// The chain of a shard.
pub fn sharding(input: &mut Unstructured<'_>, subchunk: &[u64], inner: Codecs) -> Result<Codecs> {
    let mut index = vec![json!({"name": "bytes", "configuration": {"endian": endian(input)?}})];
    if input.ratio(1, 2)? {
        index.push(json!({"name": "crc32c"}));
    }
    let location = if input.ratio(1, 2)? { "end" } else { "start" };
    let orders = ["morton", "lexicographic", "colexicographic", "unordered"];
    let order = input.choose(&orders)?;
    let chain = json!({"name": "sharding_indexed", "configuration": {
        "chunk_shape": subchunk, "codecs": inner.chain, "index_codecs": index,
        "index_location": location, "subchunk_write_order": order}});
    Ok(Codecs {
        chain: vec![chain],
        checked: false,
        exact: inner.exact,
    })
}

/// A number's dtype in numpy's array protocol.
pub fn dtype(number: &str, big_endian: bool) -> String {
    format!("{}{number}", if big_endian { '>' } else { '<' })
}

fn transpose(input: &mut Unstructured<'_>, ndim: usize) -> Result<Vec<Value>> {
    if ndim == 1 || !input.ratio(1, 4)? {
        return Ok(Vec::new());
    }
    let mut order: Vec<usize> = (0..ndim).collect();
    order.rotate_left(input.int_in_range(0..=ndim - 1)?);
    let transpose = json!({"name": "transpose", "configuration": {"order": order}});
    Ok(vec![transpose])
}

fn filter(input: &mut Unstructured<'_>, dtype: &str, astype: &str) -> Result<Value> {
    let (name, settings) = match input.int_in_range(0..=6)? {
        0 => ("numcodecs.delta", json!({})),
        1 => ("numcodecs.astype", json!({})),
        2 => {
            let digits = input.int_in_range(-4..=20)?;
            ("numcodecs.quantize", json!({"digits": digits}))
        }
        3 => {
            let keepbits = input.int_in_range(0..=53)?;
            ("numcodecs.bitround", json!({"keepbits": keepbits}))
        }
        4 => ("numcodecs.packbits", json!({})),
        number => {
            let name = ["scale_offset", "numcodecs.fixedscaleoffset"][usize::from(number == 5)];
            let (offset, scale) = (setting(input)?, setting(input)?);
            (name, json!({"offset": offset, "scale": scale}))
        }
    };
    let mut configuration = settings;
    configuration["dtype"] = json!(dtype);
    configuration["astype"] = json!(astype);
    Ok(json!({"name": name, "configuration": configuration}))
}

/// An offset or a scale.
fn setting(input: &mut Unstructured<'_>) -> Result<Value> {
    let of_interest = [
        json!(1),
        json!(-1),
        json!(0),
        json!(10),
        json!(0.1),
        json!(-1e300),
        json!(i64::MIN),
        json!(u64::MAX),
    ];
    let any: i16 = input.arbitrary()?;
    Ok(if input.ratio(1, 4)? {
        json!(any)
    } else {
        input.choose(&of_interest)?.clone()
    })
}

fn stage(input: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match input.int_in_range(0..=11)? {
        0 => json!({"name": "zstd", "configuration": {"level": 1, "checksum": true}}),
        1 => json!({"name": "zstd", "configuration": {"level": 3, "checksum": false}}),
        2 => json!({"name": "gzip", "configuration": {"level": 1}}),
        3 => json!({"name": "numcodecs.zlib", "configuration": {"level": 1}}),
        4 => json!({"name": "numcodecs.bz2", "configuration": {"level": 1}}),
        5 => json!({"name": "numcodecs.shuffle", "configuration": {"elementsize": 2}}),
        6 => json!({"name": "numcodecs.lz4", "configuration": {"acceleration": 1}}),
        7 => blosc("lz4", "shuffle"),
        8 => blosc("zstd", "bitshuffle"),
        9 => blosc("blosclz", "noshuffle"),
        10 => blosc("zlib", "shuffle"),
        _ => checksum(input)?,
    })
}

fn checksum(input: &mut Unstructured<'_>) -> Result<Value> {
    let location = if input.ratio(1, 2)? { "end" } else { "start" };
    let placed = json!({"location": location});
    Ok(match input.int_in_range(0..=5)? {
        0 => json!({"name": "numcodecs.crc32c", "configuration": placed}),
        1 => json!({"name": "numcodecs.crc32", "configuration": placed}),
        2 => json!({"name": "numcodecs.adler32", "configuration": placed}),
        3 => json!({"name": "numcodecs.fletcher32", "configuration": {}}),
        4 => {
            let initval: u32 = input.arbitrary()?;
            json!({"name": "numcodecs.jenkins_lookup3", "configuration": {"initval": initval}})
        }
        _ => json!({"name": "crc32c"}),
    })
}

fn endian(input: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(if input.ratio(1, 8)? { "big" } else { "little" })
}

fn blosc(cname: &str, shuffle: &str) -> Value {
    json!({"name": "blosc", "configuration": {
        "cname": cname, "clevel": 5, "shuffle": shuffle, "typesize": 2, "blocksize": 0}})
}
