//! A chunk: what is encoded decodes to the same, and damaged or arbitrary bytes are an error or a chunk.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use zarrs_async_core::fuzzing::{Options, max_encoded, place, update};
use zarrs_async_fuzz::{DecodeCase, Memory, Subject, cycled, places, rest, whole};

fuzz_target!(|data: &[u8]| {
    run(&mut Unstructured::new(data)).ok();
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let Some(case) = DecodeCase::read(input)? else {
        return Ok(());
    };
    let DecodeCase {
        subject, options, ..
    } = &case;
    if case.arbitrary {
        decode(&case, rest(input));
        return Ok(());
    }
    let cut: u16 = input.arbitrary()?;
    let edits: [(u16, u8); 2] = input.arbitrary()?;
    let nbytes = subject.spec.nbytes().unwrap();
    let values = cycled(rest(input), nbytes);
    let Some(encoded) = encode(subject, &values, *options) else {
        return Ok(());
    };
    let decoded = decode(&case, &encoded);
    if subject.exact {
        assert_eq!(Some(&values), decoded.as_ref());
    }

    let mut damaged = encoded.clone();
    for (at, bits) in edits {
        let len = damaged.len().max(1);
        if let Some(byte) = damaged.get_mut(usize::from(at) % len) {
            *byte ^= bits;
        }
    }
    if cut > u16::MAX / 2 {
        damaged.truncate(usize::from(cut) % (damaged.len() + 1));
    }
    if damaged != encoded {
        let decoded = decode(&case, &damaged);
        // CRC32C finds every error within 32 bits, and every two wrong bits at this length.
        let within = edits[0].0.abs_diff(edits[1].0) < 4 && damaged.len() == encoded.len();
        if subject.checked && options.validate_checksums && within {
            assert_eq!(None, decoded);
        }
    }
    Ok(())
}

fn encode(subject: &Subject, values: &[u8], options: Options) -> Option<Vec<u8>> {
    let Subject { layout, spec, .. } = subject;
    let all = whole(spec);
    let options = Options {
        write_empty: true,
        ..options
    };
    let memory = Memory::new(values);
    let encoded = update(layout, spec, None, &all, &memory.buffer, options);
    // A codec may refuse a number of bytes that its elements do not divide.
    let encoded = encoded.ok()?.unwrap();
    assert!(encoded.len() as u64 <= max_encoded(layout, spec));
    Some(encoded)
}

/// The chunk in C order; a part of it is decoded as well, and must be the same.
fn decode(case: &DecodeCase, encoded: &[u8]) -> Option<Vec<u8>> {
    let Subject { layout, spec, .. } = &case.subject;
    let (part, options) = (&case.part, case.options);
    let size = spec.element.size;
    let all = whole(spec);
    let memory = Memory::new(&vec![0xee; spec.nbytes().unwrap()]);
    let outcome = place(layout, spec, encoded, &all, &memory.buffer, options);
    let decoded = memory.bytes();

    let some = Memory::new(&vec![0xee; part.len() * size]);
    let again = place(layout, spec, encoded, part, &some.buffer, options);
    // Damage may be where only the whole is decoded.
    outcome.ok()?;
    again.unwrap();
    let expected: Vec<u8> = places(part, spec)
        .into_iter()
        .flat_map(|at| &decoded[at..at + size])
        .copied()
        .collect();
    assert_eq!(expected, some.bytes());
    Some(decoded)
}
