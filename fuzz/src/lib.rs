//! What the fuzz targets share: an input read as settings, arrays to work on, and a slow oracle.

mod codecs;
mod texts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use zarrs_async_core::fuzzing::{Options, Sharding};
use zarrs_async_core::{Axis, ChunkSpec, Element, Kind, Layout, OutBuffer, Positions, Selection};

use crate::codecs::Codecs;
pub use crate::texts::{TextMemory, TextsCase, elements as texts};

/// Names, sizes, parts and comparison of the data types that are tried, and what numpy calls those that
/// filters know.
const TYPES: &[(&str, usize, usize, Kind, Option<&str>)] = &[
    ("uint8", 1, 1, Kind::Bits, Some("u1")),
    ("int16", 2, 2, Kind::Bits, Some("i2")),
    ("float16", 2, 2, Kind::Float, Some("f2")),
    ("uint32", 4, 4, Kind::Bits, Some("u4")),
    ("int64", 8, 8, Kind::Bits, Some("i8")),
    ("float32", 4, 4, Kind::Float, Some("f4")),
    ("float64", 8, 8, Kind::Float, Some("f8")),
    ("complex64", 8, 4, Kind::Complex, None),
    ("r24", 3, 1, Kind::Bits, None),
];

/// An array to work on.
#[derive(Debug)]
pub struct Subject {
    /// Its `codecs` and `data_type`.
    pub metadata: Value,
    /// How its chunks are encoded.
    pub layout: Layout,
    /// Its chunk.
    pub spec: ChunkSpec,
    /// Whether the encoded chunk ends in a checksum of all of it.
    pub checked: bool,
    /// Whether the values are read back as they were: most filters round, or wrap around.
    pub exact: bool,
}

/// What the `decode` target begins with; encoded bytes, or values, follow.
#[derive(Debug)]
pub struct DecodeCase {
    pub subject: Subject,
    pub options: Options,
    pub part: Selection,
    /// Whether the bytes that follow are encoded ones.
    pub arbitrary: bool,
}

/// What the `index` target begins with; an encoded index follows.
#[derive(Debug)]
pub struct IndexCase {
    pub subject: Subject,
    pub wanted: Selection,
    pub shard_size: u64,
    pub gap: u64,
    pub max: u64,
    /// Whether the checksum and the length of the index must be right.
    pub strict: bool,
}

/// What the `update` target begins with; the stored shard, or values to make one of, follow.
#[derive(Debug)]
pub struct UpdateCase {
    pub subject: Subject,
    pub options: Options,
    pub written: Selection,
    pub values: Vec<u8>,
    /// Where the shard that is made has values.
    pub before: Selection,
    /// Where it is damaged, and which bits of the byte.
    pub edits: [(u16, u8); 2],
    /// Whether the bytes that follow are a shard.
    pub arbitrary: bool,
}

impl DecodeCase {
    pub fn read(input: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let arbitrary = input.ratio(1, 2)?;
        let Some(subject) = subject(input)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            options: options(input)?,
            part: selection(input, &subject.spec)?,
            subject,
            arbitrary,
        }))
    }
}

impl IndexCase {
    pub fn read(input: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let Some(subject) = shard(input)? else {
            return Ok(None);
        };
        let small: u16 = input.arbitrary()?;
        let large = input.ratio(1, 8)?;
        Ok(Some(Self {
            wanted: selection(input, &subject.spec)?,
            shard_size: if large {
                input.arbitrary()?
            } else {
                u64::from(small)
            },
            gap: input.int_in_range(0..=64)?,
            max: input.int_in_range(0..=512)?,
            strict: input.ratio(1, 8)?,
            subject,
        }))
    }
}

impl UpdateCase {
    pub fn read(input: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let arbitrary = input.ratio(1, 2)?;
        let Some(subject) = shard(input)? else {
            return Ok(None);
        };
        let options = options(input)?;
        let written = selection(input, &subject.spec)?;
        let few: [u8; 13] = input.arbitrary()?;
        Ok(Some(Self {
            values: cycled(&few, written.len() * subject.spec.element.size),
            before: selection(input, &subject.spec)?,
            edits: input.arbitrary()?,
            subject,
            options,
            written,
            arbitrary,
        }))
    }
}

/// Choices of codecs, data type and shape; `None` where zarr has no such array.
fn subject(input: &mut Unstructured<'_>) -> Result<Option<Subject>> {
    let (name, element, number) = element(input)?;
    let ndim = input.int_in_range(1..=3)?;
    let shape = lengths(input, ndim, 12)?;
    let codecs = codecs::chain(input, ndim, number.as_deref())?;
    let spec = spec(input, element, shape)?;
    Ok(build(codecs, name, spec))
}

