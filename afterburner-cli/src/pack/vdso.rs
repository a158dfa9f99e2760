//! The number of the processor, in the vDSO.
//!
//! `getcpu` in the vDSO asks the processor: by the limit of a segment, or by RDPID where there is
//! that (Linux, `arch/x86/include/asm/segment.h`, `vdso_read_cpunode`). Where the kernel is a
//! process, no site is in between: what it finds there is the number of a processor of the machine,
//! and a program that keeps something for each of the guest's processors, which is one, would go
//! beyond its end. So the image says where the instructions are, and what says 0 instead.

use std::ops::Range;

use anyhow::{Context as _, anyhow, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Architecture, LittleEndian, Object as _, ObjectSection as _, ObjectSymbol};
use wedge::guest::layout::Layout;
use wedge::guest::linux::symbol::{self, GETCPU};
use wedge::image::ProcessorNumber;

use super::kernel::Kernel;

/// Where its other form is, until the kernel has looked at the processor.
const ALTERNATIVES: &str = ".altinstr_replacement";

/// Where the vDSOs of a kernel that may run as a process, reduced, ask for the number.
pub(super) fn processor_numbers(kernel: &Kernel<'_>, reduced: &[u8]) -> anyhow::Result<Vec<ProcessorNumber>> {
    let mut processor_numbers = Vec::new();
    if kernel.layout != &Layout::LOW {
        return Ok(processor_numbers);
    }
    for name in symbol::VDSOS.into_iter().filter(|name| kernel.has(name)) {
        let (address, length) = (kernel.word(name, 0)?, kernel.word(name, 1)?);
        let vdso = in_file(reduced, address, length).and_then(|range| reduced.get(range));
        let vdso = vdso.with_context(|| kernel.error(format_args!("{name} is not about something in the file")))?;
        let asked = asked(vdso).map_err(|error| kernel.error(format_args!("{name}: {error:#}")))?;
        processor_numbers.extend(asked.into_iter().map(|(offset, zero)| {
            let mut padded = [0; 8];
            padded[..zero.len()].copy_from_slice(&zero);
            ProcessorNumber { address: address + offset as u64, length: zero.len() as u64, zero: padded }
        }));
    }
    Ok(processor_numbers)
}

/// Where a range of addresses is in a file.
fn in_file(file: &[u8], address: u64, length: u64) -> Option<Range<usize>> {
    let header = FileHeader64::<LittleEndian>::parse(file).ok()?;
    let segments = header.program_headers(LittleEndian, file).ok()?;
    let loads = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let mut found = loads.filter_map(|segment| {
        let inside = address.checked_sub(segment.p_vaddr(LittleEndian))?;
        let end = inside.checked_add(length)?;
        let start = segment.p_offset(LittleEndian) + inside;
        (end <= segment.p_filesz(LittleEndian)).then_some(start..start + length)
    });
    let Range { start, end } = found.next()?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Where in a vDSO, in both of the forms of its `getcpu`, the number is asked for, and what says 0.
fn asked(vdso: &[u8]) -> anyhow::Result<Vec<(usize, Vec<u8>)>> {
    let mut asked = Vec::new();
    let file = object::File::parse(vdso)?;
    let is_narrow = file.architecture() == Architecture::I386;
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(GETCPU));
    if is_narrow && symbol.is_none() {
        return Ok(asked);
    }
    let symbol = symbol.with_context(|| format!("it has no {GETCPU}"))?;
    for piece in pieces(&file, &symbol)? {
        let bytes = vdso.get(piece.clone()).context("a part lies outside")?;
        let decoder = Decoder::new(if is_narrow { 32 } else { 64 }, bytes, DecoderOptions::NONE);
        let asks = |instruction: &Instruction| matches!(instruction.mnemonic(), Mnemonic::Lsl | Mnemonic::Rdpid);
        for instruction in decoder.into_iter().filter(asks) {
            asked.push((piece.start + usize::try_from(instruction.ip())?, zero(&instruction)?));
        }
    }
    ensure!(!asked.is_empty(), "{GETCPU} does not ask for the number of the processor by LSL or RDPID");
    Ok(asked)
}

/// Where in a vDSO `getcpu` is, and the forms that the kernel may give it.
fn pieces<'a>(file: &object::File<'a>, symbol: &impl ObjectSymbol<'a>) -> anyhow::Result<Vec<Range<usize>>> {
    let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
    let section = section.with_context(|| format!("{GETCPU} is in no section"))?;
    let (offset, _) = section.file_range().with_context(|| format!("{GETCPU} is not in the file"))?;
    let start = symbol.address().checked_sub(section.address()).map(|inside| offset + inside);
    let start = start.with_context(|| format!("{GETCPU} lies in front of its section"))?;
    let alternatives = file.section_by_name(ALTERNATIVES).and_then(|section| section.file_range());
    let ranges = [Some((start, symbol.size())), alternatives];
    let ranges = ranges.into_iter().flatten().map(|(start, length)| {
        let end = start.checked_add(length).ok_or_else(|| anyhow!("a part has no end"))?;
        Ok(usize::try_from(start)?..usize::try_from(end)?)
    });
    ranges.collect()
}

