//! Mappings of the wedge's own that stay: of the guest's memory, and of what the shadow works in.

use super::abi::{Refused, abi};
use super::kernel::{Slot, initial, object, rights};
use super::objects::{FAN_OUT, Failure, Objects, refused};
use crate::runtime::PAGE;

/// Maps a frame, with the tables that it takes.
pub(super) fn map(objects: &mut Objects, frame: Slot, address: u64) -> Result<(), Failure> {
    loop {
        let words = [address, rights::READ_AND_WRITE, 0];
        match objects.kernel.invoke(frame, abi().page_map, &[initial::VSPACE], &words) {
            Ok(_) => return Ok(()),
            Err(Refused::FAILED_LOOKUP) => add_table(objects, address)?,
            Err(error) => return Err(refused("to map the wedge's memory")(error)),
        }
    }
}

/// Adds a table, the lowest that has a place.
fn add_table(objects: &mut Objects, address: u64) -> Result<(), Failure> {
    let levels = [
        (object::PAGE_TABLE, abi().page_table_map),
        (object::PAGE_DIRECTORY, abi().page_directory_map),
        (object::PDPT, abi().pdpt_map),
    ];
    for (kind, label) in levels {
        let table = objects.slots(1)?;
        objects.object(kind, PAGE.ilog2().into(), 0, table)?;
        match objects.kernel.invoke(table, label, &[initial::VSPACE], &[address, 0]) {
            Ok(_) => return Ok(()),
            Err(Refused::FAILED_LOOKUP) => objects.delete(table).map_err(refused("to delete an object"))?,
            Err(error) => return Err(refused("to map the wedge's tables")(error)),
        }
    }
    Ok(())
}

/// So many pages of the wedge's own, mapped from an address on; their frames.
pub(super) fn pages<const COUNT: usize>(objects: &mut Objects, address: u64) -> Result<[Slot; COUNT], Failure> {
    let first = objects.slots((COUNT as u64).next_power_of_two())?;
    for page in 0..COUNT as u64 {
        objects.object(object::PAGE, PAGE.ilog2().into(), 0, first + page)?;
        map(objects, first + page, address + page * PAGE)?;
    }
    Ok(core::array::from_fn(|page| first + page as u64))
}

/// Memory of the wedge's own, mapped from an address on: at least so many bytes.
pub(super) fn memory(objects: &mut Objects, address: u64, length: u64) -> Result<(), Failure> {
    const ROW: u64 = FAN_OUT * PAGE;
    for row in 0..length.div_ceil(ROW) {
        let frames = objects.slots(FAN_OUT)?;
        let from = objects.memory(ROW.ilog2().into())?;
        objects.make(from, object::PAGE, 0, frames, FAN_OUT)?;
        for page in 0..FAN_OUT {
            map(objects, frames + page, address + row * ROW + page * PAGE)?;
        }
    }
    Ok(())
}
