//! The invariants of DESIGN and ARCHITECTURE that a program can check by reading the source. Each failure names the file, the line and the rule.

use std::fs;
use std::path::{Path, PathBuf};

/// Files stay under this many lines, functions under that many. A ratchet: what is longer is listed with its length, and may only shrink.
const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;
const LONG_FILES: &[(&str, usize)] = &[("tests/conformance.rs", 422)];
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// The only files with `unsafe`: memory that other processes map, memory of NumPy and Arrow's C interface, the process's own argument vector, threads and descriptors, and both ends of the table of
/// functions that thread mode crosses (in `wire` there are only their types).
const UNSAFE_FILES: &[&str] = &[
    "wire/src/shm/map.rs",
    "worker-py/src/buffers.rs",
    "worker-py/src/process.rs",
    "worker-py/src/table.rs",
    "wire/src/table.rs",
    "src/worker/thread/libpython.rs",
    "src/worker/thread/table.rs",
];
/// Where gRPC is spoken: everything else sees traits and messages.
const TONIC_FILES: &[&str] = &["src/server/", "src/host/", "src/error.rs", "src/worker/process/link.rs", "src/worker/process/registry.rs"];

struct File {
    /// From the root of the repository, with `/`.
    name: String,
    text: String,
}

impl File {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines of code: without comments, and without what is in quotes.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, code_of(line)))
    }

    fn is_test(&self) -> bool {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        self.name.starts_with("tests/") || self.name.starts_with("benches/") || name.ends_with("tests.rs") || name == "fixture.rs"
    }
}

/// Text before `//`, with string literals emptied.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            other if !quoted => code.push(other),
            _ => {}
        }
    }
    code
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project whose name ends in one of `endings`, in order.
fn files(endings: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    visit(root(), endings, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        let name = path.strip_prefix(root()).ok()?.to_string_lossy().replace('\\', "/");
        Some(File { name, text })
    };
    found.into_iter().filter_map(read).collect()
}

fn visit(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // `.ci` and `.cargo` are ours; other hidden folders hold caches and git's own files.
        let skipped = name == "target" || name == "__pycache__" || name.starts_with('.') && name != ".ci" && name != ".cargo";
        if path.is_dir() {
            if !skipped {
                visit(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn rust() -> Vec<File> {
    let files = files(&[".rs"]);
    assert!(files.iter().any(|file| file.name == "src/lib.rs"), "the sources are not where they were");
    files
}

fn report(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Lines of code of the files that `applies` picks in which one of `words` stands.
fn mentions(applies: impl Fn(&File) -> bool, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust().iter().filter(|file| applies(file)) {
        for (number, code) in file.code() {
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                found.push(format!("{}:{number}: `{word}`", file.name));
            }
        }
    }
    found
}

#[test]
fn wire_knows_neither_servers_nor_python() {
    report("wire has no transport", mentions(|file| file.name.starts_with("wire/src/"), &["tonic::transport", "pyo3", "tokio::"]));
    let manifest = fs::read_to_string(root().join("wire/Cargo.toml")).unwrap();
    for word in ["pyo3", "\"transport\"", "\"server\"", "\"router\"", "tokio", "pillion = "] {
        assert!(!manifest.contains(word), "wire/Cargo.toml mentions {word}");
    }
}

#[test]
fn the_root_links_no_python_and_the_worker_only_wire() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]").unwrap();
    assert!(!dependencies.contains("pyo3"), "the root must not link CPython");
    let worker = fs::read_to_string(root().join("worker-py/Cargo.toml")).unwrap();
    let ours: Vec<_> = worker.lines().filter(|line| line.contains("path = \"..")).collect();
    assert_eq!(ours, ["pillion-wire = { path = \"../wire\" }"]);
}

#[test]
fn session_and_pool_see_only_the_trait_of_workers() {
    let applies = |file: &File| (file.name.starts_with("src/session/") || file.name.starts_with("src/pool/")) && !file.is_test();
    report(
        "session and pool see only `trait Worker`",
        mentions(applies, &["worker::process", "worker::thread", "worker::fake", "process::link", "rustix"]),
    );
}

#[test]
fn only_the_doors_speak_grpc() {
    let allowed = |file: &File| TONIC_FILES.iter().any(|allowed| file.name.starts_with(allowed));
    let applies = |file: &File| file.name.starts_with("src/") && !allowed(file);
    report("only the doors import tonic", mentions(applies, &["tonic::", "use tonic"]));
    let applies = |file: &File| file.name.starts_with("src/") && file.name != "src/error.rs" && !file.is_test();
    report(
        "only `error.rs` makes a status",
        mentions(applies, &["Status::new", "Status::internal", "Status::unknown", "Status::invalid_argument"]),
    );
}

#[test]
fn unsafe_stays_in_its_files_and_gives_its_reason() {
    let mut broken = Vec::new();
    for file in rust() {
        let lines: Vec<_> = file.text.lines().collect();
        for (number, code) in file.code() {
            if !code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                continue;
            }
            let before = &lines[number.saturating_sub(7)..number];
            if !UNSAFE_FILES.contains(&file.name.as_str()) {
                broken.push(format!("{}:{number}: `unsafe` outside of {UNSAFE_FILES:?}", file.name));
            } else if !before.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                broken.push(format!("{}:{number}: no `SAFETY:` comment above", file.name));
            }
        }
    }
    report("unsafe", broken);
}

