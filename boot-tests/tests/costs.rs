//! What the kernel's operations cost, in executed instructions, on the wedge: next to nothing on
//! bare hardware, and within limits on Xen. `scripts/costs` measures the peer, too.

use anyhow::Result;
use boot_tests::costs::{System, Table, measure};
use boot_tests::host::Host;
use boot_tests::unprivileged;

#[test]
fn every_operation_is_within_its_limit() -> Result<()> {
    let systems = [System::Plain, System::Native, System::Xen];
    let table = Table::measure(&systems, |system| measure(system, &format!("costs-{}", system.name())))?;
    println!("{}\n{}", table.text()?, table.boots());
    table.check()
}

#[test]
fn programs_without_privileges_cannot_have_the_kernel_do_what_is_dear() -> Result<()> {
    let (plain, xen) = (unprivileged::measure(Host::Plain)?, unprivileged::measure(Host::Xen)?);
    println!("{}", unprivileged::check(&plain, &xen)?);
    Ok(())
}
