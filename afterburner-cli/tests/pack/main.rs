//! `afterburner pack` and `afterburner unpack`, on a kernel and a wedge that are made here and now.

mod relocations;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use annotate::record::RECORD_SIZE;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use support::{AFTERBURNER, Lab, Result};
use wedge::image::{Copied, GuestFacts, Header, Payload, arena_length};

const KERNEL: &str = "vmlinux";
const RELOCATIONS: &str = "arch/x86/boot/compressed/vmlinux.relocs";

/// Where the wedge is loaded.
const LOAD_ADDRESS: u64 = 0x10_0000;

/// Where the wedge lies in a kernel of the standard layout, and in one of the lower half.
const WEDGE: u64 = 0xffff_ffff_7f10_0000;
const LOW_WEDGE: u64 = 0x5fff_7f10_0000;

/// The first page behind the kernel of `testdata/pack`, which ends at 0x1216345: where the payload
/// lies.
const BEHIND_KERNEL: u64 = 0x121_7000;

/// How the kernel's page tables are.
#[derive(Clone, Copy)]
struct Tables {
    /// Pages of the top-level table: two with page-table isolation.
    top_pages: u32,
    /// Large pages that the kernel's image may take.
    large_pages: u32,
}

const ISOLATED: Tables = Tables { top_pages: 2, large_pages: 512 };

/// A lab with a kernel and a wedge.
fn lab() -> Lab {
    let lab = Lab::new();
    make_kernel(&lab, ISOLATED, &source("kernel.s"));
    make_wedge(&lab, &source("wedge.s"), &source("wedge.ld"));
    lab
}

fn source(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/pack").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn make_kernel(lab: &Lab, tables: Tables, text: &str) {
    make_kernel_by(lab, tables, text, &source("kernel.ld"));
}

fn make_kernel_by(lab: &Lab, tables: Tables, text: &str, script: &str) {
    lab.write_all(&[("kernel.s", text), ("kernel.ld", script)]);
    let symbols = [format!("TOP_PAGES={}", tables.top_pages), format!("LARGE_PAGES={}", tables.large_pages)];
    lab.run("as", &["--defsym", &symbols[0], "--defsym", &symbols[1], "kernel.s", "-o", "kernel.o"]).silent_success();
    lab.run("ld", &["-z", "noexecstack", "-z", "max-page-size=0x200000", "-T", "kernel.ld", "kernel.o", "-o", KERNEL])
        .silent_success();
}

fn make_wedge(lab: &Lab, text: &str, script: &str) {
    lab.write_all(&[("wedge.s", text), ("wedge.ld", script)]);
    lab.run("as", &["wedge.s", "-o", "wedge.o"]).silent_success();
    link_wedge(lab, &["-pie", "--no-dynamic-linker"]);
}

fn link_wedge(lab: &Lab, options: &[&str]) {
    let arguments = ["--no-warn-rwx-segments", "-T", "wedge.ld", "wedge.o", "-o", "wedge"];
    lab.run("ld", &[options, &arguments].concat()).silent_success();
}

/// Packs with the lab's kernel and wedge, and with these further arguments.
fn pack(lab: &Lab, arguments: &[&str]) -> Result {
    lab.afterburner(&[&["pack", "--kernel", KERNEL, "--wedge", "wedge", "-o", "image"], arguments].concat())
}

/// The image, which has to come about.
fn image(lab: &Lab, arguments: &[&str]) -> Vec<u8> {
    pack(lab, arguments).success();
    lab.read("image")
}

/// The file's parts that are loaded: address, what the file holds, bytes in memory.
fn loads(image: &[u8]) -> Vec<(u64, &[u8], u64)> {
    let header = FileHeader64::<LittleEndian>::parse(image).expect("an ELF file");
    let segments = header.program_headers(LittleEndian, image).expect("segments");
    let loads = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let load = loads.map(|segment| {
        assert_eq!(segment.p_vaddr(LittleEndian), segment.p_paddr(LittleEndian));
        let bytes = segment.data(LittleEndian, image).expect("a segment in the file");
        (segment.p_paddr(LittleEndian), bytes, segment.p_memsz(LittleEndian))
    });
    load.collect()
}

