//! Files of the host for the guest, by the protocol 9P2000.L, as Linux's file system of that name
//! speaks it (`fs/9p`, `net/9p`, `include/net/9p/9p.h`; diod, `protocol.md`).
//!
//! The guest names files by numbers of its own choice, *fids*. Of each the server knows what the
//! host has found behind it, and never by which name: whoever renames a directory, in the guest or
//! on the host, changes nothing for a fid, and there is no path that could mean something else the
//! second time. A name is one component, and is checked here, once: what a host gets as a [`Name`]
//! has no slash in it and is neither `.` nor `..`. That the host does not follow a symbolic link
//! when it looks for one is all that keeps the guest in the directory.
//!
//! A message is an allegation, as everything that comes from the guest. It is copied before it is
//! looked at, but for the data that it brings or asks for: those move between the file and the
//! guest's memory without coming by here. All that the server keeps for a guest is a table of fids,
//! of a length that the host chooses. Linux takes the smallest numbers that are free, so a fid is
//! an index.
//!
//! The server ([`Server`]) knows nothing of where it runs, and needs of its host what [`Files`]
//! says.

mod message;
mod server;
#[cfg(test)]
mod tests;

pub use message::Name;
pub use server::{Fid, Server, refuse};

use core::ffi::CStr;

use super::{GuestMemory, Piece};

/// The longest text of a symbolic link, with a 0 behind it (`PATH_MAX`).
pub const LONGEST_TARGET: usize = 4096;

/// Why something is not done: a number of Linux's (`errno(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// No such file or directory.
    pub const NOT_FOUND: Self = Self(2);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// There is no such fid, or it is not open for this.
    pub const BAD_FID: Self = Self(9);
    /// Invalid argument.
    pub const INVALID: Self = Self(22);
    /// There is no room for another fid (ENFILE).
    pub const TOO_MANY: Self = Self(23);
    /// Read-only file system.
    pub const READ_ONLY: Self = Self(30);
    /// File name too long.
    pub const LONG_NAME: Self = Self(36);
    /// Operation not supported.
    pub const UNSUPPORTED: Self = Self(95);
}

/// What the host answers.
pub type Answer<T = ()> = Result<T, Errno>;

/// A moment, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds of the next.
    pub nanoseconds: u64,
}

/// What a file is (`stat(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// A number that no other file has.
    pub number: u64,
    /// Its kind and permissions, as Linux has them (`inode(7)`).
    pub mode: u32,
    /// How many names it has.
    pub links: u64,
    /// Whose it is.
    pub owner: u32,
    /// And of which group.
    pub group: u32,
    /// Of a device file, which device.
    pub device: u64,
    /// Its bytes.
    pub size: u64,
    /// The preferred size of a read.
    pub block_size: u64,
    /// What it takes, in units of 512 bytes.
    pub blocks: u64,
    /// When it was read,
    pub accessed: Time,
    /// when it was written,
    pub modified: Time,
    /// and when this was changed.
    pub changed: Time,
}

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The present.
    Now,
    /// This one.
    At(Time),
}

/// What is to become different in [`Attributes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The permissions.
    pub permissions: Option<u32>,
    /// The owner.
    pub owner: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// The length.
    pub size: Option<u64>,
    /// When it was read.
    pub accessed: Option<NewTime>,
    /// When it was written.
    pub modified: Option<NewTime>,
}

/// How a file is opened, by the numbers of the protocol, which are those of Linux's `open` on x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open(pub u32);

impl Open {
    const ACCESS: u32 = 3;
    const EXCLUSIVE: u32 = 0o200;
    const TRUNCATE: u32 = 0o1000;
    const SYNCHRONOUS: u32 = 0o4_010_000;

    /// What counts of a guest's flags. That it appends does not: it says where each write goes.
    const fn told(flags: u32) -> Self {
        Self(flags & (Self::ACCESS | Self::EXCLUSIVE | Self::TRUNCATE | Self::SYNCHRONOUS))
    }

    /// Whether the file may be different afterwards.
    #[must_use]
    pub const fn changes(self) -> bool {
        self.0 & (Self::ACCESS | Self::TRUNCATE) != 0
    }

