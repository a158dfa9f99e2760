//! KASLR: which `vmlinux.relocs` `pack` takes for the kernel's own.

use super::*;

/// What `testdata/pack` lacks for a kernel that can be moved: addresses of each kind, and a per-CPU
/// area, which is linked at 0.
const ADDRESSES: &str = "
	.text
	mov $second, %rdi
wide:
	movabs $second, %rsi
narrow:
	movabs second, %al
offset:
	movq $second, counter(%rip)
stored:
	mov second(,%rax,8), %rax
indexed:
	mov counter(%rip), %rax
inverse:
	ret
	.data
pointer:
	.quad second, 0
	.section .data..percpu, \"aw\"
counter:
	.quad 0
";

/// A lab with such a kernel, which keeps its relocations if it is linked with `-q`.
fn movable_lab(option: &str) -> Lab {
    let lab = lab();
    let script = source("kernel.ld").replace("note PT_NOTE", "per_cpu PT_LOAD FLAGS(6); note PT_NOTE");
    let (sections, end) = script.rsplit_once('}').expect("an end");
    let per_cpu = ".data..percpu 0 : AT(0x1400000) { *(.data..percpu) } :per_cpu\n}";
    lab.write("kernel.ld", format!("{sections}{per_cpu}{end}"));
    lab.write("kernel.s", source("kernel.s") + ADDRESSES);
    lab.run("as", &["--defsym", "TOP_PAGES=2", "--defsym", "LARGE_PAGES=512", "kernel.s", "-o", "kernel.o"])
        .silent_success();
    let arguments = ["-z", "noexecstack", "-z", "max-page-size=0x200000", "-T", "kernel.ld", "kernel.o", "-o", KERNEL];
    lab.run("ld", &[&arguments[..], &[option]].concat()).silent_success();
    lab
}

/// A `vmlinux.relocs` of these lists: 64-bit addresses, distances to the per-CPU area, 32-bit
/// addresses.
fn relocations(lists: [&[u64]; 3]) -> Vec<u8> {
    let word = |address: &u64| address.to_le_bytes().into_iter().take(4);
    lists.iter().flat_map(|list| [0_u64].iter().chain(*list).flat_map(word)).collect()
}

/// Where its addresses are: those of 64 bits, distances to the per-CPU area, those of 32 bits.
fn addresses(vmlinux: &[u8]) -> [Vec<u64>; 3] {
    let at = |(name, back): &(&str, u64)| address(vmlinux, name) - back;
    [
        [("narrow", 8), ("offset", 8), ("pointer", 0)].iter().map(at).collect(),
        [("stored", 8), ("inverse", 4)].iter().map(at).collect(),
        [("wide", 4), ("stored", 4), ("indexed", 4)].iter().map(at).collect(),
    ]
}

fn file_of(lists: &[Vec<u64>; 3]) -> Vec<u8> {
    relocations(lists.each_ref().map(Vec::as_slice))
}

#[test]
fn relocations_are_the_kernels_own_by_what_is_in_them() {
    for option in ["-q", "--build-id=none"] {
        let lab = movable_lab(option);
        let good = file_of(&addresses(&lab.read(KERNEL)));
        let packed = |arguments: &[&str]| payload(&image(&lab, arguments)).relocations.to_vec();
        lab.write("good", &good);
        assert_eq!(packed(&["--relocs", "good"]), good, "{option}");
        for name in [RELOCATIONS, "vmlinux.relocs"] {
            // As old as it may be.
            lab.write(name, &good);
            let old = SystemTime::now() - Duration::from_secs(3600);
            File::options().write(true).open(lab.path(name)).unwrap().set_modified(old).unwrap();
            assert_eq!(packed(&[]), good, "{option} {name}");
            fs::remove_file(lab.path(name)).unwrap();
        }
        // One of another build beside its own.
        lab.write_all(&[(RELOCATIONS, relocations([&[], &[], &[]])), ("vmlinux.relocs", good.clone())]);
        assert_eq!(packed(&[]), good, "{option}");
    }
}