fn payload(image: &[u8]) -> Payload<'_> {
    Payload::check(loads(image)[1].1).expect("a payload")
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*bytes[offset..].first_chunk().expect("a word"))
}

#[test]
fn an_image_holds_what_was_packed() {
    let lab = lab();
    lab.write("initrd", b"initramfs");
    let image = image(&lab, &["--initrd", "initrd", "--cmdline", "console=ttyS0 -- single"]);
    let payload = payload(&image);
    assert_eq!(payload.initramfs, b"initramfs");
    assert_eq!(payload.command_line, "console=ttyS0 -- single");
    assert_eq!(payload.sites.len(), 6 * RECORD_SIZE);
    assert!(payload.relocations.is_empty());
    let copies: Vec<Copied> = payload.copies().collect();
    let [first, second] = ["first", "second"].map(|name| address(&lab.read(KERNEL), name));
    let of = |record, address, whole| Copied { record, address, whole };
    // LFENCE has three bytes.
    assert_eq!(copies, [of(4, first, 1), of(4, second, 1), of(5, first + 3, 0)]);
    let read_back = lab.afterburner(&["unpack", "image", "-d", "parts"]).success();
    assert_eq!(read_back.stdout.lines().count(), 4, "{read_back:?}");
    assert_eq!(lab.read("parts/vmlinux"), payload.kernel);
    assert_eq!(lab.read("parts/initramfs"), b"initramfs");
    assert_eq!(lab.read("parts/cmdline"), b"console=ttyS0 -- single\n");
    let sites = String::from_utf8(lab.read("parts/sites.txt")).expect("a text");
    let classes: Vec<_> = sites.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(classes, ["cli", "swapgs", "iret", "rdmsr", "clac", "rdtsc"]);
    assert!(lab.afterburner(&["verify", "parts/vmlinux"]).success().stdout.contains("6 sites"));
}

fn address(file: &[u8], name: &str) -> u64 {
    let file = object::File::parse(file).expect("an ELF file");
    file.symbols().find(|symbol| symbol.name() == Ok(name)).expect("a symbol").address()
}

#[test]
fn the_wedge_is_told_where_everything_is() {
    let lab = lab();
    let image = image(&lab, &[]);
    let loads = loads(&image);
    let [(wedge, content, size), (payload, bytes, payload_size)] = loads[..] else { panic!("{loads:x?}") };
    let parameters: Vec<u64> = content.as_chunks().0.iter().take(5).map(|word| u64::from_le_bytes(*word)).collect();
    let arena = arena_length(6);
    // The dummy takes a page, and three for its .bss.
    assert_eq!(parameters, [LOAD_ADDRESS, 0x4000, arena, BEHIND_KERNEL - LOAD_ADDRESS, bytes.len() as u64]);
    assert_eq!((wedge, size, payload), (LOAD_ADDRESS, 0x4000 + arena, BEHIND_KERNEL));
    assert_eq!(payload_size, bytes.len() as u64);
}

#[test]
fn every_loader_finds_its_header_and_the_entry() {
    let lab = lab();
    let image = image(&lab, &[]);
    let entry = u32::try_from(LOAD_ADDRESS + address(&lab.read("wedge"), "start")).unwrap();
    let header = FileHeader64::<LittleEndian>::parse(&*image).expect("an ELF file");
    assert_eq!(header.e_entry(LittleEndian), entry.into());
    let mut notes = header.program_headers(LittleEndian, &*image).expect("segments").iter();
    let note = notes.rfind(|segment| segment.p_type(LittleEndian) == PT_NOTE).expect("a note segment");
    let note = note.data(LittleEndian, &*image).expect("a note in the file");
    assert_eq!([0, 4, 8, 12, 16].map(|at| word(note, at)), [4, 8, 18, u32::from_le_bytes(*b"Xen\0"), entry]);
    let find = |magic: u32, step: usize, end: usize| (0..end).step_by(step).find(|&at| word(&image, at) == magic);
    let second = find(0xe852_50d6, 8, 32768).expect("a multiboot 2 header");
    assert_eq!([16, 20, 24].map(|at| word(&image, second + at)), [3, 12, entry], "its first tag");
    let first = find(0x1bad_b002, 4, 8192 - 12).expect("a multiboot 1 header");
    assert!(first >= 8192 - 48, "QEMU would find it at {first:#x}");
}

