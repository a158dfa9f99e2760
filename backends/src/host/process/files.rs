//! What is in a shared directory, by system calls.
//!
//! A file that was found is a descriptor that can do nothing but name it (`O_PATH`): whatever
//! happens to its name, it stays the same file. The next is looked for in it by one name, and a
//! symbolic link is found as such and not followed (`openat2(2)`, `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`). What can be done by a name only is done by that of the descriptor in
//! `/proc/self/fd`, which leads to the file itself, and no further if that is a symbolic link.
//!
//! What a guest may do is what the user may do who runs it; whose files are is not changed but
//! where Linux lets the user do so. Three things the server keeps from it that the user could do:
//! to open what is neither a file nor a directory, for to open a device or a pipe does something;
//! to make a device; and to have a file take on its owner's rights when it is executed
//! (set-user-ID), which would be the user's on this Linux, for whoever reaches the directory.

#[cfg(test)]
mod tests;

use core::ffi::CStr;
use core::mem::MaybeUninit;

use linux_raw_sys::errno::{EAGAIN, EBADF, EEXIST, EINVAL, ELOOP, ENXIO, EPERM, EXDEV};
use linux_raw_sys::general as raw;
use wedge::platform::virtio::p9::{
    Answer, Attributes, Changes, Entry, Errno, Files, LONGEST_TARGET, Name, NewTime, Open, Space, Time,
};
use wedge::platform::virtio::{GuestMemory, Piece};

use super::memory::Memory;
use super::system::{self, File, call};
use super::texts::Decimal;
use crate::host::seen::Seen;

/// A shared directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: File,
    /// The device that it is on.
    device: u64,
    /// Where descriptors have names.
    descriptors: File,
    memory: Memory,
}

/// A file of another device has a number of its own: between devices lies more than any has.
const BETWEEN_DEVICES: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of entries that are asked for at once, and those of one with the longest name at least.
const ENTRIES: usize = 8192;
const FEWEST_ENTRIES: usize = 512;

/// A call that writes to no memory of Rust's.
fn plain(number: u32, arguments: [u64; 6]) -> Answer<u64> {
    // SAFETY: it reads memory at most.
    unsafe { call(number, arguments) }.map_err(told)
}

/// An error of Linux's, as the guest is told of it.
fn told(system::Errno(error): system::Errno) -> Errno {
    Errno(error)
}

fn place(text: &CStr) -> u64 {
    text.as_ptr().expose_provenance() as u64
}

/// What Linux writes to a structure of which any value is valid.
fn filled<T>(number: u32, file: File) -> Answer<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let place = value.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: it writes to `value`: of the callers' structures any value is valid, zeros too.
    unsafe {
        call(number, [file.0.into(), place, 0, 0, 0, 0]).map_err(told)?;
        Ok(value.assume_init())
    }
}

fn status(file: File) -> Answer<raw::stat> {
    filled(raw::__NR_fstat, file)
}

/// Refuses permissions by which a file takes on its owner's rights.
fn without_rights(mode: u32, is_directory: bool) -> Answer<u32> {
    let rights = raw::S_ISUID | if is_directory { 0 } else { raw::S_ISGID };
    if mode & rights == 0 { Ok(mode) } else { Err(Errno(EPERM)) }
}

/// Opens what has a name in a directory (`openat2(2)`).
///
/// If somebody moves things about meanwhile, Linux says so, by one of two errors, and not whether
/// the name is there: it is looked for again.
fn open_at(directory: File, name: &CStr, flags: u32, mode: u32, resolve: u32) -> Answer<File> {
    let how = raw::open_how { flags: (flags | raw::O_CLOEXEC).into(), mode: mode.into(), resolve: resolve.into() };
    let length = size_of::<raw::open_how>() as u64;
    let how = (&raw const how).expose_provenance() as u64;
    let open = || plain(raw::__NR_openat2, [directory.0.into(), place(name), how, length, 0, 0]);
    let mut opened = open();
    for _ in 1..TRIES {
        if !matches!(opened, Err(Errno(EXDEV | EAGAIN))) {
            break;
        }
        opened = open();
    }
    opened.map(|file| File(file as u32))
}

