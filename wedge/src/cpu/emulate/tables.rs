//! Descriptor-table registers and the task register.

use super::{Flow, Machine, Outcome};
use crate::cpu::memory::{read, write_bytes};
use crate::cpu::{DescriptorTable, Exception, Host, LoadedSegment, Table, is_canonical};
use crate::x86::segment::{Selector, system};

/// What LTR adds to the type of a TSS.
const BUSY: u8 = 2;

impl<H: Host> Machine<'_, H> {
    /// SGDT, SIDT: limit and base, 10 bytes. Without UMIP anybody may.
    pub(super) fn store_table(&mut self, table: Table) -> Outcome {
        let mut bytes = [0; 10];
        let (limit, base) = bytes.split_at_mut(2);
        limit.copy_from_slice(&table.limit.to_le_bytes());
        base.copy_from_slice(&table.base.to_le_bytes());
        let address = self.address()?;
        write_bytes(self.host, address, &bytes, self.context.is_user())?;
        Ok(Flow::Next)
    }

    /// SLDT, STR.
    pub(super) fn store_selector(&mut self, selector: Selector) -> Outcome {
        self.store(u64::from(selector.0))?;
        Ok(Flow::Next)
    }

    /// LGDT.
    pub(super) fn load_gdt(&mut self) -> Outcome {
        self.cpu.gdt = self.table()?;
        self.host.tables_changed(self.cpu, DescriptorTable::Gdt);
        Ok(Flow::Next)
    }

    /// LIDT.
    pub(super) fn load_idt(&mut self) -> Outcome {
        self.cpu.idt = self.table()?;
        self.host.tables_changed(self.cpu, DescriptorTable::Idt);
        Ok(Flow::Next)
    }

    fn table(&mut self) -> Result<Table, Exception> {
        self.privileged()?;
        let address = self.address()?;
        let bytes: [u8; 10] = read(self.host, address, false)?;
        let [low, high, base @ ..] = bytes;
        let table = Table { base: u64::from_le_bytes(base), limit: u16::from_le_bytes([low, high]) };
        if is_canonical(table.base) { Ok(table) } else { Err(Exception::PROTECTION) }
    }

    /// LLDT. A null selector is legal: then there is no LDT.
    pub(super) fn load_ldt(&mut self) -> Outcome {
        self.privileged()?;
        let selector = Selector(self.load_selector()?);
        self.cpu.ldt = if selector.is_null() {
            LoadedSegment { selector, ..LoadedSegment::default() }
        } else {
            let (descriptor, base) = self.cpu.system_segment(selector, system::LDT, self.host)?;
            LoadedSegment { selector, base, limit: descriptor.limit() }
        };
        self.host.tables_changed(self.cpu, DescriptorTable::Ldt);
        Ok(Flow::Next)
    }

    /// LTR: the TSS becomes busy.
    pub(super) fn load_task_register(&mut self) -> Outcome {
        self.privileged()?;
        let selector = Selector(self.load_selector()?);
        if selector.is_null() {
            return Err(Exception::PROTECTION);
        }
        let (descriptor, base) = self.cpu.system_segment(selector, system::AVAILABLE_TSS, self.host)?;
        self.cpu.mark(selector, descriptor, BUSY, self.host)?;
        self.cpu.tr = LoadedSegment { selector, base, limit: descriptor.limit() };
        self.host.tables_changed(self.cpu, DescriptorTable::Tr);
        Ok(Flow::Next)
    }
}
