//! Object stores on the wire: gets, puts and deletes, with conditions, each tried again where that helps
//! (`retry`) and a get doubled where it is late (`hedge`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig, UpdateVersion,
};

use super::answer::Answer;
use super::body::NoMemory;
use super::failing::Failing;
use super::hedge::{Hedge, Times};
use super::retry::{Overlong, Truncated};
use super::throttle::Throttle;
use super::{Condition, Fetched, Get, Part, Put, State, Validator, Wire};
use crate::error::Error;
use crate::stats::Stats;

/// Objects larger than this are put in parts; every service takes single puts of this size.
const MULTIPART_ABOVE: usize = 64 << 20;
/// Size of one part; S3 allows 5 MiB to 5 GiB and 10,000 of them.
const PART_SIZE: usize = 16 << 20;

/// An object store reached over HTTP.
pub struct RemoteStore {
    pub(super) client: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) name: String,
    pub(super) identity: u64,
    pub(super) location: u64,
    /// The path of an HTTP store's URL.
    pub(super) base: String,
    pub(super) retry: RetryConfig,
    /// Whether the store's settings say for how long retries are begun.
    pub(super) retry_timeout_set: bool,
    pub(super) stats: Arc<Stats>,
    pub(super) failing: Arc<Failing>,
    pub(super) times: Times,
    pub(super) wire: Wire,
    pub(super) throttle: Throttle,
    /// Whether the store takes suffix ranges; learnt from its first refusal.
    pub(super) suffixes: AtomicBool,
    /// Whether the store has conditional puts; learnt from its first refusal.
    pub(super) conditions: AtomicBool,
}

impl std::fmt::Debug for RemoteStore {
    /// Names the store; the client behind it holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteStore").field(&self.name).finish()
    }
}

