//! What the kernel's operations cost, in executed instructions: on the wedge next to nothing, on Xen not much more than where
//! Linux was written for it.

use anyhow::{Result, ensure};
use boot_tests::costs::{OPERATIONS, System, Table, measure};

/// A system, what it is compared with, and how many times as much each of its operations may cost.
const LIMITS: [(System, System, f64); 2] = [(System::Native, System::Plain, 1.05), (System::Xen, System::Peer, 3.0)];

#[test]
fn every_operation_is_within_its_limit() -> Result<()> {
    let table = Table::measure(&System::ALL, |system| measure(system, &format!("costs-{}", system.name())))?;
    println!("{}\n{}", table.text()?, table.boots());
    for (system, base, limit) in LIMITS {
        for (operation, title) in OPERATIONS {
            let ratio = table.ratio(operation, system, base)?;
            ensure!(ratio <= limit, "{title}: {} costs {ratio:.3} times what {} does", system.name(), base.name());
        }
    }
    Ok(())
}
