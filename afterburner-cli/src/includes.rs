//! Files that an assembler reads by itself, put in the place of the `.include` that asks for them.
//!
//! Line markers keep messages and debug information at the files' own lines. A file that is not
//! found leaves the directive to the assembler, which may never come to it (`.if 0`); so does one
//! that includes itself, for only the assembler knows when that ends. What is left in such ways is
//! not annotated, and the census of the object tells.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};

use annotate::text::includes;

use crate::assembly::line_marker;
use crate::tool::is_same;

/// How long a text may become.
const MOST: u64 = 1 << 28;

/// Where an assembler looks for files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// What is put before a name, in this order; `None` stands for the name as it is.
    prefixes: Vec<Option<String>>,
}

impl Search {
    /// GNU as (gas/read.c, `s_include` and `add_include_dir`): where there is any directory, the
    /// current one comes first, by name; the name as it is comes last.
    pub(crate) fn of_gas(directories: Vec<String>) -> Self {
        let here = (!directories.is_empty()).then(|| ".".to_owned());
        Self { prefixes: here.into_iter().chain(directories).map(Some).chain([None]).collect() }
    }

    /// LLVM (lib/Support/SourceMgr.cpp, `OpenIncludeFile`): the name as it is comes first.
    pub(crate) fn of_llvm(directories: Vec<String>) -> Self {
        Self { prefixes: [None].into_iter().chain(directories.into_iter().map(Some)).collect() }
    }

    /// The directories that these options name.
    pub(crate) fn directories(options: &[OsString]) -> Vec<String> {
        let mut options = options.iter().map(|option| option.to_string_lossy());
        let mut directories = Vec::new();
        while let Some(option) = options.next() {
            match option.strip_prefix("-I") {
                Some("") => directories.extend(options.next().map(String::from)),
                Some(directory) => directories.push(directory.to_owned()),
                None => {}
            }
        }
        directories
    }

    /// What the assembler calls the file of this name.
    fn find(&self, name: &str) -> Option<String> {
        let paths = self.prefixes.iter().map(|prefix| match prefix {
            Some(prefix) => format!("{prefix}/{name}"),
            None => name.to_owned(),
        });
        paths.into_iter().find(|path| File::open(path).is_ok())
    }
}

/// The text with the files in it. `None` if there are none.
pub(crate) fn expand(text: &[u8], name: &str, search: &Search) -> Option<Vec<u8>> {
    expand_within(MOST, text, name, search)
}

fn expand_within(most: u64, text: &[u8], name: &str, search: &Search) -> Option<Vec<u8>> {
    let mut expansion = Expansion { search, most, out: Vec::new(), open: Vec::new(), count: 0 };
    expansion.append(text, name);
    (expansion.count > 0).then_some(expansion.out)
}

struct Expansion<'a> {
    search: &'a Search,
    most: u64,
    out: Vec<u8>,
    /// The files within which the text is.
    open: Vec<Metadata>,
    count: usize,
}

impl Expansion<'_> {
    fn append(&mut self, text: &[u8], name: &str) {
        let mut position = Position { name: name.to_owned(), line: 1 };
        let mut counted = 0;
        let mut written = 0;
        for include in includes(text) {
            let Some((path, metadata, content)) = self.read(&text[include.file]) else { continue };
            position.advance(&text[counted..include.statement.start]);
            counted = include.statement.start;
            self.out.extend_from_slice(&text[written..include.statement.start]);
            written = include.statement.end;
            self.out.push(b'\n');
            self.out.extend(line_marker(1, &path));
            self.open.push(metadata);
            self.append(&content, &path);
            self.open.pop();
            self.out.push(b'\n');
            self.out.extend(line_marker(position.line, &position.name));
            // A comment behind the directive is not to be taken for a line marker.
            self.out.push(b';');
            self.count += 1;
        }
        self.out.extend_from_slice(&text[written..]);
    }

    /// The path of a file, and what it holds.
    fn read(&self, name: &[u8]) -> Option<(String, Metadata, Vec<u8>)> {
        let path = self.search.find(std::str::from_utf8(name).ok()?)?;
        let metadata = fs::metadata(&path).ok()?;
        let is_open = self.open.iter().any(|open| is_same(open, Some(&metadata)));
        let fits = metadata.len() <= self.most.saturating_sub(self.out.len() as u64);
        if !metadata.is_file() || is_open || !fits {
            return None;
        }
        let content = fs::read(&path).ok()?;
        Some((path, metadata, content))
    }
}

