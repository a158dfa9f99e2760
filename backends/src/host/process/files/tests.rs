//! A directory as a guest could have it that means no good.

extern crate std;

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use linux_raw_sys::errno::{EFBIG, ENOENT, ENOTDIR};

use super::*;

const EOPNOTSUPP: u32 = Errno::UNSUPPORTED.0;

/// The guest's memory: a process has one.
fn memory() -> Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    *MEMORY.get_or_init(|| Memory::new(1 << 20).unwrap())
}

/// A directory that is shared, and one beside it that is not.
struct Lab {
    place: tempfile::TempDir,
    shared: Directory,
    root: File,
}

impl Lab {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        for directory in ["shared/directory", "outside"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
        }
        fs::write(place.path().join("shared/file"), "contents").unwrap();
        fs::write(place.path().join("outside/secret"), "secret").unwrap();
        let name = CString::new(place.path().join("shared").as_os_str().as_bytes()).unwrap();
        let descriptors = File::open_directory(c"/proc/self/fd").unwrap();
        let mut shared = Directory::new(File::open_directory(&name).unwrap(), descriptors, memory()).unwrap();
        let root = shared.root().unwrap();
        Self { place, shared, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("shared").join(name)
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    fn find(&mut self, name: &str) -> File {
        self.shared.find(&self.root, &named(name)).unwrap()
    }
}

fn named(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn error<T>(answer: Answer<T>) -> Option<u32> {
    answer.err().map(|Errno(error)| error)
}

fn permissions(mode: u32) -> Changes {
    Changes { permissions: Some(mode), ..Changes::default() }
}

#[test]
fn a_symbolic_link_is_found_and_not_followed() {
    for target in ["../outside", "../outside/secret", "/", "/etc/passwd", "file", "directory", ".", "nowhere"] {
        let mut lab = Lab::new();
        symlink(target, lab.path("link")).unwrap();
        let link = lab.find("link");
        let Lab { shared, root, .. } = &mut lab;
        assert_eq!(shared.attributes(&link).unwrap().mode & raw::S_IFMT, raw::S_IFLNK);
        let again = shared.again(&link).unwrap();
        assert_eq!(shared.attributes(&again).unwrap(), shared.attributes(&link).unwrap());
        let mut text = [0; LONGEST_TARGET];
        let length = shared.target(&again, &mut text).unwrap();
        assert_eq!(&text[..length], target.as_bytes());
        for name in ["secret", "outside", "file", "etc"] {
            assert_eq!(error(shared.find(&link, &named(name))), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.create(&link, &named(name), Open(2), 0o666)), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.make_directory(&link, &named(name), 0o777)), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.remove(&link, &named(name), false)), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.rename((&link, &named(name)), (root, &named("x")))), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.rename((root, &named("file")), (&link, &named(name)))), Some(ENOTDIR), "{target}");
            assert_eq!(error(shared.link(&link, &link, &named(name))), Some(ENOTDIR), "{target}");
        }
        for flags in [0, 1, 2, 0o1002] {
            assert_eq!(error(shared.open(&link, Open(flags))), Some(ELOOP), "{target}");
            assert_eq!(error(shared.create(root, &named("link"), Open(flags), 0o666)), Some(ELOOP), "{target}");
        }
        assert_eq!(error(shared.change(&link, &permissions(0o777))), Some(EOPNOTSUPP), "{target}");
        assert_eq!(error(shared.change(&link, &Changes { size: Some(0), ..Changes::default() })), Some(ELOOP));
        let time = Some(NewTime::At(Time { seconds: 1, nanoseconds: 2 }));
        shared.change(&link, &Changes { modified: time, ..Changes::default() }).unwrap();
        shared.link(&link, root, &named("hard")).unwrap();
        let hard = fs::symlink_metadata(lab.path("hard")).unwrap();
        assert!(hard.is_symlink() && (hard.mtime(), hard.mtime_nsec()) == (1, 2));
        assert_eq!(fs::read(lab.outside().join("secret")).unwrap(), b"secret");
        assert_eq!(
            (fs::read(lab.path("file")).unwrap(), fs::metadata(lab.path("file")).unwrap().nlink()),
            (b"contents".to_vec(), 1)
        );
        assert_eq!(fs::read_dir(lab.outside()).unwrap().count(), 1);
    }
}

