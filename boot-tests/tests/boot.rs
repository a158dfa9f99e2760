//! Annotated kernels boot on their NOPs, and do what plain ones do.

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::kernel::Variant;
use boot_tests::no_self_tests;
use boot_tests::qemu::{Machine, TWO_CPUS};

/// Since Linux 6.7 `KUnit` can leave out tests that are slow. Emulated, they take half a minute
/// each.
const NO_SLOW_TESTS: &str = "kunit.filter=speed>slow";

const NO_SELF_TESTS: &str = no_self_tests!();

fn boots_to_a_shell(variant: Variant) -> Result<()> {
    let kernel = variant.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    for cpu in ["qemu64", "max"] {
        let machine = Machine { cpu, ..Machine::new(kernel.vmlinux(), guest.path()) };
        machine.boot(&format!("{}-{cpu}", variant.name()), &Expectations::read("shell")?)?;
    }
    Ok(())
}

#[test]
fn min() -> Result<()> {
    boots_to_a_shell(Variant::MIN)
}

#[test]
fn min_of_linux_6_12() -> Result<()> {
    boots_to_a_shell(Variant::MIN_6_12)
}

#[test]
fn min_in_the_lower_half() -> Result<()> {
    boots_to_a_shell(Variant::LOW)
}

#[test]
fn tiny_llvm() -> Result<()> {
    boots_to_a_shell(Variant::TINY_LLVM)
}

#[test]
fn tiny_clang_gas() -> Result<()> {
    boots_to_a_shell(Variant::TINY_CLANG_GAS)
}

#[test]
fn net() -> Result<()> {
    let kernel = Variant::NET.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid", "dummy"])?).initramfs()?;
    Machine::new(kernel.vmlinux(), guest.path()).boot("net", &Expectations::read("network")?)?;
    Ok(())
}

#[test]
fn hard_runs_the_kernels_own_tests() -> Result<()> {
    let kernel = Variant::HARD.build()?;
    let mut modules = vec![
        "test_module",
        "memcpy_kunit",
        "stackinit_kunit",
        "kprobe_event_gen_test",
        "synth_event_gen_test",
        "test_static_key_base",
        "test_static_keys",
        "test_fpu",
    ];
    // Later releases have tests of KUnit's instead, at boot.
    for (option, module) in [("CONFIG_TEST_USER_COPY", "test_user_copy"), ("CONFIG_STRING_SELFTEST", "test_string")] {
        if kernel.is_configured_with(option)? {
            modules.push(module);
        }
    }
    let guest = Guest::script("selftests", kernel.modules_named(&modules)?).initramfs()?;
    let append = format!("{TWO_CPUS} {NO_SLOW_TESTS}");
    let machine = Machine { cpus: 2, append, ..Machine::new(kernel.vmlinux(), guest.path()) };
    machine.boot("hard-selftests", &Expectations::read_for("selftests", &kernel)?)?;
    Ok(())
}

#[test]
fn hard_with_page_table_isolation() -> Result<()> {
    for cpu in ["qemu64", "max"] {
        let log = boot_hard_bzimage(&format!("pti=on nokaslr {NO_SELF_TESTS}"), cpu)?;
        ensure!(log.contains("Kernel/User page tables isolation: enabled"), "page-table isolation is off");
    }
    Ok(())
}

#[test]
fn hard_with_and_without_kaslr() -> Result<()> {
    let fixed = text_address(&boot_hard_bzimage(&format!("nokaslr {NO_SELF_TESTS}"), "max")?)?;
    ensure!(fixed == "ffffffff81000000", "without KASLR, text is at {fixed}");
    // One boot in 490 lands at the default address by chance.
    for _ in 0..3 {
        let random = text_address(&boot_hard_bzimage(NO_SELF_TESTS, "max")?)?;
        println!("with KASLR, text is at {random}");
        if random != fixed {
            return Ok(());
        }
    }
    anyhow::bail!("text is at its default address in every boot with KASLR")
}

fn boot_hard_bzimage(append: &str, cpu: &str) -> Result<String> {
    let kernel = Variant::HARD.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    let machine = Machine {
        append: format!("{append} {TWO_CPUS}"),
        cpu,
        cpus: 2,
        ..Machine::new(kernel.bzimage(), guest.path())
    };
    let words: Vec<_> = append.split_whitespace().filter(|word| !NO_SELF_TESTS.contains(word)).collect();
    machine.boot(&format!("hard-{cpu}-{}", words.join("-")), &Expectations::read("shell")?)
}

fn text_address(log: &str) -> Result<String> {
    let line = log.lines().find(|line| line.contains("guest: text at ")).context("the guest did not say")?;
    let address = line.split("guest: text at ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(address.context("the guest did not say where its text is")?.to_owned())
}