/// The notes of an image: types and descriptors.
fn notes(image: &[u8]) -> Vec<(u32, u64)> {
    let header = FileHeader64::<LittleEndian>::parse(image).expect("an ELF file");
    let mut segments = header.program_headers(LittleEndian, image).expect("segments").iter();
    let segment = segments.rfind(|segment| segment.p_type(LittleEndian) == PT_NOTE).expect("a note segment");
    let mut notes = segment.notes(LittleEndian, image).expect("notes in the file").expect("notes");
    let note = || notes.next().expect("a well-formed note");
    let notes = std::iter::from_fn(note).map(|note| {
        assert_eq!(note.name(), b"Xen");
        (note.n_type(LittleEndian).0, u64::from_le_bytes(note.desc().try_into().expect("eight bytes")))
    });
    notes.collect()
}

#[test]
fn an_image_can_be_entered_by_xen_if_the_wedge_can() {
    let lab = lab();
    let start = LOAD_ADDRESS + address(&lab.read("wedge"), "start");
    assert_eq!(notes(&image(&lab, &[])), [(18, start)]);
    let text = source("wedge.s").replace("\t.globl table\n", "\t.globl start_xen\nstart_xen:\n\tjmp start_xen\n");
    make_wedge(&lab, &text, &source("wedge.ld"));
    let entry = WEDGE + address(&lab.read("wedge"), "start_xen");
    let text = |text: &[u8; 8]| u64::from_le_bytes(*text);
    let expected = [
        (18, start),
        (1, entry),
        (3, 0xffff_ffff_7f00_0000),
        (5, text(b"xen-3.0\0")),
        (8, text(b"generic\0")),
        (16, 1),
        (17, 1 << 11),
    ];
    assert_eq!(notes(&image(&lab, &[])), expected);
    make_wedge(
        &lab,
        &source("wedge.s").replace("\ntable:", "\n.globl start_xen\ntable:\nstart_xen:"),
        &source("wedge.ld"),
    );
    assert!(pack(&lab, &[]).stderr.contains("start_xen is not in the file"));
}

#[test]
fn tools_see_the_parts_and_the_wedges_symbols() {
    let lab = lab();
    lab.write("initrd", b"initramfs");
    let image = image(&lab, &["--initrd", "initrd"]);
    let (payload, wedge) = (payload(&image), lab.read("wedge"));
    let file = object::File::parse(&*image).expect("an ELF file");
    let data = |name: &str| file.section_by_name(name).expect("a section").data().expect("its data").to_vec();
    assert_eq!(data(".kernel"), payload.kernel);
    assert_eq!(data(".initramfs"), payload.initramfs);
    assert_eq!(data(".afterburn"), payload.sites);
    assert_eq!(file.section_by_name(".afterburn").unwrap().address(), payload.sites_address);
    assert_eq!(data(".text"), object::File::parse(&*wedge).unwrap().section_by_name(".text").unwrap().data().unwrap());
    for name in ["start", "table"] {
        assert_eq!(address(&image, name), WEDGE + address(&lab.read("wedge"), name), "{name}");
    }
}

