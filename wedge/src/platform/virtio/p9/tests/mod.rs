//! The server, with files that are in memory: what Linux asks of it, and what no guest should.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

extern crate std;

mod hostile;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::vec;
use std::vec::Vec;

use super::super::{GuestMemory, Piece};
use super::*;

/// Bytes of the guest's memory, and where messages and answers are.
const MEMORY: usize = 0x10000;
const REQUEST: u64 = 0x1000;
const REPLY: u64 = 0x8000;
const ROOM: u32 = 0x6000;
const FIDS: usize = 8;

/// A file in memory.
#[derive(Clone, Debug)]
enum Node {
    Directory(BTreeMap<Vec<u8>, usize>),
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// A handle: each is given back once.
#[derive(Debug)]
struct Handle {
    node: usize,
    is_open: bool,
}

/// The host's files, and the guest's memory.
#[derive(Debug)]
struct Tree {
    memory: Vec<u8>,
    nodes: Vec<Node>,
    /// How many handles there are.
    handles: usize,
    changes: Vec<Changes>,
    /// How often something was changed.
    changed: usize,
    stores: Vec<(u64, usize)>,
}

impl Tree {
    fn new() -> Self {
        let files = (0..100).map(|number| (std::format!("file{number}").into_bytes(), 1));
        let nodes = vec![
            Node::Directory([(b"a".to_vec(), 1), (b"dir".to_vec(), 2), (b"link".to_vec(), 3)].into()),
            Node::File((0..200).collect()),
            Node::Directory(files.collect()),
            Node::Link(b"/etc".to_vec()),
        ];
        let (changes, stores) = (Vec::new(), Vec::new());
        Self { memory: vec![0; MEMORY], nodes, handles: 0, changes, changed: 0, stores }
    }

    fn handle(&mut self, node: usize, is_open: bool) -> Handle {
        self.handles += 1;
        Handle { node, is_open }
    }

    fn directory(&mut self, handle: &Handle) -> Answer<&mut BTreeMap<Vec<u8>, usize>> {
        match &mut self.nodes[handle.node] {
            Node::Directory(entries) => Ok(entries),
            _ => Err(Errno(20)),
        }
    }

    fn add(&mut self, directory: &Handle, name: &Name, node: Node) -> Answer {
        let number = self.nodes.len();
        let entries = self.directory(directory)?;
        if entries.contains_key(name.text().to_bytes()) {
            return Err(Errno(17));
        }
        entries.insert(name.text().to_bytes().to_vec(), number);
        self.nodes.push(node);
        self.changed += 1;
        Ok(())
    }

    fn range(piece: Piece) -> Answer<std::ops::Range<usize>> {
        let start = usize::try_from(piece.address).map_err(|_| Errno(14))?;
        let end = start.checked_add(piece.length as usize).filter(|end| *end <= MEMORY).ok_or(Errno(14))?;
        Ok(start..end)
    }
}

impl GuestMemory for Tree {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Ok(range) = Self::range(Piece { address, length: bytes.len() as u32 }) else { return false };
        bytes.copy_from_slice(&self.memory[range]);
        true
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Ok(range) = Self::range(Piece { address, length: bytes.len() as u32 }) else { return false };
        self.stores.push((address, bytes.len()));
        self.memory[range].copy_from_slice(bytes);
        true
    }
}

impl Files for Tree {
    type Handle = Handle;

    fn root(&mut self) -> Answer<Handle> {
        Ok(self.handle(0, false))
    }

    fn find(&mut self, directory: &Handle, name: &Name) -> Answer<Handle> {
        let node = *self.directory(directory)?.get(name.text().to_bytes()).ok_or(Errno::NOT_FOUND)?;
        Ok(self.handle(node, false))
    }

    fn again(&mut self, file: &Handle) -> Answer<Handle> {
        Ok(self.handle(file.node, false))
    }

    fn close(&mut self, _: Handle) {
        self.handles -= 1;
    }

    fn attributes(&self, file: &Handle) -> Answer<Attributes> {
        let (mode, size) = match &self.nodes[file.node] {
            Node::Directory(entries) => (0o040_755, entries.len()),
            Node::File(bytes) => (0o100_644, bytes.len()),
            Node::Link(target) => (0o120_777, target.len()),
        };
        Ok(Attributes { number: file.node as u64 + 1, mode, links: 1, size: size as u64, ..Attributes::default() })
    }

