//! Bodies of answers: cut to the range that was asked for, given up when they stall, and taken in within
//! bounds where their length is not told.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::Sleep;

use crate::stats::InFlight;

/// Bytes that are let access, not kept, of a body whose length the server does not tell.
const MOST_UNMEASURED: u64 = 256 << 20;

/// Nothing has arrived for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing arrived for {0:?}")]
pub(super) struct Stalled(Duration);

/// A body whose length was not told has not ended.
#[derive(Debug, thiserror::Error)]
#[error("the body has no announced length and more than {MOST_UNMEASURED} bytes")]
struct Endless;

/// There is no memory for a body.
#[derive(Debug, thiserror::Error)]
#[error("there is no memory for the body's {0} bytes")]
pub(super) struct NoMemory(pub(super) u64);

pub(super) fn stalled(after: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Stalled(after))
}

/// The next bytes of a body; `None` at its end.
async fn next(body: &mut HttpResponseBody, stall: Duration) -> Result<Option<Bytes>, HttpError> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(stall, frame).await;
        match frame.map_err(|_| stalled(stall))?.transpose()? {
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            None => return Ok(None),
        }
    }
}

/// Takes in the first bytes of a body, up to about `most`; what is left of it is dropped.
pub(super) async fn first_bytes(
    mut body: HttpResponseBody,
    stall: Duration,
    most: usize,
) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while let Some(data) = next(&mut body, stall).await? {
        bytes.extend_from_slice(&data[..data.len().min(most - bytes.len())]);
        if bytes.len() == most {
            break;
        }
    }
    Ok(bytes)
}

/// Takes in a body of unknown length, and keeps what is wanted of it, or all where that is `most` bytes or
/// fewer.
///
/// Returns what was kept and the length of the body; the length alone where all of it is too much.
pub(super) async fn measured(
    mut body: HttpResponseBody,
    stall: Duration,
    wanted: Option<Wanted>,
    most: u64,
) -> Result<(Bytes, u64), HttpError> {
    let mut kept = Kept::new(wanted, most);
    while let Some(data) = next(&mut body, stall).await? {
        kept.take(&data)
            .map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        if kept.passed > most.max(MOST_UNMEASURED) {
            return Err(HttpError::new(HttpErrorKind::Decode, Endless));
        }
    }
    let length = kept.passed;
    Ok((kept.finish(), length))
}

/// What is wanted of a body that passes.
struct Kept {
    wanted: Option<Wanted>,
    most: u64,
    passed: u64,
    bytes: Vec<u8>,
}

impl Kept {
    fn new(wanted: Option<Wanted>, most: u64) -> Self {
        Self {
            wanted,
            most,
            passed: 0,
            bytes: Vec::new(),
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), NoMemory> {
        let piece = self.passed..self.passed + data.len() as u64;
        self.passed = piece.end;
        if self.wanted.is_none() && self.passed > self.most {
            self.bytes = Vec::new();
            return Ok(());
        }
        // Where a suffix begins is not known before the end.
        let (start, end) = match self.wanted {
            Some(Wanted::Bounded(start, last)) => (start, last.saturating_add(1)),
            Some(Wanted::From(start)) => (start, u64::MAX),
            Some(Wanted::Suffix(_)) | None => (0, u64::MAX),
        };
        let within = |at: u64| {
            let at = at.clamp(piece.start, piece.end) - piece.start;
            usize::try_from(at).unwrap_or(data.len())
        };
        let data = &data[within(start)..within(end).max(within(start))];
        let reserved = self.bytes.try_reserve(data.len());
        reserved.map_err(|_| NoMemory((self.bytes.len() + data.len()) as u64))?;
        self.bytes.extend_from_slice(data);
        if let Some(Wanted::Suffix(suffix)) = self.wanted {
            // Once for each length of it, so that its bytes are moved only once.
            let suffix = usize::try_from(suffix).unwrap_or(usize::MAX);
            if self.bytes.len() > suffix.saturating_mul(2) {
                self.bytes.drain(..self.bytes.len() - suffix);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Bytes {
        if let Some(Wanted::Suffix(suffix)) = self.wanted {
            let suffix = usize::try_from(suffix).unwrap_or(usize::MAX);
            let surplus = self.bytes.len().saturating_sub(suffix);
            self.bytes.drain(..surplus);
        }
        self.bytes.into()
    }
}

/// A `Range` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Bounded(u64, u64),
    From(u64),
    Suffix(u64),
}

impl Wanted {
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (start, end) = header.strip_prefix("bytes=")?.split_once('-')?;
        match (start.parse().ok(), end.parse().ok()) {
            (Some(start), Some(end)) => Some(Self::Bounded(start, end)),
            (Some(start), None) if end.is_empty() => Some(Self::From(start)),
            (None, Some(suffix)) if start.is_empty() => Some(Self::Suffix(suffix)),
            _ => None,
        }
    }

    /// Start and end within an object of `size` bytes; `None` where nothing is left.
    pub(super) fn within(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            Self::Bounded(start, last) => (start, last.checked_add(1)?.min(size)),
            Self::From(start) => (start, size),
            Self::Suffix(suffix) => (size.saturating_sub(suffix), size),
        };
        (start < end).then_some((start, end))
    }
}

/// The part of a body that was asked for.
#[derive(Debug, Default)]
pub(super) struct Cut {
    skip: u64,
    take: Option<u64>,
}

impl Cut {
    /// From `start` to `end`.
    pub(super) const fn new(start: u64, end: u64) -> Self {
        Self {
            skip: start,
            take: Some(end - start),
        }
    }