/// What is a directory at one moment is a link at the next, and a directory again.
#[test]
fn a_name_that_changes_all_the_time_never_leads_outside() {
    let mut lab = Lab::new();
    fs::write(lab.path("directory/inside"), "").unwrap();
    let end = AtomicBool::new(false);
    let (name, outside) = (lab.path("directory"), lab.outside());
    let aside = outside.join("aside");
    let (mut inside, mut links, mut reached, mut errors) = (0, 0, 0, Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                fs::rename(&name, &aside).unwrap();
                symlink(&outside, &name).unwrap();
                fs::remove_file(&name).unwrap();
                fs::rename(&aside, &name).unwrap();
            }
        });
        for _ in 0..100_000 {
            let found = match lab.shared.find(&lab.root, &named("directory")) {
                Ok(found) => found,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let mode = lab.shared.attributes(&found).map_or(0, |attributes| attributes.mode);
            links += u32::from(mode & raw::S_IFMT == raw::S_IFLNK);
            reached += u32::from(lab.shared.find(&found, &named("secret")).is_ok());
            match lab.shared.find(&found, &named("inside")) {
                Ok(file) => {
                    inside += 1;
                    file.close();
                }
                Err(error) => errors.push(error),
            }
            found.close();
        }
        end.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0 && links > 0 && reached == 0, "{inside} {links} {reached}");
    // It is there, or it is not; a link has nothing in it.
    errors.retain(|error| ![ENOENT, ENOTDIR].map(Errno).contains(error));
    assert_eq!(errors, []);
}

#[test]
fn what_would_do_something_is_not_opened_and_rights_are_not_given_away() {
    let mut lab = Lab::new();
    let Lab { shared, root, .. } = &mut lab;
    for (kind, possible) in [
        (raw::S_IFIFO, true),
        (raw::S_IFSOCK, true),
        (raw::S_IFREG, true),
        (raw::S_IFCHR, false),
        (raw::S_IFBLK, false),
        (raw::S_IFDIR, false),
        (raw::S_IFLNK, false),
    ] {
        let name = named(&std::format!("{kind:o}"));
        let made = shared.make_node(root, &name, kind | 0o600, (1, 3));
        assert_eq!(made.is_ok(), possible, "{kind:o}");
        if possible && kind != raw::S_IFREG {
            let node = shared.find(root, &name).unwrap();
            for flags in [0, 1, 2] {
                assert_eq!(error(shared.open(&node, Open(flags))), Some(ENXIO));
                assert_eq!(error(shared.create(root, &name, Open(flags), 0o600)), Some(ENXIO));
            }
            assert_eq!(error(shared.change(&node, &Changes { size: Some(0), ..Changes::default() })), Some(ENXIO));
        }
    }
    let file = shared.find(root, &named("file")).unwrap();
    let directory = shared.find(root, &named("directory")).unwrap();
    for (mode, of_file, of_directory) in [
        (0o755, true, true),
        (0o1755, true, true),
        (0o2755, false, true),
        (0o4755, false, false),
        (0o6755, false, false),
    ] {
        assert_eq!(shared.change(&file, &permissions(mode)).is_ok(), of_file, "{mode:o}");
        assert_eq!(shared.change(&directory, &permissions(mode)).is_ok(), of_directory, "{mode:o}");
        let name = named(&std::format!("new-{mode:o}"));
        assert_eq!(shared.create(root, &name, Open(2), mode).is_ok(), of_file);
        let name = named(&std::format!("node-{mode:o}"));
        assert_eq!(shared.make_node(root, &name, raw::S_IFREG | mode, (0, 0)).is_ok(), of_file);
    }
    let rights = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o6000;
    for entry in fs::read_dir(lab.path("")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.is_dir() || rights(&path) == 0, "{}", path.display());
    }
}

#[test]
fn a_file_stays_the_same_whatever_becomes_of_its_name() {
    let mut lab = Lab::new();
    fs::write(lab.path("directory/inside"), "inside").unwrap();
    let (file, directory) = (lab.find("file"), lab.find("directory"));
    let before = lab.shared.attributes(&file).unwrap().number;
    let opened = lab.shared.open(&file, Open(2)).unwrap();
    fs::rename(lab.path("directory"), lab.path("elsewhere")).unwrap();
    fs::remove_file(lab.path("file")).unwrap();
    fs::write(lab.path("file"), "another").unwrap();
    let shared = &mut lab.shared;
    shared.find(&directory, &named("inside")).unwrap();
    for handle in [file, opened] {
        let attributes = shared.attributes(&handle).unwrap();
        assert_eq!((attributes.number, attributes.links, attributes.size), (before, 0, 8));
        let again = shared.again(&handle).unwrap();
        assert_eq!(shared.attributes(&again).unwrap().number, before);
        let reopened = shared.open(&again, Open(0)).unwrap();
        assert_eq!(shared.read(&reopened, 4, Piece { address: 0, length: 100 }), Ok(4));
    }
    assert_eq!(memory().word(0).unwrap().load(Ordering::Relaxed) as u32, u32::from_le_bytes(*b"ents"));
}