    /// Whether a file that is to be made must not be there.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }
}

/// What is in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The file's number, as in [`Attributes`].
    pub number: u64,
    /// Where the next entry is.
    pub next: u64,
    /// The kind, as Linux has it in directories (`DT_DIR` and so on).
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

/// How much room there is (`statfs(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Which file system.
    pub kind: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks,
    pub blocks: u64,
    /// those that are free,
    pub free: u64,
    /// and those for everybody.
    pub available: u64,
    /// Files that there may be,
    pub files: u64,
    /// and those that there may be more.
    pub free_files: u64,
    /// A number of this one.
    pub number: u64,
    /// Bytes of the longest name.
    pub longest_name: u32,
}

/// A directory of the host's, with all that is in it.
///
/// No function follows a symbolic link, in a name or behind a handle. What cannot be done, or is
/// not the user's to do, is an error.
#[expect(clippy::missing_errors_doc, reason = "errors are the host's, told to the guest as they are")]
pub trait Files: GuestMemory {
    /// A file that was found, until [`Self::close`]; found only, or opened as well.
    type Handle;

    /// Finds the directory itself.
    fn root(&mut self) -> Answer<Self::Handle>;

    /// Finds what has a name in a directory.
    fn find(&mut self, directory: &Self::Handle, name: &Name) -> Answer<Self::Handle>;

    /// Finds the same file once more; what is open of it stays behind.
    fn again(&mut self, file: &Self::Handle) -> Answer<Self::Handle>;

    /// Has done with a file.
    fn close(&mut self, file: Self::Handle);

    /// What it is.
    fn attributes(&self, file: &Self::Handle) -> Answer<Attributes>;

    /// Makes it different.
    fn change(&mut self, file: &Self::Handle, changes: &Changes) -> Answer;

    /// Opens a file or directory, and nothing else: to open a device or a pipe does something.
    fn open(&mut self, file: &Self::Handle, how: Open) -> Answer<Self::Handle>;

    /// Makes a file, or finds one that is there unless that is excluded, and opens it.
    fn create(&mut self, directory: &Self::Handle, name: &Name, how: Open, permissions: u32) -> Answer<Self::Handle>;

    /// Reads from a byte of an open file on, into the guest's memory. How much: nothing at the end.
    fn read(&mut self, file: &Self::Handle, at: u64, into: Piece) -> Answer<u32>;

    /// Writes to an open file from a byte on. How much.
    fn write(&mut self, file: &Self::Handle, at: u64, from: Piece) -> Answer<u32>;

    /// Tells what is in an open directory, from a place on, 0 or that of an entry's next, until
    /// nobody listens; about so many bytes of it.
    fn list(
        &mut self,
        directory: &Self::Handle,
        from: u64,
        bytes: usize,
        listener: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Answer;

    /// How much room there is where it is.
    fn space(&self, file: &Self::Handle) -> Answer<Space>;

    /// Returns when an open file would survive a loss of power, or its data would.
    fn flush(&mut self, file: &Self::Handle, data_only: bool) -> Answer;

    /// Makes a directory.
    fn make_directory(&mut self, directory: &Self::Handle, name: &Name, permissions: u32) -> Answer;

    /// Makes a file of another kind, which the mode says.
    fn make_node(&mut self, directory: &Self::Handle, name: &Name, mode: u32, device: (u32, u32)) -> Answer;

    /// Makes a symbolic link.
    fn make_symlink(&mut self, directory: &Self::Handle, name: &Name, target: &CStr) -> Answer;

    /// Gives a file one more name.
    fn link(&mut self, file: &Self::Handle, directory: &Self::Handle, name: &Name) -> Answer;

    /// Gives what has a name another one, in another directory.
    fn rename(&mut self, from: (&Self::Handle, &Name), to: (&Self::Handle, &Name)) -> Answer;

    /// Takes a name from a file, or from a directory, which must be empty.
    fn remove(&mut self, directory: &Self::Handle, name: &Name, is_directory: bool) -> Answer;

    /// Where a symbolic link leads. How many bytes.
    fn target(&self, link: &Self::Handle, target: &mut [u8; LONGEST_TARGET]) -> Answer<usize>;
}
