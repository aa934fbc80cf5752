//! How much of a large batch's CPU time its own task takes, the one that polls all of its units.
//!
//! ```text
//! cargo run --release --example batch_task -- URL CHUNKS BYTES [THREADS]
//! ```
//!
//! reads `CHUNKS` objects of `BYTES` bytes, `URL/c/0` and so on, five times, with as many threads of the runtime
//! and of the pool. Prints the CPU time of the process, and how much of it was spent in polls of the batch.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use zarrs_async_core::{
    Array, Awaited, Axis, Batch, ChunkSpec, Element, Engine, Item, Kind, Layout, Limits, OutBuffer,
    Positions, RemoteConfig, RemoteKind, Selection, Settings, Store, read,
};

/// A future, and the CPU time of the threads that poll it while they do.
struct Timed<F> {
    inner: Pin<Box<F>>,
    polls: u32,
    spent: Duration,
}

impl<F: Future> Future for Timed<F> {
    type Output = (F::Output, u32, Duration);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before = clock(ClockId::ThreadCPUTime);
        let polled = self.inner.as_mut().poll(context);
        self.polls += 1;
        self.spent += clock(ClockId::ThreadCPUTime).saturating_sub(before);
        polled.map(|output| (output, self.polls, self.spent))
    }
}

fn clock(id: ClockId) -> Duration {
    clock_gettime(id).try_into().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, chunks, nbytes, rest @ ..] = &*arguments else {
        return Err("URL CHUNKS BYTES [THREADS]".into());
    };
    let (chunks, nbytes) = (chunks.parse::<usize>()?, nbytes.parse::<usize>()?);
    let threads = rest.first().map_or(Ok(2), |threads| threads.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let engine = Engine::new(Limits {
        threads,
        requests: None,
        memory_bytes: 1 << 30,
        shard_index_cache_bytes: 0,
        chunk_cache_bytes: 0,
        chunk_cache_recheck: std::time::Duration::ZERO,
    })?;
    let store = Store::Awaited(Awaited::Remote(engine.remote(&config(url))?));
    let codecs = serde_json::json!([{"name": "bytes"}]);
    let settings = Settings {
        chunk_concurrent_maximum: None,
        chunk_concurrent_minimum: 4,
        validate_checksums: true,
        hedge_factor: None,
    };
    let layout = Layout::from_v3(&codecs, false, &[])?;
    let array = Arc::new(Array::new(store, layout, "", settings));
    let mut memory = vec![0; chunks * nbytes];
    for _ in 0..5 {
        let batch = whole(&array, chunks, nbytes, &mut memory)?;
        let engine = Arc::clone(&engine);
        let (began, used) = (Instant::now(), clock(ClockId::ProcessCPUTime));
        let timed = Timed {
            inner: Box::pin(read(engine, batch)),
            polls: 0,
            spent: Duration::ZERO,
        };
        let (outcome, polls, spent) = runtime.block_on(runtime.spawn(timed))?;
        let used = clock(ClockId::ProcessCPUTime).saturating_sub(used);
        let missing = outcome.map_err(|failed| failed.error)?;
        println!(
            "{:?}, {used:?} of CPU, {spent:?} in {polls} polls of the batch: {:.0} %; {} missing",
            began.elapsed(),
            100.0 * spent.as_secs_f64() / used.as_secs_f64(),
            missing.iter().filter(|missing| **missing).count(),
        );
    }
    Ok(())
}

fn config(url: &str) -> RemoteConfig {
    RemoteConfig {
        kind: RemoteKind::Http,
        url: url.to_owned(),
        prefix: String::new(),
        options: Vec::new(),
        client_options: vec![("allow_http".to_owned(), "true".to_owned())],
        headers: Vec::new(),
        environment: Vec::new(),
        max_retries: None,
        retry_timeout_ms: None,
        backoff_ms: None,
    }
}

/// A batch of all bytes of all chunks.
fn whole(
    array: &Arc<Array>,
    chunks: usize,
    nbytes: usize,
    memory: &mut [u8],
) -> Result<Batch, Box<dyn std::error::Error>> {
    let element = Element {
        size: 1,
        kind: Kind::Bits,
        swap_unit: 1,
        big_endian: false,
    };
    let spec = Arc::new(array.spec(ChunkSpec {
        shape: vec![nbytes as u64],
        element,
        fill: vec![0],
    })?);
    let end = i64::try_from(memory.len())?;
    // SAFETY: the caller keeps the memory, and leaves it alone, until the batch has ended.
    #[expect(unsafe_code, reason = "the engine writes where its caller says")]
    let buffer = unsafe { OutBuffer::new(memory.as_mut_ptr(), 0..end, Box::new(())) };
    let all = |start| Positions::Range {
        start,
        step: 1,
        len: nbytes,
    };
    let items = (0..chunks).map(|chunk| {
        Ok(Item {
            key: format!("c/{chunk}").into(),
            spec: Arc::clone(&spec),
            selections: [Selection::Grid {
                axes: vec![Axis {
                    chunk: all(0),
                    out: all(0),
                }],
                base: i64::try_from(chunk * nbytes)?,
            }]
            .into(),
            complete: true,
        })
    });
    Ok(Batch {
        array: Arc::clone(array),
        items: items.collect::<Result<_, std::num::TryFromIntError>>()?,
        buffer: Arc::new(buffer),
        coalesce_gap: Some(0),
        coalesce_max: 0,
        write_empty_chunks: false,
        since: Instant::now(),
    })
}
