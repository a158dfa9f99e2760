//! The files and headings that the documents name exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::root;

/// The documents, by their paths from the root.
fn documents() -> Vec<(String, String)> {
    let mut documents: Vec<_> = files().into_iter().filter(|path| has_extension(path, "md")).collect();
    // What was is no longer everywhere.
    documents.retain(|path| path != "CHANGELOG.md");
    assert!(documents.len() > 10, "the documents are missing: {documents:?}");
    let read = |path: String| (fs::read_to_string(root().join(&path)).expect("a text"), path);
    documents.into_iter().map(read).map(|(text, path)| (path, text)).collect()
}

fn has_extension(path: &str, wanted: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == wanted)
}

/// All files of the project, and their directories, by their paths from the root.
fn files() -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name");
            let path = format!("{directory}{name}");
            if entry.file_type().expect("a type").is_dir() {
                // What a build leaves is none of the project.
                if !matches!(name.as_str(), ".git" | "target") {
                    directories.push(format!("{path}/"));
                    files.insert(format!("{path}/"));
                }
            } else {
                files.insert(path);
            }
        }
    }
    files
}

/// The text between backticks, outside of blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    text.lines()
        .filter(move |line| {
            in_block ^= line.starts_with("```");
            !in_block && !line.starts_with("    ")
        })
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether the text names a file of the project, or means to.
fn is_path(text: &str, files: &BTreeSet<String>) -> bool {
    let word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
    let first = text.split_once('/').map(|(first, _)| first);
    let from_root = first.is_some_and(|first| files.contains(&format!("{first}/")));
    word && (from_root || has_extension(text, "rs"))
}

/// Whether there is such a file or directory: a path from the root, or of a source file the end of
/// one.
fn exists(path: &str, files: &BTreeSet<String>) -> bool {
    let directory = format!("{}/", path.trim_end_matches('/'));
    let end = format!("/{path}");
    files.contains(path)
        || files.contains(&directory)
        || has_extension(path, "rs") && files.iter().any(|file| file.ends_with(&end))
}

#[test]
fn every_path_in_the_documents_exists() {
    let files = files();
    let mut wrong = Vec::new();
    let mut right = 0;
    for (document, text) in documents() {
        for path in code_spans(&text).filter(|span| is_path(span, &files)) {
            if exists(path, &files) {
                right += 1;
            } else {
                wrong.push(format!("{document}: `{path}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no such file:\n{}", wrong.join("\n"));
    assert!(right > 100, "only {right} paths found");
}

#[test]
fn every_directory_in_the_picture_of_the_parts_exists() {
    let files = files();
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a text");
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || b"-/".contains(&byte));
    let directories: Vec<_> = text
        .split("```")
        .skip(1)
        .step_by(2)
        .flat_map(str::split_whitespace)
        .filter(|word| word.ends_with('/'))
        .filter(is_name)
        .collect();
    let exists = |name: &str| files.iter().any(|path| format!("/{path}").ends_with(&format!("/{name}")));
    let wrong: Vec<_> = directories.iter().filter(|name| !exists(name)).collect();
    assert!(wrong.is_empty(), "there is no such directory: {wrong:?}");
    assert!(directories.len() > 10, "only {directories:?} found");
}

/// The name by which a heading is referred to, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let documents: BTreeMap<_, _> = documents().into_iter().collect();
    let mut wrong = Vec::new();
    let mut right = 0;
    for (document, text) in &documents {
        let directory = Path::new(document).parent().expect("a directory");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { PathBuf::from(document) } else { normal(&directory.join(path)) };
            let name = path.to_str().expect("a path");
            let has_heading = |text: &String| text.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            let leads =
                root().join(&path).exists() && (heading.is_empty() || documents.get(name).is_some_and(has_heading));
            if leads {
                right += 1;
            } else {
                wrong.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "these lead nowhere:\n{}", wrong.join("\n"));
    assert!(right > 20, "only {right} links found");
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        if component == Component::ParentDir {
            normal.pop();
        } else {
            normal.push(component);
        }
        normal
    })
}
