//! Writes inputs to begin with: well-formed chunks, indexes, shards and metadata of many kinds.
//!
//! Random bytes are read as the settings of a case; what a target reads after them is made to fit.

use std::path::{Path, PathBuf};
use std::{env, fs};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::json;
use zarrs_async_core::fuzzing::{Options, index_of, update};
use zarrs_async_fuzz::{
    DecodeCase, IndexCase, Memory, Subject, TextMemory, TextsCase, UpdateCase, cycled, whole,
};

/// How many are tried for each target; those that fit no array are left out.
const TRIES: u64 = 400;
/// Empty chunks are stored too.
const ALL: Options = Options {
    validate_checksums: true,
    write_empty: true,
    parallel: false,
};

fn main() {
    let folder = PathBuf::from(env::args_os().nth(1).expect("a folder"));
    for (target, seed) in [
        (
            "decode",
            decode as fn(&mut Unstructured<'_>) -> Result<Option<Seed>>,
        ),
        ("index", index),
        ("update", update_),
        ("texts", texts),
        ("metadata", metadata),
    ] {
        for number in 0..TRIES {
            let settings = random(number);
            let mut input = Unstructured::new(&settings);
            if let Ok(Some(seed)) = seed(&mut input) {
                let read = settings.len() - input.len();
                let bytes = match seed {
                    Seed::After(bytes) => [&settings[..read], &bytes].concat(),
                    Seed::Alone(bytes) => bytes,
                };
                write(&folder.join(target), number, &bytes);
            }
        }
    }
    for (number, compressor) in [
        json!(null),
        json!({"id": "zstd", "level": 0}),
        json!({"id": "gzip", "level": 1}),
        json!({"id": "zlib", "level": 1}),
        json!({"id": "bz2", "level": 1}),
        json!({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": -1, "blocksize": 0}),
    ]
    .into_iter()
    .enumerate()
    {
        let metadata = json!({
            "compressor": compressor, "order": "F", "data_type": "int32"});
        let number = TRIES + number as u64;
        write(
            &folder.join("metadata"),
            number,
            metadata.to_string().as_bytes(),
        );
    }
}

enum Seed {
    /// Follows the settings.
    After(Vec<u8>),
    Alone(Vec<u8>),
}

fn decode(input: &mut Unstructured<'_>) -> Result<Option<Seed>> {
    let case = DecodeCase::read(input)?;
    Ok(case.and_then(|case| object(&case.subject)).map(Seed::After))
}

fn index(input: &mut Unstructured<'_>) -> Result<Option<Seed>> {
    let case = IndexCase::read(input)?;
    Ok(case.and_then(|IndexCase { subject, .. }| {
        let shard = object(&subject)?;
        let index = index_of(subject.sharding()?, &subject.spec, &shard).ok()?;
        Some(Seed::After(index.to_vec()))
    }))
}

fn update_(input: &mut Unstructured<'_>) -> Result<Option<Seed>> {
    let case = UpdateCase::read(input)?;
    Ok(case.and_then(|case| object(&case.subject)).map(Seed::After))
}

fn texts(input: &mut Unstructured<'_>) -> Result<Option<Seed>> {
    let case = TextsCase::read(input)?;
    Ok(case.and_then(|TextsCase { subject, .. }| {
        let (spec, all) = (&subject.spec, whole(&subject.spec));
        let texts = zarrs_async_fuzz::texts(spec.element.kind, b"a,text,,\xe2\x82\xac", all.len());
        let memory = TextMemory::new(spec.element.kind, texts);
        let stored = update(&subject.layout, spec, None, &all, &memory.buffer, ALL);
        stored.ok()?.map(Seed::After)
    }))
}

fn metadata(input: &mut Unstructured<'_>) -> Result<Option<Seed>> {
    let subject = if input.ratio(1, 2)? {
        DecodeCase::read(input)?.map(|case| case.subject)
    } else {
        IndexCase::read(input)?.map(|case| case.subject)
    };
    Ok(subject.map(|subject| Seed::Alone(subject.metadata.to_string().into_bytes())))
}

/// An encoded chunk or shard, all of it stored; `None` where a codec refuses the data type.
fn object(subject: &Subject) -> Option<Vec<u8>> {
    let Subject { layout, spec, .. } = subject;
    let values = cycled(&random(7), spec.nbytes()?);
    let memory = Memory::new(&values);
    update(layout, spec, None, &whole(spec), &memory.buffer, ALL).ok()?
}

/// The same bytes for a number each time (SplitMix64).
fn random(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    words.take(16).flat_map(u64::to_le_bytes).collect()
}

fn write(folder: &Path, number: u64, bytes: &[u8]) {
    fs::create_dir_all(folder).expect("a folder that can be made");
    fs::write(folder.join(number.to_string()), bytes).expect("a file that can be written");
}
