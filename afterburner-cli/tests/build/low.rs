//! `--layout low`: the same sources, for the lower half of the address space.

use crate::build;
use crate::support::{Lab, Result};

const MAKEFILE: &str = "\
CC = $(CROSS_COMPILE)gcc
CFLAGS = -O2 $(NOSTDINC_FLAGS) -Iinclude $(KCFLAGS)
all: vmlinux
vmlinux: a.o b.o
\tld -Ttext-segment=0x5fff81000000 -e f -o $@ $^
%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
%.o: %.S
\t$(CC) $(NOSTDINC_FLAGS) -Iinclude $(KAFLAGS) -c -o $@ $<
CFLAGS_REMOVE_vdso32/vclock_gettime.o = -pg
vdso32/vclock_gettime.o: vdso32.c
\t@mkdir -p vdso32
\t$(CC) -m32 $(filter-out $(CFLAGS_REMOVE_$@), -pg $(CFLAGS)) -c -o $@ $<
kernelversion:
\t@echo 6.1.0
olddefconfig:
\t@cp .config was.config
";

const SOURCES: &[(&str, &str)] = &[
    ("Makefile", MAKEFILE),
    ("include/asm/page_64_types.h", "#define __START_KERNEL_map 0xffffffff80000000\n"),
    (
        "a.c",
        "#define _AC(x, y) x##y\n#include <asm/page_64_types.h>\nextern int g(void), word;\nint *where = &word;\n\
         unsigned long f(void)\n{\n\tasm volatile(\"cli; incl word\");\n\treturn g() + word + __START_KERNEL_map;\n}\n",
    ),
    (
        "b.S",
        "\t.globl g, word\n\t.type g,@function\ng:\n\tsti\n\tmovq $word, %rax\n\taddl word, %eax\n\tpushq $word\n\tpopq %rcx\n\
         \tret\n\t.data\nword: .long 3\n",
    ),
];

fn tree() -> Lab {
    let lab = Lab::new();
    lab.write_all(SOURCES);
    lab
}

fn low(lab: &Lab, more: &[&str], arguments: &[&str]) -> Result {
    build(lab, &[&["--layout", "low", "--check"], more].concat(), arguments)
}

#[test]
fn an_untouched_tree_is_linked_low() {
    let lab = tree();
    let result = low(&lab, &[], &[]).success();
    assert!(result.stderr.contains("/vmlinux: sites 2, "), "{result:?}");
    let relocations = lab.run("readelf", &["-rW", "a.o", "b.o"]).stdout;
    for kind in ["R_X86_64_32", "GOT"] {
        assert!(!relocations.contains(kind), "{relocations}");
    }
    // The header of the lower half is found first, and make is told to build again when it changes.
    let code = lab.run("objdump", &["-d", "a.o"]).stdout;
    assert!(code.contains("$0x5fff80000000"), "{code}");
    let result = low(&lab, &[], &[]).success();
    assert!(result.stderr.contains("objects: 0 assembled"), "{result:?}");
    // In the upper half it is another kernel: none of the objects serve.
    let other = build(&lab, &[], &["-B", "a.o"]).success();
    assert!(lab.run("objdump", &["-d", "a.o"]).stdout.contains("0xffffffff80000000"), "{other:?}");
}

/// One file has entries of its own in the top-level page table, known by its name, which elsewhere
/// need not be a word of C (`.module-common` of Linux 6.12).
#[test]
fn a_header_knows_the_file_with_its_own_number_of_entries() {
    let lab = Lab::with(&[
        ("next/asm/pgtable_64_types.h", b"#define PTRS_PER_PGD 512\n#define __START_KERNEL_map 0x5fff80000000\n"),
        ("in.c", b"#include <asm/pgtable_64_types.h>\nint entries[PTRS_PER_PGD];\n"),
    ]);
    let headers = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/low");
    let early = "-DUSE_EARLY_PGTABLE_L5";
    for (name, definitions, expected) in [
        ("head64", &[early][..], "(((0x5fff80000000 >> 39) & 511) + 1)"),
        ("common", &[early], "512"),
        ("head64", &[], "512"),
        (".module-common", &[], "512"),
    ] {
        let name = format!("-D__KBUILD_MODNAME=kmod_{name}");
        let options = ["-E", headers, "-Inext", &name, "in.c"];
        let text = lab.run("gcc", &[&options, definitions].concat()).success().stdout;
        assert!(text.contains(&format!("int entries[{expected}];")), "{text}");
    }
}

