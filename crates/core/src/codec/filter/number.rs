//! The numbers that filters compute with, and numpy's conversions between them.
//!
//! Filters store what numpy makes of their values, so a conversion here is numpy's to the bit: integers
//! keep their low bits, floats round to the nearest (ties to even), and floats become integers by
//! truncation. What numpy makes of floats that an integer type does not hold, NaN among them, is the
//! compiler's and the processor's: [`converts`] says where that is known.

use half::f16;

/// A type of number, as a numpy dtype names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
}

/// A type of number and its byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataType {
    pub kind: Kind,
    pub big_endian: bool,
}

/// Any number, before it is converted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wide {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

/// A number of one type.
pub(crate) trait Number: Copy {
    /// Reads one from bytes of its size.
    fn read(bytes: &[u8], big_endian: bool) -> Self;
    /// Writes it to bytes of its size.
    fn write(self, bytes: &mut [u8], big_endian: bool);
    /// The same number; no type loses anything.
    fn wide(self) -> Wide;
    /// Converts as numpy's `astype` does.
    fn of(wide: Wide) -> Self;
}

/// Integers wrap around.
pub(crate) trait Integer: Number + Ord {
    fn wrapping_add(self, other: Self) -> Self;
    fn wrapping_sub(self, other: Self) -> Self;
    fn exact(self) -> i128;
    /// `None` where the type does not hold it.
    fn from_exact(value: i128) -> Option<Self>;
}

/// Floats round after each operation.
pub(crate) trait Float:
    Number
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    /// To the nearest integer, ties to even.
    fn rint(self) -> Self;
}

impl DataType {
    /// The dtype of this name in numpy's array protocol (`<i4`); `None` where filters know none.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (order, kind) = name.split_at_checked(1)?;
        let kind = match kind {
            "i1" => Kind::I8,
            "i2" => Kind::I16,
            "i4" => Kind::I32,
            "i8" => Kind::I64,
            "u1" => Kind::U8,
            "u2" => Kind::U16,
            "u4" => Kind::U32,
            "u8" => Kind::U64,
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            _ => return None,
        };
        matches!(order, "<" | ">" | "|").then_some(Self {
            kind,
            big_endian: order == ">",
        })
    }

    /// Bytes of one number.
    pub(crate) const fn size(self) -> usize {
        match self.kind {
            Kind::I8 | Kind::U8 => 1,
            Kind::I16 | Kind::U16 | Kind::F16 => 2,
            Kind::I32 | Kind::U32 | Kind::F32 => 4,
            Kind::I64 | Kind::U64 | Kind::F64 => 8,
        }
    }

    pub(crate) const fn is_float(self) -> bool {
        matches!(self.kind, Kind::F16 | Kind::F32 | Kind::F64)
    }
}

/// Whether every value of one type becomes the other as numpy would have it.
pub(crate) const fn converts(from: DataType, to: DataType) -> bool {
    // Of what `uint32` does not hold numpy makes one number or another, by its place in the array.
    let known = cfg!(target_arch = "x86_64") && !matches!(to.kind, Kind::U32);
    to.is_float() || !from.is_float() || known
}

macro_rules! number {
    ($type:ty, $wide:ident, $as:ty, $of:expr) => {
        impl Number for $type {
            fn read(bytes: &[u8], big_endian: bool) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(bytes);
                if big_endian {
                    Self::from_be_bytes(own)
                } else {
                    Self::from_le_bytes(own)
                }
            }

            fn write(self, bytes: &mut [u8], big_endian: bool) {
                bytes.copy_from_slice(&if big_endian {
                    self.to_be_bytes()
                } else {
                    self.to_le_bytes()
                });
            }

            fn wide(self) -> Wide {
                Wide::$wide(<$as>::from(self))
            }

            #[expect(
                clippy::allow_attributes,
                reason = "which lints there are depends on the type"
            )]
            #[allow(
                clippy::cast_lossless,
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "integers keep their low bits, floats are the nearest"
            )]
            fn of(wide: Wide) -> Self {
                $of(wide)
            }
        }
    };
}

macro_rules! integer {
    ($type:ty, $wide:ident, $as:ty, $truncated:ident) => {
        number!($type, $wide, $as, |wide| match wide {
            Wide::Signed(value) => value as $type,
            Wide::Unsigned(value) => value as $type,
            Wide::Float(value) => $truncated(value) as $type,
        });

        impl Integer for $type {
            fn wrapping_add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn wrapping_sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            fn exact(self) -> i128 {
                i128::from(self)
            }

            fn from_exact(value: i128) -> Option<Self> {
                Self::try_from(value).ok()
            }
        }
    };
}

