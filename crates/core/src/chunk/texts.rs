//! Elements of variable length: a chunk of texts, or of byte strings, between its encoded form and the caller's
//! array.
//!
//! Encoded, a chunk is what numcodecs' `vlen-utf8` and `vlen-bytes` make: the number of elements, then each
//! element's length and bytes, all numbers little-endian in 32 bits.

use std::borrow::Cow;
use std::ops::Range;

use crate::chunk::decode::{Want, Work};
use crate::chunk::encode::Values;
use crate::codec::chain::Chain;
use crate::codec::element::{ChunkSpec, Kind};
use crate::copy::buffer::Access;
use crate::copy::selection::{Selection, covered};
use crate::copy::strided::{Run, runs};
use crate::error::Error;
use crate::memory::{append, reserve};

/// Bytes of a number.
const NUMBER: usize = 4;

/// The elements of one decoded chunk, in the order in which they are encoded.
#[derive(Debug)]
pub(crate) struct Texts<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where in `bytes` each element stands.
    places: Vec<Range<usize>>,
}

impl<'a> Texts<'a> {
    /// Takes a chunk of `count` elements apart.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are no such chunk, or not UTF-8 where elements are texts.
    fn decode(spec: &ChunkSpec, bytes: Cow<'a, [u8]>) -> Result<Self, Error> {
        let codec = codec(spec);
        let number = |at: usize| {
            let digits = bytes.get(at..at + NUMBER)?;
            u32::from_le_bytes(digits.try_into().ok()?).try_into().ok()
        };
        let short = || Error::decode(codec, "fewer bytes than its elements have");
        let (stored, count): (usize, usize) = (number(0).ok_or_else(short)?, count(spec)?);
        if stored != count {
            let reason = format!("it holds {stored} elements where the chunk has {count}");
            return Err(Error::decode(codec, reason));
        }
        // Lengths below 128 are ASCII too: most chunks are looked at once, not text by text.
        let is_checked = spec.element.kind != Kind::Text || bytes[NUMBER..].is_ascii();
        let mut places = Vec::new();
        reserve(&mut places, count)?;
        let mut at = NUMBER;
        for _ in 0..count {
            let length: usize = number(at).ok_or_else(short)?;
            at += NUMBER;
            let text = bytes.get(at..at + length).ok_or_else(short)?;
            if !is_checked && std::str::from_utf8(text).is_err() {
                return Err(Error::decode(codec, "an element is not UTF-8"));
            }
            places.push(at..at + length);
            at += length;
        }
        Ok(Self { bytes, places })
    }

    /// A chunk whose elements are all `text`.
    fn filled(spec: &ChunkSpec, text: &'a [u8]) -> Result<Self, Error> {
        let (mut places, count) = (Vec::new(), count(spec)?);
        reserve(&mut places, count)?;
        places.resize(count, 0..text.len());
        let bytes = Cow::Borrowed(text);
        Ok(Self { bytes, places })
    }

    fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.places[at].clone()]
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.places.len()).map(|at| self.get(at))
    }

    fn encode(&self, spec: &ChunkSpec) -> Result<Vec<u8>, Error> {
        let refused = |_| Error::encode(codec(spec), "an element has 4 GiB or more");
        let mut encoded = Vec::new();
        let len = self.iter().map(<[u8]>::len).sum::<usize>();
        reserve(&mut encoded, len + NUMBER * (self.places.len() + 1))?;
        let count = u32::try_from(self.places.len())
            .map_err(|_| Error::encode(codec(spec), "more than 4294967295 elements"))?;
        encoded.extend_from_slice(&count.to_le_bytes());
        for text in self.iter() {
            let len = u32::try_from(text.len()).map_err(refused)?;
            encoded.extend_from_slice(&len.to_le_bytes());
            encoded.extend_from_slice(text);
        }
        Ok(encoded)
    }

    /// Takes a run of elements from the caller's array.
    fn take(&mut self, access: &Access<'_>, run: Run) -> Result<(), Error> {
        let bytes = self.bytes.to_mut();
        access.take_texts(run, |at, text| {
            let start = bytes.len();
            append(bytes, text)?;
            self.places[at] = start..bytes.len();
            Ok(())
        })
    }
}

