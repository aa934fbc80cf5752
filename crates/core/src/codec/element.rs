//! What the engine must know of a data type: its size, how it is swapped, and when a chunk is empty.

use std::borrow::Cow;

use half::f16;

use crate::error::Error;
use crate::memory::append;

/// How elements compare with the fill value, after zarr-python's `NDBuffer.all_equal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bit by bit: integers, booleans, dates, raw bytes.
    Bits,
    /// Bit by bit too (so that -0.0 is not 0.0), but any NaN equals a NaN.
    Float,
    /// Part by part as values (so that -0.0 is 0.0); numbers with a NaN in either part are equal.
    Complex,
    /// Byte by byte: texts of any length, in UTF-8.
    Text,
    /// Byte by byte: byte strings of any length.
    Binary,
    /// As the array's foreign codecs say: structures that hold floating-point numbers.
    Foreign,
}

/// The memory layout of one element, as it stands in the caller's array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// Bytes of one element.
    pub size: usize,
    /// How it compares.
    pub kind: Kind,
    /// Bytes of the parts that a change of byte order reverses (half of a complex number); 1 for none.
    pub swap_unit: usize,
    /// Whether the caller's array is big-endian.
    pub big_endian: bool,
}

/// A chunk's shape, element and fill value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkSpec {
    /// Elements along each axis.
    pub shape: Vec<u64>,
    /// The memory layout of one element.
    pub element: Element,
    /// One element, as it stands in the caller's array; or its bytes, where those have any length.
    pub fill: Vec<u8>,
}

impl Kind {
    /// Whether elements have any length: the caller's array holds references to them.
    #[must_use]
    pub const fn is_variable(self) -> bool {
        matches!(self, Self::Text | Self::Binary)
    }
}

impl ChunkSpec {
    /// Bytes of the decoded chunk; `None` where that overflows.
    #[must_use]
    pub fn nbytes(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(self.element.size as u64, |product, length| {
                product.checked_mul(*length)
            })
            .and_then(|nbytes| usize::try_from(nbytes).ok())
            .filter(|nbytes| isize::try_from(*nbytes).is_ok())
    }

    /// The same element and fill value in another shape.
    #[must_use]
    pub fn with_shape(&self, shape: &[u64]) -> Self {
        Self {
            shape: shape.to_vec(),
            element: self.element.clone(),
            fill: self.fill.clone(),
        }
    }

    /// Fills a decoded chunk with the fill value.
    pub(crate) fn fill_into(&self, decoded: &mut [u8]) {
        if self.fill.iter().all(|byte| *byte == self.fill[0]) {
            decoded.fill(self.fill[0]);
        } else {
            for item in decoded.chunks_exact_mut(self.element.size) {
                item.copy_from_slice(&self.fill);
            }
        }
    }

    /// Whether every element equals the fill value, by zarr's rule (see [`Kind`]).
    pub(crate) fn is_empty(&self, decoded: &[u8]) -> bool {
        let size = self.element.size;
        let items = || decoded.chunks_exact(size);
        let identical = || {
            decoded.get(..size) == Some(self.fill.as_slice())
                && decoded[size..] == decoded[..decoded.len() - size]
        };
        match self.element.kind {
            Kind::Float if self.is_nan(&self.fill) => items().all(|item| self.is_nan(item)),
            Kind::Bits | Kind::Float | Kind::Text | Kind::Binary | Kind::Foreign => identical(),
            Kind::Complex => {
                let nan = self.is_nan(&self.fill);
                let fill = self.parts(&self.fill);
                identical()
                    || items().all(|item| {
                        if nan {
                            self.is_nan(item)
                        } else {
                            self.parts(item) == fill
                        }
                    })
            }
        }
    }

    fn is_nan(&self, item: &[u8]) -> bool {
        let (first, second) = self.parts(item);
        first.is_nan() || second.is_nan()
    }

