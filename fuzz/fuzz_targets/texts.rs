//! Elements of any length: a chunk or shard of them, stored, damaged, read in parts and written in part.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use zarrs_async_core::fuzzing::{place, update};
use zarrs_async_core::{Error, Selection};
use zarrs_async_fuzz::{TextMemory, TextsCase, damage, places, rest, texts, whole};

type Elements = Vec<Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    run(&mut Unstructured::new(data)).ok();
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let Some(case) = TextsCase::read(input)? else {
        return Ok(());
    };
    let rest = rest(input);
    let spec = &case.subject.spec;
    let all = whole(spec);
    let object = if case.arbitrary {
        Some(rest.to_vec())
    } else {
        let values = texts(spec.element.kind, rest, all.len());
        let Ok(mut object) = write(&case, None, &all, values.clone()) else {
            return Ok(());
        };
        assert_eq!(Some(values), read(&case, object.as_deref()));
        damage(object.as_deref_mut().unwrap_or_default(), case.edits);
        object
    };

    let old = read(&case, object.as_deref());
    let values = texts(spec.element.kind, rest, case.part.len());
    let new = match write(&case, object.as_deref(), &case.part, values.clone()) {
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
    if let Some(mut expected) = old {
        for (value, at) in values.into_iter().zip(places(&case.part, spec)) {
            expected[at / spec.element.size] = value;
        }
        assert_eq!(Some(expected), read(&case, new.as_deref()));
    }
    Ok(())
}

fn write(
    case: &TextsCase,
    existing: Option<&[u8]>,
    selection: &Selection,
    values: Elements,
) -> std::result::Result<Option<Vec<u8>>, Error> {
    let (layout, spec) = (&case.subject.layout, &case.subject.spec);
    let memory = TextMemory::new(spec.element.kind, values);
    update(
        layout,
        spec,
        existing,
        selection,
        &memory.buffer,
        case.options,
    )
}

/// The elements in C order, `None` for an error; a part of them is read as well, and must be the same.
fn read(case: &TextsCase, object: Option<&[u8]>) -> Option<Elements> {
    let spec = &case.subject.spec;
    let Some(object) = object else {
        return Some(vec![spec.fill.clone(); whole(spec).len()]);
    };
    let all = decode(case, object, &whole(spec));
    let part = decode(case, object, &case.part);
    // Of a shard, the subchunks that are read may be sound.
    if case.subject.sharding().is_none() {
        assert_eq!(all.is_some(), part.is_some());
    }
    let all = all?;
    let places = places(&case.part, spec).into_iter();
    let expected = places.map(|at| all[at / spec.element.size].clone());
    assert_eq!(Some(expected.collect()), part);
    Some(all)
}

fn decode(case: &TextsCase, object: &[u8], selection: &Selection) -> Option<Elements> {
    let (layout, spec) = (&case.subject.layout, &case.subject.spec);
    let untouched = vec![b"untouched".to_vec(); selection.len()];
    let memory = TextMemory::new(spec.element.kind, untouched);
    let outcome = place(
        layout,
        spec,
        object,
        selection,
        &memory.buffer,
        case.options,
    );
    outcome.ok().map(|()| memory.elements())
}
