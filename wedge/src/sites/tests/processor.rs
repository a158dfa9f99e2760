//! The stubs of deprivileged mode on a model of a processor, which can be interrupted before each
//! instruction: what [`Engine::interrupted`] says makes of the context there one that the guest
//! might have been in without a stub.

use std::slice;

use iced_x86::{Mnemonic, OpKind, Register};

use super::*;

const STACK: u64 = 0xffff_c900_0000_4000;
const STATUS: u64 = 0x8d5;
const ZF: u64 = 1 << 6;
const IF: u64 = 1 << 9;
const RSP: usize = 4;

/// Where the frame of an IRETQ leads.
const RETURN: [u64; 5] = [TEXT + 0x4_5678, 0x10, 0, STACK + 0x800, 0x18];

/// A processor and its memory.
#[derive(Clone, Debug)]
struct Processor {
    rip: u64,
    registers: [u64; 16],
    /// The status flags.
    flags: u64,
    memory: [u8; DATA + 2 * HALF],
}

/// Bytes of the memory that stubs know of; behind them is the stack.
const DATA: usize = 0x40;
/// Bytes of the stack on each side.
const HALF: usize = 0x40;

/// Where an address is in the memory.
fn place(address: u64) -> usize {
    let place = |start: u64| usize::try_from(address.wrapping_sub(start)).unwrap_or(usize::MAX);
    match place(MACHINE.pending) {
        place if place < DATA => place,
        _ => place(STACK - HALF as u64).saturating_add(DATA),
    }
}

impl Processor {
    fn byte(&self, address: u64) -> u8 {
        self.memory.get(place(address)).copied().unwrap_or(0)
    }