integer!(i8, Signed, i64, truncated32);
integer!(i16, Signed, i64, truncated32);
integer!(i32, Signed, i64, truncated32);
integer!(i64, Signed, i64, truncated64);
integer!(u8, Unsigned, u64, truncated32);
integer!(u16, Unsigned, u64, truncated32);
integer!(u32, Unsigned, u64, truncated_u64);
integer!(u64, Unsigned, u64, truncated_u64);

number!(f64, Float, Self, |wide| match wide {
    Wide::Signed(value) => value as Self,
    Wide::Unsigned(value) => value as Self,
    Wide::Float(value) => value,
});
number!(f32, Float, f64, |wide| match wide {
    Wide::Signed(value) => value as Self,
    Wide::Unsigned(value) => value as Self,
    Wide::Float(value) => value as Self,
});
number!(f16, Float, f64, |wide| match wide {
    Wide::Float(value) => half_of(value),
    // numpy goes by way of a single.
    integer => Self::from_f32(f32::of(integer)),
});

impl Float for f64 {
    fn rint(self) -> Self {
        self.round_ties_even()
    }
}

impl Float for f32 {
    fn rint(self) -> Self {
        self.round_ties_even()
    }
}

impl Float for f16 {
    fn rint(self) -> Self {
        Self::from_f32(self.to_f32().round_ties_even())
    }
}

/// The nearest half. By way of a single that is odd where it is not exact, as rounding twice to the nearest
/// is not rounding to the nearest.
fn half_of(value: f64) -> f16 {
    #[expect(clippy::cast_possible_truncation, reason = "what is lost is seen next")]
    let single = value as f32;
    let exact = f64::from(single);
    let bits = single.to_bits();
    if exact.to_bits() == value.to_bits() || value.is_nan() || bits & 1 == 1 {
        return f16::from_f32(single);
    }
    // The other neighbour is the odd one.
    let away = exact.abs() < value.abs();
    f16::from_f32(f32::from_bits(if away { bits + 1 } else { bits - 1 }))
}

// What x86-64 makes of floats that do not fit: the lowest integer of the register that it uses.

#[expect(clippy::cast_possible_truncation, reason = "truncation is the rule")]
fn truncated32(value: f64) -> i32 {
    let fits = value > f64::from(i32::MIN) - 1.0 && value < f64::from(i32::MAX) + 1.0;
    if fits { value as i32 } else { i32::MIN }
}

#[expect(clippy::cast_possible_truncation, reason = "truncation is the rule")]
fn truncated64(value: f64) -> i64 {
    let fits = (-TWO_63..TWO_63).contains(&value);
    if fits { value as i64 } else { i64::MIN }
}

fn truncated_u64(value: f64) -> u64 {
    if value >= TWO_63 {
        truncated64(value - TWO_63).cast_unsigned() ^ 1 << 63
    } else {
        truncated64(value).cast_unsigned()
    }
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// Runs an expression with `$type` for the type of a [`Kind`]; those of integers or of floats alone have
/// another expression for the rest.
macro_rules! with {
    ($kind:expr, $type:ident, $run:expr) => {
        with!(@ $kind, $type, $run, [I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64,
            F16 half::f16, F32 f32, F64 f64])
    };
    ($kind:expr, $type:ident in integers, $run:expr, else $other:expr) => {
        with!(@ $kind, $type, $run, [I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64],
            $other)
    };
    ($kind:expr, $type:ident in floats, $run:expr, else $other:expr) => {
        with!(@ $kind, $type, $run, [F16 half::f16, F32 f32, F64 f64], $other)
    };
    (@ $kind:expr, $type:ident, $run:expr, [$($variant:ident $number:ty),*] $(, $other:expr)?) => {
        match $kind {
            $($crate::codec::filter::number::Kind::$variant => {
                type $type = $number;
                $run
            })*
            $(_ => $other,)?
        }
    };
}
pub(crate) use with;

/// Writes what `map` makes of each number.
pub(crate) fn map<From: Number, To: Number>(
    (from, from_big): (&[u8], bool),
    (to, to_big): (&mut [u8], bool),
    map: impl Fn(From) -> To,
) {
    let numbers = from.chunks_exact(size_of::<From>());
    for (number, place) in numbers.zip(to.chunks_exact_mut(size_of::<To>())) {
        map(From::read(number, from_big)).write(place, to_big);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_becomes_the_nearest_half() {
        let tie = 1.0 + f64::from(f16::EPSILON) / 2.0;
        assert_eq!(f16::from_f32(1.0), half_of(tie));
        // Lost in a single, but no tie.
        assert_eq!(f16::from_bits(0x3c01), half_of(tie + 1e-15));
        assert_eq!(f16::from_bits(0xbc01), half_of(-tie - 1e-15));
        assert_eq!(f16::from_f32(1.0), half_of(tie - 1e-15));
        assert_eq!(f16::INFINITY, half_of(1e300));
        assert_eq!(f16::from_bits(0), half_of(1e-300));
    }
}