    fn apply(&mut self, mut bytes: Bytes) -> Bytes {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
        if let Some(take) = &mut self.take {
            let taken = (*take).min(bytes.len() as u64);
            *take -= taken;
            bytes.truncate(usize::try_from(taken).unwrap_or(usize::MAX));
        }
        bytes
    }
}

/// A body on its way to whoever asked.
pub(super) struct Passing {
    pub(super) inner: HttpResponseBody,
    pub(super) cut: Cut,
    pub(super) stall: Duration,
    /// Begins once a frame has to be waited for: most bodies have arrived with their head, and need no timer.
    pub(super) stalled: Option<Pin<Box<Sleep>>>,
    pub(super) _in_flight: InFlight,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.cut.take == Some(0) {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let after = self.stall;
            let timer = self
                .stalled
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
            return timer
                .as_mut()
                .poll(context)
                .map(|()| Some(Err(stalled(after))));
        };
        self.stalled = None;
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.cut.apply(data)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.cut.take == Some(0) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.cut
            .take
            .map_or_else(|| self.inner.size_hint(), SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: [&[u8]; 3] = [b"abc", b"de", b"fgh"];
    const RANGES: [(&str, Option<&[u8]>); 7] = [
        ("bytes=2-4", Some(b"cde")),
        ("bytes=6-", Some(b"gh")),
        ("bytes=-3", Some(b"fgh")),
        ("bytes=-1", Some(b"h")),
        ("bytes=-30", Some(b"abcdefgh")),
        ("bytes=7-20", Some(b"h")),
        ("bytes=9-12", None),
    ];

    #[test]
    fn ranges_are_cut_from_whole_bodies() {
        for (header, expected) in RANGES {
            let cut = Wanted::parse(header).unwrap().within(8);
            assert_eq!(expected.is_some(), cut.is_some());
            let Some((start, end)) = cut else { continue };
            let mut cut = Cut::new(start, end);
            let got: Vec<u8> = BODY
                .into_iter()
                .flat_map(|part| cut.apply(Bytes::from_static(part)))
                .collect();
            assert_eq!(expected.unwrap(), got);
        }
        assert_eq!(None, Wanted::parse("bytes=1-2,4-5"));
    }

    fn kept(wanted: Option<Wanted>, most: u64, body: &[&[u8]]) -> (Vec<u8>, usize) {
        let mut kept = Kept::new(wanted, most);
        let mut longest = 0;
        for piece in body {
            kept.take(piece).unwrap();
            longest = longest.max(kept.bytes.len());
        }
        (kept.finish().into(), longest)
    }

    #[test]
    fn of_bodies_without_a_length_the_range_is_kept() {
        for (header, expected) in RANGES {
            let (got, _) = kept(Wanted::parse(header), 8, &BODY);
            assert_eq!(expected.unwrap_or_default(), got, "{header}");
        }
        assert_eq!(b"abcdefgh", &*kept(None, 8, &BODY).0);
    }

    #[test]
    fn of_bodies_without_a_length_no_more_is_kept_than_is_taken() {
        let endless = vec![&b"0123456789"[..]; 1000];
        for (wanted, most) in [
            (None, 100),
            (Some(Wanted::Bounded(50, 99)), 50),
            (Some(Wanted::Suffix(100)), 100),
        ] {
            let (_, longest) = kept(wanted, most, &endless);
            assert!(longest as u64 <= 2 * most + 10, "{wanted:?}: {longest}");
        }
    }
}
