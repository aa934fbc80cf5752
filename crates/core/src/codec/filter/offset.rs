//! The two filters that subtract an offset and multiply with a scale: numcodecs' `fixedscaleoffset`, which
//! computes as numpy does and rounds, and zarr's `scale_offset`, which refuses what is not exact.

use serde_json::Value;

use crate::codec::filter::number::{
    DataType, Float, Integer, Kind, Number, Wide, converts, map, with,
};
use crate::codec::filter::{From, To};

/// A number of a codec's settings; numpy computes otherwise with an integer than with a float.
#[derive(Debug, Clone, Copy)]
enum Setting {
    Integer(i128),
    Float(f64),
}

impl Setting {
    fn new(value: &Value) -> Option<Self> {
        let integer = value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from));
        integer
            .map(Self::Integer)
            .or_else(|| value.as_f64().map(Self::Float))
    }

    /// As a double; `None` where that is another number.
    fn float(self) -> Option<f64> {
        const EXACT: i128 = 1 << 53;
        match self {
            Self::Float(value) => Some(value),
            #[expect(clippy::cast_precision_loss, reason = "none is lost in this range")]
            Self::Integer(value) => (-EXACT..=EXACT).contains(&value).then_some(value as f64),
        }
    }

    /// As one of the integers of `kind`.
    fn integer(self, kind: Kind) -> Option<i128> {
        match self {
            Self::Integer(value) => {
                let fits = with!(kind, T in integers, T::from_exact(value).is_some(), else false);
                fits.then_some(value)
            }
            Self::Float(_) => None,
        }
    }
}

/// `(x - offset) * scale`, rounded to an integer.
#[derive(Debug, Clone)]
pub(crate) struct FixedScaleOffset {
    decoded: Kind,
    encoded: Kind,
    offset: f64,
    scale: f64,
    /// Where numpy encodes with integers: the offset, and the scale where that is one too.
    integers: Option<(i128, Option<i128>)>,
}

impl FixedScaleOffset {
    pub(crate) fn new(
        decoded: DataType,
        encoded: DataType,
        offset: Option<&Value>,
        scale: Option<&Value>,
    ) -> Option<Self> {
        let (offset, scale) = (Setting::new(offset?)?, Setting::new(scale?)?);
        let mut integers = None;
        if !decoded.is_float()
            && let Setting::Integer(_) = offset
        {
            let integer = offset.integer(decoded.kind)?;
            let factor = match scale {
                Setting::Integer(_) => Some(scale.integer(decoded.kind)?),
                Setting::Float(_) => None,
            };
            integers = Some((integer, factor));
        }
        // numpy divides integers by an integer only where the scale is one of their type.
        if !encoded.is_float()
            && let Setting::Integer(_) = scale
        {
            scale.integer(encoded.kind)?;
        }
        let double = DataType {
            kind: Kind::F64,
            big_endian: false,
        };
        let known = converts(double, encoded) && converts(double, decoded);
        known.then_some(Self {
            decoded: decoded.kind,
            encoded: encoded.kind,
            offset: offset.float()?,
            scale: scale.float()?,
            integers,
        })
    }

    pub(crate) fn encode(&self, from: From<'_>, to: To<'_>) {
        with!(self.decoded, T in floats, {
            let (offset, scale) = (T::of(Wide::Float(self.offset)), T::of(Wide::Float(self.scale)));
            with!(self.encoded, U, map(from, to, |value: T| {
                U::of(((value - offset) * scale).rint().wide())
            }));
        }, else with!(self.decoded, T in integers, with!(self.encoded, U, match self.integers {
            Some((offset, scale)) => {
                let offset = T::from_exact(offset).unwrap_or(T::of(Wide::Signed(0)));
                match scale.and_then(T::from_exact) {
                    Some(scale) => map(from, to, |value: T| {
                        U::of(value.wrapping_sub(offset).wrapping_mul(scale).wide())
                    }),
                    None => map(from, to, |value: T| {
                        let value = f64::of(value.wrapping_sub(offset).wide());
                        U::of((value * self.scale).rint().wide())
                    }),
                }
            }
            None => map(from, to, |value: T| {
                U::of(((f64::of(value.wide()) - self.offset) * self.scale).rint().wide())
            }),
        }), else {}));
    }

    pub(crate) fn decode(&self, from: From<'_>, to: To<'_>) {
        with!(self.encoded, U in floats, {
            let (offset, scale) = (U::of(Wide::Float(self.offset)), U::of(Wide::Float(self.scale)));
            with!(self.decoded, T, map(from, to, |value: U| T::of((value / scale + offset).wide())));
        }, else with!(self.encoded, U in integers, with!(self.decoded, T, map(from, to, |value: U| {
            T::of((f64::of(value.wide()) / self.scale + self.offset).wide())
        })), else {}));
    }
}