    /// The real and imaginary part; zero for the latter where there is none.
    fn parts(&self, item: &[u8]) -> (f64, f64) {
        let unit = self.element.swap_unit;
        let mut parts = item.chunks_exact(unit).map(|part| {
            let mut bytes = [0; 8];
            bytes[..unit].copy_from_slice(part);
            if self.element.big_endian {
                bytes[..unit].reverse();
            }
            match unit {
                2 => f64::from(f16::from_le_bytes([bytes[0], bytes[1]])),
                4 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
                _ => f64::from_le_bytes(bytes),
            }
        });
        (parts.next().unwrap_or(0.0), parts.next().unwrap_or(0.0))
    }
}

impl Element {
    /// Reverses the byte order in place.
    pub(crate) fn swap(&self, bytes: &mut [u8]) {
        match self.swap_unit {
            1 => {}
            2 => bytes
                .as_chunks_mut::<2>()
                .0
                .iter_mut()
                .for_each(|part| part.reverse()),
            4 => bytes
                .as_chunks_mut::<4>()
                .0
                .iter_mut()
                .for_each(|part| part.reverse()),
            8 => bytes
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .for_each(|part| part.reverse()),
            unit => bytes.chunks_exact_mut(unit).for_each(<[u8]>::reverse),
        }
    }

    /// The bytes, reversed where `swap` says so.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no memory for a copy.
    pub(crate) fn swapped<'a>(&self, bytes: &'a [u8], swap: bool) -> Result<Cow<'a, [u8]>, Error> {
        if !swap || self.swap_unit == 1 {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut swapped = Vec::new();
        append(&mut swapped, bytes)?;
        self.swap(&mut swapped);
        Ok(Cow::Owned(swapped))
    }
}

/// Strides in bytes of a C-ordered chunk of `shape`.
#[expect(
    clippy::cast_possible_wrap,
    reason = "a chunk's bytes fit, see `nbytes`"
)]
pub(crate) fn c_strides(shape: &[u64], itemsize: usize) -> Vec<i64> {
    let mut strides = vec![0; shape.len()];
    let mut stride = itemsize as i64;
    for (axis, length) in shape.iter().enumerate().rev() {
        strides[axis] = stride;
        stride *= *length as i64;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: Kind, size: usize, unit: usize, fill: &[u8]) -> ChunkSpec {
        let element = Element {
            size,
            kind,
            swap_unit: unit,
            big_endian: false,
        };
        ChunkSpec {
            shape: vec![2],
            element,
            fill: fill.to_vec(),
        }
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn negative_zero_is_not_zero_for_floats() {
        let zero = spec(Kind::Float, 4, 4, &f32s(&[0.0]));
        assert!(zero.is_empty(&f32s(&[0.0, 0.0])));
        assert!(!zero.is_empty(&f32s(&[0.0, -0.0])));
    }

    #[test]
    fn negative_zero_is_zero_in_complex_numbers() {
        let zero = spec(Kind::Complex, 8, 4, &f32s(&[0.0, 0.0]));
        assert!(zero.is_empty(&f32s(&[0.0, -0.0, 0.0, 0.0])));
        assert!(!zero.is_empty(&f32s(&[0.0, 1.0, 0.0, 0.0])));
    }

    #[test]
    fn any_nan_equals_a_nan_fill() {
        let other = f32::from_bits(f32::NAN.to_bits() ^ 1);
        let nan = spec(Kind::Float, 4, 4, &f32s(&[f32::NAN]));
        assert!(nan.is_empty(&f32s(&[other, -f32::NAN])));
        assert!(!nan.is_empty(&f32s(&[f32::NAN, 0.0])));
        let half = spec(Kind::Float, 2, 2, &0x7e00_u16.to_le_bytes());
        assert!(half.is_empty(&[0x01, 0x7e, 0x00, 0xfe]));
        assert!(!half.is_empty(&[0x00, 0x7c, 0x00, 0x7e]));
    }

    #[test]
    fn big_endian_nan_is_seen() {
        let mut nan = spec(Kind::Float, 8, 8, &f64::NAN.to_be_bytes());
        nan.element.big_endian = true;
        let other = f64::from_bits(f64::NAN.to_bits() ^ 4);
        assert!(nan.is_empty(&[other.to_be_bytes(), f64::NAN.to_be_bytes()].concat()));
    }
}