/// Decodes a chunk and puts what is wanted into each buffer.
pub(crate) fn place(
    chain: &Chain,
    spec: &ChunkSpec,
    encoded: &[u8],
    wants: &[Want<'_>],
    work: Work<'_>,
) -> Result<(), Error> {
    let texts = Texts::decode(spec, chain.decode_variable(spec, encoded, work.options)?)?;
    put(wants, &strides(chain, spec), |at| texts.get(at))
}

/// Puts the fill value wherever something is wanted.
pub(crate) fn fill(spec: &ChunkSpec, wants: &[Want<'_>]) -> Result<(), Error> {
    put(wants, &vec![0; spec.shape.len()], |_| &spec.fill)
}

/// Appends the chunk that holds `existing` with the selected elements replaced to `into`; appends nothing and
/// says `false` where it shall not be stored: all of it equals the fill value, or a foreign codec says so.
pub(crate) fn update(
    chain: &Chain,
    spec: &ChunkSpec,
    existing: Option<&[u8]>,
    selections: &[Selection],
    values: Values<'_>,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    let mut texts = match existing {
        _ if covered(selections, &spec.shape) => Texts::filled(spec, &[])?,
        Some(existing) => {
            values.work.stats.chunks_decoded.add(1);
            Texts::decode(
                spec,
                chain.decode_variable(spec, existing, values.work.options)?,
            )?
        }
        None => Texts::filled(spec, &spec.fill)?,
    };
    let access = values.enter()?;
    let strides = strides(chain, spec);
    for selection in selections {
        each_run(selection, &strides, |run| texts.take(&access, run))?;
    }
    drop(access);
    if !values.write_empty && texts.iter().all(|text| text == spec.fill) {
        return Ok(false);
    }
    values.work.stats.chunks_encoded.add(1);
    chain.encode(spec, &texts.encode(spec)?, into)
}

/// Appends a chunk of fill values; `false` and nothing where a foreign codec stores none.
pub(crate) fn encode_empty(
    chain: &Chain,
    spec: &ChunkSpec,
    into: &mut Vec<u8>,
) -> Result<bool, Error> {
    let texts = Texts::filled(spec, &spec.fill)?;
    chain.encode(spec, &texts.encode(spec)?, into)
}

fn put<'t>(
    wants: &[Want<'_>],
    strides: &[i64],
    text: impl Fn(usize) -> &'t [u8],
) -> Result<(), Error> {
    for want in wants {
        let Some(access) = want.out.enter() else {
            continue;
        };
        let mut putter = access.putter(want.selection.len())?;
        each_run(want.selection, strides, |run| putter.put(run, &text))?;
        putter.finish()?;
    }
    Ok(())
}

fn each_run(
    selection: &Selection,
    strides: &[i64],
    mut visit: impl FnMut(Run) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    runs(selection, strides, 1, |run| {
        if outcome.is_ok() {
            outcome = visit(run);
        }
    });
    outcome
}

/// The decoded chunk's strides, in elements: so are the offsets of runs here.
#[expect(clippy::cast_possible_wrap, reason = "item sizes fit")]
fn strides(chain: &Chain, spec: &ChunkSpec) -> Vec<i64> {
    let strides = chain.strides(spec).into_iter();
    strides
        .map(|stride| stride / spec.element.size as i64)
        .collect()
}

fn count(spec: &ChunkSpec) -> Result<usize, Error> {
    let nbytes = spec.nbytes();
    let nbytes = nbytes.ok_or_else(|| Error::invalid("the chunk is too large"))?;
    Ok(nbytes / spec.element.size)
}

fn codec(spec: &ChunkSpec) -> &'static str {
    match spec.element.kind {
        Kind::Text => "vlen-utf8",
        _ => "vlen-bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::element::Element;

    fn spec(kind: Kind, count: u64) -> ChunkSpec {
        ChunkSpec {
            shape: vec![count],
            element: Element {
                size: 16,
                kind,
                swap_unit: 1,
                big_endian: false,
            },
            fill: b"fill".to_vec(),
        }
    }

    fn decoded(spec: &ChunkSpec, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let texts = Texts::decode(spec, Cow::Borrowed(bytes))?;
        Ok(texts.iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn a_chunk_is_what_numcodecs_makes() {
        let spec = spec(Kind::Text, 3);
        let encoded = b"\x03\0\0\0\x01\0\0\0a\0\0\0\0\x03\0\0\0\xe2\x82\xac";
        let texts = Texts::decode(&spec, Cow::Borrowed(encoded)).unwrap();
        let all: Vec<_> = texts.iter().collect();
        assert_eq!(["a".as_bytes(), b"", "€".as_bytes()], all.as_slice());
        assert_eq!(encoded.as_slice(), texts.encode(&spec).unwrap());
    }

    #[test]
    fn a_filled_chunk_holds_its_text_once() {
        let spec = spec(Kind::Binary, 2);
        let texts = Texts::filled(&spec, &spec.fill).unwrap();
        assert_eq!(4, texts.bytes.len());
        let encoded = texts.encode(&spec).unwrap();
        assert_eq!(vec![b"fill".to_vec(); 2], decoded(&spec, &encoded).unwrap());
    }

    /// Whatever is cut off, whatever byte is another one: an error or texts, and never more than there are.
    #[test]
    fn damaged_chunks_are_errors() {
        let spec = spec(Kind::Text, 2);
        let encoded = b"\x02\0\0\0\x02\0\0\0ab\x01\0\0\0c";
        for len in 0..encoded.len() {
            assert!(decoded(&spec, &encoded[..len]).is_err(), "{len}");
        }
        for at in 0..encoded.len() {
            for byte in [0, 1, 3, 0x7f, 0x80, 0xff] {
                let mut damaged = encoded.to_vec();
                damaged[at] = byte;
                if let Ok(texts) = decoded(&spec, &damaged) {
                    assert!(texts.iter().all(|text| std::str::from_utf8(text).is_ok()));
                }
            }
        }
    }

    #[test]
    fn only_texts_are_utf8() {
        let odd = b"\x01\0\0\0\x01\0\0\0\xff";
        assert!(decoded(&spec(Kind::Text, 1), odd).is_err());
        assert_eq!(
            vec![vec![0xff]],
            decoded(&spec(Kind::Binary, 1), odd).unwrap()
        );
    }
}
