//! A partial write of a shard: an error, or a shard in which what was not selected is as before.

#![no_main]

use std::ops::Range;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use zarrs_async_core::fuzzing::{Index, Options, index_of, max_encoded, place, update};
use zarrs_async_core::{Error, Kind, Selection};
use zarrs_async_fuzz::{
    Memory, Subject, UpdateCase, cycled, damage, places, rest, subchunks, whole,
};

fuzz_target!(|data: &[u8]| {
    run(&mut Unstructured::new(data)).ok();
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let Some(case) = UpdateCase::read(input)? else {
        return Ok(());
    };
    let rest = rest(input);
    let existing = if case.arbitrary {
        Some(rest.to_vec())
    } else {
        let Ok(existing) = stored(&case, rest) else {
            return Ok(());
        };
        existing
    };

    let UpdateCase {
        subject,
        options,
        written,
        values,
        ..
    } = &case;
    let spec = &subject.spec;
    let old = read(subject, existing.as_deref(), *options);
    let new = match write(subject, existing.as_deref(), written, values, *options) {
        Ok(new) => new,
        Err(error) => {
            // What reads is good enough to be written to.
            assert!(
                old.is_none() || matches!(error, Error::Encode { .. }),
                "{error}"
            );
            return Ok(());
        }
    };
    check_untouched(&case, existing.as_deref(), new.as_deref());
    let Some(mut expected) = old.filter(|_| subject.exact) else {
        return Ok(());
    };
    let size = spec.element.size;
    for (value, at) in values.chunks(size).zip(places(written, spec)) {
        expected[at..at + size].copy_from_slice(value);
    }
    let after = read(subject, new.as_deref(), *options).unwrap();
    // A chunk that is not stored may have held another NaN, or another zero.
    if options.write_empty || spec.element.kind == Kind::Bits {
        assert_eq!(expected, after);
    }
    Ok(())
}

/// A shard with some values, and some damage.
fn stored(case: &UpdateCase, values: &[u8]) -> std::result::Result<Option<Vec<u8>>, Error> {
    let size = case.subject.spec.element.size;
    let values = cycled(values, case.before.len() * size);
    let mut shard = write(&case.subject, None, &case.before, &values, case.options)?;
    damage(shard.as_deref_mut().unwrap_or_default(), case.edits);
    Ok(shard)
}

fn write(
    subject: &Subject,
    existing: Option<&[u8]>,
    selection: &Selection,
    values: &[u8],
    options: Options,
) -> std::result::Result<Option<Vec<u8>>, Error> {
    let Subject { layout, spec, .. } = subject;
    let memory = Memory::new(values);
    let shard = update(layout, spec, existing, selection, &memory.buffer, options)?;
    if let Some(shard) = &shard {
        assert!(shard.len() as u64 <= max_encoded(layout, spec));
    }
    Ok(shard)
}

/// All of the shard in C order; `None` for an error.
fn read(subject: &Subject, shard: Option<&[u8]>, options: Options) -> Option<Vec<u8>> {
    let Subject { layout, spec, .. } = subject;
    let nbytes = spec.nbytes()?;
    let Some(shard) = shard else {
        return Some(cycled(&spec.fill, nbytes));
    };
    let memory = Memory::new(&vec![0xee; nbytes]);
    let all = whole(spec);
    place(layout, spec, shard, &all, &memory.buffer, options).ok()?;
    Some(memory.bytes())
}

/// The encoded bytes of subchunks that hold nothing of the selection are those of before.
fn check_untouched(case: &UpdateCase, old: Option<&[u8]>, new: Option<&[u8]>) {
    let (subject, options) = (&case.subject, case.options);
    let sharding = subject.sharding().unwrap();
    let touched = subchunks(&case.written, sharding, &subject.spec);
    let count = sharding.grid(&subject.spec).iter().product::<u64>() as usize;
    for at in (0..count).filter(|at| !touched.contains(at)) {
        let bytes = |shard: Option<&[u8]>| -> Option<Vec<u8>> {
            let shard = shard?;
            let index = index_of(sharding, &subject.spec, shard).unwrap();
            let validate = options.validate_checksums;
            let size = shard.len() as u64;
            let index = Index::decode(sharding, &subject.spec, index, size, validate).unwrap();
            let Range { start, end } = index.ranges()[at].clone()?;
            Some(shard[start as usize..end as usize].to_vec())
        };
        assert_eq!(bytes(old), bytes(new));
    }
}
