//! Throughput of the text stage on 7 MB of compiler output.
//!
//! The text is what gcc makes of `testdata/bench/sample.c`, over and over; as in a kernel's own
//! files, a few lines in a thousand are sites. `scripts/bench` holds the same text against the
//! assembler.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use annotate::text::{Options, annotate};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LENGTH: usize = 7_000_000;

/// At least [`LENGTH`] bytes of compiler output.
fn compiler_output() -> Vec<u8> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/bench/sample.c");
    let output = Command::new("gcc").args(["-O2", "-S", "-o", "-"]).arg(&sample).output().expect("gcc starts");
    assert!(output.status.success(), "gcc: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.repeat(LENGTH.div_ceil(output.stdout.len()))
}

fn text_stage(criterion: &mut Criterion) {
    let text = compiler_output();
    let options = Options { objtool_hints: true, ..Options::default() };
    let mut group = criterion.benchmark_group("text stage");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.sample_size(20);
    group.bench_function("find", |bencher| bencher.iter(|| annotate(black_box(&text), &options).is_changed()));
    group.bench_function("find and write", |bencher| {
        let mut annotated = Vec::with_capacity(text.len() * 2);
        bencher.iter(|| {
            annotated.clear();
            annotate(black_box(&text), &options).write_to("sample.s", &mut annotated).expect("memory takes it");
            annotated.len()
        });
    });
    group.finish();
}

criterion_group!(benches, text_stage);
criterion_main!(benches);
