//! What the wedge is entered for, how often, and for how long (`afterburn.mode=profile`).
//!
//! An entry begins where a host comes in by [`Vm`](super::Vm), and ends in
//! [`Vm::leave`](super::Vm::leave); what happens in between is all one entry's, whatever it leads
//! to. Its time is by the time-stamp counter: the host's own part of the way in and out is not in
//! it, the host's answers to calls are, and so is a halt, until something comes in. Here, too,
//! stands how often the host was called, for what, and for how long. Where nothing is counted, an
//! entry costs two tests more, and so does a call.

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annotate::instructions::Class;

use super::port::{Line, More};
use crate::x86::vector;

/// What the wedge was entered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A page fault that the shadow has answered.
    Fill,
    /// A page fault that was the guest's.
    Fault,
    /// Another exception.
    Exception,
    /// Something came in.
    Event,
    /// A system call of a program's.
    SystemCall,
    /// A site of the guest's kernel.
    Site(Class),
}

/// Those that are no sites, with their names.
const OTHERS: [(Path, &str); 5] = [
    (Path::Fill, "fill"),
    (Path::Fault, "fault"),
    (Path::Exception, "exception"),
    (Path::Event, "event"),
    (Path::SystemCall, "system-call"),
];

/// How many there are.
const PATHS: usize = OTHERS.len() + Class::ALL.len();

impl Path {
    /// That of an exception.
    #[inline]
    pub(super) const fn of_exception(vector: u64) -> Self {
        if vector == vector::PAGE_FAULT as u64 { Self::Fault } else { Self::Exception }
    }

    /// Its place in a table.
    fn place(self) -> usize {
        match self {
            Self::Site(class) => OTHERS.len() + Class::ALL.iter().position(|known| *known == class).unwrap_or(0),
            other => OTHERS.iter().position(|(path, _)| *path == other).unwrap_or(0),
        }
    }

    /// The name of what has that place.
    fn name(place: usize) -> &'static str {
        let class = || Class::ALL.get(place.checked_sub(OTHERS.len())?).map(|class| class.name());
        OTHERS.get(place).map_or_else(|| class().unwrap_or("nothing"), |(_, name)| *name)
    }
}

/// What went into a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    entries: u64,
    ticks: u64,
}

/// An entry that has not ended.
#[derive(Clone, Copy, Debug)]
struct Entry {
    path: Path,
    /// The time-stamp counter when it began.
    since: u64,
    /// Where the guest was.
    rip: u64,
}

/// What the wedge was entered for so far.
#[derive(Debug)]
pub struct Profile {
    on: bool,
    entry: Option<Entry>,
    spent: [Spent; PATHS],
    /// What is being told: all of one moment.
    told: [Spent; PATHS],
    /// The next to be told; behind the paths come the host's calls.
    next: usize,
}

impl Profile {
    /// Nothing yet. Unless it is on, nothing will be.
    #[must_use]
    pub fn new(on: bool) -> Self {
        let none = [Spent::default(); PATHS];
        Self { on, entry: None, spent: none, told: none, next: 0 }
    }

    /// Whether anything is counted.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// The wedge is entered; `rip` is where the guest was. Within an entry, nothing begins.
    pub(super) fn begin(&mut self, path: Path, rip: u64, since: u64) {
        self.entry.get_or_insert(Entry { path, since, rip });
    }

    /// The guest goes on. A page fault that has led nowhere was the shadow's.
    pub(super) fn end(&mut self, rip: u64, now: u64) {
        let Some(Entry { path, since, rip: before }) = self.entry.take() else { return };
        let path = if path == Path::Fault && rip == before { Path::Fill } else { path };
        let Spent { entries, ticks } = &mut self.spent[path.place()];
        *entries += 1;
        *ticks += now.wrapping_sub(since);
    }

    /// Counts from zero.
    pub(super) fn zero(&mut self, calls: &Calls) {
        self.spent = [Spent::default(); PATHS];
        calls.made.iter().for_each(|count| count.set(0, 0));
    }

    /// What has been counted will be told.
    pub(super) fn snapshot(&mut self, calls: &Calls) {
        (self.told, self.next) = (self.spent, 0);
        for (count, told) in calls.made.iter().zip(calls.told) {
            let (calls, ticks) = count.get();
            told.set(calls, ticks);
        }
    }

    /// The next line of what there is to tell.
    pub(super) fn line(&mut self, calls: &Calls, line: &mut Line) -> Result<More, fmt::Error> {
        while let Some(Spent { entries, ticks }) = self.told.get(self.next) {
            self.next += 1;
            if *entries != 0 {
                write!(line, "path {} {entries} {ticks}", Path::name(self.next - 1))?;
                return Ok(More::Line);
            }
        }
        while let Some(count) = calls.told.get(self.next - PATHS) {
            let (number, (count, ticks)) = (self.next - PATHS, count.get());
            self.next += 1;
            if count != 0 {
                write!(line, "call {} {count} {ticks}", (calls.name)(number))?;
                return Ok(More::Line);
            }
        }
        Ok(More::End)
    }
}

/// A call of the host's: how often it was made, and how long it took.
#[derive(Debug)]
struct Count {
    calls: AtomicU64,
    ticks: AtomicU64,
}

impl Count {
    const fn none() -> Self {
        Self { calls: AtomicU64::new(0), ticks: AtomicU64::new(0) }
    }

