//! Fixed reads and writes of the engine, for a tool that counts instructions: see `benchmarks/instructions.py`.
//!
//! ```text
//! cargo run --release --example instructions -- CASE TIMES
//! ```
//!
//! does a case so many times, one after the other, with one thread of the runtime and one of the pool. Without
//! arguments it names the cases. What a run of `TIMES + 1` takes more than one of `1` has no preparation in it.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

mod cases;
mod memory;
mod selections;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zarrs_async_core::{
    Array, Awaited, Batch, ChunkSpec, Element, Engine, Grid, Keys, Kind, Layout, Limits,
    LocalStore, Selection, Settings, Spec, Store, read, write,
};

use cases::{Case, Place, Work, cases};
use memory::{Memory, MemoryStore};
use selections::{ITEM_BYTES, whole};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, times] = &*arguments else {
        for case in cases() {
            println!("{}", case.name);
        }
        return Ok(());
    };
    let case = cases().into_iter().find(|case| case.name == name);
    let (case, times) = (case.ok_or("no such case")?, times.parse::<usize>()?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(run(&case, times))
}

async fn run(case: &Case, times: usize) -> Outcome<()> {
    let engine = Engine::new(Limits {
        threads: 1,
        requests: Some(128),
        memory_bytes: 1 << 30,
        shard_index_cache_bytes: case.index_cache_bytes,
        chunk_cache_bytes: case.chunk_cache_bytes,
        chunk_cache_recheck: Duration::ZERO,
    })?;
    let directory = tempfile::tempdir()?;
    let store = match case.place {
        Place::Memory => Store::Awaited(Awaited::Foreign(Arc::new(MemoryStore::default()))),
        Place::Local => Store::Local(Arc::new(LocalStore::new(directory.path(), false))),
    };
    let opened = open(case, &store)?;
    let nbytes = ITEM_BYTES * case.shapes.array.iter().product::<usize>();
    let (values, out) = (Memory::noise(nbytes), Memory::noise(nbytes));
    if case.is_stored {
        let all = opened.batch(&[whole(case.shapes.array)], &values)?;
        let written = write(Arc::clone(&engine), all).await;
        written.map_err(|failed| failed.error)?;
    }
    // Files that are so young that they may change unseen are not kept.
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..times {
        match &case.work {
            Work::Open(times) => {
                for _ in 0..*times {
                    open(case, &store)?;
                }
            }
            Work::Read(batches) => {
                for selections in batches {
                    let batch = opened.batch(selections, &out)?;
                    let missing = read(Arc::clone(&engine), batch).await;
                    let missing = missing.map_err(|failed| failed.error)?;
                    if missing.contains(&case.is_stored) {
                        return Err("chunks are missing, or there are some".into());
                    }
                }
            }
            Work::Write(selection) => {
                let batch = opened.batch(std::slice::from_ref(selection), &values)?;
                let written = write(Arc::clone(&engine), batch).await;
                written.map_err(|failed| failed.error)?;
            }
        }
    }
    Ok(())
}

/// What there is before the first chunk of an array is read.
struct Opened {
    array: Arc<Array>,
    spec: Arc<Spec>,
    grid: Grid,
}

fn open(case: &Case, store: &Store) -> Outcome<Opened> {
    let settings = Settings {
        chunk_concurrent_maximum: None,
        chunk_concurrent_minimum: 4,
        validate_checksums: true,
        hedge_factor: None,
    };
    let keys = Keys {
        path: String::new(),
        first: Some("c".into()),
        separator: "/".into(),
    };
    let [shape, chunk] = [case.shapes.array, case.shapes.chunk]
        .map(|shape| shape.iter().map(|size| *size as u64).collect::<Vec<_>>());
    let layout = Layout::from_v3(&case.codecs, false, &[])?;
    let array = Array::new(store.clone(), layout, "", settings);
    let spec = array.spec(ChunkSpec {
        shape: chunk.clone(),
        element: Element {
            size: ITEM_BYTES,
            kind: Kind::Bits,
            swap_unit: ITEM_BYTES,
            big_endian: false,
        },
        fill: vec![0; ITEM_BYTES],
    })?;
    Ok(Opened {
        array: Arc::new(array),
        spec: Arc::new(spec),
        grid: Grid::new(shape, chunk, keys)?,
    })
}

impl Opened {
    fn batch(&self, selections: &[Selection], memory: &Memory) -> Outcome<Batch> {
        let buffer = memory.buffer();
        Ok(Batch {
            array: Arc::clone(&self.array),
            items: self.grid.items(&self.spec, selections, &buffer.extent())?,
            buffer,
            coalesce_gap: Some(1 << 20),
            coalesce_max: 16 << 20,
            write_empty_chunks: false,
            since: Instant::now(),
        })
    }
}