/// `(x - offset) * scale` of the same type; what that does not hold is an error.
#[derive(Debug, Clone)]
pub(crate) struct ScaleOffset {
    kind: Kind,
    numbers: Numbers,
}

#[derive(Debug, Clone)]
enum Numbers {
    Integers { offset: i128, scale: i128 },
    Floats { offset: f64, scale: f64 },
}

/// In zarr's words.
const fn out_of_range(kind: Kind) -> &'static str {
    match kind {
        Kind::I8 => "a value is outside the range of dtype int8",
        Kind::I16 => "a value is outside the range of dtype int16",
        Kind::I32 => "a value is outside the range of dtype int32",
        Kind::I64 => "a value is outside the range of dtype int64",
        Kind::U8 => "a value is outside the range of dtype uint8",
        Kind::U16 => "a value is outside the range of dtype uint16",
        Kind::U32 => "a value is outside the range of dtype uint32",
        Kind::U64 => "a value is outside the range of dtype uint64",
        Kind::F16 | Kind::F32 | Kind::F64 => "a value is outside the range of its dtype",
    }
}

impl ScaleOffset {
    pub(crate) fn new(
        data_type: DataType,
        offset: Option<&Value>,
        scale: Option<&Value>,
    ) -> Option<Self> {
        let kind = data_type.kind;
        let (offset, scale) = (Setting::new(offset?)?, Setting::new(scale?)?);
        let numbers = if data_type.is_float() {
            let (offset, scale) = (offset.float()?, scale.float()?);
            Numbers::Floats { offset, scale }
        } else {
            let (offset, scale) = (offset.integer(kind)?, scale.integer(kind)?);
            Numbers::Integers { offset, scale }
        };
        let zero = matches!(numbers, Numbers::Integers { scale: 0, .. });
        (!zero).then_some(Self { kind, numbers })
    }

    pub(crate) fn encode(&self, from: From<'_>, to: To<'_>) -> Result<(), &'static str> {
        match self.numbers {
            Numbers::Floats { offset, scale } => with!(self.kind, T in floats, {
                let (offset, scale) = (T::of(Wide::Float(offset)), T::of(Wide::Float(scale)));
                map(from, to, |value: T| (value - offset) * scale);
                Ok(())
            }, else Ok(())),
            Numbers::Integers { offset, scale } => with!(self.kind, T in integers, {
                each::<T>(self.kind, from, to, |value| {
                    let shifted = self.wrapped(Some(value - offset));
                    let scaled = shifted.and_then(|shifted| shifted.checked_mul(scale));
                    self.wrapped(scaled).ok_or_else(|| out_of_range(self.kind))
                })
            }, else Ok(())),
        }
    }

    pub(crate) fn decode(&self, from: From<'_>, to: To<'_>) -> Result<(), &'static str> {
        match self.numbers {
            Numbers::Floats { offset, scale } => with!(self.kind, T in floats, {
                let (offset, scale) = (T::of(Wide::Float(offset)), T::of(Wide::Float(scale)));
                map(from, to, |value: T| value / scale + offset);
                Ok(())
            }, else Ok(())),
            Numbers::Integers { offset, scale } => with!(self.kind, T in integers, {
                each::<T>(self.kind, from, to, |value| {
                    if value % scale != 0 {
                        return Err("a value leaves a non-zero remainder when it is divided by the scale");
                    }
                    self.wrapped(Some(value / scale + offset)).ok_or_else(|| out_of_range(self.kind))
                })
            }, else Ok(())),
        }
    }

    /// zarr computes in 64 signed bits, and does not see where those overflow; in Python's integers where
    /// the type is `uint64`.
    fn wrapped(&self, value: Option<i128>) -> Option<i128> {
        match self.kind {
            Kind::U64 => value,
            #[expect(clippy::cast_possible_truncation, reason = "it wraps around")]
            _ => value.map(|value| i128::from(value as i64)),
        }
    }
}

fn each<T: Integer>(
    kind: Kind,
    (from, from_big): From<'_>,
    (to, to_big): To<'_>,
    of: impl Fn(i128) -> Result<i128, &'static str>,
) -> Result<(), &'static str> {
    let numbers = from.chunks_exact(size_of::<T>());
    for (number, place) in numbers.zip(to.chunks_exact_mut(size_of::<T>())) {
        let value = of(T::read(number, from_big).exact())?;
        let value = T::from_exact(value).ok_or_else(|| out_of_range(kind))?;
        value.write(place, to_big);
    }
    Ok(())
}