    fn set(&self, calls: u64, ticks: u64) {
        self.calls.store(calls, Ordering::Relaxed);
        self.ticks.store(ticks, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.ticks.load(Ordering::Relaxed))
    }
}

/// What is counted of calls whose numbers are below `N`, and what is told of that.
#[derive(Debug)]
pub struct Counts<const N: usize> {
    on: AtomicBool,
    made: [Count; N],
    told: [Count; N],
}

impl<const N: usize> Counts<N> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { on: AtomicBool::new(false), made: [const { Count::none() }; N], told: [const { Count::none() }; N] }
    }

    /// The host is about to be called. What [`Counts::end`] wants to know of that; `now` reads the
    /// time-stamp counter.
    #[inline]
    pub fn begin(&self, now: impl Fn() -> u64) -> Option<u64> {
        self.on.load(Ordering::Relaxed).then(now)
    }

    /// It has answered. A number that there is no room for is not counted.
    #[inline]
    pub fn end(&self, number: usize, since: Option<u64>, now: impl Fn() -> u64) {
        if let Some(since) = since {
            self.count(number, now().wrapping_sub(since));
        }
    }

    #[cold]
    #[inline(never)]
    fn count(&self, number: usize, ticks: u64) {
        if let Some(count) = self.made.get(number) {
            count.calls.fetch_add(1, Ordering::Relaxed);
            count.ticks.fetch_add(ticks, Ordering::Relaxed);
        }
    }

    /// These, by their names.
    #[must_use]
    pub const fn calls(&'static self, name: fn(usize) -> &'static str) -> Calls {
        Calls { on: &self.on, made: &self.made, told: &self.told, name }
    }
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The calls of a host, with their names.
#[derive(Clone, Copy)]
pub struct Calls {
    on: &'static AtomicBool,
    made: &'static [Count],
    told: &'static [Count],
    name: fn(usize) -> &'static str,
}

impl Calls {
    /// From here on they are counted.
    pub fn switch_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("made", &self.made).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::{String, ToString};
    use std::vec::Vec;

    use core::cell::Cell;

    use super::*;
    use crate::vm::port::{Command, Commands, Port};

    static COUNTS: Counts<3> = Counts::new();

    /// Answers with what a profile tells.
    struct Told<'a>(&'a mut Profile, Calls);

    impl Commands for Told<'_> {
        fn carry_out(&mut self, command: Command) {
            match command {
                Command::Zero => self.0.zero(&self.1),
                _ => self.0.snapshot(&self.1),
            }
        }

        fn answer(&mut self, _: Command, _: usize, line: &mut Line) -> Result<More, fmt::Error> {
            self.0.line(&self.1, line)
        }
    }

    fn ask(told: &mut Told<'_>, command: u8) -> Vec<String> {
        let mut port = Port::new();
        port.write(command, told);
        let bytes: Vec<u8> = core::iter::from_fn(|| Some(port.read(told)).filter(|byte| *byte != 0)).collect();
        String::from_utf8(bytes).expect("ASCII").lines().skip(1).map(ToString::to_string).collect()
    }

    #[test]
    fn each_path_and_each_call_has_a_line_of_one_moment() {
        let calls = COUNTS.calls(|number| ["nothing", "mmu_update", "iret"][number]);
        let time = Cell::new(0);
        // Each call takes 4.
        let clock = || time.replace(time.get() + 4);
        let mut profile = Profile::new(true);
        for (path, before, after, ticks) in [
            (Path::Fault, 0x1000, 0x1000, 100),
            (Path::Fault, 0x1000, 0x2000, 1000),
            (Path::Fault, 0x1000, 0x1000, 50),
            (Path::Site(Class::MovToCr), 0x3000, 0x3006, 7),
            (Path::Event, 0x3000, 0x3006, 8),
        ] {
            profile.begin(path, before, 5);
            // What comes up meanwhile is part of it.
            profile.begin(Path::Exception, 0, 6);
            profile.end(after, 5 + ticks);
        }
        // Nothing has begun.
        profile.end(0, 99);
        let call = |number| COUNTS.end(number, COUNTS.begin(clock), clock);
        call(2);
        calls.switch_on();
        [2, 2, 3].into_iter().for_each(call);
        let mut told = Told(&mut profile, calls);
        let expected =
            ["path fill 2 150", "path fault 1 1000", "path event 1 8", "path mov-to-cr 1 7", "call iret 2 8"];
        assert_eq!(ask(&mut told, b'c'), expected);
        let mut port = Port::new();
        port.write(b'c', &mut told);
        told.0.begin(Path::Fill, 0, 0);
        told.0.end(0, 1);
        call(1);
        let rest: Vec<u8> = core::iter::from_fn(|| Some(port.read(&mut told)).filter(|byte| *byte != 0)).collect();
        assert!(rest.starts_with(b"afterburn 1\npath fill 2 150\n"), "counted while it is read");
        assert!(rest.ends_with(b"path mov-to-cr 1 7\ncall iret 2 8\n"), "counted while it is read");
        ask(&mut told, b'z');
        assert!(ask(&mut told, b'c').is_empty());
    }

    #[test]
    fn every_path_has_a_name_of_its_own() {
        let names: Vec<&str> = (0..PATHS).map(Path::name).collect();
        for (place, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(place), "{name}");
        }
        for class in Class::ALL {
            assert_eq!(Path::name(Path::Site(*class).place()), class.name());
        }
        for (path, name) in OTHERS {
            assert_eq!(Path::name(path.place()), name);
        }
    }
}
