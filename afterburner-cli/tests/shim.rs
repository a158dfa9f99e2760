//! The assembler shim: everything but the object is the real assembler's.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use support::{AFTERBURNER, Lab, PLAIN, Result, SENSITIVE, compare};

/// Compares with the real assembler; tells whether an object was annotated.
#[track_caller]
fn same(files: &[(&str, &str)], arguments: &[&str]) -> bool {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    compare("as", &files, None, arguments)
}

#[test]
fn sensitive_instructions_are_annotated() {
    assert!(same(&[("a.s", SENSITIVE)], &["a.s", "-o", "a.o"]));
    assert!(same(&[("a.s", SENSITIVE)], &["a.s"]), "a.out is the default");
    assert!(same(&[("a.s", SENSITIVE)], &["-g", "--64", "-oa.o", "a.s"]));
}

#[test]
fn an_object_without_sensitive_instructions_is_the_real_one() {
    assert!(!same(&[("a.s", PLAIN)], &["a.s", "-o", "a.o"]));
    assert!(!same(&[("a.s", "")], &["a.s", "-o", "a.o"]));
    assert!(!same(&[("a.s", "\n")], &["a.s", "-o", "a.o"]));
    let unused = format!(".macro m\n\tcli\n.endm\n.if 0\n\tsti\n.endif\n{PLAIN}");
    assert!(!same(&[("a.s", &unused)], &["a.s", "-o", "a.o"]), "a macro that is never expanded");
    assert!(!same(&[("a.s", &unused)], &["-al=a.lst", "a.s", "-o", "a.o"]));
}

#[test]
fn standard_input() {
    for arguments in [&["-o", "a.o"] as &[&str], &["-", "-o", "a.o"], &["-o", "a.o", "--"], &["-g", "-o", "a.o", "-"]] {
        assert!(compare("as", &[], Some(SENSITIVE.as_bytes()), arguments));
        assert!(!compare("as", &[], Some(PLAIN.as_bytes()), arguments));
        compare("as", &[], Some(format!("{SENSITIVE}\tnonsense\n").as_bytes()), arguments);
    }
    compare("as", &[("a.s", PLAIN.as_bytes())], Some(SENSITIVE.as_bytes()), &["a.s", "-", "-o", "a.o"]);
    compare("as", &[("a.s", PLAIN.as_bytes())], Some(b""), &["-o", "a.o", "-", "no-such-file.s"]);
}

#[test]
fn messages_are_the_assembler_s_and_about_the_user_s_text() {
    let with = |line: &str| format!("{SENSITIVE}{line}\n\tsti\n");
    for line in [
        "\tnonsense %eax",
        "\tmovl %rax, %eax",
        "\t.warning \"careful\"",
        "\t.print \"hello\"",
        "\t.error \"no\"",
        "\t.byte 300",
        "\t.if 1",
        "\t.include \"no-such-file\"",
        "# 7 \"other.c\"\n\tnonsense",
        "\tjmp undefined-1b",
        ".macro m\n\tcli\n\tnonsense\n.endm\n\tm",
    ] {
        same(&[("a.s", &with(line))], &["a.s", "-o", "a.o"]);
        same(&[("a.s", &with(line))], &["--fatal-warnings", "a.s", "-o", "a.o"]);
        same(&[("a.s", &with(line))], &["-Z", "-W", "a.s", "-o", "a.o"]);
    }
    assert!(same(&[("a.s", &with("\t.warning \"careful\""))], &["a.s", "-o", "a.o"]), "a warning is no obstacle");
}

#[test]
fn an_existing_object_is_replaced_or_removed_as_the_assembler_does() {
    let broken = format!("{SENSITIVE}\tnonsense\n");
    same(&[("a.s", &broken), ("a.o", "old")], &["a.s", "-o", "a.o"]);
    same(&[("a.s", SENSITIVE), ("a.o", "old")], &["a.s", "-o", "a.o"]);
    same(&[("a.s", SENSITIVE)], &["a.s", "-o", "a.s"]);
    same(&[("a.s", SENSITIVE)], &["a.s", "-o", "./a.s"]);
}