    fn read(&self, address: u64) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|at| self.byte(address + at as u64)))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.memory[place(address)..][..bytes.len()].copy_from_slice(bytes);
    }

    fn push(&mut self, value: u64) {
        self.registers[RSP] -= 8;
        self.write(self.registers[RSP], &value.to_le_bytes());
    }

    fn pop(&mut self) -> u64 {
        let value = self.read(self.registers[RSP]);
        self.registers[RSP] += 8;
        value
    }

    /// The flags as a guest with its privileges would store them.
    fn virtual_flags(&self) -> u64 {
        self.flags | 2 | if self.byte(MACHINE.mask) == 0 { IF } else { 0 }
    }

    fn load_virtual_flags(&mut self, word: u64) {
        self.flags = word & STATUS;
        self.write(MACHINE.mask, &[u8::from(word & IF == 0)]);
    }

    /// What an arithmetic instruction with this result leaves: ZF is right, all others are what
    /// they were not.
    fn clobber(&mut self, result: u8) {
        self.flags = !self.flags & STATUS & !ZF | if result == 0 { ZF } else { 0 };
    }

    /// Executes one instruction of a stub.
    fn step(&mut self, instruction: &Instruction) {
        let number = |operand: u32| instruction.op_register(operand).full_register().number();
        let stack = instruction.memory_base() == Register::RSP;
        let address = instruction.memory_displacement64().wrapping_add(if stack { self.registers[RSP] } else { 0 });
        let (value, immediate) = (self.byte(address), instruction.immediate8());
        let target = instruction.near_branch_target();
        let from_register = instruction.op1_kind() == OpKind::Memory;
        self.rip = instruction.next_ip();
        match instruction.mnemonic() {
            Mnemonic::Mov if from_register => self.registers[number(0)] = self.read(address),
            Mnemonic::Mov if instruction.memory_size().size() == 1 => self.write(address, &[immediate]),
            Mnemonic::Mov => self.write(address, &instruction.immediate32().to_le_bytes()),
            Mnemonic::Movzx => self.registers[number(0)] = value.into(),
            Mnemonic::Cmp => self.clobber(value.wrapping_sub(immediate)),
            Mnemonic::Test => self.clobber(value & immediate),
            Mnemonic::And => {
                self.write(address, &[value & immediate]);
                self.clobber(value & immediate);
            }
            Mnemonic::Not => self.write(address, &[!value]),
            Mnemonic::Je if self.flags & ZF != 0 => self.rip = target,
            Mnemonic::Jne if self.flags & ZF == 0 => self.rip = target,
            Mnemonic::Jrcxz if self.registers[1] == 0 => self.rip = target,
            Mnemonic::Je | Mnemonic::Jne | Mnemonic::Jrcxz => {}
            Mnemonic::Jmp => self.rip = target,
            Mnemonic::Call => {
                self.push(self.rip);
                self.rip = target;
            }
            Mnemonic::Push if instruction.op0_kind() == OpKind::Memory => self.push(self.read(address)),
            Mnemonic::Push => self.push(self.registers[number(0)]),
            Mnemonic::Pop => self.registers[number(0)] = self.pop(),
            // In ring 3 with an IOPL of 0.
            Mnemonic::Pushfq => self.push(self.flags | IF | 2),
            Mnemonic::Popfq => self.flags = self.pop() & STATUS,
            Mnemonic::Iretq => {
                let selectors = [8, 32].map(|offset| self.read(self.registers[RSP] + offset));
                assert_eq!(selectors, [u64::from(MACHINE.code_selector), u64::from(MACHINE.stack_selector)]);
                self.returned();
            }
            other => panic!("{other:?} is no part of a stub"),
        }
    }

    /// Takes RIP, RFLAGS and RSP from the frame.
    fn returned(&mut self) {
        let [rip, _, flags, stack, _] = std::array::from_fn(|_| self.pop());
        (self.rip, self.flags, self.registers[RSP]) = (rip, flags & STATUS, stack);
    }

    /// The context that the guest is shown.
    fn presented(&self, interrupted: Interrupted) -> Self {
        let mut shown = self.clone();
        match interrupted {
            Interrupted::At(address) => shown.rip = address,
            Interrupted::Pushed(address, word) => {
                shown.rip = address;
                let value = shown.pop();
                match word {
                    Word::Dropped => {}
                    Word::Rcx => shown.registers[1] = value,
                    Word::Flags => shown.flags = value & STATUS,
                }
            }
            Interrupted::Caller(offset) => shown.rip = shown.pop().wrapping_add_signed(offset),
            Interrupted::Returned => shown.returned(),
            Interrupted::Returning(address) => {
                let [selector, flags] = [8, 16].map(|offset| self.read(self.registers[RSP] + offset));
                if selector % 4 == 0 && flags & IF != 0 { shown.returned() } else { shown.rip = address }
            }
        }
        shown
    }

    /// What the guest can see of it.
    fn visible(&self, flags: bool) -> impl PartialEq + std::fmt::Debug + use<> {
        // Behind a return, the stack is another one.
        let stack = self.memory.get(place(self.registers[RSP])..).unwrap_or_default().to_vec();
        let bytes = [MACHINE.mask, MACHINE.gs_swapped].map(|address| self.byte(address));
        (self.rip, self.registers, if flags { self.flags } else { 0 }, bytes, stack)
    }
}

/// What the instructions of a site do on a processor of the guest's own.
fn executed(planned: &Planned, before: &Processor, end: u64) -> Processor {
    let mut after = Processor { rip: end, ..before.clone() };
    let bytes = &planned.bytes[..];
    let register = |byte: u8| usize::from(byte & 7) + if bytes.contains(&0x41) { 8 } else { 0 };
    match planned.class() {
        Class::Cli => after.write(MACHINE.mask, &[1]),
        Class::Sti => after.write(MACHINE.mask, &[0]),
        Class::Swapgs => after.write(MACHINE.gs_swapped, &[!before.byte(MACHINE.gs_swapped)]),
        Class::MovFromCr => after.registers[register(bytes[bytes.len() - 1])] = before.read(MACHINE.control[3]),
        Class::Pushf => after.push(before.virtual_flags()),
        Class::PushfPop => after.registers[register(bytes[bytes.len() - 1])] = before.virtual_flags(),
        Class::Popf => {
            let word = after.pop();
            after.load_virtual_flags(word);
        }
        Class::PushPopf => after.load_virtual_flags(before.registers[register(bytes[bytes.len() - 2])]),
        Class::Iret => {
            after.load_virtual_flags(before.read(before.registers[RSP] + 16));
            after.returned();
        }
        _ => {}
    }
    after
}