    fn change(&mut self, file: &Handle, changes: &Changes) -> Answer {
        self.changes.push(*changes);
        self.changed += 1;
        if let (Node::File(bytes), Some(size)) = (&mut self.nodes[file.node], changes.size) {
            bytes.resize(usize::try_from(size.min(1000)).unwrap(), 0);
        }
        Ok(())
    }

    fn open(&mut self, file: &Handle, how: Open) -> Answer<Handle> {
        self.changed += usize::from(how.changes());
        Ok(self.handle(file.node, true))
    }

    fn create(&mut self, directory: &Handle, name: &Name, how: Open, _: u32) -> Answer<Handle> {
        match self.add(directory, name, Node::File(Vec::new())) {
            Err(Errno(17)) if !how.is_exclusive() => {}
            other => other?,
        }
        let node = self.directory(directory)?[name.text().to_bytes()];
        Ok(self.handle(node, true))
    }

    fn read(&mut self, file: &Handle, at: u64, into: Piece) -> Answer<u32> {
        assert!(file.is_open);
        let Node::File(bytes) = &self.nodes[file.node] else { return Err(Errno(21)) };
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let rest = rest[..rest.len().min(into.length as usize)].to_vec();
        let range = Self::range(into)?;
        self.stores.push((into.address, into.length as usize));
        self.memory[range][..rest.len()].copy_from_slice(&rest);
        Ok(rest.len() as u32)
    }

    fn write(&mut self, file: &Handle, at: u64, from: Piece) -> Answer<u32> {
        assert!(file.is_open);
        let new = self.memory[Self::range(from)?].to_vec();
        let Node::File(bytes) = &mut self.nodes[file.node] else { return Err(Errno(21)) };
        let at = usize::try_from(at).ok().filter(|at| *at < MEMORY).ok_or(Errno(27))?;
        bytes.resize(bytes.len().max(at + new.len()), 0);
        bytes[at..at + new.len()].copy_from_slice(&new);
        self.changed += 1;
        Ok(new.len() as u32)
    }

    fn list(&mut self, file: &Handle, from: u64, _: usize, listener: &mut dyn FnMut(&Entry<'_>) -> bool) -> Answer {
        assert!(file.is_open);
        let entries = self.directory(file)?;
        for (place, (name, node)) in (1..).zip(entries.iter()).skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if !listener(&Entry { number: *node as u64, next: place, kind: 8, name }) {
                break;
            }
        }
        Ok(())
    }

    fn space(&self, _: &Handle) -> Answer<Space> {
        Ok(Space {
            kind: 1,
            block_size: 2,
            blocks: 3,
            free: 4,
            available: 5,
            files: 6,
            free_files: 7,
            number: 8,
            longest_name: 9,
        })
    }

    fn flush(&mut self, file: &Handle, _: bool) -> Answer {
        assert!(file.is_open);
        Ok(())
    }

    fn make_directory(&mut self, directory: &Handle, name: &Name, _: u32) -> Answer {
        self.add(directory, name, Node::Directory(BTreeMap::new()))
    }

    fn make_node(&mut self, _: &Handle, _: &Name, _: u32, _: (u32, u32)) -> Answer {
        self.changed += 1;
        Err(Errno(1))
    }

    fn make_symlink(&mut self, directory: &Handle, name: &Name, target: &CStr) -> Answer {
        self.add(directory, name, Node::Link(target.to_bytes().to_vec()))
    }

    fn link(&mut self, file: &Handle, directory: &Handle, name: &Name) -> Answer {
        self.changed += 1;
        self.directory(directory)?.insert(name.text().to_bytes().to_vec(), file.node);
        Ok(())
    }

    fn rename(&mut self, from: (&Handle, &Name), to: (&Handle, &Name)) -> Answer {
        self.changed += 1;
        let node = self.directory(from.0)?.remove(from.1.text().to_bytes()).ok_or(Errno::NOT_FOUND)?;
        self.directory(to.0)?.insert(to.1.text().to_bytes().to_vec(), node);
        Ok(())
    }

