//! One array-to-array codec that changes values: what numcodecs calls a filter.
//!
//! Filters stand between a chunk's elements and its `bytes` codec, and see the elements in the order in
//! which they are stored. A filter may change the type of the elements, and with it their size; it never
//! changes how many there are, but for `packbits`. All of a chunk goes through a filter at once.
//!
//! A filter is on the list only for those types and settings for which it stores what numcodecs or zarr
//! would, to the bit, which `tests/test_filters.py` holds.

pub(crate) mod number;
mod offset;

use serde_json::Value;
use zarrs::metadata::v3::MetadataV3;

use crate::codec::filter::number::{DataType, Float, Integer, Kind, Number, converts, map, with};
use crate::codec::filter::offset::{FixedScaleOffset, ScaleOffset};
use crate::error::Error;

/// One filter.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    name: &'static str,
    what: What,
    /// Of the elements that it encodes, and that it encodes them to.
    decoded: DataType,
    encoded: DataType,
}

#[derive(Debug, Clone)]
enum What {
    /// The first number, then the differences of neighbours.
    Delta,
    AsType,
    /// Multiples of the inverse of this power of two.
    Quantize(f64),
    /// Floats without this many of their lowest bits.
    BitRound(u32),
    PackBits,
    FixedScaleOffset(FixedScaleOffset),
    ScaleOffset(ScaleOffset),
}

impl Filter {
    const PACK_BITS: Self = {
        let byte = DataType {
            kind: Kind::U8,
            big_endian: false,
        };
        Self {
            name: "packbits",
            what: What::PackBits,
            decoded: byte,
            encoded: byte,
        }
    };

    /// The filter that a codec names; `None` for a name that is none's. Its settings name the data types in
    /// full: `dtype` of what is encoded, `astype` of what it is encoded to.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a codec whose settings are not known.
    pub(crate) fn new(codec: &MetadataV3) -> Result<Option<Self>, Error> {
        let name = codec.name();
        let setting =
            |name: &'static str| codec.configuration().and_then(|values| values.get(name));
        let refused = |why: String| Error::unsupported(format!("codec {name:?}: {why}"));
        let data_type = |setting: Option<&Value>| {
            let name = setting.and_then(Value::as_str).unwrap_or_default();
            DataType::parse(name).ok_or_else(|| refused(format!("data type {name:?}")))
        };
        let name = match name {
            "numcodecs.packbits" => return Ok(Some(Self::PACK_BITS)),
            "numcodecs.delta" => "delta",
            "numcodecs.astype" => "astype",
            "numcodecs.quantize" => "quantize",
            "numcodecs.bitround" => "bitround",
            "numcodecs.fixedscaleoffset" => "fixedscaleoffset",
            "scale_offset" => "scale_offset",
            _ => return Ok(None),
        };
        let decoded = data_type(setting("dtype"))?;
        let encoded = setting("astype").map_or(Ok(decoded), |name| data_type(Some(name)))?;
        if !converts(decoded, encoded) || !converts(encoded, decoded) {
            return Err(refused("floats as integers of this type".into()));
        }
        let integer = |name| setting(name).and_then(Value::as_i64);
        let what = match name {
            "delta" if decoded.kind != encoded.kind && !sums_as_integers(decoded, encoded) => {
                return Err(refused("differences of these data types".into()));
            }
            "delta" => Some(What::Delta),
            "astype" => Some(What::AsType),
            "quantize" if !decoded.is_float() || !encoded.is_float() => None,
            "quantize" => integer("digits").and_then(quantum).map(What::Quantize),
            "bitround" if decoded != encoded => None,
            "bitround" => mantissa(decoded)
                .zip(integer("keepbits"))
                .and_then(|(bits, kept)| {
                    let kept = u32::try_from(kept).ok()?;
                    bits.checked_sub(kept).map(What::BitRound)
                }),
            "fixedscaleoffset" => {
                let (offset, scale) = (setting("offset"), setting("scale"));
                FixedScaleOffset::new(decoded, encoded, offset, scale).map(What::FixedScaleOffset)
            }
            _ if decoded.kind != encoded.kind => None,
            _ => ScaleOffset::new(decoded, setting("offset"), setting("scale"))
                .map(What::ScaleOffset),
        };
        let what = what.ok_or_else(|| refused("its settings".into()))?;
        Ok(Some(Self {
            name,
            what,
            decoded,
            encoded,
        }))
    }

    /// Bytes of one element that it encodes.
    pub(crate) const fn decoded_item(&self) -> usize {
        self.decoded.size()
    }

    /// The data type that it encodes to.
    pub(crate) const fn encoded(&self) -> DataType {
        self.encoded
    }

    /// Bytes that `nbytes` become.
    pub(crate) const fn encoded_size(&self, nbytes: usize) -> usize {
        match self.what {
            What::PackBits => 1 + nbytes.div_ceil(8),
            _ => (nbytes / self.decoded.size()).saturating_mul(self.encoded.size()),
        }
    }