impl RemoteStore {
    /// A store at `place` whose requests are made by this client, each tried once.
    #[cfg(test)]
    pub(crate) fn around(client: Arc<dyn ObjectStore>, place: u64) -> Self {
        Self {
            name: client.to_string(),
            client,
            prefix: Path::default(),
            identity: place,
            location: place,
            base: String::new(),
            retry: RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            },
            retry_timeout_set: false,
            stats: Arc::default(),
            failing: Arc::default(),
            times: Times::default(),
            wire: Wire::default(),
            throttle: Throttle::default(),
            suffixes: AtomicBool::new(true),
            conditions: AtomicBool::new(true),
        }
    }

    /// Names the place, whoever asks with whatever settings.
    pub(super) const fn location(&self) -> u64 {
        self.location
    }

    /// Names all settings: only equal ones may see each other's objects.
    pub(super) const fn identity(&self) -> u64 {
        self.identity
    }

    /// The object's path from the root of the place.
    pub(crate) fn full_path(&self, key: &str) -> Arc<str> {
        let parts = [self.base.as_str(), self.prefix.as_ref(), key];
        let parts = parts.iter().flat_map(|part| part.split('/'));
        parts
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/")
            .into()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Fetches an object or a part of it, if it is in the `state` that is wanted and what is wanted of it has
    /// at most `most` bytes.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request.
    pub(crate) async fn get(
        &self,
        key: &str,
        part: &Part,
        state: State<'_>,
        most: u64,
        hedge: Option<Hedge<'_>>,
    ) -> Result<Get, Error> {
        let path = self.path(key)?;
        let found;
        let (part, state) = match part {
            Part::Suffix(len) if !self.takes_suffixes() => {
                let Some((range, validator)) = self.last_bytes(key, &path, *len).await? else {
                    return Ok(Get::Missing);
                };
                found = validator;
                let state = found.as_ref().map_or(State::Any, State::Is);
                (Part::Range(range), state)
            }
            part => (part.clone(), state),
        };
        let request = || self.retrying("get", key, || self.get_once(&path, &part, state, most));
        let began = Instant::now();
        let outcome = self.hedged(request, hedge).await;
        if outcome.is_ok() {
            self.times.note(began.elapsed());
        }
        if let (Part::Suffix(len), Err(failure)) = (&part, &outcome) {
            if failure.refuses_suffix() {
                self.suffixes.store(false, Ordering::Relaxed);
                return Box::pin(self.get(key, &part, state, most, hedge)).await;
            }
            // A 416 is also what the last bytes of an empty object are answered with, and a 400 may be about
            // anything: only that the same bytes can be had otherwise tells.
            if failure.may_refuse_suffix()
                && let Ok(Some((range, validator))) = self.last_bytes(key, &path, *len).await
            {
                let part = Part::Range(range);
                let state = validator.as_ref().map_or(State::Any, State::Is);
                let get = Box::pin(self.get(key, &part, state, most, hedge)).await;
                if matches!(get, Ok(Get::Found(_))) {
                    self.suffixes.store(false, Ordering::Relaxed);
                }
                return get;
            }
        }
        let get = outcome.map_err(|failure| failure.error)?;
        if let Get::Found(fetched) = &get {
            self.stats.bytes_read.add(fetched.bytes.len() as u64);
        }
        Ok(get)
    }

    async fn get_once(
        &self,
        path: &Path,
        part: &Part,
        state: State<'_>,
        most: u64,
    ) -> object_store::Result<Get> {
        let range = match part {
            Part::Whole => None,
            Part::Range(range) => Some(GetRange::Bounded(range.clone())),
            Part::Suffix(len) => Some(GetRange::Suffix(*len)),
        };
        let tag = |validator: &Validator| validator.strong_etag().map(str::to_owned);
        let (if_match, if_none_match) = match state {
            State::Any => (None, None),
            State::Is(validator) => (tag(validator), None),
            State::IsNot(validator) => (None, tag(validator)),
        };
        Answer::will_take(most);
        let options = GetOptions {
            range,
            if_match,
            if_none_match,
            ..GetOptions::default()
        };
        let sent = Instant::now();
        let result = match self.client.get_opts(path, options).await {
            Err(object_store::Error::NotFound { .. }) if says_missing() => return Ok(Get::Missing),
            Err(error) if matches!(state, State::Is(_)) && says_changed(&error) => {
                return Ok(Get::Changed);
            }
            Err(object_store::Error::NotModified { .. }) if matches!(state, State::IsNot(_)) => {
                return Ok(Get::Unchanged);
            }
            other => other?,
        };
        let validator = result.meta.e_tag.clone().map(Validator::ETag);
        // A server may ignore the condition, and a weak tag is not sent at all.
        match state {
            State::Is(expected) if validator.as_ref() != Some(expected) => return Ok(Get::Changed),
            State::IsNot(known) if validator.as_ref() == Some(known) => return Ok(Get::Unchanged),
            _ => {}
        }
        let size = Some(result.meta.size);
        let version = result.meta.version.clone();
        let wanted = result.range.end - result.range.start;
        if wanted > most {
            return Ok(Get::Oversized(wanted));
        }
        let (head, begun) = (sent.elapsed(), Instant::now());
        let bytes = collect(result.into_stream(), wanted).await?;
        self.wire.note(head, wanted, begun.elapsed());
        Ok(Get::Found(Fetched {
            bytes,
            size,
            validator,
            version,
        }))
    }

    /// The last `len` bytes as a plain range of the object as it is now, for stores that refuse suffixes.
    async fn last_bytes(
        &self,
        key: &str,
        path: &Path,
        len: u64,
    ) -> Result<Option<(Range<u64>, Option<Validator>)>, Error> {
        let first = Part::Range(0..1);
        let request = || self.get_once(path, &first, State::Any, 1);
        let get = self.retrying("get", key, request).await;
        match get.map_err(|failure| failure.error)? {
            Get::Found(Fetched {
                size: Some(size),
                validator,
                ..
            }) => Ok(Some((size.saturating_sub(len)..size, validator))),
            _ => Ok(None),
        }
    }

    /// Replaces an object, if `condition` allows; in several parts at once where it is large.
    ///
    /// # Cancel safety
    /// Dropping the future closes the request; the old object or the new one is there afterwards.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        lanes: usize,
    ) -> Result<Put, Error> {
        let path = self.path(key)?;
        let len = bytes.len();
        let mode = match condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Match(etag, version) => PutMode::Update(UpdateVersion {
                e_tag: Some(etag.clone()),
                version: version.clone(),
            }),
        };
        let outcome = self
            .retrying("put", key, || async {
                if len > MULTIPART_ABOVE && mode == PutMode::Overwrite {
                    match self.put_parts(&path, &bytes, lanes).await {
                        Err(object_store::Error::NotImplemented { .. }) => {}
                        other => return other.map(|()| Put::Done),
                    }
                }
                let payload = PutPayload::from_bytes(bytes.clone());
                match self
                    .client
                    .put_opts(&path, payload, mode.clone().into())
                    .await
                {
                    Ok(_) => Ok(Put::Done),
                    // Without a condition, such an answer is about something else.
                    Err(
                        object_store::Error::Precondition { .. }
                        | object_store::Error::AlreadyExists { .. },
                    ) if mode != PutMode::Overwrite && !Answer::last().leased() => {
                        Ok(Put::Conflict)
                    }
                    // The object that was to be replaced is gone.
                    Err(object_store::Error::NotFound { .. })
                        if matches!(mode, PutMode::Update(_)) && !Answer::last().no_bucket() =>
                    {
                        Ok(Put::Conflict)
                    }
                    Err(error) => Err(error),
                }
            })
            .await;
        if let (Err(failure), true) = (&outcome, *condition != Condition::None)
            && failure.refuses()
        {
            self.conditions.store(false, Ordering::Relaxed);
            return Ok(Put::Conflict);
        }
        let outcome = outcome.map_err(|failure| failure.error);
        if matches!(outcome, Ok(Put::Done)) {
            self.stats.bytes_written.add(len as u64);
        }
        outcome
    }

    /// Parts that an object of `len` bytes is put in besides the first.
    pub(crate) const fn parts(len: usize) -> usize {
        if len > MULTIPART_ABOVE {
            len.div_ceil(PART_SIZE) - 1
        } else {
            0
        }
    }

    async fn put_parts(
        &self,
        path: &Path,
        bytes: &Bytes,
        lanes: usize,
    ) -> object_store::Result<()> {
        let mut upload = Unfinished(Some(self.client.put_multipart(path).await?));
        let Some(begun) = upload.0.as_mut() else {
            return Ok(());
        };
        let parts: Vec<_> = (0..bytes.len())
            .step_by(PART_SIZE)
            .map(|start| bytes.slice(start..bytes.len().min(start + PART_SIZE)))
            .map(|part| begun.put_part(part.into()))
            .collect();
        let mut parts = futures::stream::iter(parts).buffer_unordered(lanes.max(1));
        while let Some(part) = parts.next().await {
            part?;
        }
        drop(parts);
        begun.complete().await?;
        upload.0 = None;
        Ok(())
    }

    /// Removes an object; not an error where there is none.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key)?;
        self.retrying("delete", key, || async {
            match self.client.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) if !Answer::last().no_bucket() => Ok(()),
                other => other,
            }
        })
        .await
        .map_err(|failure| failure.error)
    }

    /// Whether the last bytes of an object can be asked for without its length, as far as is known.
    pub(crate) fn takes_suffixes(&self) -> bool {
        self.suffixes.load(Ordering::Relaxed)
    }

    /// Whether a put may depend on what is stored.
    pub(crate) fn has_conditions(&self) -> bool {
        self.conditions.load(Ordering::Relaxed)
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        let key = Path::parse(key)
            .map_err(|error| Error::invalid(format!("key {key:?} is not a path: {error}")))?;
        Ok(self.prefix.parts().chain(key.parts()).collect())
    }
}

