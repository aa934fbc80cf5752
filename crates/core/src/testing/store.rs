//! A store in memory that notes each request, and holds or fails those that it is told to.
//!
//! Its objects are reached in two ways. Through [`foreign`](MemoryStore::foreign), answers do not say in
//! which state an object is. Through [`remote`](MemoryStore::remote) they have tags, and puts have conditions.
//!
//! A request is a line of text: `get c/0`, `get c/0 4..8`, `get c/0 last 20`, `put c/0`, `delete c/0`.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use crate::error::{Error, StoreError, StoreErrorKind};
use crate::store::{Awaited, ForeignStore, Part, RemoteStore, Store};

/// A store in memory; clones are the same store.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    objects: Arc<InMemory>,
    requests: watch::Sender<Requests>,
    place: u64,
}

/// What was asked of a store, and what it is told to do.
#[derive(Debug, Default)]
struct Requests {
    sent: Vec<String>,
    in_flight: usize,
    in_flight_max: usize,
    /// Requests that begin like this wait.
    held: Vec<String>,
    /// Requests that begin like this fail, as often as the number says.
    failing: Vec<(String, usize)>,
    /// Before requests that begin like this, the object is put again, and has another tag.
    replacing: Vec<String>,
    is_stopped: bool,
}

/// Counts a request as in flight until dropped.
struct InFlight(watch::Sender<Requests>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|requests| requests.in_flight -= 1);
    }
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        static PLACES: AtomicU64 = AtomicU64::new(1 << 32);
        Self {
            objects: Arc::default(),
            requests: watch::Sender::default(),
            place: PLACES.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(crate) fn foreign(&self) -> Store {
        Store::Awaited(Awaited::Foreign(Arc::new(self.clone())))
    }

    pub(crate) fn remote(&self) -> Store {
        let store = RemoteStore::around(Arc::new(self.clone()), self.place);
        Store::Awaited(Awaited::Remote(Arc::new(store)))
    }

    /// Puts an object as another process would.
    pub(crate) async fn set(&self, key: &str, bytes: &[u8]) {
        let payload = bytes.to_vec().into();
        self.objects.put(&Path::from(key), payload).await.unwrap();
    }

    /// Removes an object as another process would.
    pub(crate) async fn remove(&self, key: &str) {
        self.objects.delete(&Path::from(key)).await.unwrap();
    }

    /// The object; `None` where there is none.
    pub(crate) async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.objects.get(&Path::from(key)).await.ok()?;
        Some(found.bytes().await.unwrap().to_vec())
    }

    /// Makes requests that begin like this wait until they are released.
    pub(crate) fn hold(&self, request: &str) {
        self.requests
            .send_modify(|requests| requests.held.push(request.into()));
    }

    /// Lets requests that begin like this go on.
    pub(crate) fn release(&self, request: &str) {
        self.requests
            .send_modify(|requests| requests.held.retain(|held| held != request));
    }

    /// Makes the next `times` requests that begin like this fail. A put is refused for its condition.
    pub(crate) fn fail(&self, request: &str, times: usize) {
        self.requests
            .send_modify(|requests| requests.failing.push((request.into(), times)));
    }

    /// Makes another process put the same object again before each request that begins like this.
    pub(crate) fn replace_before(&self, request: &str) {
        self.requests
            .send_modify(|requests| requests.replacing.push(request.into()));
    }

    /// Stops the event loop that this store needs.
    pub(crate) fn stop(&self) {
        self.requests
            .send_modify(|requests| requests.is_stopped = true);
    }

    /// The requests that were sent.
    pub(crate) fn sent(&self) -> Vec<String> {
        self.requests.borrow().sent.clone()
    }

    /// Waits until `count` requests were sent.
    pub(crate) async fn sends(&self, count: usize) {
        let mut requests = self.requests.subscribe();
        let sent = requests.wait_for(|requests| requests.sent.len() >= count);
        sent.await.unwrap();
    }

    /// Runs a batch until `count` requests were sent.
    pub(crate) async fn sends_of<T: Debug>(
        &self,
        count: usize,
        batch: &mut (impl Future<Output = T> + Unpin),
    ) {
        tokio::select! {
            biased;
            () = self.sends(count) => {}
            ended = batch => panic!("ended with {ended:?}"),
        }
    }

    /// Requests without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.borrow().in_flight
    }

    /// The most that [`Self::in_flight`] has been.
    pub(crate) fn in_flight_max(&self) -> usize {
        self.requests.borrow().in_flight_max
    }

    /// Notes a request and waits while it is held; fails where it is to fail.
    async fn send(&self, request: String) -> Result<InFlight, Refused> {
        let begins = |prefix: &String| request.starts_with(prefix.as_str());
        self.requests.send_modify(|requests| {
            requests.sent.push(request.clone());
            requests.in_flight += 1;
            requests.in_flight_max = requests.in_flight_max.max(requests.in_flight);
        });
        let in_flight = InFlight(self.requests.clone());
        let mut state = self.requests.subscribe();
        let is_free = |requests: &Requests| !requests.held.iter().any(begins);
        state.wait_for(is_free).await.map_err(|_| Refused)?;
        if self.requests.borrow().replacing.iter().any(begins) {
            let key = request.split(' ').nth(1).unwrap_or_default();
            let object = self.object(key).await.unwrap_or_default();
            self.set(key, &object).await;
        }
        let mut refused = false;
        self.requests.send_modify(|requests| {
            let mut failing = requests.failing.iter_mut();
            if let Some((_, times)) = failing.find(|(prefix, times)| *times > 0 && begins(prefix)) {
                *times -= 1;
                refused = true;
            }
        });
        if refused { Err(Refused) } else { Ok(in_flight) }
    }
}