    fn remove(&mut self, directory: &Handle, name: &Name, _: bool) -> Answer {
        self.changed += 1;
        self.directory(directory)?.remove(name.text().to_bytes()).map(drop).ok_or(Errno::NOT_FOUND)
    }

    fn target(&self, link: &Handle, target: &mut [u8; LONGEST_TARGET]) -> Answer<usize> {
        let Node::Link(text) = &self.nodes[link.node] else { return Err(Errno::INVALID) };
        target[..text.len()].copy_from_slice(text);
        Ok(text.len())
    }
}

/// A field of a message.
#[derive(Clone, Debug)]
enum Field {
    Byte(u8),
    Short(u16),
    Number(u32),
    Long(u64),
    Text(Vec<u8>),
}

use Field::{Byte, Long, Number, Short};

fn text(text: &str) -> Field {
    Field::Text(text.into())
}

/// A message of a kind, with a tag.
fn message(kind: u8, fields: &[Field]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, kind, 0x34, 0x12];
    for field in fields {
        match field {
            Byte(value) => bytes.push(*value),
            Short(value) => bytes.extend(value.to_le_bytes()),
            Number(value) => bytes.extend(value.to_le_bytes()),
            Long(value) => bytes.extend(value.to_le_bytes()),
            Field::Text(text) => {
                bytes.extend((text.len() as u16).to_le_bytes());
                bytes.extend(text);
            }
        }
    }
    let size = bytes.len() as u32;
    bytes[..4].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// A guest with a server, which it has attached to as fid 0.
struct Guest {
    tree: Tree,
    server: Server<'static, Handle>,
}

impl Guest {
    fn new(read_only: bool) -> Self {
        let fids = (0..FIDS).map(|_| Fid::Unused).collect::<Vec<_>>().leak();
        let mut guest = Self { tree: Tree::new(), server: Server::new(fids, read_only) };
        assert_eq!(guest.ask(100, &[Number(8192), text("9P2000.L")]).unwrap()[4..], *b"\x08\x009P2000.L");
        guest.ask(104, &[Number(0), Number(u32::MAX), text("root"), text(""), Number(0)]).unwrap();
        guest
    }

    /// Puts bytes into memory and has them answered, in pieces of such a length: the whole answer.
    fn answer(&mut self, bytes: &[u8], piece: u32, room: u32) -> Vec<u8> {
        self.tree.memory[REQUEST as usize..][..bytes.len()].copy_from_slice(bytes);
        let pieces = |start: u64, length: u32| {
            let places = (0..length).step_by(piece as usize);
            places
                .map(|at| Piece { address: start + u64::from(at), length: piece.min(length - at) })
                .collect::<Vec<_>>()
        };
        let (request, reply) = (pieces(REQUEST, bytes.len() as u32), pieces(REPLY, room));
        let length = self.server.answer(&request, &reply, &mut self.tree);
        assert!(length <= room);
        self.tree.memory[REPLY as usize..][..length as usize].to_vec()
    }

    /// Asks something: what is behind the header of the answer, or the error.
    fn ask(&mut self, kind: u8, fields: &[Field]) -> Result<Vec<u8>, u32> {
        let bytes = message(kind, fields);
        let answer = self.answer(&bytes, 4096, ROOM);
        assert_eq!(answer[..4], (answer.len() as u32).to_le_bytes(), "{answer:?}");
        assert_eq!(answer[5..7], [0x34, 0x12]);
        match answer[4] {
            7 => Err(u32::from_le_bytes(answer[7..].try_into().unwrap())),
            other => {
                assert_eq!(other, kind + 1);
                Ok(answer[7..].to_vec())
            }
        }
    }

    /// Walks by names to a new fid.
    fn walk(&mut self, fid: u32, new: u32, names: &[&str]) -> Result<usize, u32> {
        let mut fields = vec![Number(fid), Number(new), Short(names.len() as u16)];
        fields.extend(names.iter().map(|name| text(name)));
        self.ask(110, &fields).map(|answer| usize::from(answer[0]))
    }

    fn used(&self) -> usize {
        self.server.used()
    }
}

const BAD_FID: u32 = Errno::BAD_FID.0;
const INVALID: u32 = Errno::INVALID.0;