#[test]
fn the_wedge_is_told_what_the_kernels_symbols_tell() {
    let lab = lab();
    let facts = |tables, text: &str| {
        make_kernel(&lab, tables, text);
        payload(&image(&lab, &[])).guest
    };
    let isolated = GuestFacts {
        image: 0xffff_ffff_8000_0000,
        window_entry: 0x120_2000 + 509 * 8,
        user_window_entry: 0x120_1000 + 511 * 8,
        modules_start: 0xffff_ffff_c000_0000,
        modules_end: 0xffff_ffff_ff00_0000,
        stack_switch: 0,
    };
    assert_eq!(facts(ISOLATED, &source("kernel.s")), isolated);
    let plain = GuestFacts {
        window_entry: 0x120_1000 + 509 * 8,
        user_window_entry: 0,
        modules_start: 0xffff_ffff_a000_0000,
        ..isolated
    };
    assert_eq!(facts(Tables { top_pages: 1, large_pages: 256 }, &source("kernel.s")), plain);
    for name in ["init_top_pgt", "level3_kernel_pgt", "level2_kernel_pgt"] {
        make_kernel(&lab, ISOLATED, &source("kernel.s").replace(name, "something_else"));
        let expected = format!(
            "afterburner: vmlinux: has no symbol {name}; a Linux kernel for x86-64 with its symbol table is needed\n"
        );
        assert_eq!(pack(&lab, &[]).stderr, expected);
    }
    let with_threads = format!("{}\t.text\n__switch_to_asm:\tret\n", source("kernel.s"));
    assert_eq!(facts(ISOLATED, &with_threads).stack_switch >> 32, 0xffff_ffff);
    make_kernel(&lab, Tables { top_pages: 2, large_pages: 0 }, &source("kernel.s"));
    assert_eq!(pack(&lab, &[]).stderr, "afterburner: vmlinux: level2_kernel_pgt does not map the kernel\n");
}

/// The text of the kernel with something else in it.
fn source_with(old: &str, new: &str) -> String {
    let text = source("kernel.s");
    assert!(text.contains(old), "{old}");
    text.replace(old, new)
}

/// Packs a kernel that has to be refused, with this message.
#[track_caller]
fn refused(tables: Tables, text: &str, script: &str, expected: &str) {
    let lab = lab();
    lab.write("image", b"as it was");
    make_kernel_by(&lab, tables, text, script);
    let result = pack(&lab, &[]);
    assert_eq!(result.status.code(), Some(2), "{expected}: {result:?}");
    assert!(result.stderr.contains(expected), "{expected}: {}", result.stderr);
    assert_eq!(lab.read("image"), b"as it was");
}

#[test]
fn a_kernel_that_lies_elsewhere_is_refused() {
    let script = source("kernel.ld");
    let linked =
        |address: &str, map: &str| script.replace("0xffffffff81000000", address).replace("0xffffffff80000000", map);
    let at = |address: &str| script.replace("0xffffffff81000000", address);
    let plain = Tables { top_pages: 1, large_pages: 256 };
    for (tables, script, expected) in [
        (
            ISOLATED,
            linked("0x1000000", "0"),
            "is linked at 0x1000000 to be loaded at 0x1000000, so its image is mapped from 0x0 on; the wedge serves \
             kernels that have it at 0xffffffff80000000 (standard) and 0x5fff80000000 (low)",
        ),
        (
            ISOLATED,
            linked("0xffffffff41000000", "0xffffffff40000000"),
            "is linked at 0xffffffff41000000 to be loaded at 0x1000000, so its image is mapped from 0xffffffff40000000 on",
        ),
        (
            ISOLATED,
            linked("0xffffffc081000000", "0xffffffc080000000"),
            "is linked at 0xffffffc081000000 to be loaded at 0x1000000, so its image is mapped from 0xffffffc080000000 on",
        ),
        (
            ISOLATED,
            linked("0x7fff81000000", "0x7fff80000000"),
            "is linked at 0x7fff81000000 to be loaded at 0x1000000, so its image is mapped from 0x7fff80000000 on",
        ),
        (
            ISOLATED,
            linked("0x5fffc1000000", "0x5fffc0000000"),
            "is linked at 0x5fffc1000000 to be loaded at 0x1000000, so its image is mapped from 0x5fffc0000000 on",
        ),
        (ISOLATED, at("0xffffffff81001000"), "is to be loaded at 0x1001000, which is no multiple of 0x200000"),
        (
            ISOLATED,
            at("0xffffffff80200000"),
            "take 0x204000 bytes; in its window, and in front of the kernel, there are",
        ),
        (ISOLATED, at("0xffffffff80000000"), "in front of the kernel, there are 0x0"),
        (
            plain,
            at("0xffffffff9fe00000"),
            "ends at 0x20015345, behind the 0x20000000 bytes that level2_kernel_pgt maps",
        ),
        (
            Tables { large_pages: 300, ..ISOLATED },
            script.clone(),
            "maps 0x25800000 bytes for its image, not 0x20000000 or",
        ),
        (Tables { top_pages: 3, ..ISOLATED }, script.clone(), "init_top_pgt has 0x3000 bytes, neither a page nor"),
    ] {
        refused(tables, &source("kernel.s"), &script, expected);
    }
    let far = script
        .replace("data PT_LOAD", "far PT_LOAD FLAGS(5); data PT_LOAD")
        .replace(". = ALIGN(0x200000);", ".far 0x400000 : AT(0x1100000) { *(.far) } :far\n\t. = 0xffffffff81200000;");
    let text = source_with("\t.data\n", "\t.section .far, \"ax\"\nfar:\n\tsite cli, 7, 1\n\tret\n\t.data\n");
    refused(ISOLATED, &text, &far, "the site at 0x400000 is outside the image");
}