#[test]
fn numbers_that_mean_nothing_do_no_harm() {
    let mut lab = Lab::new();
    let found = lab.find("file");
    let shared = &mut lab.shared;
    let file = shared.open(&found, Open(2)).unwrap();
    let piece = |address, length| Piece { address, length };
    for at in [1 << 63, u64::MAX, u64::MAX - 100] {
        assert_eq!(error(shared.read(&file, at, piece(0, 100))), Some(EINVAL), "{at:#x}");
        assert_eq!(error(shared.write(&file, at, piece(0, 100))), Some(EINVAL), "{at:#x}");
        assert!(shared.change(&file, &Changes { size: Some(at), ..Changes::default() }).is_err());
    }
    assert!([Some(EFBIG), Some(EINVAL)].contains(&error(shared.write(&file, i64::MAX.cast_unsigned(), piece(0, 100)))));
    for (address, length) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX - 5, 5), (0, u32::MAX), (1 << 40, 1)] {
        assert_eq!(error(shared.read(&file, 0, piece(address, length))), Some(EINVAL));
        assert_eq!(error(shared.write(&file, 0, piece(address, length))), Some(EINVAL));
    }
    assert_eq!(fs::read(lab.path("file")).unwrap(), b"contents");
    let shared = &mut lab.shared;
    let directory = shared.open(&lab.root, Open(0)).unwrap();
    assert_eq!(error(shared.read(&directory, 0, piece(0, 100))), Some(linux_raw_sys::errno::EISDIR));
    for from in [7, 1 << 40, i64::MAX.cast_unsigned(), 1 << 63, u64::MAX] {
        let mut count = 0;
        let _ = shared.list(&directory, from, usize::MAX, &mut |_| {
            count += 1;
            true
        });
        assert!(count <= 4, "{from:#x}");
    }
    let time = Some(NewTime::At(Time { seconds: 1, nanoseconds: raw::UTIME_NOW.into() }));
    shared.change(&file, &Changes { modified: time, ..Changes::default() }).unwrap();
    assert_eq!(shared.attributes(&file).unwrap().modified, Time { seconds: 1, nanoseconds: 999_999_999 });
}

#[test]
fn all_entries_are_listed_once_from_wherever_one_goes_on() {
    let mut lab = Lab::new();
    let mut expected: Vec<_> =
        (0..500).map(|number| std::format!("{number:0width$}", width = number % 250 + 3)).collect();
    for name in &expected {
        fs::write(lab.path("directory").join(name), "").unwrap();
    }
    let found = lab.find("directory");
    let directory = lab.shared.open(&found, Open(0)).unwrap();
    for step in [1, 7, 1000] {
        let (mut names, mut next) = (Vec::new(), 0);
        loop {
            let (before, mut left) = (names.len(), step);
            let told = lab.shared.list(&directory, next, 4096, &mut |entry| {
                left -= 1;
                next = entry.next;
                names.push(std::string::String::from_utf8(entry.name.to_vec()).unwrap());
                left > 0
            });
            assert_eq!(told, Ok(()));
            if names.len() == before {
                break;
            }
        }
        names.retain(|name| ![".", ".."].contains(&name.as_str()));
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{step} at a time");
    }
}

#[test]
fn what_linux_tells_of_a_directory_ends_where_it_ends() {
    let entry = |length: u16, name: &[u8]| {
        let mut bytes = [&7_u64.to_ne_bytes()[..], &8_u64.to_ne_bytes(), &length.to_ne_bytes(), &[4], name].concat();
        bytes.resize(bytes.len().max(usize::from(length)), 0);
        bytes
    };
    let good = entry(24, b"name\0");
    let (found, rest) = split_entry(&good).unwrap();
    assert_eq!((found, rest), (Entry { number: 7, next: 8, kind: 4, name: b"name" }, &b""[..]));
    for bytes in [&good[..23], &good[..18], &entry(0, b"name\0"), &entry(18, b"name\0"), &entry(22, b"names")] {
        assert!(split_entry(bytes).is_none(), "{bytes:?}");
    }
    let _: &CStr = named("x").text();
}
