//! zstd frames, with contexts that live as long as their thread: a new one for each chunk costs a fifth of the
//! time at 64 KiB.

use std::cell::RefCell;
use std::io::Read;

use crate::error::Error;
use crate::memory::{append, reserve, resize};

/// What a byte becomes at most: four of them are a block, which has no more than 128 KiB.
pub(crate) const RATIO: usize = (128 << 10) / 4;
/// The most room that a thread keeps for compressing.
const KEPT_ROOM: usize = 8 << 20;

/// A compressor with its settings, and room for what it makes of a chunk.
struct Compressor {
    level: i32,
    checksum: bool,
    context: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
    static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) };
}

/// Decodes into a buffer, and gives how many bytes there were.
///
/// # Errors
/// [`Error::Decode`] when they are damaged, or more than there is room for.
pub(crate) fn decode(
    encoded: &[u8],
    decoded: &mut (impl zstd::zstd_safe::WriteBuf + ?Sized),
) -> Result<usize, Error> {
    DECOMPRESSOR
        .with_borrow_mut(|context| {
            let decompressor = match context {
                Some(decompressor) => decompressor,
                None => context.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(encoded, decoded)
        })
        .map_err(|error: std::io::Error| Error::decode("zstd", error))
}

/// Decodes the first bytes of a chunk of `nbytes`, and no more.
///
/// # Errors
/// [`Error::Decode`] when the bytes are damaged so far, declare another size, or need a larger window than the chunk
/// is itself.
pub(crate) fn decode_first(encoded: &[u8], decoded: &mut [u8], nbytes: usize) -> Result<(), Error> {
    /// The smallest and the largest window that zstd lets a stream have.
    const WINDOWS: [u32; 2] = [10, 27];
    let refused = |error: std::io::Error| Error::decode("zstd", error);
    if declared(encoded).is_some_and(|size| size != nbytes) {
        return Err(Error::decode("zstd", "it declares another size"));
    }
    // A stream takes the window that the bytes declare, so it takes memory as for the chunk.
    let window = nbytes.next_power_of_two().ilog2();
    let mut stream = zstd::stream::read::Decoder::with_buffer(encoded).map_err(refused)?;
    stream
        .window_log_max(window.clamp(WINDOWS[0], WINDOWS[1]))
        .map_err(refused)?;
    stream.read_exact(decoded).map_err(refused)
}

/// Decodes a frame that need not declare its size.
pub(crate) fn decode_at_most(encoded: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    /// What a frame becomes, as a first guess.
    const GUESS: usize = 8;
    let declared = declared(encoded);
    // Of elements of any length nothing else says how much it may be.
    let limit = limit.min(encoded.len().saturating_mul(RATIO));
    let mut decoded = Vec::new();
    let mut room = declared.unwrap_or(GUESS * encoded.len()).min(limit);
    loop {
        reserve(&mut decoded, room)?;
        match decode(encoded, &mut decoded) {
            Err(_) if declared.is_none() && room < limit => room = (2 * room).min(limit),
            done => return done.map(|_| decoded),
        }
    }
}

/// Encodes one frame to the end of `into`.
///
/// # Errors
/// [`Error::Encode`] when zstd refuses; [`Error::Memory`] when there is no memory.
pub(crate) fn encode(
    decoded: &[u8],
    level: i32,
    checksum: bool,
    into: &mut Vec<u8>,
) -> Result<(), Error> {
    let refused = |error: std::io::Error| Error::encode("zstd", error);
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(kept) if kept.level == level && kept.checksum == checksum => kept,
            _ => {
                let mut context = zstd::bulk::Compressor::new(level).map_err(refused)?;
                context.include_checksum(checksum).map_err(refused)?;
                kept.insert(Compressor {
                    level,
                    checksum,
                    context,
                    room: Vec::new(),
                })
            }
        };
        let bound = zstd::zstd_safe::compress_bound(decoded.len());
        if compressor.room.len() < bound {
            resize(&mut compressor.room, bound)?;
        }
        let len = compressor
            .context
            .compress_to_buffer(decoded, compressor.room.as_mut_slice())
            .map_err(refused)?;
        append(into, &compressor.room[..len])?;
        if bound > KEPT_ROOM {
            compressor.room = Vec::new();
        }
        Ok(())
    })
}

/// The decoded size that the first frame declares.
fn declared(encoded: &[u8]) -> Option<usize> {
    let declared = zstd::zstd_safe::get_frame_content_size(encoded);
    usize::try_from(declared.ok().flatten()?).ok()
}
