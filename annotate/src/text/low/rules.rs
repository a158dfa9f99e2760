//! The rules for one instruction.
//!
//! All are for what the assembler would relocate in 32 bits, or by the global offset table. Each
//! gives instructions that do the same and change no flag. Where an address needs a register and
//! none is free, one is saved on the stack meanwhile; an instruction that uses the stack pointer
//! otherwise than to address memory is then left as it is.

use std::borrow::Cow;

use super::super::expression::Sum;
use super::super::operands::split;
use super::super::scan::is_word;
use super::facts::Facts;
use super::operands::{Memory, Operand, Value, register64, resolved, symbol};
use super::scratch::{STACK_POINTER, Scratch};
use crate::linux::low::{BOUNDS_OF_TEXT, DISTANCE_OF_FIRST_PROCESSOR, FIRST_PAGE_TABLES, IMAGE_INDEX, LOW_IMAGE_INDEX};

/// The numeric label of the constants. A text that defines it itself is left alone.
pub(super) const LABEL: &str = "28120";

/// Where they are.
const SECTION: &str = ".rodata.low";

/// Length of an entry of a page table.
const ENTRY: i64 = 8;

/// An instruction, and what is to stand in its place.
#[derive(Debug)]
pub(super) struct Instruction<'a> {
    /// Constants and instructions before it,
    before: Vec<u8>,
    has_others_before: bool,
    /// its prefixes,
    prefixes: &'a [u8],
    pub(super) mnemonic: Cow<'a, [u8]>,
    operands: Vec<Cow<'a, [u8]>>,
    /// and instructions behind it.
    behind: Vec<u8>,
}

/// Whether a word is a prefix (GAS manual, 9.16.6 "Instruction Prefixes").
pub(super) fn is_prefix(word: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 17] = [
        b"lock", b"rep", b"repe", b"repz", b"repne", b"repnz", b"bnd", b"notrack", b"data16", b"addr32", b"rex64",
        b"cs", b"ds", b"es", b"fs", b"gs", b"ss",
    ];
    word.first() == Some(&b'{') || PREFIXES.iter().any(|prefix| word.eq_ignore_ascii_case(prefix))
}

/// An operand without blanks in names of registers: `% rip`, as `-traditional-cpp` gives.
fn compact(operand: &[u8]) -> Cow<'_, [u8]> {
    let is_apart = |pair: &[u8]| pair[0] == b'%' && pair[1].is_ascii_whitespace();
    if !operand.windows(2).any(is_apart) {
        return Cow::Borrowed(operand);
    }
    let mut compact = Vec::with_capacity(operand.len());
    for &byte in operand {
        if !(byte.is_ascii_whitespace() && compact.last() == Some(&b'%')) {
            compact.push(byte);
        }
    }
    Cow::Owned(compact)
}

