//! The wedge port from the outside: the program that guests talk to it with, and what the wedge's
//! own file tells of it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSymbol as _};

use crate::{cache, command, host};

/// Where a kernel in the upper half has the wedge's window. What is known of it here shares no code
/// with the wedge.
pub const WINDOW: Range<u64> = 0xffff_ffff_7f00_0000..0xffff_ffff_8000_0000;

/// The first megabyte of the window shows the first of memory.
const WEDGE: u64 = WINDOW.start + (1 << 20);

/// Builds the program that the command gives to its guests.
///
/// # Errors
///
/// When it cannot be compiled.
pub fn program(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("wedge-port");
    let source = cache::repository().join("afterburner-cli/guest/wedge-port.c");
    command::output(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&path).arg(source))?;
    Ok(path)
}

/// The address at which an image has a function of the wedge. Its file is linked at zero; it is
/// moved to where its kernel has it.
///
/// # Errors
///
/// When the wedge cannot be built or has no such function.
pub fn wedge_symbol(name: &str) -> Result<u64> {
    let data = fs::read(host::wedge()?)?;
    let file = object::File::parse(&*data)?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
    let symbol = symbol.with_context(|| format!("the wedge has no symbol {name}"))?;
    Ok(WEDGE + symbol.address())
}

/// The addresses of an image's stubs: they start where the wedge's own memory ends.
///
/// # Errors
///
/// When the wedge cannot be built.
pub fn stubs() -> Result<Range<u64>> {
    Ok(wedge_symbol("image_end")?..WINDOW.end)
}
