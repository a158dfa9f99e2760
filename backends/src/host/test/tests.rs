//! A small guest boots on the host for tests: console, page fault, timer, program, reset.

use std::any::Any;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;
use std::{fs, vec};

use annotate::object::elf::Elf;
use annotate::object::verify::verify;
use annotate::record::{RECORD_SIZE, RawRecord};
use annotate::text::{Options, annotate};
use wedge::image::{CHECKED_FROM, GuestFacts, Header, MAGIC, Parameters, Span, arena_length, checksum};
use wedge::vm::End;

use super::memory::Ram;
use super::{Bare, PERIOD, Running};
use crate::boot::session;

const SOURCE: &str = include_str!("guest.s");
const SCRIPT: &str = include_str!("guest.ld");

/// Runs a tool of the build machine in a directory.
fn run(tool: &str, arguments: &[&str], directory: &Path) {
    let output = Command::new(tool).args(arguments).current_dir(directory).output().expect(tool);
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The guest, annotated, assembled and linked.
fn kernel() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let options = Options::default();
    let mut text = Vec::new();
    annotate(SOURCE.as_bytes(), &options).write_to("guest.s", &mut text).expect("a text");
    fs::write(at.join("guest.s"), text).expect("a file");
    fs::write(at.join("guest.ld"), SCRIPT).expect("a file");
    run("as", &["guest.s", "-o", "guest.o"], at);
    let flags = ["-z", "noexecstack", "-z", "max-page-size=4096", "--no-warn-rwx-segments", "-T", "guest.ld"];
    run("ld", &[&flags[..], &["guest.o", "-o", "guest"]].concat(), at);
    fs::read(at.join("guest")).expect("a kernel")
}

/// A payload of a kernel: what `afterburner pack` makes of one that has neither alternatives nor
/// relocations.
fn payload(kernel: &[u8]) -> (Vec<u8>, u64) {
    const ADDRESS: u64 = 0xffff_ffff_8020_0000;
    let elf = Elf::parse(kernel).expect("an ELF file");
    let report = verify(&elf).expect("records");
    assert!(report.misses.is_empty() && report.problems.is_empty(), "{report:?}");
    let mut sites: Vec<_> = report.sites.iter().map(|site| &site.site).collect();
    sites.sort_unstable_by_key(|site| site.address);
    let mut table = Vec::new();
    for site in &sites {
        let record = RawRecord {
            site: (site.address.wrapping_sub(ADDRESS + table.len() as u64)).cast_signed() as i32,
            length: site.length,
            slot: site.slot,
            class: site.class as u8,
            live_flags: site.liveness.flags.bits(),
            live_registers: site.liveness.registers.bits(),
            flags: site.flags.bits(),
        };
        table.extend(record.to_bytes());
    }
    let mut bytes = vec![0; size_of::<Header>()];
    let mut part = |part: &[u8]| {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(part);
        Span { offset, length: part.len() as u64 }
    };
    let guest = GuestFacts {
        window_entry: 509 * 8,
        image: 0xffff_ffff_8000_0000,
        modules_start: 0xffff_ffff_a000_0000,
        modules_end: 0xffff_ffff_a000_0000,
        ..GuestFacts::default()
    };
    let (sites, kernel) = (part(&table), part(kernel));
    let mut header = Header { magic: MAGIC, sites, sites_address: ADDRESS, kernel, guest, ..Header::default() };
    header.length = bytes.len() as u64;
    bytes[..size_of::<Header>()].copy_from_slice(&header.to_bytes());
    header.checksum = checksum(&bytes[CHECKED_FROM..]);
    bytes[..size_of::<Header>()].copy_from_slice(&header.to_bytes());
    (bytes, (table.len() / RECORD_SIZE) as u64)
}

/// A guest that is loaded, or `None` if its image is refused.
fn boot(payload: Vec<u8>, sites: u64) -> Option<Running> {
    const OWN: u64 = 0x10000;
    let arena = Span { offset: OWN, length: arena_length(sites) };
    let payload: &'static [u8] = Box::leak(payload.into_boxed_slice());
    let behind = Span { offset: OWN + arena.length, length: payload.len() as u64 };
    let clock = Rc::new(Cell::new(0));
    let guest = Rc::new(RefCell::new(None));
    let machine = Bare {
        parameters: Parameters { load_address: 0, arena, payload: behind },
        own_length: OWN,
        payload,
        ram: Ram::new(8 << 20),
        window: Ram::new(0x1_0000),
        clock: Rc::clone(&clock),
        guest: Rc::clone(&guest),
    };
    let ready = session::boot(machine)?;
    let guest = guest.borrow_mut().take()?;
    Some(Running::new(guest, ready, clock))
}

/// How a guest ends, and what it has printed.
fn end(mut guest: Running) -> (Result<End, Box<dyn Any + Send>>, Running) {
    let ended = catch_unwind(AssertUnwindSafe(|| guest.run())).expect_err("it does not return");
    (ended.downcast::<End>().map(|end| *end), guest)
}

/// Runs a guest that must come to its end, having printed what it prints when all goes well.
fn lives_through_all(running: Running, sites: u64) {
    let (ended, running) = end(running);
    let log = super::LOG.with_borrow(String::clone);
    assert_eq!(running.machine.board.console, "kptTuscg", "{log}{:x?}", running.state);
    assert_eq!(ended.expect("it ends by itself"), End::Reset);
    let account = running.machine.account;
    assert_eq!((account.unannotated, u64::from(account.sites)), (0, sites), "nothing but sites was emulated");
}

#[test]
fn a_guest_boots_faults_waits_and_runs_a_program() {
    let (payload, sites) = payload(&kernel());
    lives_through_all(boot(payload, sites).expect("it is loaded"), sites);
}

/// Whatever a stub has done by then, the guest is presented before or behind the site, and goes on
/// as if nothing had been.
#[test]
fn an_event_may_come_before_any_instruction() {
    let (payload, sites) = payload(&kernel());
    for remainder in 0..PERIOD {
        let guest = boot(payload.clone(), sites).expect("it is loaded");
        lives_through_all(Running { interrupted: Some(remainder), ..guest }, sites);
    }
}

#[test]
fn a_damaged_image_is_refused_before_anything_is_written() {
    let (mut payload, sites) = payload(&kernel());
    let last = payload.len() - 1;
    payload[last] ^= 1;
    assert!(boot(payload, sites).is_none());
}