#[test]
fn several_inputs() {
    let other = "\tsti\n\tret\n";
    assert!(same(&[("a.s", SENSITIVE), ("b.s", other)], &["a.s", "b.s", "-o", "a.o"]));
    assert!(same(&[("a.s", "\tcli"), ("b.s", other)], &["a.s", "b.s", "-o", "a.o"]));
    same(&[("a.s", SENSITIVE), ("b.s", "\n\tnonsense\n")], &["a.s", "b.s", "-o", "a.o"]);
    same(&[("a.s", "\tcli\n.if 1\n"), ("b.s", ".endif\n")], &["a.s", "b.s", "-o", "a.o"]);
    same(&[("a.s", SENSITIVE)], &["a.s", "no-such-file.s", "-o", "a.o"]);
}

#[test]
fn response_files() {
    let files = [("a.s", SENSITIVE), ("options", "--64 -o 'a b.o'\n\"a.s\"")];
    assert!(same(&files, &["@options"]));
    same(&files, &["@no-such-file", "a.s", "-o", "a.o"]);
    same(&files, &["@/", "a.s", "-o", "a.o"]);
    // More than a command line holds, and nested.
    let many: String =
        (0..60_000).flat_map(|number| ["--defsym \"a".to_owned(), format!("{number}\"={number}\n")]).collect();
    assert!(many.len() > 1 << 20);
    let files = [("a.s", "\tcli\n\t.long a59999\n"), ("options", "@many\n--64 -o a.o a.s"), ("many", &many)];
    assert!(same(&files, &["@options"]));
    assert!(same(&files, &["-al=a.lst", "@options"]));
}

#[test]
fn listings_and_dependencies_show_the_user_s_text() {
    let files = [("a.s", ".include \"b.inc\"\n\tcli\n"), ("b.inc", "\tnop\n")];
    assert!(same(&files, &["-al", "a.s", "-o", "a.o"]));
    assert!(same(&files, &["-ahlsn=a.lst", "-g", "a.s", "-o", "a.o"]));
    assert!(same(&files, &["--MD", "a.d", "a.s", "-o", "a.o"]));
    assert!(same(&files, &["-v", "a.s", "-o", "a.o"]));
}

#[test]
fn questions_to_the_assembler_are_answered_by_it() {
    for arguments in [
        &["--version"] as &[&str],
        &["--help"],
        &["--target-help"],
        &["--64", "/dev/null", "-o", "/dev/null"],
        &["-o", "/dev/null"],
        &["--no-such-option", "a.s"],
        &["-march=no-such-cpu", "a.s", "-o", "a.o"],
        &["--defsym"],
        &["--32", "a.s", "-o", "a.o"],
        &["--x32", "a.s", "-o", "a.o"],
        &["-o", "no-such-directory/a.o", "a.s"],
        &["-o", "/", "a.s"],
        &["-o", "-", "a.s"],
        &["/", "-o", "a.o"],
    ] {
        assert!(!same(&[("a.s", SENSITIVE)], arguments));
    }
}

#[test]
fn what_is_not_kernel_code_is_left_alone() {
    let object = "arch/x86/boot/a.o";
    assert!(!same(&[("a.s", SENSITIVE), (object, "old")], &["a.s", "-o", object]));
    let text = format!("\t.file \"vclock_gettime.c\"\n{SENSITIVE}");
    assert!(!same(&[("a.s", &text)], &["a.s", "-o", "tmp.o"]));
    assert!(!compare("as", &[], Some(text.as_bytes()), &["-o", "tmp.o"]));
}