/// Choices of a shard, its data type and shape; `None` where zarr has no such array.
fn shard(input: &mut Unstructured<'_>) -> Result<Option<Subject>> {
    let (name, element, number) = element(input)?;
    let ndim = input.int_in_range(1..=2)?;
    let subchunk = lengths(input, ndim, 4)?;
    let inner = codecs::chain(input, ndim, number.as_deref())?;
    let (codecs, shape) = sharded(input, subchunk, inner)?;
    let spec = spec(input, element, shape)?;
    Ok(build(codecs, name, spec))
}

/// Lengths of `ndim` axes.
fn lengths(input: &mut Unstructured<'_>, ndim: usize, most: u64) -> Result<Vec<u64>> {
    (0..ndim).map(|_| input.int_in_range(1..=most)).collect()
}

/// Choices of a shard of such subchunks, or of such shards; and its shape.
fn sharded(
    input: &mut Unstructured<'_>,
    mut shape: Vec<u64>,
    mut codecs: Codecs,
) -> Result<(Codecs, Vec<u64>)> {
    // Few subchunks: a codec takes up to a millisecond to be set up for each.
    for most in [3, 2].into_iter().take(input.int_in_range(1..=2)?) {
        codecs = codecs::sharding(input, &shape, codecs)?;
        for length in &mut shape {
            *length *= input.int_in_range(1..=most)?;
        }
    }
    Ok((codecs, shape))
}

/// Choices of checks, of what is stored and of threads.
fn options(input: &mut Unstructured<'_>) -> Result<Options> {
    let bits: u8 = input.arbitrary()?;
    Ok(Options {
        validate_checksums: bits & 1 == 0,
        write_empty: bits & 2 == 0,
        // Threads are slow to start, and one input in thirty-two is enough.
        parallel: bits >> 3 == 0b1_1111,
    })
}

/// Choices of a selection, laid out in C order in a buffer of its own.
fn selection(input: &mut Unstructured<'_>, spec: &ChunkSpec) -> Result<Selection> {
    let (shape, size) = (&spec.shape, spec.element.size);
    if input.ratio(1, 4)? {
        let count = input.int_in_range(0..=8)?;
        let coords = shape
            .iter()
            .map(|length| list(input, *length, count))
            .collect::<Result<_>>()?;
        return Ok(Selection::Points {
            coords,
            out: range(0, size as i64, count),
        });
    }
    let chunk: Vec<Positions> = shape
        .iter()
        .map(|length| positions(input, *length))
        .collect::<Result<_>>()?;
    let mut step = size as i64;
    let mut axes: Vec<Axis> = chunk
        .into_iter()
        .rev()
        .map(|chunk| {
            let out = range(0, step, chunk.len());
            step *= chunk.len() as i64;
            Axis { chunk, out }
        })
        .collect();
    axes.reverse();
    Ok(Selection::Grid { axes, base: 0 })
}

/// All of a chunk in C order.
pub fn whole(spec: &ChunkSpec) -> Selection {
    let mut step = spec.element.size as i64;
    let mut axes: Vec<Axis> = spec
        .shape
        .iter()
        .rev()
        .map(|length| {
            let out = range(0, step, *length as usize);
            step *= *length as i64;
            Axis {
                chunk: range(0, 1, *length as usize),
                out,
            }
        })
        .collect();
    axes.reverse();
    Selection::Grid { axes, base: 0 }
}

/// Byte offset in a C-ordered chunk of every selected element, in the order of the selection.
pub fn places(selection: &Selection, spec: &ChunkSpec) -> Vec<usize> {
    elements(selection)
        .iter()
        .map(|coords| ravel(coords, &spec.shape) * spec.element.size)
        .collect()
}

/// Number in C order of the subchunk of every selected element, in the order of the selection.
pub fn subchunks(selection: &Selection, sharding: &Sharding, spec: &ChunkSpec) -> Vec<usize> {
    let grid = sharding.grid(spec);
    elements(selection)
        .into_iter()
        .map(|coords| {
            let lengths = coords.iter().zip(&sharding.chunk_shape);
            let within: Vec<i64> = lengths.map(|(at, length)| at / *length as i64).collect();
            ravel(&within, &grid)
        })
        .collect()
}

/// Number of an element in C order.
fn ravel(coords: &[i64], shape: &[u64]) -> usize {
    coords.iter().zip(shape).fold(0, |at, (coord, length)| {
        at * *length as usize + *coord as usize
    })
}

