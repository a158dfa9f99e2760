//! What the addresses of counters mean: functions and source lines of the kernel.

use annotate::linux::tables::Linux;
use annotate::object::report::Within;
use annotate::object::sources::{SourceLine, Sources};
use annotate::object::text::{Function, Functions};
use annotate::object::{Elf, Error};

/// Where a site is, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whereabouts<'data> {
    /// The function; of a site in a replacement, the one that it is executed in.
    pub(super) function: Option<Within<'data>>,
    /// The source line.
    pub(super) source: Option<SourceLine>,
    /// Whether it is outside the kernel: in a module.
    pub(super) in_module: bool,
}

/// The symbols of the kernel that ran.
pub(super) struct Symbols<'data> {
    elf: Elf<'data>,
    linux: Linux,
    functions: Functions<'data>,
    sources: Sources<'data>,
}

impl<'data> Symbols<'data> {
    /// Reads those of a kernel.
    pub(super) fn of(data: &'data [u8]) -> Result<Self, Error> {
        let elf = Elf::parse(data)?;
        let (linux, functions, sources) = (Linux::of(&elf), Functions::of(&elf), Sources::of(&elf));
        Ok(Self { elf, linux, functions, sources })
    }

    /// Its debug information.
    pub(super) fn sources(&self) -> &Sources<'data> {
        &self.sources
    }

    /// Where the site with this link-time address is.
    pub(super) fn find(&self, address: u64) -> Whereabouts<'data> {
        let place = self.elf.place_at(address);
        let Some(place) = place.filter(|place| self.elf.sections()[place.section].executable) else {
            return Whereabouts { in_module: true, ..Whereabouts::default() };
        };
        let place = self.linux.original_of(place).unwrap_or(place);
        let function = self.functions.at(place);
        let function =
            function.map(|Function { name, start, .. }| Within { name, offset: place.offset - start.offset });
        Whereabouts { function, source: self.sources.line(place), in_module: false }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Two functions linked at 0x1000; the second starts at its fourth byte.
    const SOURCE: &str = "\
        .globl f, g\n.type f, @function\nf:\n\tnop\n\tcli\n\tret\n.size f, .-f\n\
        .type g, @function\ng:\n\tsti\n\tret\n.size g, .-g\n.data\n.long 1\n";

    fn linked(directory: &Path) -> Vec<u8> {
        fs::write(directory.join("entry.s"), SOURCE).expect("a file");
        for command in ["as -g entry.s -o entry.o", "ld -e f -Ttext=0x1000 entry.o -o kernel"] {
            let mut words = command.split(' ');
            let status = Command::new(words.next().expect("a tool")).args(words).current_dir(directory).status();
            assert!(status.expect("binutils").success(), "{command}");
        }
        fs::read(directory.join("kernel")).expect("a file")
    }

    #[test]
    fn an_address_is_a_function_and_a_line_or_in_a_module() {
        let directory = tempfile::tempdir().expect("a directory");
        let kernel = linked(directory.path());
        let symbols = Symbols::of(&kernel).expect("a kernel");
        for (address, expected) in
            [(0x1001, Some(("f", 1, 5))), (0x1003, Some(("g", 0, 10))), (0x1005, None), (0xffff_ffff_a000_0000, None)]
        {
            let found = symbols.find(address);
            let function = found.function.map(|Within { name, offset }| (name, offset));
            assert_eq!(function, expected.map(|(name, offset, _)| (name, offset)), "{address:#x}");
            assert_eq!(
                found.source.as_ref().map(|source| source.line),
                expected.map(|(.., line)| line),
                "{address:#x}"
            );
            assert_eq!(found.in_module, expected.is_none(), "{address:#x}");
        }
    }
}
