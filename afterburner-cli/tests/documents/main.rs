//! What the documents say of the code.

mod classes;
mod paths;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

/// The top directory of the project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
