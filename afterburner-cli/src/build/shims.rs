//! The directory that a build finds the shims in.
//!
//! Its name holds a hash of all that shapes the objects: this program, the settings, the real
//! tools. So kbuild, which compares commands, and compiler caches, which hash them, see when one of
//! those changes.

use std::env;
use std::ffi::OsString;
use std::fs::{self, Metadata, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{low, make};
use crate::session::{self, Session};

/// The names of the shims.
const NAMES: [&str; 2] = ["as", "clang"];

/// The makefile that each make of a build reads.
pub(super) const MAKEFILE: &str = "makefile";

/// Where this program keeps what it can make again.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let given = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME names a directory for the cache")?.join("afterburner"))
}

/// Makes sure that there is a directory of shims with this session, and returns its path.
pub(super) fn directory(cache: &Path, mut session: Session) -> anyhow::Result<String> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let program = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    session.identity = identity(&program, &session)?;
    let directory = cache.join(format!("shim-{:016x}", session.identity));
    let path = checked(&directory)?.to_owned();
    if !session::is_shims(&directory) {
        create(cache, &directory, &program, &session)
            .with_context(|| format!("cannot create the shims in {}", directory.display()))?;
    }
    Ok(path)
}

/// The path as make, a shell and a compiler will read it.
fn checked(directory: &Path) -> anyhow::Result<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,@%".contains(&byte) || !byte.is_ascii();
    match directory.to_str().filter(|path| path.bytes().all(is_plain)) {
        Some(path) => Ok(path),
        None => bail!(
            "{}: make cannot pass on a path with these characters; set XDG_CACHE_HOME to a plainer one",
            directory.display()
        ),
    }
}

/// A number that changes with the program, the settings, and the real tools.
fn identity(program: &[u8], session: &Session) -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    program.hash(&mut hasher);
    Session { identity: 0, ..session.clone() }.encode()?.hash(&mut hasher);
    let stamp = |metadata: Metadata| (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    for tool in [&session.assembler, &session.clang].into_iter().flatten() {
        fs::metadata(tool).ok().map(stamp).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Fills a new directory, and gives it its name when it is complete.
fn create(cache: &Path, directory: &Path, program: &[u8], session: &Session) -> anyhow::Result<()> {
    fs::create_dir_all(cache)?;
    let unfinished =
        tempfile::Builder::new().prefix(".shim-").permissions(Permissions::from_mode(0o755)).tempdir_in(cache)?;
    let [first, second] = NAMES.map(|name| unfinished.path().join(name));
    fs::write(&first, program)?;
    fs::set_permissions(&first, Permissions::from_mode(0o755))?;
    fs::hard_link(&first, &second).or_else(|_| fs::copy(&first, &second).map(drop))?;
    fs::write(unfinished.path().join(MAKEFILE), make::makefile())?;
    if session.low.is_some() {
        low::write(unfinished.path())?;
    }
    fs::write(unfinished.path().join(session::FILE), session.encode()?)?;
    let renamed = fs::rename(unfinished.path(), directory);
    match renamed {
        // Another build was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => Ok(result?),
    }
}

/// The values of environment variables that make compiler caches look at the session.
pub(super) fn cache_environment(directory: &str) -> [(&'static str, OsString); 2] {
    ["CCACHE_EXTRAFILES", "SCCACHE_EXTRAFILES"].map(|name| {
        let mut files = OsString::from(format!("{directory}/{}", session::FILE));
        if let Some(others) = env::var_os(name).filter(|others| !others.is_empty()) {
            files.push(":");
            files.push(others);
        }
        (name, files)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_once_for_each_session() -> anyhow::Result<()> {
        let cache = tempfile::tempdir()?;
        let first = directory(cache.path(), Session::default())?;
        assert_eq!(directory(cache.path(), Session::default())?, first);
        let other = directory(cache.path(), Session { check: true, ..Session::default() })?;
        assert_ne!(other, first);
        assert_eq!(fs::read_dir(cache.path())?.count(), 2);
        let mode = fs::metadata(Path::new(&first).join("as"))?.permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        Ok(())
    }

    #[test]
    fn a_path_that_make_would_split_is_refused() {
        assert!(checked(Path::new("/home/a b/.cache")).is_err());
        assert!(checked(Path::new("/home/$x")).is_err());
        assert!(checked(Path::new("/home/a-b_c/.cache/shim-0")).is_ok());
    }
}