#[test]
fn a_walk_makes_a_fid_if_all_names_are_there() {
    for (names, expected, used) in [
        (&[][..], Ok(0), 2),
        (&["a"], Ok(1), 2),
        (&["dir", "file7"], Ok(2), 2),
        (&["dir", "nothing"], Ok(1), 1),
        (&["nothing", "a"], Err(2), 1),
        (&["a", "a"], Ok(1), 1),
        (&["link"], Ok(1), 2),
        (&["link", "passwd"], Ok(1), 1),
        (&[".."], Err(INVALID), 1),
        (&["dir", ".."], Ok(1), 1),
        (&["."], Err(INVALID), 1),
        (&[""], Err(INVALID), 1),
        (&["dir/file7"], Err(INVALID), 1),
        (&["dir\0"], Err(INVALID), 1),
        (&["dir"; 17], Err(INVALID), 1),
    ] {
        let mut guest = Guest::new(false);
        assert_eq!(guest.walk(0, 1, names), expected, "{names:?}");
        assert_eq!((guest.used(), guest.tree.handles), (used, used), "{names:?}");
    }
    let mut guest = Guest::new(false);
    let long = "x".repeat(256);
    assert_eq!(guest.walk(0, 1, &[&long]), Err(36));
    assert_eq!(guest.walk(0, 1, &[&long[1..]]), Err(2));
    assert_eq!(guest.walk(0, 0, &["dir"]), Ok(1), "in place");
    assert_eq!(guest.walk(0, 1, &["file1"]), Ok(1));
    assert_eq!(guest.walk(0, 1, &["file1"]), Err(BAD_FID), "it is used");
    assert_eq!(guest.walk(5, 6, &[]), Err(BAD_FID));
    assert_eq!(guest.walk(0, FIDS as u32, &[]), Err(23));
    assert_eq!(guest.walk(0, u32::MAX, &[]), Err(23));
    assert_eq!((guest.used(), guest.tree.handles), (2, 2));
}

#[test]
fn data_lie_behind_the_header_in_whatever_pieces() {
    for piece in [1, 3, 11, 23, 24, 100, 4096] {
        let mut guest = Guest::new(false);
        guest.walk(0, 1, &["a"]).unwrap();
        guest.ask(12, &[Number(1), Number(2)]).unwrap();
        let read = |at: u64, count| message(116, &[Number(1), Long(at), Number(count)]);
        let answer = guest.answer(&read(150, 100), piece, ROOM);
        assert_eq!(
            answer,
            [&[61, 0, 0, 0, 117, 0x34, 0x12, 50, 0, 0, 0][..], &(150..200).collect::<Vec<u8>>()].concat()
        );
        // No more than there is room for.
        let answer = guest.answer(&read(0, 100), piece, 31);
        assert_eq!((answer.len(), answer[7], answer[30]), (31, 20, 19), "{piece}");
        let mut write = message(118, &[Number(1), Long(190), Number(20)]);
        write.extend([0xee; 20]);
        write[0] += 20;
        assert_eq!(guest.answer(&write, piece, ROOM)[7..], 20_u32.to_le_bytes());
        let Node::File(bytes) = &guest.tree.nodes[1] else { panic!("no file") };
        assert_eq!((bytes.len(), bytes[189], &bytes[190..]), (210, 189, &[0xee; 20][..]));
        // It says that there are more data than there are.
        write[19] += 1;
        assert_eq!(guest.answer(&write, piece, ROOM)[7..], INVALID.to_le_bytes());
    }
}

#[test]
fn a_directory_is_listed_in_parts() {
    for count in [40, 100, 1000, 100_000] {
        let mut guest = Guest::new(false);
        guest.walk(0, 1, &["dir"]).unwrap();
        guest.ask(12, &[Number(1), Number(0)]).unwrap();
        let (mut names, mut next) = (Vec::new(), 0);
        loop {
            let answer = guest.ask(40, &[Number(1), Long(next), Number(count)]).unwrap();
            let length = u32::from_le_bytes(answer[..4].try_into().unwrap());
            assert!(length <= count && answer.len() == 4 + length as usize);
            let mut rest = &answer[4..];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                next = u64::from_le_bytes(rest[13..21].try_into().unwrap());
                let end = 24 + usize::from(rest[22]);
                names.push(rest[24..end].to_vec());
                rest = &rest[end..];
            }
        }
        let Node::Directory(entries) = &guest.tree.nodes[2] else { panic!("no directory") };
        assert!(names.iter().eq(entries.keys()), "{count}");
        assert_eq!(guest.ask(40, &[Number(1), Long(0), Number(10)]), Err(INVALID), "not even one");
        assert_eq!(guest.ask(40, &[Number(0), Long(0), Number(1000)]), Err(BAD_FID), "not open");
    }
}