/// How often a name is looked for at most.
const TRIES: usize = 100;

/// How a name is looked for.
const WITHIN: u32 = raw::RESOLVE_BENEATH | raw::RESOLVE_NO_SYMLINKS | raw::RESOLVE_NO_MAGICLINKS;

/// What a guest's flags become.
fn flags(how: Open) -> u32 {
    const EXCLUSIVE: u32 = raw::O_EXCL;
    how.0 & !EXCLUSIVE | raw::O_NONBLOCK | raw::O_NOCTTY
}

impl Directory {
    /// A directory that was opened, and that of this process's descriptors.
    pub(super) fn new(root: File, descriptors: File, memory: Memory) -> system::Answer<Self> {
        let device = status(root).map_err(|Errno(error)| system::Errno(error))?.st_dev;
        Ok(Self { root, device, descriptors, memory })
    }

    fn number(&self, device: u64, number: u64) -> u64 {
        number.wrapping_add(device.wrapping_sub(self.device).wrapping_mul(BETWEEN_DEVICES))
    }

    /// Opens a file again, by its descriptor.
    fn reopen(&self, file: File, flags: u32) -> Answer<File> {
        open_at(self.descriptors, Decimal::new(file.0).text(), flags, 0, 0)
    }

    fn truncate(&mut self, file: File, size: u64) -> Answer {
        let truncate = |file: File| plain(raw::__NR_ftruncate, [file.0.into(), size, 0, 0, 0, 0]).map(drop);
        match truncate(file) {
            Err(Errno(EBADF | EINVAL)) => {
                let opened = self.open(&file, Open(raw::O_WRONLY))?;
                let done = truncate(opened);
                opened.close();
                done
            }
            other => other,
        }
    }

    fn set_times(file: File, times: [Option<NewTime>; 2]) -> Answer {
        let times = times.map(|time| match time {
            None => (0, raw::UTIME_OMIT.into()),
            Some(NewTime::Now) => (0, raw::UTIME_NOW.into()),
            // What is no number of nanoseconds must not mean something else.
            Some(NewTime::At(time)) => (time.seconds, time.nanoseconds.min(999_999_999)),
        });
        let times = times.map(|(seconds, nanoseconds): (u64, u64)| [seconds, nanoseconds]);
        let times = (&raw const times).expose_provenance() as u64;
        plain(raw::__NR_utimensat, [file.0.into(), place(c""), times, raw::AT_EMPTY_PATH.into(), 0, 0]).map(drop)
    }
}

impl GuestMemory for Directory {
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.load_all(address, bytes)
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.store_all(address, bytes)
    }
}

impl Files for Directory {
    type Handle = File;

    fn root(&mut self) -> Answer<File> {
        self.reopen(self.root, raw::O_PATH)
    }

    fn find(&mut self, directory: &File, name: &Name) -> Answer<File> {
        open_at(*directory, name.text(), raw::O_PATH | raw::O_NOFOLLOW, 0, WITHIN)
    }

    fn again(&mut self, file: &File) -> Answer<File> {
        self.reopen(*file, raw::O_PATH)
    }

    fn close(&mut self, file: File) {
        file.close();
    }

    fn attributes(&self, file: &File) -> Answer<Attributes> {
        let status = status(*file)?;
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        Ok(Attributes {
            number: self.number(status.st_dev, status.st_ino),
            mode: status.st_mode,
            links: status.st_nlink,
            owner: status.st_uid,
            group: status.st_gid,
            device: status.st_rdev,
            size: status.st_size.cast_unsigned(),
            block_size: status.st_blksize.cast_unsigned(),
            blocks: status.st_blocks.cast_unsigned(),
            accessed: time(status.st_atime, status.st_atime_nsec),
            modified: time(status.st_mtime, status.st_mtime_nsec),
            changed: time(status.st_ctime, status.st_ctime_nsec),
        })
    }