#[test]
fn bad_texts() {
    let long_line = format!("\tcli\n\t.ascii \"{}\"\n", "x".repeat(5 << 20));
    let binary: Vec<u8> = (0..20_000_u32).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let elf = fs::read("/usr/bin/as").expect("the assembler");
    let texts: &[&[u8]] = &[
        b"\tcli",
        b"\tcli\n\tnop",
        b"\tcli\r\n\tnop\r\n",
        b"\tcli\n\0\n",
        b"\tcli\n\tno\0p\n\tsti\n",
        b"\tcli\n.macro m\n\tsti\n",
        b"\tcli\n.ascii \"unterminated\n\tsti\n",
        b"\tcli\n/* unterminated\n\tsti\n",
        b"\tcli\n.rept 3\n",
        b"\tcli\n.endm\n",
        b"\xff\xfe\n\tcli\n",
        b"\tcli;;;;cli\n",
        b"\\\n\tcli \\\n\n",
        long_line.as_bytes(),
        &binary,
        &elf[..200_000],
    ];
    for text in texts {
        compare("as", &[("a.s", text)], None, &["a.s", "-o", "a.o"]);
        compare("as", &[], Some(text), &["-o", "a.o"]);
    }
}

#[test]
fn without_a_real_assembler_there_is_one_clear_error() {
    let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
    let nowhere = lab.shims(&["as"]);
    let mut command = lab.command(AFTERBURNER, &["as", "a.s", "-o", "a.o"]);
    let result = Result::of(command.env("PATH", &nowhere).output().expect("the shim"));
    assert_eq!(result.status.code(), Some(127));
    assert_eq!(result.stderr, "afterburner: there is no `as` in PATH but this one\n");
    assert!(!lab.path("a.o").exists());
    let full = fs::File::create("/dev/full").expect("/dev/full");
    assert_eq!(command.stderr(Stdio::from(full)).status().expect("the shim").code(), Some(127));
}

#[test]
fn the_shim_passes_over_itself() {
    let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
    let shims = lab.shims(&["as"]);
    let path = std::env::join_paths([shims.as_path(), Path::new("/usr/bin")]).expect("a path");
    let mut command = lab.command("as", &["a.s", "-o", "a.o"]);
    Result::of(command.env("PATH", path).output().expect("the shim")).silent_success();
    assert!(lab.has_records("a.o"));
}

#[test]
fn a_full_disk() {
    same(&[("a.s", SENSITIVE)], &["a.s", "-o", "/dev/full"]);
    let big = format!("{SENSITIVE}\t.fill 200000\n");
    let script = format!(
        "mkdir small && mount -t tmpfs -o size=64k none small || exit 99
         as a.s -o small/a.o; echo $?; ls small
         {AFTERBURNER} as a.s -o small/a.o; echo $?; ls small"
    );
    let lab = Lab::with(&[("a.s", big.as_bytes())]);
    let result = lab.run("unshare", &["--mount", "--map-root-user", "sh", "-c", &script]);
    if result.status.code() == Some(99) || result.stderr.starts_with("unshare") {
        eprintln!("not tested: no small file system can be mounted here: {}", result.stderr);
        return;
    }
    assert_eq!(result.stdout, "1\n1\n", "{result:?}");
    let messages: Vec<&str> = result.stderr.lines().collect();
    assert!(!messages.is_empty() && messages.len().is_multiple_of(2), "{result:?}");
    assert_eq!(messages[..messages.len() / 2], messages[messages.len() / 2..]);
}

#[test]
fn a_read_only_place() {
    let script = format!(
        "mkdir place && mount -t tmpfs none place && cp a.s place && mount -o remount,ro place || exit 99
         as a.s -o place/a.o; echo $?
         {AFTERBURNER} as a.s -o place/a.o; echo $?"
    );
    let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
    let result = lab.run("unshare", &["--mount", "--map-root-user", "sh", "-c", &script]);
    if result.status.code() == Some(99) || result.stderr.starts_with("unshare") {
        eprintln!("not tested: no file system can be mounted here: {}", result.stderr);
        return;
    }
    assert_eq!(result.stdout, "1\n1\n", "{result:?}");
    let messages: Vec<&str> = result.stderr.lines().collect();
    assert_eq!(messages[..messages.len() / 2], messages[messages.len() / 2..]);
}