/// There is no such code model in 32-bit code; and what the tree itself removes stays removed.
#[test]
fn code_for_32_bit_programs_is_compiled_without_the_flags_of_64_bit_code() {
    let lab = tree();
    lab.write("vdso32.c", "int f(void)\n{\n\treturn 1;\n}\n");
    low(&lab, &[], &["vdso32/vclock_gettime.o"]).success();
    let listed = lab.run("objdump", &["-dr", "vdso32/vclock_gettime.o"]).stdout;
    assert!(listed.contains("elf32-i386") && !listed.contains("mcount"), "{listed}");
}

#[test]
fn what_does_not_fit_fails_the_build_where_it_stands() {
    for (line, reason) in [
        ("movl $word, %eax", "an address in 32 bits, which no address of the lower half fits in"),
        ("jmp *word(,%rax,8)", "an address in 32 bits"),
        (
            ".section .altinstr_replacement,\"ax\"; movq word(%rip), %rax; .text",
            "this Linux copies without adjusting it",
        ),
    ] {
        let lab = tree();
        lab.write("b.S", format!("\t.globl g, word\ng:\n\t{line}\n\tret\n\t.data\nword: .quad 3\n"));
        let result = low(&lab, &[], &[]);
        assert!(!result.status.success(), "{line}: {result:?}");
        let place = result.stderr.lines().find(|text| text.contains(reason));
        assert!(place.is_some_and(|text| text.contains("+0x") && text.contains("word")), "{line}: {result:?}");
        assert!(!lab.path("b.o").exists(), "{line}");
        // The same release adjusts what it copies since 6.5.
        if line.contains("altinstr") {
            lab.write("Makefile", MAKEFILE.replace("6.1.0", "6.12.3"));
            low(&lab, &[], &[]).success();
        }
    }
}

#[test]
fn configurations_are_refused_by_name_or_changed() {
    let lab = tree();
    lab.write(".config", "CONFIG_XEN=y\nCONFIG_KASAN=y\nCONFIG_X86=y\n");
    let result = low(&lab, &[], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    for option in ["CONFIG_XEN: ", "CONFIG_KASAN: ", "--configure"] {
        assert!(result.stderr.contains(option), "{result:?}");
    }
    assert!(!lab.path("a.o").exists(), "nothing was built");
    // What make makes of the change is checked, too: this one wants its option back.
    let (before, _) = MAKEFILE.split_once("olddefconfig:").expect("the goal");
    lab.write("Makefile", format!("{before}olddefconfig:\n\t@cp .config was.config; echo CONFIG_XEN=y >> .config\n"));
    let result = low(&lab, &["--configure"], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    let asked = String::from_utf8(lab.read("was.config")).expect("text");
    assert_eq!(asked, "# CONFIG_XEN is not set\n# CONFIG_KASAN is not set\nCONFIG_X86=y\n");
    lab.write("Makefile", MAKEFILE);
    low(&lab, &["--configure"], &[]).success();
}

#[test]
fn what_is_no_linux_or_no_gcc_is_refused() {
    let lab = tree();
    let result = low(&lab, &[], &["CC=clang"]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("only gcc"), "{result:?}");
    let (before, _) = MAKEFILE.split_once("kernelversion:").expect("the goal");
    lab.write("Makefile", before);
    let result = low(&lab, &[], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("is no tree of Linux"), "{result:?}");
}

#[test]
fn modules_for_a_kernel_of_the_other_half_are_refused() {
    let lab = tree();
    for (map, layout, expected) in [
        (
            "00005fff81000000 T _stext\n",
            &[] as &[&str],
            "in the lower half, so its modules are built with --layout low",
        ),
        ("ffffffff81000000 T _stext\n", &["--layout", "low"], "in the upper half, so its modules are built without"),
    ] {
        lab.write("System.map", map);
        let result = build(&lab, layout, &["M=."]);
        assert_eq!(result.status.code(), Some(2), "{result:?}");
        assert!(result.stderr.contains(expected), "{result:?}");
        assert!(!lab.path("a.o").exists(), "nothing was built");
    }
    low(&lab, &[], &["a.o"]).success();
}