    /// Encodes a chunk into what has its encoded size.
    ///
    /// # Errors
    /// [`Error::Encode`] where a value has no encoding.
    pub(crate) fn encode(&self, from: &[u8], to: &mut [u8]) -> Result<(), Error> {
        let (decoded, encoded) = (self.decoded, self.encoded);
        let (bytes, places) = ((from, decoded.big_endian), (to, encoded.big_endian));
        match &self.what {
            What::AsType => cast(decoded.kind, bytes, encoded.kind, places),
            What::Delta => with!(decoded.kind, T in integers,
                with!(encoded.kind, U in integers, {
                    return differences::<T, U>(bytes, places)
                        .ok_or_else(|| Error::encode(self.name, "its type does not hold the first value"));
                }, else {}),
                else with!(decoded.kind, T in floats, float_differences::<T>(bytes, places), else {})),
            What::Quantize(scale) => with!(decoded.kind, T in floats, {
                let scale = T::of(number::Wide::Float(*scale));
                let quantized = |value: T| ((scale * value).rint() / scale).wide();
                with!(encoded.kind, U in floats, map(bytes, places, |value| U::of(quantized(value))), else {});
            }, else {}),
            What::BitRound(dropped) => match decoded.kind {
                Kind::F16 => bit_round::<i16>(bytes, places, *dropped),
                Kind::F32 => bit_round::<i32>(bytes, places, *dropped),
                _ => bit_round::<i64>(bytes, places, *dropped),
            },
            What::PackBits => pack(from, places.0),
            What::FixedScaleOffset(filter) => filter.encode(bytes, places),
            What::ScaleOffset(filter) => {
                return filter
                    .encode(bytes, places)
                    .map_err(|reason| Error::encode(self.name, reason));
            }
        }
        Ok(())
    }

    /// Decodes a chunk into what has its decoded size.
    ///
    /// # Errors
    /// [`Error::Decode`] where the bytes are none that it encodes to.
    pub(crate) fn decode(&self, from: &[u8], to: &mut [u8]) -> Result<(), Error> {
        let (decoded, encoded) = (self.decoded, self.encoded);
        let damaged = |reason: &str| Error::decode(self.name, reason);
        let (bytes, places) = ((from, encoded.big_endian), (to, decoded.big_endian));
        match &self.what {
            What::AsType | What::Quantize(_) | What::BitRound(_) => {
                cast(encoded.kind, bytes, decoded.kind, places);
            }
            What::Delta => with!(encoded.kind, U in integers,
                with!(decoded.kind, T in integers, sums::<U, T>(bytes, places), else {}),
                else with!(decoded.kind, T in floats, float_sums::<T>(bytes, places), else {})),
            What::PackBits => {
                return unpack(from, places.0)
                    .ok_or_else(|| damaged("it has another number of bits"));
            }
            What::FixedScaleOffset(filter) => filter.decode(bytes, places),
            What::ScaleOffset(filter) => {
                return filter.decode(bytes, places).map_err(damaged);
            }
        }
        Ok(())
    }
}

/// Bytes of numbers, and whether they are big-endian.
type From<'a> = (&'a [u8], bool);
type To<'a> = (&'a mut [u8], bool);

fn cast(from: Kind, bytes: From<'_>, to: Kind, places: To<'_>) {
    if from == to && bytes.1 == places.1 {
        // Floats that change no type keep their bits, those of a signalling NaN too.
        return places.0.copy_from_slice(bytes.0);
    }
    with!(
        from,
        T,
        with!(to, U, map(bytes, places, |value: T| U::of(value.wide())))
    );
}

/// Whether numpy adds numbers of one type to a sum of the other without making floats of them.
const fn sums_as_integers(decoded: DataType, encoded: DataType) -> bool {
    const fn unsigned(kind: Kind) -> bool {
        matches!(kind, Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64)
    }
    let longest = matches!(decoded.kind, Kind::U64) || matches!(encoded.kind, Kind::U64);
    let floats = decoded.is_float() || encoded.is_float();
    !floats && (!longest || unsigned(decoded.kind) == unsigned(encoded.kind))
}

/// Differences wrap around, but numpy sets no element of a signed type to what that does not hold.
fn differences<T: Integer, U: Integer>(
    (from, from_big): From<'_>,
    (to, to_big): To<'_>,
) -> Option<()> {
    let mut before = None;
    let mut places = to.chunks_exact_mut(size_of::<U>());
    for (bytes, place) in from.chunks_exact(size_of::<T>()).zip(&mut places) {
        let value = T::read(bytes, from_big);
        let difference = match before {
            Some(before) => U::of(value.wrapping_sub(before).wide()),
            None => match U::of(value.wide()) {
                wrapped if matches!(wrapped.wide(), number::Wide::Unsigned(_)) => wrapped,
                _ => U::from_exact(value.exact())?,
            },
        };
        difference.write(place, to_big);
        before = Some(value);
    }
    Some(())
}