#[test]
fn what_the_assembler_says_of_the_padded_text_alone_counts() {
    // The padding makes the count negative, which is only a warning, and the code another.
    for line in ["\t.skip 4-(.-f)", "\t.space 4-(.-f),0x90", "\t.if .-f > 4\n\t.warning \"too long\"\n\t.endif"] {
        let lab = Lab::with(&[("a.s", format!("f:\n\tcli\n{line}\n\tret\n").as_bytes())]);
        lab.run("as", &["a.s", "-o", "plain.o"]).silent_success();
        lab.afterburner(&["as", "a.s", "-o", "a.o"]).silent_success();
        lab.afterburner(&["compare", "plain.o", "a.o"]).success();
    }
}

#[test]
fn pipes_are_read_once() {
    let broken = format!("{SENSITIVE}\tnonsense\n\t.warning \"careful\"\n");
    let warned = format!("{SENSITIVE}\t.warning \"careful\"\n");
    let files = [("a.s", SENSITIVE), ("b.s", PLAIN), ("c.s", "\tret\n"), ("broken.s", &broken), ("warned.s", &warned)];
    let assemble = |lab: &Lab, command: &str, arguments: &str| {
        lab.clear();
        lab.write_all(&files);
        let pipe = if arguments.contains("pipe") { "mkfifo pipe; cat a.s > pipe &" } else { "" };
        let script = format!("{pipe} {command} {arguments}; echo $?; wait; rm -f pipe; ls");
        lab.run("timeout", &["60", "bash", "-c", &script])
    };
    for (arguments, is_annotated) in [
        ("pipe -o a.o", true),
        ("<(cat a.s) -o a.o", true),
        ("<(cat b.s) -o a.o", false),
        ("<(cat c.s) <(cat a.s) c.s -o a.o", true),
        ("<(cat warned.s) -o a.o", true),
        ("<(cat broken.s) -o a.o", false),
        ("c.s - -o a.o < a.s", true),
        ("/dev/stdin -o a.o < a.s", true),
        ("/dev/stdin -o a.o < <(cat warned.s)", true),
        ("/dev/null -o a.o", false),
        ("- -o a.o < /dev/null", false),
    ] {
        let lab = Lab::new();
        let real = assemble(&lab, "as", arguments);
        let plain = lab.files().remove(Path::new("a.o"));
        let ours = assemble(&lab, &format!("{AFTERBURNER} as"), arguments);
        assert_eq!(ours, real, "{arguments}");
        assert_eq!(plain.is_some() && lab.has_records("a.o"), is_annotated, "{arguments}");
    }
}

#[test]
fn devices_are_no_texts() {
    let lab = Lab::new();
    for (script, message) in [
        ("as /dev/zero -o a.o", "/dev/zero is a device, not a text"),
        ("as b.s /dev/urandom -o a.o", "/dev/urandom is a device, not a text"),
        ("as -o a.o < /dev/zero", "standard input is a device, not a text"),
        ("as - -o a.o < /dev/full", "standard input is a device, not a text"),
    ] {
        lab.write("b.s", PLAIN);
        let result =
            lab.run("timeout", &["60", "sh", "-c", &format!("ulimit -v 1000000; exec {AFTERBURNER} {script}")]);
        assert_eq!(
            (result.status.code(), result.stderr.as_str()),
            (Some(1), format!("afterburner: {message}\n").as_str())
        );
        assert!(!lab.path("a.o").exists());
    }
}

/// A text that keeps the assembler busy until somebody ends it, without memory to speak of.
fn endless() -> String {
    format!("{SENSITIVE}.rept 60000\n.rept 60000\n.endr\n.endr\n")
}