    fn change(&mut self, file: &File, changes: &Changes) -> Answer {
        const UNCHANGED: u32 = u32::MAX;
        if let Some(permissions) = changes.permissions {
            let is_directory = status(*file)?.st_mode & raw::S_IFMT == raw::S_IFDIR;
            let permissions = without_rights(permissions & 0o7777, is_directory)?;
            let name = Decimal::new(file.0);
            plain(raw::__NR_fchmodat, [self.descriptors.0.into(), place(name.text()), permissions.into(), 0, 0, 0])?;
        }
        if changes.owner.is_some() || changes.group.is_some() {
            let [owner, group] = [changes.owner, changes.group].map(|id| id.unwrap_or(UNCHANGED).into());
            let flags = raw::AT_EMPTY_PATH.into();
            plain(raw::__NR_fchownat, [file.0.into(), place(c""), owner, group, flags, 0])?;
        }
        if let Some(size) = changes.size {
            self.truncate(*file, size)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            Self::set_times(*file, [changes.accessed, changes.modified])?;
        }
        Ok(())
    }

    fn open(&mut self, file: &File, how: Open) -> Answer<File> {
        match status(*file)?.st_mode & raw::S_IFMT {
            raw::S_IFREG | raw::S_IFDIR => self.reopen(*file, flags(how)),
            raw::S_IFLNK => Err(Errno(ELOOP)),
            _ => Err(Errno(ENXIO)),
        }
    }

    fn create(&mut self, directory: &File, name: &Name, how: Open, permissions: u32) -> Answer<File> {
        let permissions = without_rights(permissions & 0o7777, false)?;
        let new = raw::O_CREAT | raw::O_EXCL;
        match open_at(*directory, name.text(), flags(how) | new, permissions, WITHIN) {
            Err(Errno(EEXIST)) if !how.is_exclusive() => {
                let found = self.find(directory, name)?;
                let opened = self.open(&found, how);
                found.close();
                opened
            }
            other => other,
        }
    }

    fn read(&mut self, file: &File, at: u64, into: Piece) -> Answer<u32> {
        let length = into.length.into();
        let place = self.memory.range(into.address, length).ok_or(Errno::INVALID)?;
        // SAFETY: the guest's memory, which is no Rust object.
        unsafe { file.read_at(place, at, length) }.map(|read| read as u32).map_err(told)
    }

    fn write(&mut self, file: &File, at: u64, from: Piece) -> Answer<u32> {
        let length = from.length.into();
        let place = self.memory.range(from.address, length).ok_or(Errno::INVALID)?;
        file.write_at(place, at, length).map(|written| written as u32).map_err(told)
    }