fn sums<U: Number, T: Integer>((from, from_big): From<'_>, (to, to_big): To<'_>) {
    let mut sum = T::of(number::Wide::Signed(0));
    let mut places = to.chunks_exact_mut(size_of::<T>());
    for (bytes, place) in from.chunks_exact(size_of::<U>()).zip(&mut places) {
        sum = sum.wrapping_add(T::of(U::read(bytes, from_big).wide()));
        sum.write(place, to_big);
    }
}

/// The first is not touched: it may be -0.0 or any NaN.
fn float_differences<T: Float>((from, from_big): From<'_>, (to, to_big): To<'_>) {
    let mut before = None;
    for (bytes, place) in from
        .chunks_exact(size_of::<T>())
        .zip(to.chunks_exact_mut(size_of::<T>()))
    {
        let value = T::read(bytes, from_big);
        before
            .map_or(value, |before| value - before)
            .write(place, to_big);
        before = Some(value);
    }
}

fn float_sums<T: Float>((from, from_big): From<'_>, (to, to_big): To<'_>) {
    let mut sum = None;
    for (bytes, place) in from
        .chunks_exact(size_of::<T>())
        .zip(to.chunks_exact_mut(size_of::<T>()))
    {
        let value = T::read(bytes, from_big);
        let next = sum.map_or(value, |sum: T| sum + value);
        next.write(place, to_big);
        sum = Some(next);
    }
}

/// The power of two that numcodecs multiplies with to keep this many decimal digits; `None` where it fails.
fn quantum(digits: i64) -> Option<f64> {
    let digits = i32::try_from(digits).ok()?;
    let exponent = 10_f64.powf(-f64::from(digits)).log10();
    let exponent = if exponent < 0.0 {
        exponent.floor()
    } else {
        exponent.ceil()
    };
    let scale = 10_f64.powf(-exponent).log2().ceil().exp2();
    (scale.is_finite() && scale > 0.0).then_some(scale)
}

/// One bit for each byte that is not zero, the first the highest, after a byte that says how many bits of
/// the last are none.
fn pack(from: &[u8], to: &mut [u8]) {
    let padded = from.len().next_multiple_of(8) - from.len();
    to[0] = u8::try_from(padded).unwrap_or(0);
    for (flags, place) in from.chunks(8).zip(&mut to[1..]) {
        let bits = flags.iter().enumerate();
        *place = bits.fold(0, |byte, (at, flag)| {
            byte | u8::from(*flag != 0) << (7 - at)
        });
    }
}

fn unpack(from: &[u8], to: &mut [u8]) -> Option<()> {
    let (padded, packed) = from.split_first()?;
    let bits = packed
        .len()
        .checked_mul(8)?
        .checked_sub(usize::from(*padded))?;
    if bits != to.len() {
        return None;
    }
    for (flags, byte) in to.chunks_mut(8).zip(packed) {
        for (at, flag) in flags.iter_mut().enumerate() {
            *flag = byte >> (7 - at) & 1;
        }
    }
    Some(())
}

/// Bits of a float's mantissa that are stored; `None` for integers.
const fn mantissa(data_type: DataType) -> Option<u32> {
    match data_type.kind {
        Kind::F16 => Some(10),
        Kind::F32 => Some(23),
        Kind::F64 => Some(52),
        _ => None,
    }
}

/// Rounds floats, given as bits, to the nearest whose last bits are zeros; ties go to even.
fn bit_round<T: Integer + Into<i64>>(from: From<'_>, to: To<'_>, dropped: u32) {
    let round = |bits: i64| {
        let half = (1 << dropped >> 1) - 1;
        let nearest = bits.wrapping_add((bits >> dropped & 1) + half);
        nearest >> dropped << dropped
    };
    map(from, to, |bits: T| match dropped {
        0 => bits,
        _ => T::of(number::Wide::Signed(round(bits.into()))),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Half of the elements kept what had been in memory when four bytes were taken for eight.
    #[test]
    fn filters_that_keep_the_type_are_refused_with_another() {
        for (name, settings) in [
            ("scale_offset", json!({"offset": 1, "scale": 2})),
            ("numcodecs.bitround", json!({"keepbits": 3})),
        ] {
            let mut settings = settings;
            settings["dtype"] = json!("<f8");
            let filter = |settings: &Value| {
                let codec = json!({"name": name, "configuration": settings});
                Filter::new(&serde_json::from_value(codec).unwrap())
            };
            assert!(matches!(filter(&settings), Ok(Some(_))), "{name}");
            settings["astype"] = json!("<f4");
            assert!(
                matches!(filter(&settings), Err(Error::Unsupported(_))),
                "{name}"
            );
        }
    }
}