/// Runs a stub from a context, with an event arising before an instruction, and holds the context
/// at each of its instructions against those before and after the site. Returns where it leaves to.
fn run(kernel: &Kernel, planned: &Planned, before: &Processor, arises: usize) -> u64 {
    let (index, entry) = kernel.entry(0).unwrap();
    assert_eq!(entry.form(), Form::Jump);
    let after = executed(planned, before, entry.end());
    let loads = matches!(planned.class(), Class::Popf | Class::PushPopf | Class::Iret);
    let stub = STUBS + (STUB_SIZE * index) as u64;
    let stubs = stub..stub + STUB_SIZE as u64;
    let mut processor = Processor { rip: stub, ..before.clone() };
    for step in 0.. {
        if step == arises {
            processor.write(MACHINE.pending, &[1]);
        }
        let interrupted = kernel.engine.interrupted(processor.rip).unwrap();
        let shown = processor.presented(interrupted);
        let is_before = shown.rip == before.rip;
        let expected = if is_before { before } else { &after };
        // Before an instruction that loads the flags, and behind one whose flags are free, they do
        // not matter.
        let flags = if is_before { !loads } else { loads || !planned.live.is_empty() };
        let offset = processor.rip - stub;
        assert_eq!(shown.visible(flags), expected.visible(flags), "{planned:x?} at {offset}: {interrupted:?}");
        let code = &kernel.engine.stub(index)[usize::try_from(offset).unwrap()..];
        processor.step(&Decoder::with_ip(64, code, processor.rip, DecoderOptions::NONE).decode());
        if !stubs.contains(&processor.rip) {
            break;
        }
    }
    let left = processor.rip;
    if [MACHINE.emulate, MACHINE.interrupt].contains(&left) {
        let back = processor.pop();
        assert_eq!(kernel.engine.at_stub(back).map(|(_, site)| site.address()), Some(entry.address()));
        assert_eq!(kernel.engine.interrupted(back), Some(Interrupted::At(entry.end())));
    }
    if [MACHINE.emulate_without_stack, MACHINE.iret].contains(&left) {
        assert_eq!(processor.read(MACHINE.site) & 0xffff_ffff, index as u64);
    }
    left
}

/// Contexts in front of a site, with words on the stack that are flags or the frame of an IRETQ.
fn contexts(loads_frame: bool) -> impl Iterator<Item = Processor> {
    let choices = (0..64_u64).map(|bits| [0, 1, 2, 3, 4, 5].map(|bit| bits >> bit & 1));
    choices.map(move |[mask, pending, status, set, selector, swapped]| {
        let registers = std::array::from_fn(|number| 0x1000 * number as u64 + set * IF + (status << 6) + 0x81);
        let mut processor = Processor { rip: TEXT, registers, flags: status * 0x881 + 0x44, memory: [0; _] };
        processor.registers[RSP] = STACK;
        processor.write(MACHINE.mask, &[u8::try_from(mask).unwrap(), u8::try_from(swapped * 0xff).unwrap()]);
        processor.write(MACHINE.pending, &[u8::try_from(pending).unwrap()]);
        processor.write(MACHINE.control[3], &0x1234_5678_9abc_def0_u64.to_le_bytes());
        let word = set * IF + (status ^ 1) * STATUS + 2;
        let [rip, code, _, stack, data] = RETURN;
        let frame = [rip, code + selector * 3, word, stack, data + selector * 3];
        let words = if loads_frame { frame } else { [word, 1, 2, 3, 4] };
        processor.write(STACK, words.map(u64::to_le_bytes).as_flattened());
        processor
    })
}