/// What the assembler takes a line for.
struct Position {
    name: String,
    line: usize,
}

impl Position {
    /// Goes on behind a part of the text, over line ends and line markers.
    fn advance(&mut self, part: &[u8]) {
        let mut lines = part.split(|&byte| byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_none() {
                return;
            }
            match marker(line) {
                Some((number, name)) => {
                    self.line = number;
                    self.name = name.unwrap_or_else(|| self.name.clone());
                }
                None => self.line += 1,
            }
        }
    }
}

/// `# 7 "file"` or `# 7`: the number of the next line, and its file.
fn marker(line: &[u8]) -> Option<(usize, Option<String>)> {
    let rest = std::str::from_utf8(line.strip_prefix(b"#")?).ok()?.trim_start();
    let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let number = rest[..digits].parse().ok()?;
    let name = rest[digits..].trim_start().strip_prefix('"').and_then(|quoted| quoted.rsplit_once('"'));
    Some((number, name.map(|(name, _)| name.replace("\\\"", "\"").replace("\\\\", "\\"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_as_the_assemblers_do() {
        let options = ["-g", "-I", "a", "-Ib", "--64"].map(OsString::from);
        let directories = Search::directories(&options);
        assert_eq!(directories, ["a", "b"]);
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(Search::of_gas(directories.clone()).prefixes, [some("."), some("a"), some("b"), None]);
        assert_eq!(Search::of_llvm(directories).prefixes, [None, some("a"), some("b")]);
        assert_eq!(Search::of_gas(Vec::new()).prefixes, [None]);
    }

    #[test]
    fn lines_are_counted_from_the_last_marker() {
        let line = |text: &str| {
            let mut position = Position { name: "a.s".to_owned(), line: 1 };
            position.advance(text.as_bytes());
            (position.line, position.name)
        };
        assert_eq!(line("nop; "), (1, "a.s".to_owned()));
        assert_eq!(line("nop\n\n # 9 \"x\"\n#9\n# comment\nnop;"), (10, "a.s".to_owned()));
        assert_eq!(line("# 33 \"d/b \\\"c\" 2\nnop\nnop"), (34, "d/b \"c".to_owned()));
    }

    #[test]
    fn a_file_takes_the_place_of_its_directive() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let place = directory.path().to_string_lossy().into_owned();
        let [one, two] = ["one", "two"].map(|name| format!("{place}/{name}"));
        fs::write(&one, "cli\n.include \"two\"")?;
        fs::write(&two, "sti\n.include \"one\"\n.include \"none\"\n")?;
        let expanded = |text: &str| {
            let expanded = expand(text.as_bytes(), "a.s", &Search::of_gas(vec![place.clone()]));
            expanded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let inner = "sti\n.include \"one\"\n.include \"none\"\n";
        let outer = format!("cli\n\n# 1 \"{two}\"\n{inner}\n# 2 \"{one}\"\n;");
        assert_eq!(
            expanded("nop\nx: .include \"one\" # 7\nnop\n"),
            Some(format!("nop\nx: \n# 1 \"{one}\"\n{outer}\n# 2 \"a.s\"\n; # 7\nnop\n"))
        );
        assert_eq!(expanded("nop\n.include \"none\"\n"), None);
        Ok(())
    }

    #[test]
    fn growth_has_an_end() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let place = directory.path().to_string_lossy().into_owned();
        for level in 0..60 {
            let next = format!(".include \"{}\"\n", level + 1);
            fs::write(directory.path().join(level.to_string()), format!("{next}{next}"))?;
        }
        let most = 10_000;
        let search = Search::of_llvm(vec![place]);
        let expanded = expand_within(most, b".include \"0\"\n", "a.s", &search).unwrap_or_default();
        assert!((most..2 * most).contains(&(expanded.len() as u64)), "{}", expanded.len());
        Ok(())
    }
}