/// Coordinates of every selected element, in the order of the selection.
fn elements(selection: &Selection) -> Vec<Vec<i64>> {
    match selection {
        Selection::Points { coords, out } => (0..out.len())
            .map(|at| coords.iter().map(|axis| axis.get(at)).collect())
            .collect(),
        Selection::Grid { axes, .. } => {
            let mut all = vec![Vec::new()];
            for axis in axes {
                all = all
                    .iter()
                    .flat_map(|before: &Vec<i64>| {
                        (0..axis.chunk.len()).map(move |at| {
                            let mut coords = before.clone();
                            coords.push(axis.chunk.get(at));
                            coords
                        })
                    })
                    .collect();
            }
            all
        }
    }
}

/// Changes bits of an object, each time of the byte at a place.
pub fn damage(object: &mut [u8], edits: [(u16, u8); 2]) {
    let len = object.len().max(1);
    for (at, bits) in edits {
        if let Some(byte) = object.get_mut(usize::from(at) % len) {
            *byte ^= bits;
        }
    }
}

/// All that is left of the input.
pub fn rest<'a>(input: &mut Unstructured<'a>) -> &'a [u8] {
    input.bytes(input.len()).unwrap_or_default()
}

/// `len` bytes out of the input, over and over; zeros where there are none.
pub fn cycled(bytes: &[u8], len: usize) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![0; len];
    }
    bytes.iter().copied().cycle().take(len).collect()
}

/// A buffer over memory of its own, in a heap block of exactly that size.
pub struct Memory {
    cells: Arc<[AtomicU8]>,
    pub buffer: OutBuffer,
}

impl Memory {
    pub fn new(bytes: &[u8]) -> Self {
        let cells: Arc<[AtomicU8]> = bytes.iter().copied().map(AtomicU8::new).collect();
        let base = cells.as_ptr().cast_mut().cast();
        let owner = Box::new(Arc::clone(&cells));
        // SAFETY: the cells allow shared writes and live as long as the owner.
        let buffer = unsafe { OutBuffer::new(base, 0..bytes.len() as i64, owner) };
        Self { cells, buffer }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.cells
            .iter()
            .map(|cell| cell.load(Ordering::Relaxed))
            .collect()
    }
}

impl Subject {
    /// Settings of the shard that it is; `None` for a chunk.
    pub fn sharding(&self) -> Option<&Sharding> {
        match &self.layout {
            Layout::Shard(sharding) => Some(sharding),
            Layout::Chunk(_) => None,
        }
    }
}

fn build(codecs: Codecs, data_type: &str, spec: ChunkSpec) -> Option<Subject> {
    let Codecs {
        chain,
        checked,
        exact,
    } = codecs;
    let big_endian = spec.element.big_endian;
    let metadata = json!({"codecs": chain, "data_type": data_type, "big_endian": big_endian});
    let layout = Layout::from_v3(&metadata["codecs"], big_endian, &[]).ok()?;
    layout.check(&spec).ok()?;
    Some(Subject {
        metadata,
        layout,
        spec,
        checked,
        exact,
    })
}

/// Choices of a data type: its name, its elements, and their dtype where filters know it.
fn element(input: &mut Unstructured<'_>) -> Result<(&'static str, Element, Option<String>)> {
    let (name, size, swap_unit, kind, number) = *input.choose(TYPES)?;
    let big_endian = input.ratio(1, 8)?;
    let element = Element {
        size,
        kind,
        swap_unit,
        big_endian,
    };
    let dtype = number.map(|number| codecs::dtype(number, big_endian));
    Ok((name, element, dtype))
}

fn spec(input: &mut Unstructured<'_>, element: Element, shape: Vec<u64>) -> Result<ChunkSpec> {
    let byte: u8 = input.arbitrary()?;
    let fill = vec![byte; element.size];
    Ok(ChunkSpec {
        shape,
        element,
        fill,
    })
}

/// Positions along an axis: a slice of any step, or a list.
fn positions(input: &mut Unstructured<'_>, length: u64) -> Result<Positions> {
    let choice: u8 = input.arbitrary()?;
    Ok(match choice & 3 {
        0 => range(0, 1, length as usize),
        1 => {
            let count = input.int_in_range(0..=length as usize + 1)?;
            list(input, length, count)?
        }
        _ => {
            let start = input.int_in_range(0..=length as i64 - 1)?;
            let step = input.int_in_range(-3..=3)?;
            let room = match step {
                0 => 2,
                1.. => (length as i64 - 1 - start) / step,
                _ => start / -step,
            };
            range(start, step, input.int_in_range(0..=room as usize + 1)?)
        }
    })
}

fn list(input: &mut Unstructured<'_>, length: u64, count: usize) -> Result<Positions> {
    let list = (0..count)
        .map(|_| input.int_in_range(0..=length as i64 - 1))
        .collect::<Result<_>>()?;
    Ok(Positions::from_list(list))
}

fn range(start: i64, step: i64, len: usize) -> Positions {
    Positions::Range { start, step, len }
}