#[test]
fn a_kernel_that_is_not_what_the_wedge_knows_is_refused() {
    let pointers =
        |entries: &str| source_with("level3_kernel_pgt:\n\t.skip 4096\n", &format!("level3_kernel_pgt:\n{entries}\n"));
    for (text, expected) in [
        (
            pointers(".skip 509 * 8; .quad 0x63; .skip 16"),
            "entry 509 of level3_kernel_pgt is 0x63, not free: the wedge's window cannot go there",
        ),
        (
            pointers(".skip 510 * 8; .quad 0x1000063; .skip 8"),
            "entry 510 of level3_kernel_pgt is 0x1000063, which does not lead to level2_kernel_pgt",
        ),
        (source_with("init_top_pgt:", ".skip 8\ninit_top_pgt:"), "where no page begins"),
        (source_with("\nsecond:", "\nstartup_64:\nsecond:"), "its entry point, 0x1000000, is not its startup_64"),
        (
            source_with("\\replacement_end - \\replacement", "\\replacement_end - \\replacement, 0"),
            ".altinstructions: its 39 bytes are neither entries of 12 bytes (Linux 6.1) nor of 14 (since 6.3)",
        ),
        (source_with(".long 12, 12, 1", ".long 12, 12, 2"), "records of version 2; this program reads version 1"),
    ] {
        refused(ISOLATED, &text, &source("kernel.ld"), expected);
    }
    let lab = lab();
    lab.run("strip", &[KERNEL]).silent_success();
    assert!(pack(&lab, &[]).stderr.contains("has no symbol level2_kernel_pgt; a Linux kernel for x86-64 with its"));
    lab.write("32.s", ".globl _start\n_start: ret\n");
    lab.run("as", &["--32", "32.s", "-o", "32.o"]).silent_success();
    lab.run("ld", &["-m", "elf_i386", "32.o", "-o", KERNEL]).silent_success();
    assert_eq!(pack(&lab, &[]).stderr, "afterburner: vmlinux: not a 64-bit x86-64 ELF file\n");
}

#[test]
fn a_kernel_whose_annotations_do_not_verify_is_refused() {
    let lab = lab();
    let text = source("kernel.s");
    for (text, found, said) in [
        (text.replace("first:", "hlt\nfirst:"), "hlt (f4) has no record", "the annotations do not verify, so"),
        (
            text.replace("site cli, 7, 1", "site sti, 7, 1"),
            "cli: the instruction there is of class sti",
            "do not verify",
        ),
        (".globl _start\n_start: ret\n".to_owned(), "", "there are no annotations;"),
    ] {
        lab.write("image", b"as it was");
        make_kernel(&lab, ISOLATED, &text);
        let result = pack(&lab, &[]);
        assert_eq!(result.status.code(), Some(1), "{result:?}");
        assert!(result.stdout.contains(found) && result.stderr.contains(said), "{result:?}");
        assert_eq!(lab.read("image"), b"as it was");
    }
}