/// XOR of the destination of an instruction with itself, in as many bytes (SDM Vol. 2D, XOR).
fn zero(instruction: &Instruction) -> anyhow::Result<Vec<u8>> {
    const NOP: u8 = 0x90;
    const XOR: u8 = 0x31;
    /// Both of its operands are among the upper eight registers.
    const REX_RB: u8 = 0x45;
    let number = u8::try_from(instruction.op0_register().number())?;
    let mut bytes = if number < 8 { vec![] } else { vec![REX_RB] };
    bytes.extend([XOR, 0xc0 | (number & 7) << 3 | number & 7]);
    ensure!((bytes.len()..=8).contains(&instruction.len()), "an instruction of {GETCPU} has no room for another");
    bytes.resize(instruction.len(), NOP);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// How a vDSO is assembled and linked, and a register that it stores by.
    type Kind = [&'static str; 3];
    const WIDE: Kind = ["--64", "elf_x86_64", "rdi"];
    const X32: Kind = ["--x32", "elf32_x86_64", "rdi"];
    const NARROW: Kind = ["--32", "elf_i386", "edi"];

    /// A vDSO with these instructions in `getcpu`, and in its other form.
    fn vdso(asks: &str, other: &str, [to_assemble, to_link, place]: Kind) -> Vec<u8> {
        let text = format!(
            ".globl __vdso_getcpu\n.type __vdso_getcpu, @function\nnop\n__vdso_getcpu:\nmovl $0x7b, %eax\n{asks}\n\
             movl %eax, (%{place})\nret\n.size __vdso_getcpu, . - __vdso_getcpu\nlsl %ecx, %ecx\n\
             .section .altinstr_replacement, \"ax\"\nlfence\n{other}\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str], at: &Path| {
            assert!(Command::new(program).args(arguments).current_dir(at).status().unwrap().success(), "{text}");
        };
        fs::write(directory.path().join("vdso.s"), &text).unwrap();
        run("as", &[to_assemble, "vdso.s", "-o", "vdso.o"], directory.path());
        run("ld", &["-m", to_link, "-shared", "vdso.o", "-o", "vdso.so"], directory.path());
        fs::read(directory.path().join("vdso.so")).unwrap()
    }

    /// Its instructions, as objdump reads them.
    fn listed(vdso: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vdso).unwrap();
        let objdump = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(file.path()).output().unwrap();
        let text = String::from_utf8(objdump.stdout).unwrap();
        let instructions = text.lines().filter_map(|line| line.split_once(":\t"));
        instructions.map(|(_, instruction)| instruction.replace(' ', "")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_number_is_zero_in_both_forms_and_nothing_else_changes() {
        for (asks, other, now, other_now, kinds) in [
            ("lsl %eax, %eax", "rdpid %rax", "xor%eax,%eax; nop", "xor%eax,%eax; nop; nop", &[WIDE, X32][..]),
            ("lsl %r9d, %eax", "rdpid %r10", "xor%eax,%eax; nop; nop", "xor%r10d,%r10d; nop; nop", &[WIDE, X32]),
            ("lsl %eax, %r9d", "lfence", "xor%r9d,%r9d; nop", "lfence", &[WIDE, X32]),
            ("nop", "rdpid %rax", "nop", "xor%eax,%eax; nop; nop", &[WIDE, X32]),
            // 0x45 is an instruction there, and a prefix elsewhere.
            (
                "inc %ebp; lsl %eax, %eax",
                "rdpid %eax",
                "inc%ebp; xor%eax,%eax; nop",
                "xor%eax,%eax; nop; nop",
                &[NARROW],
            ),
        ] {
            for kind in kinds {
                let mut after = vdso(asks, other, *kind);
                for (offset, zero) in asked(&after).unwrap() {
                    after[offset..offset + zero.len()].copy_from_slice(&zero);
                }
                let place = kind[2];
                let expected =
                    format!("nop; mov$0x7b,%eax; {now}; mov%eax,(%{place}); ret; lsl%ecx,%ecx; lfence; {other_now}");
                assert_eq!(listed(&after), expected, "{asks} {kind:?}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let asks_nobody = vdso("nop", "lfence", WIDE);
        for (bytes, expected) in
            [(&asks_nobody[..], "does not ask for the number of the processor"), (&[0; 64][..], "Unknown file magic")]
        {
            let message = format!("{:#}", asked(bytes).unwrap_err());
            assert!(message.contains(expected), "{message}");
        }
    }
}