#[test]
fn what_a_guest_says_of_a_file_is_what_changes() {
    let mut guest = Guest::new(false);
    let set = |valid| {
        [Number(0), Number(valid), Number(0o640), Number(1), Number(2), Long(3), Long(4), Long(5), Long(6), Long(7)]
    };
    let time = |seconds, nanoseconds| Some(NewTime::At(Time { seconds, nanoseconds }));
    for (valid, expected) in [
        (0, Changes::default()),
        (1, Changes { permissions: Some(0o640), ..Changes::default() }),
        (6, Changes { owner: Some(1), group: Some(2), ..Changes::default() }),
        (8, Changes { size: Some(3), ..Changes::default() }),
        (0x30, Changes { accessed: Some(NewTime::Now), modified: Some(NewTime::Now), ..Changes::default() }),
        (0x1b0, Changes { accessed: time(4, 5), modified: time(6, 7), ..Changes::default() }),
        (0x40, Changes::default()),
    ] {
        guest.ask(26, &set(valid)).unwrap();
        assert_eq!(guest.tree.changes.pop(), Some(expected), "{valid:#x}");
    }
    let answer = guest.ask(24, &[Number(0), Long(u64::MAX)]).unwrap();
    assert_eq!(answer.len(), 8 + 13 + 4 * 3 + 8 * 15);
    assert_eq!(
        (&answer[..9], &answer[13..25]),
        (&[0xff, 7, 0, 0, 0, 0, 0, 0, 0x80][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0xed, 0x41, 0, 0][..])
    );
    assert_eq!(guest.ask(8, &[Number(0)]).unwrap().len(), 60);
}

#[test]
fn names_are_made_changed_and_taken_away() {
    let mut guest = Guest::new(false);
    assert_eq!(guest.ask(72, &[Number(0), text("new"), Number(0o755), Number(0)]).unwrap()[0], 0x80);
    assert_eq!(guest.ask(72, &[Number(0), text("new"), Number(0o755), Number(0)]), Err(17));
    guest.walk(0, 1, &["new"]).unwrap();
    assert_eq!(guest.ask(16, &[Number(1), text("s"), text("../../x"), Number(0)]).unwrap()[0], 2);
    guest.walk(1, 2, &["s"]).unwrap();
    assert_eq!(guest.ask(22, &[Number(2)]).unwrap(), b"\x07\0../../x");
    assert_eq!(guest.ask(16, &[Number(1), text("t"), text("a\0b"), Number(0)]), Err(INVALID));
    assert_eq!(guest.ask(16, &[Number(1), text("t"), text(&"x".repeat(4096)), Number(0)]), Err(36));
    assert_eq!(guest.ask(18, &[Number(1), text("n"), Number(0o60_666), Number(8), Number(0), Number(0)]), Err(1));
    guest.walk(0, 3, &["a"]).unwrap();
    guest.ask(70, &[Number(1), Number(3), text("hard")]).unwrap();
    guest.ask(74, &[Number(1), text("hard"), Number(0), text("moved")]).unwrap();
    assert_eq!(guest.ask(74, &[Number(1), text("hard"), Number(0), text("moved")]), Err(2));
    assert_eq!(guest.walk(0, 4, &["moved"]), Ok(1));
    guest.ask(76, &[Number(0), text("moved"), Number(0)]).unwrap();
    assert_eq!(guest.walk(0, 5, &["moved"]), Err(2));
    for (kind, fields) in [
        (72, vec![Number(0), text("../x"), Number(0), Number(0)]),
        (74, vec![Number(0), text("a"), Number(0), text("..")]),
        (76, vec![Number(0), text(".."), Number(0x200)]),
        (14, vec![Number(0), text("/x"), Number(2), Number(0), Number(0)]),
    ] {
        assert_eq!(guest.ask(kind, &fields), Err(INVALID));
    }
    guest.ask(14, &[Number(1), text("file"), Number(2), Number(0o644), Number(0)]).unwrap();
    assert_eq!(guest.ask(12, &[Number(1), Number(0)]), Err(INVALID), "it is open");
    assert_eq!(guest.ask(122, &[Number(1)]), Err(95), "the fid is gone all the same");
    assert_eq!(guest.ask(120, &[Number(1)]), Err(BAD_FID));
    assert_eq!(guest.used(), guest.tree.handles);
}