/// A request that the store was told to fail.
#[derive(Debug, thiserror::Error)]
#[error("refused, as told")]
struct Refused;

impl Refused {
    fn of(operation: &'static str, key: &str) -> Error {
        StoreError {
            kind: StoreErrorKind::Other,
            operation,
            key: key.into(),
            store: "memory".into(),
            status: None,
            attempts: 1,
            reason: "refused, as told".into(),
            source: None,
        }
        .into()
    }
}

fn get_line(key: &str, range: Option<&GetRange>) -> String {
    match range {
        None => format!("get {key}"),
        Some(GetRange::Bounded(range)) => format!("get {key} {}..{}", range.start, range.end),
        Some(GetRange::Suffix(len)) => format!("get {key} last {len}"),
        Some(GetRange::Offset(start)) => format!("get {key} {start}.."),
    }
}

impl ForeignStore for MemoryStore {
    fn place(&self) -> u64 {
        self.place
    }

    fn scope(&self) -> u64 {
        self.place
    }

    fn name(&self) -> String {
        "memory".into()
    }

    fn get(&self, key: &str, range: Part) -> BoxFuture<'static, Result<Option<Bytes>, Error>> {
        let (store, key) = (self.clone(), key.to_owned());
        let range = match range {
            Part::Whole => None,
            Part::Range(range) => Some(GetRange::Bounded(range)),
            Part::Suffix(len) => Some(GetRange::Suffix(len)),
        };
        async move {
            let sent = store.send(get_line(&key, range.as_ref())).await;
            let _in_flight = sent.map_err(|_| Refused::of("get", &key))?;
            let options = GetOptions {
                range,
                ..GetOptions::default()
            };
            match store.objects.get_opts(&Path::from(key), options).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                found => Ok(Some(found.unwrap().bytes().await.unwrap())),
            }
        }
        .boxed()
    }

    fn put(&self, key: &str, bytes: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let (store, key) = (self.clone(), key.to_owned());
        async move {
            let sent = store.send(format!("put {key}")).await;
            let _in_flight = sent.map_err(|_| Refused::of("put", &key))?;
            store.set(&key, &bytes).await;
            Ok(())
        }
        .boxed()
    }

    fn delete(&self, key: &str) -> BoxFuture<'static, Result<(), Error>> {
        let (store, key) = (self.clone(), key.to_owned());
        async move {
            let sent = store.send(format!("delete {key}")).await;
            let _in_flight = sent.map_err(|_| Refused::of("delete", &key))?;
            store.objects.delete(&Path::from(key)).await.unwrap();
            Ok(())
        }
        .boxed()
    }

    fn is_running(&self) -> BoxFuture<'static, bool> {
        let runs = !self.requests.borrow().is_stopped;
        async move { runs }.boxed()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait::async_trait]
impl ObjectStore for MemoryStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let sent = self.send(format!("put {location}")).await;
        let _in_flight = sent.map_err(|refused| object_store::Error::Precondition {
            path: location.to_string(),
            source: refused.into(),
        })?;
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let line = get_line(location.as_ref(), options.range.as_ref());
        let _in_flight =
            self.send(line)
                .await
                .map_err(|refused| object_store::Error::PermissionDenied {
                    path: location.to_string(),
                    source: refused.into(),
                })?;
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let noted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                store.send(format!("delete {location}")).await.ok();
                Ok(location)
            }
        });
        self.objects.delete_stream(noted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
