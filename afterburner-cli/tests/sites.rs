//! `afterburner sites`: counts, and every site by itself.

mod support;

use serde_json::{Value, json};
use support::Lab;

const SOURCE: &str = "\
\t.globl f
\t.type f, @function
f:
\tnop
\tcli
\tpushfq
\tpopq %rax
\tret
\t.size f, .-f
\t.section .init.text,\"ax\"
\tsti
\t.code32
\tclts
";

/// A padded object, its debug information compressed or not.
fn lab(options: &[&str]) -> Lab {
    let lab = Lab::with(&[("in.s", SOURCE.as_bytes())]);
    lab.afterburner(&[&["as", "-g", "in.s", "-o", "in.o"], options].concat()).silent_success();
    lab
}

fn listing(lab: &Lab, arguments: &[&str]) -> Value {
    let result = lab.afterburner(&[&["sites", "--json"], arguments].concat()).success();
    serde_json::from_str(&result.stdout).expect("JSON")
}

#[test]
fn json_lists_every_site() {
    let lab = lab(&[]);
    let site = |section: &str, address: &str, class: &str, lengths: [u8; 2], line: u32| {
        let (flags, function) = match section {
            ".text" => (json!([]), json!("f")),
            _ => (json!(["INIT"]), Value::Null),
        };
        let offset =
            if section == ".text" { json!(u64::from_str_radix(&address[2..], 16).unwrap()) } else { Value::Null };
        json!({
            "section": section, "address": address, "class": class, "length": lengths[0], "slot": lengths[1],
            "flags": flags, "reason": null, "function": function, "function_offset": offset, "source_file": "in.s", "line": line,
        })
    };
    let mut expected = [
        site(".text", "0x1", "cli", [1, 7], 5),
        site(".text", "0x8", "pushf;pop", [2, 7], 6),
        site(".init.text", "0x0", "sti", [1, 5], 11),
        site(".init.text", "0x5", "clts", [2, 2], 13),
    ];
    expected[3]["flags"] = json!(["INIT", "CODE32"]);
    expected[3]["reason"] = json!("16- or 32-bit code");
    for by in ["class", "function", "file", "line"] {
        let mut listing = listing(&lab, &["in.o", "--by", by]);
        for site in listing["sites"].as_array_mut().expect("sites") {
            let file = site["source_file"].as_str().expect("a file").rsplit('/').next().map(str::to_owned);
            site["source_file"] = json!(file);
        }
        assert_eq!(listing["sites"], json!(expected), "by {by}");
        assert_eq!(listing["by"], by);
        assert_eq!(listing["file"], "in.o");
        assert_eq!(listing["pad_bytes"], 6 + 5 + 4);
        let counted: u64 =
            listing["rows"].as_array().expect("rows").iter().map(|row| row["sites"].as_u64().unwrap()).sum();
        assert_eq!(counted, 4);
    }
}

#[test]
fn addresses_of_a_linked_file_are_virtual() {
    let lab = lab(&[]);
    lab.run("ld", &["-e", "f", "-Ttext=0xffffffff81000000", "in.o", "-o", "linked"]).silent_success();
    let sites = listing(&lab, &["linked"])["sites"].clone();
    assert_eq!(sites[0]["address"], "0xffffffff81000001");
    assert_eq!(sites[0]["line"], 5);
}

#[test]
fn a_site_without_debug_information_has_no_line() {
    let lab = Lab::with(&[("in.s", SOURCE.as_bytes())]);
    lab.afterburner(&["as", "in.s", "-o", "in.o"]).silent_success();
    let sites = listing(&lab, &["in.o"])["sites"].clone();
    assert_eq!(sites.as_array().map(Vec::len), Some(4));
    assert!(sites[0]["line"].is_null() && sites[0]["source_file"].is_null());
    assert_eq!(sites[0]["function"], "f");
}

#[test]
fn compressed_debug_information_has_lines() {
    for format in ["zlib", "zlib-gnu", "zstd"] {
        let lab = lab(&[]);
        lab.run("objcopy", &[&format!("--compress-debug-sections={format}"), "in.o"]).silent_success();
        let result = lab.afterburner(&["sites", "in.o", "--by", "line"]).success();
        assert!(result.stdout.contains("in.s:5") && !result.stdout.contains("(unknown)"), "{format}: {result:?}");
        assert_eq!(result.stderr, "");
    }
}

#[test]
fn damaged_debug_information_is_complained_of() {
    let long = format!("{SOURCE}\t.code64\n{}", "\tnop\n\taddl $1, %eax\n".repeat(1000));
    let lab = Lab::with(&[("in.s", long.as_bytes())]);
    lab.afterburner(&["as", "-gdwarf-4", "--compress-debug-sections=zlib", "in.s", "-o", "in.o"]).silent_success();
    let mut data = lab.read("in.o");
    let stream =
        data.windows(2).position(|bytes| bytes == [0x78, 0x9c] || bytes == [0x78, 0x5e]).expect("a stream of zlib");
    data[stream..stream + 20].fill(0x55);
    lab.write("in.o", &data);
    let result = lab.afterburner(&["sites", "in.o", "--by", "line"]).success();
    assert!(result.stderr.contains("in.o: section .debug_line (number "), "{result:?}");
    assert!(result.stderr.ends_with("its compressed contents are damaged; source lines are missing\n"), "{result:?}");
    assert!(result.stdout.contains("(unknown)"), "{result:?}");
}