    fn list(
        &mut self,
        directory: &File,
        from: u64,
        bytes: usize,
        listener: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Answer {
        let device = status(*directory)?.st_dev;
        let mut entries = [0_u8; ENTRIES];
        let length = bytes.clamp(FEWEST_ENTRIES, ENTRIES) as u64;
        let place = entries.as_mut_ptr().expose_provenance() as u64;
        plain(raw::__NR_lseek, [directory.0.into(), from, raw::SEEK_SET.into(), 0, 0, 0])?;
        // SAFETY: it writes to `entries`.
        let length = unsafe { call(raw::__NR_getdents64, [directory.0.into(), place, length, 0, 0, 0]) };
        let mut rest = entries.get(..length.map_err(told)? as usize).unwrap_or_default();
        while let Some((entry, behind)) = split_entry(rest) {
            if !listener(&Entry { number: self.number(device, entry.number), ..entry }) {
                break;
            }
            rest = behind;
        }
        Ok(())
    }

    fn space(&self, file: &File) -> Answer<Space> {
        let space: raw::statfs = filled(raw::__NR_fstatfs, *file)?;
        let [low, high] = space.f_fsid.val.map(|half| u64::from(half.cast_unsigned()));
        Ok(Space {
            kind: space.f_type.cast_unsigned() as u32,
            block_size: space.f_bsize.cast_unsigned() as u32,
            blocks: space.f_blocks.cast_unsigned(),
            free: space.f_bfree.cast_unsigned(),
            available: space.f_bavail.cast_unsigned(),
            files: space.f_files.cast_unsigned(),
            free_files: space.f_ffree.cast_unsigned(),
            number: low | high << 32,
            longest_name: space.f_namelen.cast_unsigned() as u32,
        })
    }

    fn flush(&mut self, file: &File, data_only: bool) -> Answer {
        let number = if data_only { raw::__NR_fdatasync } else { raw::__NR_fsync };
        plain(number, [file.0.into(), 0, 0, 0, 0, 0]).map(drop)
    }

    fn make_directory(&mut self, directory: &File, name: &Name, permissions: u32) -> Answer {
        let permissions = without_rights(permissions & 0o7777, true)?;
        plain(raw::__NR_mkdirat, [directory.0.into(), place(name.text()), permissions.into(), 0, 0, 0]).map(drop)
    }

    fn make_node(&mut self, directory: &File, name: &Name, mode: u32, _: (u32, u32)) -> Answer {
        let mode = without_rights(mode, false)?;
        if ![raw::S_IFREG, raw::S_IFIFO, raw::S_IFSOCK].contains(&(mode & raw::S_IFMT)) {
            return Err(Errno(EPERM));
        }
        plain(raw::__NR_mknodat, [directory.0.into(), place(name.text()), mode.into(), 0, 0, 0]).map(drop)
    }

    fn make_symlink(&mut self, directory: &File, name: &Name, target: &CStr) -> Answer {
        plain(raw::__NR_symlinkat, [place(target), directory.0.into(), place(name.text()), 0, 0, 0]).map(drop)
    }

    fn link(&mut self, file: &File, directory: &File, name: &Name) -> Answer {
        let (from, follow) = (Decimal::new(file.0), raw::AT_SYMLINK_FOLLOW.into());
        let from = [self.descriptors.0.into(), place(from.text())];
        plain(raw::__NR_linkat, [from[0], from[1], directory.0.into(), place(name.text()), follow, 0]).map(drop)
    }

    fn rename(&mut self, from: (&File, &Name), to: (&File, &Name)) -> Answer {
        let [old, new] = [from, to].map(|(directory, name)| [directory.0.into(), place(name.text())]);
        plain(raw::__NR_renameat, [old[0], old[1], new[0], new[1], 0, 0]).map(drop)
    }

    fn remove(&mut self, directory: &File, name: &Name, is_directory: bool) -> Answer {
        let flags = if is_directory { raw::AT_REMOVEDIR } else { 0 };
        plain(raw::__NR_unlinkat, [directory.0.into(), place(name.text()), flags.into(), 0, 0, 0]).map(drop)
    }

    fn target(&self, link: &File, target: &mut [u8; LONGEST_TARGET]) -> Answer<usize> {
        let to = target.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: it writes to `target`.
        let length =
            unsafe { call(raw::__NR_readlinkat, [link.0.into(), place(c""), to, LONGEST_TARGET as u64, 0, 0]) };
        length.map(|length| length as usize).map_err(told)
    }
}

/// The first entry of those that Linux has told of, and what is behind it (`getdents64(2)`): its
/// number, the place of the next, its length, its kind, and its name with a 0 at the end.
fn split_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (next, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (kind, _) = rest.split_first()?;
    let (entry, behind) = bytes.split_at_checked(u16::from_ne_bytes(*length).into())?;
    let name = CStr::from_bytes_until_nul(entry.get(19..)?).ok()?.to_bytes();
    let [number, next] = [*number, *next].map(u64::from_ne_bytes);
    Some((Entry { number, next, kind: *kind, name }, behind))
}