impl<'a> Instruction<'a> {
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            let rest = &text[at..];
            let end = match rest.first()? {
                b'{' => memchr::memchr(b'}', rest)? + 1,
                _ => rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len()),
            };
            let (word, behind) = rest.split_at(end);
            if !is_prefix(word) {
                let operands = split(behind).map(|operand| compact(operand.trim_ascii())).collect();
                let mnemonic = super::lowercase(word);
                return Some(Self {
                    before: Vec::new(),
                    has_others_before: false,
                    prefixes: &text[..at],
                    mnemonic,
                    operands,
                    behind: Vec::new(),
                });
            }
            at = text.len() - behind.trim_ascii_start().len();
        }
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let operands = self.operands.join(&b", "[..]);
        [&self.before, self.prefixes, &self.mnemonic, b" ", &operands, &self.behind].concat()
    }

    /// Whether it has become more than one statement.
    pub(super) fn is_several(&self) -> bool {
        !self.before.is_empty() || !self.behind.is_empty()
    }

    /// Whether it is no longer the first instruction.
    pub(super) fn has_others_before(&self) -> bool {
        self.has_others_before
    }

    /// The same for the lower half, if that is something else.
    pub(super) fn rewrite(mut self, facts: &Facts<'_>, is_compiled: bool, runs_where_loaded: bool) -> Option<Self> {
        if self.mnemonic.starts_with(b"movabs") {
            return None;
        }
        if self.operands.iter().any(|operand| operand.contains(&b'\\')) {
            return self.loads_over_its_index(facts).then_some(self);
        }
        let mut is_changed = is_compiled && self.compiled_address(facts, runs_where_loaded);
        is_changed |= self.distance();
        is_changed |= self.entry_of_image();
        is_changed |= self.global_offset_table(facts);
        is_changed |= self.weak_symbol(facts);
        is_changed |= self.address_alone(facts);
        is_changed |= self.address_with_registers(facts);
        is_changed |= self.address_as_number(facts);
        is_changed.then_some(self)
    }

    /// The memory operands.
    fn memory(&self) -> impl Iterator<Item = (usize, Memory<'_>)> {
        self.operands.iter().enumerate().filter_map(|(number, operand)| match Operand::read(operand) {
            Operand::Memory(memory) => Some((number, memory)),
            _ => None,
        })
    }

    /// The memory operand that is relative to the instruction.
    fn relative(&self) -> Option<(usize, Memory<'_>)> {
        self.memory().find(|(_, memory)| memory.is_relative())
    }

    fn is(&self, mnemonic: &[u8]) -> bool {
        let rest = self.mnemonic.strip_prefix(mnemonic);
        rest.is_some_and(|rest| rest.is_empty() || rest == b"q")
    }

    /// Whether the last operand of two is a register of 64 bits.
    fn has_destination(&self) -> bool {
        self.operands.len() == 2 && register64(&self.operands[1]).is_some()
    }

    /// Becomes `movabsq $expression` to its destination.
    fn load_address(&mut self, expression: &[u8]) {
        self.mnemonic = Cow::Borrowed(b"movabsq");
        self.operands[0] = Cow::Owned([b"$", expression].concat());
    }

    /// Puts a constant into memory; returns the operand that reads it.
    fn constant(&mut self, expression: &[u8]) -> Vec<u8> {
        let before = format!(".pushsection {SECTION},\"a\",@progbits; .balign 8; {LABEL}: .quad ");
        self.before.extend_from_slice(before.as_bytes());
        self.before.extend_from_slice(expression);
        self.before.extend_from_slice(b"; .popsection; ");
        format!("{LABEL}b(%rip)").into_bytes()
    }

    /// A compiler asks for an address: by code that runs where it is loaded, which means the
    /// address where it is linked; or for a number, of which it says how far it is from a bound.
    fn compiled_address(&mut self, facts: &Facts<'_>, runs_where_loaded: bool) -> bool {
        if !self.is(b"lea") || !self.has_destination() {
            return false;
        }
        let Some((0, memory)) = self.relative() else { return false };
        let displacement = memory.displacement.to_vec();
        let is_number = symbol(&displacement)
            .is_some_and(|(name, number)| number != 0 && BOUNDS_OF_TEXT.iter().any(|bound| bound.as_bytes() == name));
        let is_meant = is_number || runs_where_loaded && facts.is_address(&displacement);
        if is_meant {
            self.load_address(&displacement);
        }
        is_meant
    }

    /// A number that somebody asks for as for an address.
    fn distance(&mut self) -> bool {
        let Some((0, memory)) = self.relative() else { return false };
        let is_distance = memory.displacement == DISTANCE_OF_FIRST_PROCESSOR.as_bytes();
        if !is_distance || !self.is(b"lea") || !self.has_destination() {
            return false;
        }
        self.load_address(DISTANCE_OF_FIRST_PROCESSOR.as_bytes());
        true
    }

    /// In a macro, a load from a table into the register that has the index, whichever that is
    /// (`GET_PERCPU_BASE`, `arch/x86/entry/calling.h`). The stack has it meanwhile, for the
    /// registers that are saved may be that one.
    fn loads_over_its_index(&mut self, facts: &Facts<'_>) -> bool {
        let Some((0, memory)) = self.memory().find(|(_, memory)| memory.registers.is_some()) else { return false };
        let (base, index) = memory.base_and_index();
        let (register, scale) = index.split_at(memchr::memchr(b',', index).unwrap_or(index.len()));
        let is_parameter = register.strip_prefix(b"\\").is_some_and(|name| name.iter().copied().all(is_word));
        let is_over = self.is(b"mov") && self.operands.get(1).is_some_and(|to| **to == *register);
        let is_address = !memory.displacement.contains(&b'\\') && facts.is_address(memory.displacement);
        if !(self.prefixes.is_empty() && base.is_empty() && is_parameter && is_over && is_address) {
            return false;
        }
        let save = [b"pushq ", register, b"; pushq %r10; pushq %r11; movq 16(%rsp), %r10; "].concat();
        let load = [b"movabsq $", memory.displacement, b", %r11; "].concat();
        let restore = [b"; movq %r10, 16(%rsp); popq %r11; popq %r10; popq ", register].concat();
        let entry = [memory.prefix, b"(%r11,%r10", scale, b")"].concat();
        (self.before, self.behind) = ([save, load].concat(), restore);
        self.operands = vec![Cow::Owned(entry), Cow::Borrowed(b"%r10")];
        self.has_others_before = true;
        true
    }

    /// The entry of the image's map in a page table that the kernel starts on.
    fn entry_of_image(&mut self) -> bool {
        let Some((number, memory)) = self.relative() else { return false };
        let Some((name, distance)) = symbol(memory.displacement) else { return false };
        let is_table = FIRST_PAGE_TABLES.iter().any(|table| table.as_bytes() == name);
        if !is_table || distance != IMAGE_INDEX * ENTRY {
            return false;
        }
        let moved = [memory.prefix, name, format!("+{}(%rip)", LOW_IMAGE_INDEX * ENTRY).as_bytes()].concat();
        self.operands[number] = Cow::Owned(moved);
        true
    }

    fn global_offset_table(&mut self, facts: &Facts<'_>) -> bool {
        let Some((number, memory)) = self.relative() else { return false };
        let Some(name) = memory.displacement.strip_suffix(b"@GOTPCREL") else { return false };
        let (name, is_branch, prefix) = (name.to_vec(), memory.is_indirect_branch(), memory.prefix.to_vec());
        if is_branch && !facts.is_weak(&name) {
            self.operands[number] = Cow::Owned(name);
        } else if number == 0 && self.is(b"mov") && self.has_destination() {
            self.load_address(&name);
        } else {
            let constant = self.constant(&name);
            self.operands[number] = Cow::Owned([prefix, constant].concat());
        }
        true
    }

    /// A symbol that perhaps nobody defines, whose address is 0 then: too far away.
    fn weak_symbol(&mut self, facts: &Facts<'_>) -> bool {
        if self.is_direct_branch() {
            let target = self.operands.first().filter(|target| facts.is_weak(target)).cloned();
            let Some(target) = target else { return false };
            let constant = self.constant(&target);
            self.operands[0] = Cow::Owned([b"*", &*constant].concat());
            return true;
        }
        let Some((number, memory)) = self.relative() else { return false };
        if !facts.is_weak(memory.displacement) {
            return false;
        }
        let (expression, prefix) = (memory.displacement.to_vec(), memory.prefix.to_vec());
        if self.is(b"lea") && self.has_destination() {
            self.load_address(&expression);
            return true;
        }
        let scratch = self.destination_for(number, b"", b"").or_else(|| self.saved(facts));
        let Some(scratch) = scratch else { return false };
        let load = [b"movabsq $", &*expression, b", ", scratch.name(), b"; "].concat();
        self.operands[number] = Cow::Owned([&*prefix, b"(", scratch.name(), b")"].concat());
        self.load_into(&scratch, &load);
        true
    }

    /// Whether an operand that is an expression is where the instruction branches to.
    fn is_branch(&self) -> bool {
        let names = [&b"j"[..], b"call", b"loop", b"xbegin"];
        names.iter().any(|name| self.mnemonic.starts_with(name))
    }

    fn is_direct_branch(&self) -> bool {
        let is_indirect = self.operands.first().is_some_and(|target| target.starts_with(b"*"));
        (self.mnemonic.starts_with(b"call") || self.mnemonic.starts_with(b"jmp")) && !is_indirect
    }

    /// Memory by its address alone.
    fn address_alone(&mut self, facts: &Facts<'_>) -> bool {
        let is_branch = self.is_branch();
        let is_alone = |(_, memory): &(usize, Memory<'_>)| {
            memory.registers.is_none()
                && (memory.is_indirect_branch() || !is_branch)
                && facts.is_address(memory.displacement)
        };
        let Some((number, memory)) = self.memory().find(is_alone) else { return false };
        let relative = [memory.prefix, memory.displacement, b"(%rip)"].concat();
        self.operands[number] = Cow::Owned(relative);
        true
    }

    /// An address to which registers are added.
    fn address_with_registers(&mut self, facts: &Facts<'_>) -> bool {
        let is_added = |(_, memory): &(usize, Memory<'_>)| {
            memory.registers.is_some() && !memory.is_relative() && facts.is_address(memory.displacement)
        };
        let Some((number, memory)) = self.memory().find(is_added) else { return false };
        let (base, index) = memory.base_and_index();
        let scratch = self.destination_for(number, base, index).or_else(|| self.saved(facts));
        let Some(scratch) = scratch else { return false };
        let (register, moved) = (scratch.name(), scratch.moved(base));
        let mut load = [b"movabsq $", memory.displacement, b", ", register, b"; "].concat();
        let address = match (base.is_empty(), index.is_empty()) {
            (true, _) => [b"(", register, b",", index, b")"].concat(),
            (false, true) => [moved, b"(", base, b",", register, b")"].concat(),
            (false, false) => {
                load.extend([b"leaq ", moved, b"(", base, b",", register, b"), ", register, b"; "].concat());
                [b"(", register, b",", index, b")"].concat()
            }
        };
        self.operands[number] = Cow::Owned([memory.prefix, &*address].concat());
        self.load_into(&scratch, &load);
        true
    }

    /// An address, or what only the upper half makes small, as an immediate.
    fn address_as_number(&mut self, facts: &Facts<'_>) -> bool {
        let Some(Operand::Immediate(expression)) = self.operands.first().map(|operand| Operand::read(operand)) else {
            return false;
        };
        let expression = expression.to_vec();
        if facts.value(&expression) == Value::Other {
            return false;
        }
        let is_load = self.is(b"mov");
        let is_known = is_load || self.is_arithmetic();
        if self.is(b"push") {
            // A constant in memory would be a pointer to code in objtool's eyes.
            self.operands[0] = Cow::Borrowed(b"%rax");
            self.behind.extend([b"; movabsq $", &*expression, b", %rax; xchgq %rax, (%rsp)"].concat());
        } else if is_known && !is_load && self.has_destination() {
            self.operands[0] = Cow::Owned(self.constant(&expression));
        } else if is_load && self.has_destination() {
            self.load_address(&expression);
        } else if is_known && self.mnemonic.ends_with(b"q") && self.operands.len() == 2 {
            return self.number_to_memory(&expression, facts);
        } else {
            return false;
        }
        true
    }

    /// An immediate for an instruction whose destination is in memory.
    fn number_to_memory(&mut self, expression: &[u8], facts: &Facts<'_>) -> bool {
        let (Operand::Memory(memory), Some(scratch)) = (Operand::read(&self.operands[1]), self.saved(facts)) else {
            return false;
        };
        let moved = scratch.moved(memory.base_and_index().0);
        if let Some(registers) = memory.registers.filter(|_| !moved.is_empty()) {
            let displacement = if memory.displacement.is_empty() { b"0" } else { memory.displacement };
            // Below the stack pointer is where the register would be saved.
            let sum = Sum::read(displacement).map(|sum| resolved(sum, |name| facts.number(name)));
            if sum.and_then(|sum| sum.constant()).is_some_and(i64::is_negative) {
                return false;
            }
            let address = [memory.prefix, moved, b"+", displacement, b"(", registers, b")"].concat();
            self.operands[1] = Cow::Owned(address);
        }
        self.operands[0] = Cow::Owned(scratch.name().to_vec());
        let load = [b"movabsq $", expression, b", ", scratch.name(), b"; "].concat();
        self.load_into(&scratch, &load);
        true
    }

    fn is_arithmetic(&self) -> bool {
        [&b"add"[..], b"sub", b"cmp", b"and", b"or", b"xor", b"adc", b"sbb", b"test"].iter().any(|name| self.is(name))
    }

    /// The destination, where the instruction only reads the operand of this number, and the
    /// destination is not part of its address.
    fn destination_for(&self, number: usize, base: &[u8], index: &[u8]) -> Option<Scratch> {
        let is_load = self.is(b"mov") || self.is(b"lea") || self.mnemonic.starts_with(b"movz");
        let destination = register64(self.operands.get(1)?).filter(|_| is_load && number == 0)?;
        let index = index.split(|&byte| byte == b',').next().unwrap_or_default();
        let is_free = ![base, index].into_iter().any(|register| register64(register) == Some(destination));
        let is_free = is_free && destination != STACK_POINTER;
        is_free.then(|| Scratch::Destination(self.operands[1].to_vec()))
    }

    fn saved(&self, facts: &Facts<'_>) -> Option<Scratch> {
        if self.operands.iter().any(|operand| facts.names_general_register(operand)) {
            return None;
        }
        Scratch::saved(&self.mnemonic, &self.operands.join(&b", "[..]))
    }

    /// Puts an address into a register before the instruction.
    fn load_into(&mut self, scratch: &Scratch, load: &[u8]) {
        if let Scratch::Saved(register) = scratch {
            self.before.extend([b"pushq ", *register, b"; "].concat());
            // What has been saved last is restored first.
            self.behind.splice(0..0, [b"; popq ", *register].concat());
        }
        self.before.extend_from_slice(load);
        self.has_others_before = true;
    }
}