#[test]
fn a_wrong_input_is_named() {
    let lab = lab();
    let mut bzimage = vec![0; 1024];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    lab.write_all(&[("bzImage", &bzimage[..]), ("text", b"text")]);
    for (arguments, expected) in [
        (
            ["--kernel", "bzImage", "--wedge", "wedge"],
            "bzImage is a bzImage: give the vmlinux that it was made of, in the top directory",
        ),
        (["--kernel", "kernel.o", "--wedge", "wedge"], "kernel.o is an object or a module, not a linked kernel\n"),
        (["--kernel", "text", "--wedge", "wedge"], "text: not a 64-bit x86-64 ELF file\n"),
        (["--kernel", "none", "--wedge", "wedge"], "none: No such file"),
        (["--kernel", KERNEL, "--wedge", "none"], "none: No such file"),
        (["--kernel", KERNEL, "--wedge", "text"], "text is no wedge: not a 64-bit x86-64 ELF file\n"),
        (["--kernel", KERNEL, "--wedge", "wedge.o"], "wedge.o is no wedge: it is not linked\n"),
        (
            ["--kernel", KERNEL, "--wedge", KERNEL],
            "vmlinux is no wedge: it is linked to a fixed place, not position-independent\n",
        ),
    ] {
        let result = lab.afterburner(&[&["pack", "-o", "image"], &arguments[..]].concat());
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.starts_with(&format!("afterburner: {expected}")), "{result:?}");
    }
    for (arguments, expected) in [
        (["--initrd", "none"], "none: No such file"),
        (["--relocs", "none"], "none: No such file"),
        (["--cmdline", "afterburn.mod=x"], "--cmdline: afterburn.mod: no such option"),
        (["--cmdline", "afterburn.backend=kvm"], "--cmdline: afterburn.backend=kvm: no such backend"),
    ] {
        let result = pack(&lab, &arguments);
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.starts_with(&format!("afterburner: {expected}")), "{result:?}");
    }
    let long = "x".repeat(3000);
    assert!(pack(&lab, &["--cmdline", &long]).stderr.starts_with("afterburner: --cmdline: "));
    assert!(!lab.path("image").exists());
}

#[test]
fn a_wedge_has_its_shape() {
    let lab = lab();
    let (text, script) = (source("wedge.s"), source("wedge.ld"));
    let apart = script
        .replace("FLAGS(7);", "FLAGS(7); rest PT_LOAD FLAGS(6);")
        .replace(". = ALIGN(4096)", ". += 0x10000")
        .replace(".bss : { *(.bss) } :image", ".bss : { *(.bss) } :rest");
    for (text, script, expected) in [
        (text.replace(".skip 40", ".skip 48"), script.clone(), "its section .parameters has 48 bytes, not 40"),
        (
            text.replace(".parameters", ".other"),
            script.replace(".parameters", ".other"),
            "it has no section .parameters",
        ),
        (text.replace("start", "start64"), script.replace("start", "start64"), "it has no symbol start"),
        (text.replace(".skip 0x3000", ".skip 0xf00000"), script.clone(), "0xf01000 bytes do not fit into a window"),
        (text.clone(), apart, "its segments are not contiguous at 0x"),
        (text.replace(".skip 0x3000", ".skip 0xe00000"), script.clone(), "the wedge and its arena for 6 sites take"),
        (
            text.replace("\nstart:", "\nother:").replace("\ntable:", "\ntable:\nstart:"),
            script,
            "start is not in the file",
        ),
    ] {
        make_wedge(&lab, &text, &script);
        let result = pack(&lab, &[]);
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.contains(expected), "{expected}: {result:?}");
    }
}