/// An upload in parts. One that fails, or that is given up, is aborted: its parts would be kept, and paid
/// for. What even that leaves is the store's to expire.
struct Unfinished(Option<Box<dyn MultipartUpload>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// Whether an object is not the one that was expected: it has another tag, or no such range.
fn says_changed(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::Precondition { .. } | object_store::Error::NotSupported { .. }
    ) || Answer::last().status == Some(416)
}

/// Whether an object is missing: `object_store` says so of a 405 as well, and servers of the whole bucket.
fn says_missing() -> bool {
    let said = Answer::last();
    said.status.is_none_or(|status| status == 404) && !said.no_bucket()
}

/// Takes in a body of `wanted` bytes.
async fn collect(
    mut body: BoxStream<'static, object_store::Result<Bytes>>,
    wanted: u64,
) -> object_store::Result<Bytes> {
    // Most bodies come in one piece, which is not copied.
    let mut only = Bytes::new();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.transpose()? {
        let len = only.len() + bytes.len() + piece.len();
        if len as u64 > wanted {
            return Err(failed(Overlong(wanted)));
        }
        if len == piece.len() {
            only = piece;
            continue;
        }
        if bytes.is_empty() {
            let reserved = usize::try_from(wanted)
                .ok()
                .map(|len| bytes.try_reserve_exact(len));
            if !matches!(reserved, Some(Ok(()))) {
                return Err(failed(NoMemory(wanted)));
            }
            bytes.extend_from_slice(&only);
            only = Bytes::new();
        }
        bytes.extend_from_slice(&piece);
    }
    let bytes = if bytes.is_empty() { only } else { bytes.into() };
    if bytes.len() as u64 != wanted {
        return Err(failed(Truncated(bytes.len(), wanted)));
    }
    Ok(bytes)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic {
        store: "HTTP",
        source: Box::new(error),
    }
}