/// Where the stub of a site leaves to, over all contexts and these moments of an event.
fn leaves(bytes: &[u8], flags: Flags, live: LiveFlags, moments: Range<usize>) -> Vec<u64> {
    let planned = Planned { slot: 5, ..Planned::new(bytes, flags, live) };
    let kernel = Kernel::new(Mode::Deprivileged, slice::from_ref(&planned));
    let contexts: Vec<_> = contexts(planned.class() == Class::Iret).collect();
    let mut left: Vec<_> = moments
        .flat_map(|arises| contexts.iter().map(|before| run(&kernel, &planned, before, arises)).collect::<Vec<_>>())
        .collect();
    left.sort_unstable();
    left.dedup();
    left
}

#[test]
fn wherever_a_stub_is_interrupted_the_guest_is_before_its_site_or_behind_it() {
    let (none, without) = (Flags::empty(), Flags::NO_STACK);
    let (live, free) = (LiveFlags::all(), LiveFlags::empty());
    let end = TEXT + 5;
    let Deprivileged { emulate, emulate_without_stack, interrupt, iret, .. } = MACHINE;
    for (bytes, flags, live, expected) in [
        (&[0xfa][..], none, live, &[end][..]),
        (&[0xfa], without, live, &[end]),
        (&[0xfb], none, live, &[interrupt, end]),
        (&[0xfb], none, free, &[interrupt, end]),
        (&[0xfb], without, free, &[emulate_without_stack, end]),
        (&[0xfb], without, live, &[emulate_without_stack]),
        (&[0x9c], none, live, &[end]),
        (&[0x9c], none, free, &[end]),
        (&[0x9c], without, free, &[end]),
        (&[0x9c], without, live, &[emulate_without_stack]),
        (&[0x9c, 0x58], without, live, &[end]),
        (&[0x9c, 0x58], without, free, &[end]),
        (&[0x9c, 0x5c], none, live, &[emulate]),
        (&[0x9d], none, live, &[interrupt, end]),
        (&[0x9d], none, free, &[interrupt, end]),
        (&[0x9d], without, free, &[emulate_without_stack]),
        (&[0x48, 0xcf], none, live, &[iret, RETURN[0]]),
        (&[0x48, 0xcf], without, free, &[iret, RETURN[0]]),
        (&[0xcf], none, live, &[emulate_without_stack]),
        (&[0x0f, 0x01, 0xf8], none, live, &[end]),
        (&[0x0f, 0x20, 0xd9], without, live, &[end]),
        (&[0x41, 0x0f, 0x20, 0xd9], none, live, &[end]),
        (&[0x44, 0x0f, 0x20, 0xc0], none, live, &[emulate]),
        (&[0xf4], none, live, &[emulate]),
        (&[0xfb, 0xf4], none, live, &[emulate]),
        (&[0x0f, 0x30], without, free, &[emulate_without_stack]),
    ] {
        assert_eq!(leaves(bytes, flags, live, 0..14), expected, "{bytes:02x?} {flags:?} {live:?}");
    }
}

#[test]
fn every_register_may_take_or_give_the_flags() {
    for live in [LiveFlags::all(), LiveFlags::empty()] {
        for register in (0..16_u8).filter(|register| *register != 4) {
            let prefix = if register < 8 { &[][..] } else { &[0x41] };
            let pushf_pop = [&[0x9c], prefix, &[0x58 | register & 7]].concat();
            assert_eq!(leaves(&pushf_pop, Flags::empty(), live, 13..14), [TEXT + 5]);
            let push_popf = [prefix, &[0x50 | register & 7, 0x9d]].concat();
            assert_eq!(leaves(&push_popf, Flags::empty(), live, 13..14), [MACHINE.interrupt, TEXT + 5]);
        }
    }
}