/// Packs with a file that is not of this kernel, given and found.
#[track_caller]
fn refused_for_relocations(lab: &Lab, file: &[u8], expected: &str) {
    lab.write_all(&[("bad", file), (RELOCATIONS, file)]);
    for (arguments, start) in [
        (&["--relocs", "bad"] as &[&str], "afterburner: bad: "),
        (&[], "afterburner: arch/x86/boot/compressed/vmlinux.relocs is not of this kernel; make it anew, or remove it"),
    ] {
        let refused = pack(lab, arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(
            refused.stderr.starts_with(start) && refused.stderr.contains(expected),
            "{expected}: {}",
            refused.stderr
        );
    }
    assert!(!lab.path("image").exists());
}

#[test]
fn relocations_of_another_kernel_are_refused() {
    const WHAT: [&str; 3] = ["a 64-bit address", "a 32-bit distance to the per-CPU area", "a 32-bit address"];
    for (option, has) in [("-q", "was linked with"), ("--build-id=none", "has")] {
        let lab = movable_lab(option);
        let own = addresses(&lab.read(KERNEL));
        for (list, what) in WHAT.into_iter().enumerate() {
            for entry in 0..own[list].len() {
                let place = own[list][entry];
                let mut missing = own.clone();
                missing[list].remove(entry);
                refused_for_relocations(
                    &lab,
                    &file_of(&missing),
                    &format!("{place:#x}: the kernel {has} {what} there"),
                );
                let mut shifted = own.clone();
                shifted[list][entry] += 1;
                refused_for_relocations(&lab, &file_of(&shifted), &format!("{:#x}: {what}, says the file", place + 1));
            }
        }
        let [wide, inverse, narrow] = own.each_ref().map(Vec::as_slice);
        let exchanged = relocations([wide, narrow, inverse]);
        refused_for_relocations(&lab, &exchanged, &format!("{:#x}: a 32-bit ", narrow[0].min(inverse[0])));
        refused_for_relocations(&lab, &relocations([wide, inverse, &[0x8000_0000]]), "has nothing there");
        // Where there are zeros.
        let zeros = address(&lab.read(KERNEL), "level3_kernel_pgt");
        let longer = relocations([wide, inverse, &[narrow, &[zeros]].concat()]);
        refused_for_relocations(&lab, &longer, &format!("{zeros:#x}: a 32-bit address, says the file"));
        refused_for_relocations(&lab, b"no words", "are not three lists of 32-bit words");
    }
}

/// Where the build has put a zero into the table of calls, and nowhere else.
#[test]
fn an_address_may_be_missing_in_the_table_of_calls() {
    let lab = movable_lab("--build-id=none");
    let with = |table: &str| {
        let text = format!("{}{ADDRESSES}\t.data\n{table}", source("kernel.s"));
        lab.write("kernel.s", text);
        lab.run("as", &["--defsym", "TOP_PAGES=2", "--defsym", "LARGE_PAGES=512", "kernel.s", "-o", "kernel.o"])
            .silent_success();
        let arguments =
            ["-z", "noexecstack", "-z", "max-page-size=0x200000", "-T", "kernel.ld", "kernel.o", "-o", KERNEL];
        lab.run("ld", &arguments).silent_success();
        let vmlinux = lab.read(KERNEL);
        let [wide, inverse, narrow] = addresses(&vmlinux);
        let table = address(&vmlinux, "table");
        file_of(&[[wide, vec![table, table + 8]].concat(), inverse, narrow])
    };
    let file = with("__start_mcount_loc:\ntable:\t.quad second, 0\n__stop_mcount_loc:\t.quad 0\n");
    lab.write("good", &file);
    assert_eq!(payload(&image(&lab, &["--relocs", "good"])).relocations, file);
    fs::remove_file(lab.path("image")).unwrap();
    for table in [
        "__start_mcount_loc:\ntable:\t.quad second\n__stop_mcount_loc:\t.quad 0\n",
        "__stop_mcount_loc:\n__start_mcount_loc:\ntable:\t.quad second, 0\n",
        "table:\t.quad second, 0\n",
    ] {
        let file = with(table);
        let place = address(&lab.read(KERNEL), "table") + 8;
        refused_for_relocations(
            &lab,
            &file,
            &format!("{place:#x}: a 64-bit address, says the file; the kernel has 0x0"),
        );
    }
}

/// Numbers that look like addresses: a mask, the start of the image, a number of 32 bits.
#[test]
fn a_number_is_no_address() {
    let lab = lab();
    let text = "
	.text
	and $0xffffffff81000008, %rdi
	cmp $0xffffffff81000000, %rdi
	mov $0x81000008, %edi
	movb $1, 8(%rdi)
	ret
";
    make_kernel(&lab, ISOLATED, &(source("kernel.s") + text));
    lab.write("none", relocations([&[], &[], &[]]));
    assert!(payload(&image(&lab, &["--relocs", "none"])).relocations.len() == 12);
    make_kernel(&lab, ISOLATED, &(source("kernel.s") + &text.replace("and", "add")));
    assert!(
        pack(&lab, &["--relocs", "none"])
            .stderr
            .contains("the kernel has a 32-bit address there, of 0xffffffff81000008")
    );
}

#[test]
fn it_is_said_that_a_kernel_cannot_be_moved_any_more() {
    let lab = lab();
    let result = pack(&lab, &[]).success();
    assert!(result.stdout.contains("relocations  none: KASLR is dropped, because"), "{result:?}");
    assert!(
        result.stderr.starts_with("afterburner: vmlinux: KASLR is dropped, because there is neither"),
        "{result:?}"
    );
    assert!(result.stderr.contains("`make bzImage` makes the file"), "{result:?}");
    // One that was not made to be moved loses nothing.
    lab.write(".config", "# CONFIG_RANDOMIZE_BASE is not set\n");
    let stays = |result: Result| {
        let result = result.success();
        assert!(result.stdout.contains("relocations  none: the kernel stays where it is linked\n"), "{result:?}");
        assert_eq!(result.stderr, "");
    };
    stays(pack(&lab, &[]));
    fs::remove_file(lab.path(".config")).unwrap();
    make_kernel(&lab, Tables { top_pages: 1, large_pages: 256 }, &source("kernel.s"));
    lab.write(RELOCATIONS, b"of another configuration");
    stays(pack(&lab, &[]));
    lab.write("given", relocations([&[], &[], &[]]));
    let said = pack(&lab, &["--relocs", "given"]).stderr;
    assert!(said.contains("given: the kernel cannot be moved: it has 0x20000000 bytes"), "{said}");
}
