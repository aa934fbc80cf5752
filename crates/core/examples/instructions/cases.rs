//! The cases: arrays of 16-bit numbers, and what is done to them. A name has its counts in one run.

use serde_json::{Value, json};
use zarrs_async_core::Selection;

use crate::selections::{Steps, part, points, whole};

/// An array, and what is done to it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) codecs: Value,
    pub(crate) shapes: Shapes,
    /// Whether there are chunks.
    pub(crate) is_stored: bool,
    pub(crate) index_cache_bytes: usize,
    pub(crate) chunk_cache_bytes: usize,
    pub(crate) work: Work,
}

/// Where the chunks are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Memory,
    Local,
}

/// Elements along each axis of an array, and of its chunks or shards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shapes {
    pub(crate) array: &'static [usize],
    pub(crate) chunk: &'static [usize],
}

/// What a run does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Opens the array, so many times.
    Open(usize),
    /// Reads these batches, one after the other.
    Read(Vec<Vec<Selection>>),
    /// Writes this selection.
    Write(Selection),
}

/// All cases, in the order of the table.
pub(crate) fn cases() -> Vec<Case> {
    [reads_of_chunks(), reads_of_shards(), writes()].concat()
}

fn reads_of_chunks() -> Vec<Case> {
    let (small, missing) = (shapes(&[6400], &[64]), shapes(&[64_000], &[64]));
    let slabs = shapes(&CUBE, &[8, 64, 64]);
    let one_by_one = (0..100).map(|at| vec![part(&[(at * 64, 1, 64)])]).collect();
    vec![
        case(
            "read 100 small files",
            LOCAL,
            raw(),
            small,
            Work::Read(one_by_one),
        ),
        case("read 64 files at once", LOCAL, raw(), FILES, all(FILES)),
        case("read 64 objects at once", MEMORY, raw(), FILES, all(FILES)),
        Case {
            is_stored: false,
            ..case(
                "read 1,000 missing objects",
                MEMORY,
                raw(),
                missing,
                all(missing),
            )
        },
        case(
            "read a box of 27 chunks",
            LOCAL,
            raw(),
            BRICKS,
            read(part(&BOX)),
        ),
        Case {
            chunk_cache_bytes: 1 << 20,
            ..case(
                "read a box of 27 kept chunks",
                LOCAL,
                raw(),
                BRICKS,
                read(part(&BOX)),
            )
        },
        case(
            "read every second element",
            LOCAL,
            raw(),
            ONE,
            read(part(&[(0, 2, 32); 3])),
        ),
        case(
            "read 4,096 points of 8 chunks",
            LOCAL,
            raw(),
            slabs,
            read(points(&CUBE, 4096)),
        ),
        case("read 8 chunks of zstd", LOCAL, zstd(), EIGHT, all(EIGHT)),
        case("read 8 chunks of Blosc", LOCAL, blosc(), EIGHT, all(EIGHT)),
    ]
}

fn reads_of_shards() -> Vec<Case> {
    let (eights, fours) = (shards(&[8; 3], &raw()), shards(&[4; 3], &raw()));
    let line = shapes(&[64 * 2048], &[64 * 2048]);
    // All are read to one place.
    let rows = (0..256).map(|at| part(&[(at * 7919 % 2048 * 64, 1, 64)]));
    vec![
        case(
            "open 100 arrays",
            LOCAL,
            eights.clone(),
            ONE,
            Work::Open(100),
        ),
        case(
            "read a shard of 512 subchunks",
            LOCAL,
            eights,
            ONE,
            all(ONE),
        ),
        case(
            "read 256 rows of one shard",
            LOCAL,
            shards(&[512], &raw()),
            line,
            Work::Read(vec![rows.collect()]),
        ),
        Case {
            index_cache_bytes: 0,
            ..case(
                "read an index of 4,096 entries",
                MEMORY,
                fours,
                ONE,
                read(part(&[(8, 1, 4); 3])),
            )
        },
    ]
}

fn writes() -> Vec<Case> {
    let compressed = shards(&[8; 3], &zstd());
    vec![
        case(
            "write 64 objects at once",
            MEMORY,
            raw(),
            FILES,
            Work::Write(whole(FILES.array)),
        ),
        case(
            "write a box of 27 chunks",
            LOCAL,
            raw(),
            BRICKS,
            Work::Write(part(&BOX)),
        ),
        case(
            "write a box of a shard",
            LOCAL,
            compressed,
            ONE,
            Work::Write(part(&BOX)),
        ),
    ]
}

const LOCAL: Place = Place::Local;
const MEMORY: Place = Place::Memory;
const CUBE: [usize; 3] = [64; 3];
const FILES: Shapes = shapes(&[64 * 2048], &[2048]);
const BRICKS: Shapes = shapes(&CUBE, &[16; 3]);
const EIGHT: Shapes = shapes(&CUBE, &[32; 3]);
const ONE: Shapes = shapes(&CUBE, &CUBE);
/// A box that no boundary of chunks or subchunks is aligned with.
const BOX: [Steps; 3] = [(11, 1, 32); 3];

const fn shapes(array: &'static [usize], chunk: &'static [usize]) -> Shapes {
    Shapes { array, chunk }
}

fn case(name: &'static str, place: Place, codecs: Value, shapes: Shapes, work: Work) -> Case {
    Case {
        name,
        place,
        codecs,
        shapes,
        is_stored: true,
        index_cache_bytes: 1 << 20,
        chunk_cache_bytes: 0,
        work,
    }
}

fn all(shapes: Shapes) -> Work {
    read(whole(shapes.array))
}

fn read(selection: Selection) -> Work {
    Work::Read(vec![vec![selection]])
}

fn raw() -> Value {
    json!([{"name": "bytes", "configuration": {"endian": "little"}}])
}

fn zstd() -> Value {
    compressed("zstd", &json!({"level": 1, "checksum": false}))
}

fn blosc() -> Value {
    let options =
        json!({"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0});
    compressed("blosc", &options)
}

fn compressed(name: &str, configuration: &Value) -> Value {
    json!([raw()[0], {"name": name, "configuration": configuration}])
}

fn shards(subchunk: &[usize], codecs: &Value) -> Value {
    json!([{"name": "sharding_indexed", "configuration": {
        "chunk_shape": subchunk, "codecs": codecs, "index_codecs": [raw()[0], {"name": "crc32c"}]}}])
}
