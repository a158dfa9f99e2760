//! What a kernel does on the wedge below Xen is what it does without one.

use std::time::Duration;

use anyhow::{Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::Host;
use boot_tests::kernel::Variant;
use boot_tests::qemu::Machine;

#[test]
fn min_boots_to_a_shell() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    let machine = Machine { timeout: Duration::from_secs(300), ..Host::Xen.machine(&kernel, guest.path())? };
    let log = machine.boot("xen-min", &Expectations::read("shell")?)?;
    let entered = "afterburner: backend xen, dom0, entered by Xen PV";
    ensure!(log.contains(entered), "the wedge did not say `{entered}`");
    Ok(())
}