/// The process of this name that this one has started, when it has come so far.
fn child(parent: u32, name: &str) -> u32 {
    let is_child = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}")) && status.starts_with(&format!("Name:\t{name}\n"))
    };
    loop {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        if let Some(process) = processes.find(is_child) {
            return process;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_shim_that_is_killed_takes_the_assembler_with_it() {
    for signal in ["-KILL", "-TERM", "-HUP"] {
        let lab = Lab::with(&[("a.s", endless().as_bytes())]);
        // Whoever runs the tests may have them ignore a signal, as `nohup` does.
        let arguments = ["--default-signal", AFTERBURNER, "as", "a.s", "-o", "a.o"];
        let mut shim = lab.command("env", &arguments).spawn().expect("the shim");
        let assembler = child(shim.id(), "as");
        lab.run("kill", &[signal, &shim.id().to_string()]).silent_success();
        shim.wait().expect("the shim");
        while Path::new(&format!("/proc/{assembler}")).exists() {
            thread::sleep(Duration::from_millis(10));
        }
        let left: Vec<_> = lab.files().into_keys().collect();
        assert_eq!(left, [Path::new("a.s")], "{signal}");
    }
}

#[test]
fn objects_are_placed_as_the_assembler_places_them() {
    let place = |lab: &Lab, command: &[&str]| {
        let script = format!(
            "umask 027; echo old > old.o; ln old.o hard.o; echo old > target.o; ln -s target.o soft.o
             : > empty.o; chmod 600 empty.o; : > void.o; ln -s void.o dangling.o; rm void.o; mkdir closed
             for object in new.o hard.o soft.o empty.o dangling.o; do {} a.s -o $object || exit; done
             stat -c '%n %A %h' *.o; cat old.o target.o",
            command.join(" ")
        );
        lab.run("sh", &["-c", &script])
    };
    let [real, ours] = [&["as"] as &[&str], &[AFTERBURNER, "as"]].map(|command| {
        let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
        (place(&lab, command), lab.files().into_keys().collect::<Vec<_>>())
    });
    assert!(real.0.status.success() && real.0.stdout.contains("new.o -rw-r-----"), "{real:?}");
    assert_eq!(ours, real);
}

#[test]
fn no_directory_for_temporary_files_is_needed() {
    let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
    let shim = lab.copy_of_the_command("shims/as");
    // The settings of a build with `--check`.
    lab.write("shims/session", [b"AFTRBRN\x01".as_slice(), &[0, 0, 0, 0, 1, 0]].concat());
    let mut command = lab.command(shim, &["a.s", "-o", "a.o"]);
    Result::of(command.env("TMPDIR", "/nonexistent").output().expect("the shim")).silent_success();
    assert!(lab.has_records("a.o"));
}

#[test]
fn gcc_finds_the_shim() {
    let source = "int f(void) { asm volatile(\"cli\"); return 1; }\n";
    for options in [&[] as &[&str], &["-pipe"], &["-g", "-O2"]] {
        let lab = Lab::with(&[("a.c", source.as_bytes())]);
        let prefix = format!("-B{}/", lab.shims(&["as"]).display());
        lab.run("gcc", &[options, &[&prefix, "-c", "a.c", "-o", "a.o"]].concat()).silent_success();
        assert!(lab.has_records("a.o"), "{options:?}");
    }
}

#[test]
fn gcc_s_user_sees_the_lines_of_the_source() {
    let source = "int f(void)\n{\n\tasm volatile(\"cli\");\n\tasm volatile(\"nonsense\");\n\treturn 1;\n}\n";
    let lab = Lab::with(&[("a.c", source.as_bytes())]);
    let prefix = format!("-B{}/", lab.shims(&["as"]).display());
    let ours = lab.run("gcc", &[&prefix, "-c", "a.c", "-o", "a.o"]);
    assert_eq!(ours, lab.run("gcc", &["-c", "a.c", "-o", "a.o"]));
    assert!(ours.stderr.contains("a.c:4: Error: no such instruction: `nonsense'"), "{ours:?}");
}

#[test]
fn clang_without_its_assembler_finds_the_shim() {
    let lab = Lab::with(&[("a.c", b"int f(void) { asm volatile(\"cli\"); return 1; }\n")]);
    let prefix = format!("-B{}/", lab.shims(&["as"]).display());
    lab.run("clang", &["-fno-integrated-as", &prefix, "-c", "a.c", "-o", "a.o"]).silent_success();
    assert!(lab.has_records("a.o"));
}

#[test]
fn a_copy_of_the_command_is_a_shim_too() {
    let lab = Lab::with(&[("a.s", SENSITIVE.as_bytes())]);
    let shim = lab.copy_of_the_command("x86_64-linux-gnu-as");
    lab.run(&shim, &["a.s", "-o", "a.o"]).silent_success();
    assert!(lab.has_records("a.o"));
}

/// Does the same with gcc alone and with gcc that finds the shim; compares what is said and left,
/// and the objects' code.
#[track_caller]
fn same_by_gcc(options: &[&str]) {
    const VARYING: &[&str] = &["o", "dwo"];
    let source = "int g(int);\nint f(int x)\n{\n\tasm volatile(\"cli\");\n\treturn x ? g(x) : 2;\n}\n";
    let lab = Lab::new();
    let run = |prefix: &[&str]| {
        lab.clear();
        lab.write_all(&[("a.c", source), ("sub/keep", "")]);
        let result = lab.run("gcc", &[prefix, options, &["-c", "a.c", "-o", "sub/b.o"]].concat());
        (result, lab.files())
    };
    let (plain, theirs) = run(&[]);
    let tools = Lab::new();
    let (shim, ours) = run(&[&format!("-B{}/", tools.shims(&["as"]).display())]);
    assert_eq!(shim, plain, "{options:?}");
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{options:?}");
    for (path, content) in &theirs {
        let varies = path.extension().is_some_and(|extension| VARYING.iter().any(|other| extension == *other));
        assert!(varies || ours[path] == *content, "{options:?}: {} differs", path.display());
    }
    assert!(lab.has_records("sub/b.o"), "{options:?}");
    lab.write("plain.o", &theirs[Path::new("sub/b.o")]);
    lab.afterburner(&["compare", "plain.o", "sub/b.o"]).success();
}

#[test]
fn gcc_s_other_files_are_its_own() {
    for options in [
        &["--coverage", "-O2", "-frandom-seed=1"] as &[&str],
        &["-ftest-coverage", "-pipe", "-frandom-seed=1"],
        &["-fstack-usage"],
        &["-g", "-gsplit-dwarf"],
        &["-save-temps"],
        &["-save-temps=obj", "-g"],
        &["-MD", "-MP"],
        &["-Wa,-adhln=x.lst", "-g"],
        &["-Wa,-aln", "-save-temps"],
        &["-fcallgraph-info=su", "-dumpbase", "x"],
        &["-gz", "-g"],
    ] {
        same_by_gcc(options);
    }
}

#[test]
fn code_that_gcc_keeps_from_the_assembler_is_a_miss() {
    for options in ["-flto", "-flto -ffat-lto-objects"] {
        let makefile = format!("a.o: a.c\n\tgcc $(KCFLAGS) {options} -c -o $@ $<\n");
        let source = b"int f(void) { asm volatile(\"cli\"); return 1; }\n";
        let lab = Lab::with(&[("a.c", source), ("Makefile", makefile.as_bytes())]);
        let mut command = lab.command(AFTERBURNER, &["build", "--", "make", "-s", "a.o"]);
        command.env("XDG_CACHE_HOME", lab.path("cache"));
        let result = Result::of(command.output().expect("the command"));
        assert_eq!(result.status.code(), Some(1), "{options}: {result:?}");
        assert!(result.stderr.contains("a.o: -flto keeps code from the assembler"), "{options}: {result:?}");
        assert!(!lab.has_records("a.o"), "{options}");
    }
}