#[test]
fn a_wedge_that_cannot_be_moved_is_refused() {
    let lab = lab();
    link_wedge(&lab, &[]);
    assert!(
        pack(&lab, &[]).stderr.contains("wedge is no wedge: it is linked to a fixed place, not position-independent")
    );
    lab.write("wedge.ld", source("wedge.ld").replace(". = 0;", ". = 0x1000;").as_bytes());
    link_wedge(&lab, &[]);
    let mut elsewhere = lab.read("wedge");
    elsewhere[16] = 3; // e_type: ET_DYN
    lab.write("wedge", &elsewhere);
    assert!(
        pack(&lab, &[])
            .stderr
            .contains("wedge is no wedge: it is linked at 0x1000, not at 0, from where it can be put")
    );
    make_wedge(&lab, &source("wedge.s"), &source("wedge.ld"));
    let wedge = lab.read("wedge");
    let file = object::File::parse(&*wedge).expect("an ELF file");
    let (at, size) = file.section_by_name(".rela.dyn").expect("relocations").file_range().expect("in the file");
    let (at, content) = (usize::try_from(at).unwrap(), wedge[..].len());
    assert_eq!(size, 48, "two relocations: where, type and symbol, what");
    for (field, value, expected) in [
        (8, 1, "its relocation at 0x88 is of type 1, not R_X86_64_RELATIVE"),
        (8, 37, "its relocation at 0x88 is of type 37, not R_X86_64_RELATIVE"),
        (24, 0xcc, "its relocation at 0xcc is not in the file"),
        (24, u64::MAX - 3, "its relocation at 0xfffffffffffffffc is not in the file"),
        (24, content as u64, "is not in the file"),
    ] {
        let mut wedge = wedge.clone();
        wedge[at + field..at + field + 8].copy_from_slice(&u64::to_le_bytes(value));
        lab.write("wedge", &wedge);
        lab.write("image", b"as it was");
        let result = pack(&lab, &[]);
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.contains(expected), "{expected}: {result:?}");
        assert_eq!(lab.read("image"), b"as it was");
    }
}

/// A kernel in the lower half of the address space: the same, linked elsewhere.
fn make_low_kernel(lab: &Lab, tables: Tables) {
    let script = source("kernel.ld").replace("0xffffffff8", "0x5fff8");
    make_kernel_by(lab, tables, &source("kernel.s"), &script);
}

#[test]
fn the_wedge_goes_where_the_layout_of_the_kernel_has_it() {
    let lab = lab();
    let wedge = lab.read("wedge");
    let offset = |name| address(&wedge, name);
    let words = |image: &[u8]| -> Vec<u64> {
        let content = &loads(image)[0].1[usize::try_from(offset("words")).unwrap()..];
        content.as_chunks().0.iter().take(3).map(|word| u64::from_le_bytes(*word)).collect()
    };
    let standard = image(&lab, &[]);
    make_low_kernel(&lab, ISOLATED);
    let low = image(&lab, &[]);
    for (image, start, map, root_entry) in
        [(&standard, WEDGE, 0xffff_ffff_8000_0000, 511), (&low, LOW_WEDGE, 0x5fff_8000_0000, 191)]
    {
        assert_eq!(words(image), [start + offset("start"), start + offset("table") + 8, 0], "what it refers to");
        for name in ["start", "table", "words"] {
            assert_eq!(address(image, name), start + offset(name), "{name}");
        }
        let payload = payload(image);
        let facts = GuestFacts {
            image: map,
            window_entry: 0x120_2000 + 509 * 8,
            user_window_entry: 0x120_1000 + root_entry * 8,
            modules_start: map + (1 << 30),
            modules_end: map + 0x7f00_0000,
            stack_switch: 0,
        };
        assert_eq!(payload.guest, facts);
        assert_eq!(payload.layout.image, map);
    }
    let text =
        |image: &[u8]| object::File::parse(image).unwrap().section_by_name(".text").unwrap().data().unwrap().to_vec();
    assert_eq!((text(&standard), text(&low)), (text(&wedge), text(&wedge)), "code is the same everywhere");
    let read_back = lab.afterburner(&["unpack", "image", "-d", "parts"]).success();
    assert_eq!(read_back.stdout.lines().count(), 3, "{read_back:?}");
    assert_eq!(lab.read("parts/vmlinux"), payload(&low).kernel);
}

