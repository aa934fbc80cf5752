//! Elements of any length: choices of an array of them, and memory that holds them.

use std::sync::{Arc, Mutex};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use zarrs_async_core::fuzzing::Options;
use zarrs_async_core::{ChunkSpec, Element, Error, Kind, OutBuffer, Selection, Texts};

use crate::{Subject, build, codecs, lengths, options, selection, sharded};

/// An element of the caller's array.
type Place = Mutex<Vec<u8>>;

/// The longest of the elements that are written.
const LONGEST: usize = 40;

/// What the `texts` target begins with; a stored object, or elements to make one of, follow.
#[derive(Debug)]
pub struct TextsCase {
    pub subject: Subject,
    pub options: Options,
    pub part: Selection,
    /// Which bytes are damaged, and which of their bits.
    pub edits: [(u16, u8); 2],
    /// Whether the bytes that follow are an object.
    pub arbitrary: bool,
}

impl TextsCase {
    pub fn read(input: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let arbitrary = input.ratio(1, 2)?;
        let (kind, name) =
            *input.choose(&[(Kind::Text, "vlen-utf8"), (Kind::Binary, "vlen-bytes")])?;
        let ndim = input.int_in_range(1..=2)?;
        let mut shape = lengths(input, ndim, 4)?;
        let mut codecs = codecs::variable(input, ndim, name)?;
        if input.ratio(1, 2)? {
            (codecs, shape) = sharded(input, shape, codecs)?;
        }
        let spec = ChunkSpec {
            shape,
            element: Element {
                size: size_of::<Place>(),
                kind,
                swap_unit: 1,
                big_endian: false,
            },
            fill: (*input.choose(&["", "fill"])?).into(),
        };
        let Some(subject) = build(codecs, "string", spec) else {
            return Ok(None);
        };
        Ok(Some(Self {
            options: options(input)?,
            part: selection(input, &subject.spec)?,
            edits: input.arbitrary()?,
            subject,
            arbitrary,
        }))
    }
}

/// `count` elements out of the input, over and over; empty ones where there is nothing.
pub fn elements(kind: Kind, bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
    let few = bytes.split(|byte| *byte == b',').map(|few| {
        let few = &few[..few.len().min(LONGEST)];
        match kind {
            Kind::Text => String::from_utf8_lossy(few).into_owned().into_bytes(),
            _ => few.to_vec(),
        }
    });
    let few: Vec<_> = few.collect();
    few.into_iter().cycle().take(count).collect()
}

/// A buffer over elements of its own, in a heap block of exactly their size.
pub struct TextMemory {
    places: Arc<[Place]>,
    pub buffer: OutBuffer,
}

impl TextMemory {
    pub fn new(kind: Kind, elements: Vec<Vec<u8>>) -> Self {
        let places: Arc<[Place]> = elements.into_iter().map(Mutex::new).collect();
        let base = places.as_ptr().cast_mut().cast();
        let owner = Box::new(Arc::clone(&places));
        let nbytes = (places.len() * size_of::<Place>()) as i64;
        // SAFETY: places allow shared writes and live as long as the owner.
        let buffer = unsafe { OutBuffer::new(base, 0..nbytes, owner) };
        let buffer = buffer.of_texts(Arc::new(Places(kind)));
        Self { places, buffer }
    }

    pub fn elements(&self) -> Vec<Vec<u8>> {
        let places = self.places.iter();
        places.map(|place| place.lock().unwrap().clone()).collect()
    }
}

/// How the elements stand in the memory.
#[derive(Debug)]
struct Places(Kind);

impl Texts for Places {
    fn size(&self) -> usize {
        size_of::<Place>()
    }

    fn may_wait(&self) -> bool {
        false
    }

    unsafe fn put(&self, texts: &[(*mut u8, &[u8])]) -> std::result::Result<(), Error> {
        for (place, text) in texts {
            assert!(self.0 == Kind::Binary || std::str::from_utf8(text).is_ok());
            // SAFETY: the engine gives elements of the array only.
            let place = unsafe { &*place.cast::<Place>() };
            *place.lock().unwrap() = text.to_vec();
        }
        Ok(())
    }

    unsafe fn take(
        &self,
        places: &mut dyn Iterator<Item = *const u8>,
        then: &mut dyn FnMut(&[u8]) -> std::result::Result<(), Error>,
    ) -> std::result::Result<(), Error> {
        for place in places {
            // SAFETY: the engine gives elements of the array only.
            let place = unsafe { &*place.cast::<Place>() };
            then(&place.lock().unwrap())?;
        }
        Ok(())
    }
}
