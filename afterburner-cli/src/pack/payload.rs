//! All that is the guest's, in one piece, as `wedge::image` lays it out.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, ensure};
use backends::boot::options::Options;
use wedge::image::{CHECKED_FROM, Copied, GuestFacts, Header, MAGIC, Payload, ProcessorNumber, Span, checksum};
use wedge::loader::command_line::CommandLine;
use wedge::loader::elf;
use wedge::sites::{Applied, Engine, Hooks, Memory, Mode, Piece, Refusal, STUB_SIZE, SiteTable};

use super::facts::facts;
use super::kernel::Kernel;
use super::reduced::reduced;
use super::relocations::Relocations;
use super::sites::Sites;
use super::vdso;

/// What a payload consists of.
pub(super) struct Contents {
    /// The reduced kernel.
    pub(super) kernel: Vec<u8>,
    /// The physical memory that the kernel is loaded to.
    pub(super) extent: Range<u64>,
    pub(super) sites: Sites,
    pub(super) relocations: Relocations,
    pub(super) initramfs: Vec<u8>,
    pub(super) command_line: String,
    facts: GuestFacts,
    processor_numbers: Vec<ProcessorNumber>,
}

impl Contents {
    /// Puts together what belongs to a kernel, and checks it as the wedge will.
    pub(super) fn of(
        kernel: &Kernel<'_>,
        relocations: Relocations,
        initramfs: Vec<u8>,
        command_line: &str,
    ) -> anyhow::Result<Self> {
        CommandLine::join(command_line, "").context("--cmdline")?;
        Options::parse(command_line).map_err(|error| anyhow::anyhow!("--cmdline: {error}"))?;
        let reduced = reduced(kernel.data)?;
        let contents = Self {
            processor_numbers: vdso::processor_numbers(kernel, &reduced)?,
            kernel: reduced,
            extent: kernel.loaded.extent(),
            sites: Sites::of(kernel)?,
            relocations,
            initramfs,
            command_line: command_line.to_owned(),
            facts: facts(kernel)?,
        };
        contents.check(kernel)?;
        Ok(contents)
    }

    /// Reads all of it back as the wedge does, and holds the table against the text.
    fn check(&self, kernel: &Kernel<'_>) -> anyhow::Result<()> {
        let (bytes, _) = self.payload();
        let payload = Payload::check(&bytes)?;
        payload.check_kernel(&kernel.loaded.virtual_extent())?;
        let reduced = elf::Kernel::parse(payload.kernel)?;
        ensure!(
            reduced.entry() == kernel.loaded.entry() && reduced.segments() == kernel.loaded.segments(),
            kernel.error("its segments change when it is reduced to them")
        );
        let (mut memory, address) = kernel.memory()?;
        rewrite(&payload, &mut Piece { bytes: &mut memory, address })
            .map_err(|refusal| kernel.error(format_args!("the wedge would refuse its sites: {refusal}")))
    }

    /// The payload, and its header.
    pub(super) fn payload(&self) -> (Vec<u8>, Header) {
        let copies: Vec<u8> = self.sites.copies.iter().flat_map(Copied::to_bytes).collect();
        let processor_numbers: Vec<u8> = self.processor_numbers.iter().flat_map(ProcessorNumber::to_bytes).collect();
        put_together(&Parts {
            kernel: &self.kernel,
            sites: &self.sites.table,
            sites_address: self.sites.address,
            copies: &copies,
            processor_numbers: &processor_numbers,
            relocations: self.relocations.bytes(),
            initramfs: &self.initramfs,
            command_line: &self.command_line,
            guest: self.facts,
        })
    }
}

/// The parts of a payload, as they are in it.
struct Parts<'a> {
    kernel: &'a [u8],
    sites: &'a [u8],
    sites_address: u64,
    copies: &'a [u8],
    processor_numbers: &'a [u8],
    relocations: &'a [u8],
    initramfs: &'a [u8],
    command_line: &'a str,
    guest: GuestFacts,
}

/// A payload like another, with this initramfs and this command line.
pub(super) fn changed(payload: &Payload<'_>, initramfs: &[u8], command_line: &str) -> Vec<u8> {
    let Payload { kernel, sites, sites_address, copies, processor_numbers, relocations, guest, .. } = *payload;
    let parts =
        Parts { kernel, sites, sites_address, copies, processor_numbers, relocations, initramfs, command_line, guest };
    put_together(&parts).0
}

fn put_together(parts: &Parts<'_>) -> (Vec<u8>, Header) {
    const WORD: usize = 8;
    const PAGE: usize = 4096;
    let mut bytes = vec![0; size_of::<Header>()];
    let mut part = |part: &[u8], alignment: usize| {
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(part);
        Span { offset, length: part.len() as u64 }
    };
    let mut header = Header {
        magic: MAGIC,
        length: 0,
        checksum: 0,
        sites: part(parts.sites, WORD),
        sites_address: parts.sites_address,
        copies: part(parts.copies, WORD),
        processor_numbers: part(parts.processor_numbers, WORD),
        relocations: part(parts.relocations, WORD),
        command_line: part(parts.command_line.as_bytes(), WORD),
        // By pages, for a guest may use them where they are.
        kernel: part(parts.kernel, PAGE),
        initramfs: part(parts.initramfs, PAGE),
        guest: parts.guest,
    };
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    header.length = bytes.len() as u64;
    bytes[..size_of::<Header>()].copy_from_slice(&header.to_bytes());
    header.checksum = checksum(&bytes[CHECKED_FROM..]);
    bytes[..size_of::<Header>()].copy_from_slice(&header.to_bytes());
    (bytes, header)
}

/// Rewrites the sites of a kernel as the wedge will at boot.
fn rewrite(payload: &Payload<'_>, text: &mut Piece<'_>) -> Result<(), Refusal> {
    let table = SiteTable::new(payload.sites, payload.sites_address)?;
    let mut sites: Vec<_> = (0..table.len()).map(|_| None).collect();
    let counters: Vec<_> = (0..table.len()).map(|_| AtomicU64::new(0)).collect();
    let memory = Memory {
        sites: &mut sites,
        stubs: &mut vec![[0; STUB_SIZE]; table.len()],
        stubs_address: payload.layout.window().start,
        counters: &counters,
        counters_address: payload.layout.window().start,
        snapshot: &mut vec![0; table.len()],
        order: &mut vec![0; table.len()],
    };
    Engine::new(Mode::Native, Hooks::default(), memory).rewrite(&table, |_| Applied::Somewhere, text).map(drop)
}
