//! Files that allege more than they hold, read with little memory.

mod support;

use std::fmt::Write as _;

use support::{AFTERBURNER, Lab, Result};

/// Address space for a command, in KB. A plain `verify` takes a fifth of it.
const MEMORY: &str = "262144";

/// Runs a command that may take no more memory than that.
fn limited(lab: &Lab, arguments: &[&str]) -> Result {
    let script = format!("ulimit -v {MEMORY} && exec \"$0\" \"$@\"");
    lab.run("sh", &[&["-c", &script, AFTERBURNER], arguments].concat())
}

/// The object with `count` more headers of the section that lies at a place in the table.
fn with_headers(data: &[u8], index: usize, count: usize) -> Vec<u8> {
    const SIZE: usize = 64;
    let offset = usize::try_from(u64::from_le_bytes(data[0x28..0x30].try_into().unwrap())).unwrap();
    let number = usize::from(u16::from_le_bytes(data[0x3c..0x3e].try_into().unwrap()));
    let table = data[offset..offset + number * SIZE].to_vec();
    let mut forged = data.to_vec();
    forged[0x28..0x30].copy_from_slice(&(data.len() as u64).to_le_bytes());
    forged[0x3c..0x3e].copy_from_slice(&u16::try_from(number + count).unwrap().to_le_bytes());
    forged.extend(&table);
    forged.extend(table[index * SIZE..][..SIZE].repeat(count));
    forged
}

#[test]
fn three_thousand_headers_of_one_section_are_refused() {
    let lab = Lab::with(&[("in.s", format!("f: {}", "cli\n\tcall g\n".repeat(2000)).as_bytes())]);
    lab.afterburner(&["as", "in.s", "-o", "in.o"]).silent_success();
    let data = lab.read("in.o");
    let sections = usize::from(u16::from_le_bytes(data[0x3c..0x3e].try_into().unwrap()));
    let mut refused = 0;
    for index in 1..sections {
        lab.write("forged.o", with_headers(&data, index, 3000));
        for arguments in [
            &["verify", "forged.o"] as &[&str],
            &["sites", "forged.o"],
            &["compare", "in.o", "forged.o"],
            &["compare", "forged.o", "in.o"],
        ] {
            let result = limited(&lab, arguments);
            // .data and .bss are empty.
            if result.status.code() == Some(2) {
                assert!(result.stderr.contains("share bytes of the file"), "{index}, {arguments:?}: {result:?}");
                refused += 1;
            } else {
                assert!(matches!(result.status.code(), Some(0 | 1)), "{index}, {arguments:?}: {result:?}");
            }
        }
    }
    assert_eq!(refused, 4 * (sections - 1 - 2), "all but .data and .bss");
}

#[test]
fn a_large_object_is_read_in_little_memory() {
    let mut text = String::from("\t.type f,@function\nf:\n");
    for number in 0..30_000 {
        let _ = writeln!(text, "s{number}: cli\n\tje f\n\tcall g\n\tmovl $s{number}, %eax\n\t.nops 3");
    }
    let lab = Lab::with(&[("in.s", text.as_bytes())]);
    lab.run("as", &["in.s", "-o", "plain.o"]).silent_success();
    lab.afterburner(&["as", "in.s", "-o", "in.o"]).silent_success();
    assert!(lab.read("in.o").len() > 3 << 20);
    assert!(limited(&lab, &["verify", "in.o"]).success().stdout.contains("30000 sites"));
    limited(&lab, &["compare", "plain.o", "in.o"]).success();
}

#[test]
fn a_bomb_among_debug_sections_ends_with_a_message() {
    let lab = Lab::with(&[("in.s", "\tcli\n".as_bytes()), ("zeros", &vec![0; 64 << 20])]);
    lab.afterburner(&["as", "-g", "in.s", "-o", "in.o"]).silent_success();
    for format in ["zlib", "zlib-gnu", "zstd"] {
        lab.run("objcopy", &["--add-section=.debug_str_offsets=zeros", "in.o", "large.o"]).silent_success();
        lab.run("objcopy", &[&format!("--compress-debug-sections={format}"), "large.o", "bomb.o"]).silent_success();
        assert!(lab.read("bomb.o").len() < 1 << 18, "{format}");
        let result = limited(&lab, &["sites", "bomb.o", "--by", "line"]).success();
        assert!(
            result.stderr.contains("it is alleged to decompress to far more than such a file can hold"),
            "{format}: {result:?}"
        );
        assert!(result.stdout.contains("(unknown)"), "{format}: {result:?}");
    }
}