#[test]
fn what_is_read_only_does_not_change() {
    let mut guest = Guest::new(true);
    guest.walk(0, 1, &["a"]).unwrap();
    for kind in [14, 16, 18, 20, 26, 32, 70, 72, 74, 76, 118] {
        assert_eq!(guest.ask(kind, &[Number(1), text("x"), Long(0), Long(0)]), Err(30), "{kind}");
    }
    for (flags, expected) in [(0, true), (1, false), (2, false), (3, false), (0o1000, false), (0o100_000, true)] {
        let mut guest = Guest::new(true);
        guest.walk(0, 1, &["a"]).unwrap();
        assert_eq!(guest.ask(12, &[Number(1), Number(flags)]).is_ok(), expected, "{flags:o}");
        assert_eq!(guest.tree.changed, 0);
    }
}

#[test]
fn what_is_not_done_says_so() {
    let mut guest = Guest::new(false);
    for (kind, error) in [(20, 95), (30, 95), (32, 95), (102, 95), (112, 95), (0, 95), (255, 95), (116, BAD_FID)] {
        assert_eq!(guest.ask(kind, &[Number(0), Number(1), Long(0), Long(0)]), Err(error), "{kind}");
    }
    assert_eq!(guest.ask(108, &[Short(1)]), Ok(vec![]));
    guest.walk(0, 1, &["a"]).unwrap();
    guest.ask(12, &[Number(1), Number(0)]).unwrap();
    let lock = [Number(1), Byte(1), Number(0), Long(0), Long(0), Number(7), text("guest")];
    assert_eq!(guest.ask(52, &lock), Ok(vec![0]));
    let ask = [Number(1), Byte(1), Long(5), Long(6), Number(7), text("guest")];
    let answer = guest.ask(54, &ask).unwrap();
    assert_eq!((answer[0], answer[1], answer.len()), (2, 5, 28));
    // A new beginning.
    assert_eq!(guest.ask(100, &[Number(4095), text("9P2000.L")]), Err(INVALID));
    assert_eq!(guest.ask(100, &[Number(u32::MAX), text("9P2000.u")]).unwrap(), b"\0\0\x10\0\x07\0unknown");
    assert_eq!((guest.used(), guest.tree.handles), (0, 0));
    assert_eq!(guest.ask(104, &[Number(0), Number(0), text(""), text("/etc"), Number(0)]), Err(2));
}

#[test]
fn an_answer_without_room_or_memory_is_none() {
    let mut guest = Guest::new(false);
    let ask = message(24, &[Number(0), Long(0)]);
    assert_eq!(guest.answer(&ask, 4096, 11)[4..], [7, 0x34, 0x12, 22, 0, 0, 0]);
    assert!(guest.answer(&ask, 4096, 10).is_empty());
    assert!(guest.answer(&ask[..6], 4096, ROOM).is_empty());
    let far = [Piece { address: u64::MAX - 20, length: 20 }];
    let near = [Piece { address: REQUEST, length: ask.len() as u32 }];
    guest.tree.memory[REQUEST as usize..][..ask.len()].copy_from_slice(&ask);
    assert_eq!(guest.server.answer(&near, &far, &mut guest.tree), 0);
    assert_eq!(guest.server.answer(&far, &near, &mut guest.tree), 0);
    let reply = [Piece { address: REPLY, length: 11 }];
    assert_eq!(refuse(&near, &reply, Errno::IO, &mut guest.tree), 11);
    assert_eq!(guest.tree.memory[REPLY as usize..][..11], [11, 0, 0, 0, 7, 0x34, 0x12, 5, 0, 0, 0]);
}