#[test]
fn the_wedge_is_looked_for_where_it_usually_is() {
    let lab = lab();
    let program = lab.copy_of_the_command("bin/afterburner");
    let pack = |variable: &str| {
        let mut command = lab.command(&program, &["pack", "--kernel", KERNEL, "-o", "image"]);
        Result::of(command.env("AFTERBURNER_WEDGE", variable).output().expect("the command"))
    };
    let beside = lab.path("bin/afterburner-wedge");
    let expected = format!(
        "afterburner: no wedge: --wedge and AFTERBURNER_WEDGE name none, and there is no {}; `scripts/wedge` in \
         Afterburner's source builds one\n",
        beside.display()
    );
    assert_eq!(pack("").stderr, expected);
    pack("wedge").success();
    assert!(pack("none").stderr.starts_with("afterburner: none: "));
    fs::copy(lab.path("wedge"), beside).expect("a copy");
    pack("").success();
}

#[test]
fn unpack_takes_only_whole_images() {
    let lab = lab();
    let image = image(&lab, &[]);
    let payload_end = {
        let start = loads(&image)[0].1.as_ptr_range().start as usize - image.as_ptr() as usize;
        let bytes = loads(&image)[1].1;
        let header: &[u8; size_of::<Header>()] = bytes.first_chunk().expect("a header");
        assert!(start > 0 && Header::from_bytes(header).length == bytes.len() as u64);
        bytes.as_ptr_range().end as usize - image.as_ptr() as usize
    };
    let mut flipped = image.clone();
    flipped[payload_end - 5000] ^= 1;
    lab.write_all(&[("flipped", &flipped[..]), ("short", &image[..payload_end - 1]), ("text", b"text")]);
    for (name, expected) in [
        ("flipped", "flipped: the payload is damaged: its checksum is"),
        ("short", "short: "),
        ("text", "text: "),
        (KERNEL, "vmlinux is a kernel, not an image"),
    ] {
        let result = lab.afterburner(&["unpack", name, "-d", "parts"]);
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.starts_with(&format!("afterburner: {expected}")), "{result:?}");
    }
    assert!(!lab.path("parts").exists());
}

/// A limit of the length of files is an error, not the end by a signal, and nothing is left.
#[test]
fn an_image_that_may_not_become_so_long_is_an_error() {
    let lab = lab();
    let limited = "ulimit -f 8 && exec \"$0\" \"$@\"";
    let arguments = ["pack", "--kernel", KERNEL, "--wedge", "wedge", "-o", "image"];
    let before = lab.files();
    let result = lab.run("sh", &[&["-c", limited, AFTERBURNER][..], &arguments].concat());
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("image: File too large"), "{result:?}");
    assert!(lab.files() == before, "something is left");
}

#[test]
fn an_iso_needs_grub() {
    let lab = lab();
    let arguments = ["pack", "--kernel", KERNEL, "--wedge", "wedge", "-o", "image.iso", "--iso"];
    let result =
        Result::of(lab.command(AFTERBURNER, &arguments).env("PATH", lab.path("")).output().expect("the command"));
    assert_eq!(result.status.code(), Some(2));
    assert!(
        result
            .stderr
            .starts_with("afterburner: --iso needs more programs; Debian has them in grub-common, xorriso, mtools"),
        "{result:?}"
    );
    assert!(!lab.path("image.iso").exists());
}

#[test]
fn the_summary_says_what_was_packed() {
    let lab = lab();
    let summary = pack(&lab, &["--cmdline", "quiet"]).success().stdout;
    for line in [
        format!("image: {} bytes", lab.read("image").len()),
        "with its arena at 0x100000-0x304000".to_owned(),
        "sites        6; the kernel copies replacements to 3 places".to_owned(),
        "relocations  none".to_owned(),
        "command line quiet".to_owned(),
    ] {
        assert!(summary.contains(&line), "{line}: {summary}");
    }
}