#[test]
fn files_stay_short() {
    let mut broken = Vec::new();
    let sources = files(&[".rs", ".py"]);
    for file in &sources {
        let lines = file.text.lines().count();
        let listed = LONG_FILES.iter().find(|(name, _)| *name == file.name).map(|(_, lines)| *lines);
        match listed {
            None if lines > FILE_LINES => broken.push(format!("{}: {lines} lines, the limit is {FILE_LINES}", file.name)),
            Some(listed) if lines > listed => broken.push(format!("{}: {lines} lines, it had {listed}: it may only shrink", file.name)),
            Some(_) if lines <= FILE_LINES => broken.push(format!("{}: short now; take it off the list", file.name)),
            _ => {}
        }
    }
    let gone = LONG_FILES.iter().filter(|(name, _)| !sources.iter().any(|file| file.name == *name));
    broken.extend(gone.map(|(name, _)| format!("{name}: gone; take it off the list")));
    report("length of files", broken);
}

/// Functions of rustfmt's output with their names and lengths: from the line with `fn` to the brace at the same indentation.
fn functions(file: &File) -> Vec<(String, usize, usize)> {
    let lines: Vec<_> = file.text.lines().collect();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = code_of(line);
        let Some((before, after)) = code.split_once("fn ") else { continue };
        if !before.split_whitespace().all(|word| word.starts_with("pub") || ["async", "const", "extern", "unsafe"].contains(&word)) {
            continue;
        }
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = lines[index..].iter().position(|end| indentation(end) == indentation(line) && end.trim_start().starts_with('}'));
        if let Some(length) = end.filter(|_| !name.is_empty() && !line.trim_end().ends_with([';', '}'])) {
            found.push((name, index + 1, length + 1));
        }
    }
    found
}

#[test]
fn functions_stay_short() {
    let mut broken = Vec::new();
    let mut counted = 0;
    for file in rust() {
        for (name, number, lines) in functions(&file) {
            counted += 1;
            let listed =
                LONG_FUNCTIONS.iter().find(|(path, function, _)| *path == file.name && *function == name).map(|(_, _, lines)| *lines);
            if lines > listed.unwrap_or(FUNCTION_LINES) {
                broken.push(format!("{}:{number}: `{name}` has {lines} lines", file.name));
            } else if listed.is_some() && lines <= FUNCTION_LINES {
                broken.push(format!("{}:{number}: `{name}` is short now; take it off the list", file.name));
            }
        }
    }
    assert!(counted > 300, "only {counted} functions were seen");
    report("length of functions", broken);
}

#[test]
fn every_dependency_has_its_reason() {
    let mut broken = Vec::new();
    for manifest in ["Cargo.toml", "wire/Cargo.toml", "worker-py/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        let (mut in_dependencies, mut explained) = (false, false);
        for (index, line) in text.lines().enumerate() {
            match line.trim() {
                header if header.starts_with('[') => (in_dependencies, explained) = (header.ends_with("dependencies]"), false),
                "" => explained = false,
                comment if comment.starts_with('#') => explained = true,
                // Its reason stands in the workspace's list, or the crate is our own.
                known if known.contains("workspace = true") || known.contains("path = ") => {}
                dependency if in_dependencies && !explained => broken.push(format!("{manifest}:{}: {dependency}", index + 1)),
                _ => {}
            }
        }
    }
    report("a dependency without a comment above it", broken);
}

#[test]
fn nothing_speaks_of_one_machine() {
    // Written apart, so that this file does not mention them.
    let places = [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/Us", "ers/"]].map(|parts| parts.concat());
    let mut broken = Vec::new();
    for file in files(&[".rs", ".py", ".pyi", ".md", ".toml", ".proto", ".lock", ".yml", ".yaml", "Makefile", "run", ".txt", ".sh"]) {
        for (number, line) in file.lines() {
            if let Some(place) = places.iter().find(|place| line.contains(place.as_str())) {
                broken.push(format!("{}:{number}: `{place}`", file.name));
            }
        }
    }
    report("a path of one machine", broken);
}

#[test]
fn nothing_is_left_unfinished() {
    // Written apart, so that this file does not mention them.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["#[ig", "nore"]].map(|parts| parts.concat());
    let mut broken = Vec::new();
    for file in files(&[".rs", ".py", ".proto", ".toml", ".md", "Makefile"]) {
        for (number, line) in file.lines() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '#' && c != '[');
            if let Some(word) = words.into_iter().find(|word| marks.iter().any(|mark| word == mark)) {
                broken.push(format!("{}:{number}: `{word}`", file.name));
            }
        }
    }
    report("unfinished work or a test switched off", broken);
}

#[test]
fn the_contract_is_commented() {
    let mut broken = Vec::new();
    let protos = files(&[".proto"]);
    assert!(protos.len() >= 5, "the protos are not where they were");
    for file in &protos {
        let lines: Vec<_> = file.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [kind @ ("message" | "service" | "rpc" | "enum"), name, ..] = words[..] else { continue };
            let above = index > 0 && lines[index - 1].trim_start().starts_with("//");
            // A message may explain its fields instead of itself; requests and responses are explained where the call is.
            let body = lines[index + 1..].iter().take_while(|line| !line.starts_with('}'));
            let inside = kind != "rpc" && body.clone().any(|line| line.trim_start().starts_with("//"));
            let by_call = kind == "message" && (name.ends_with("Request") || name.ends_with("Response"));
            if !above && !inside && !by_call {
                broken.push(format!("{}:{}: `{kind} {name}`", file.name, index + 1));
            }
        }
    }
    report("a part of the contract without a comment", broken);
}
