//! The house rules that a text search can hold: who may name whom, where libraries and the system may appear, how long a file
//! may be, and that every test a document names is there. `docs/style.md` says why; each violation is named with file and line.
//!
//! A source is searched twice reduced: comments and the insides of texts are blanked, so that words in them do not count, and
//! for most rules whatever stands under `#[cfg(test)]` is blanked, too. Blanking keeps the lines, so their numbers stay right.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Lowest first. A module names only modules of lower floors.
const FLOORS: &[&[&str]] = &[
    &["model"],
    &["platform", "monitor", "chunker", "codec", "signer"],
    &["vault"],
    &["manifest"],
    &["config", "identity", "protocol", "store", "backup", "restore", "copy"],
    &["client", "server"],
    &["discovery"],
    &["daemon", "fuzzing"],
    &["cli"],
];

/// Longer files are split by noun.
const MAX_LINES: usize = 450;

/// Words with the files and folders that may hold them.
const PLACES: &[(&[&str], &[&str])] = &[
    (&["axum::", "axum_server::"], &["server"]),
    (&["reqwest::"], &["client"]),
    (&["hyper::", "hyper_util::", "http_body_util::"], &["client", "server"]),
    (&["rustls::", "tokio_rustls::"], &["identity", "client", "server"]),
    (&["rcgen::", "x509_parser::", "spake2::"], &["identity"]),
    (&["socket2::"], &["discovery", "platform"]),
    (&["clap::", "clap_complete::", "dialoguer::", "indicatif::", "qrcode::"], &["cli"]),
    (&["rusqlite::"], &["store"]),
    (&["zip::"], &["restore/zip_target.rs"]),
    (&["std::fs", "tokio::fs", "fs_err::"], &["platform"]),
    (&["std::env", "try_from_default_env"], &["cli/settings.rs", "config/dirs.rs"]),
    (&["SystemTime::now", "Timestamp::now", "Zoned::now"], &["platform/clock.rs"]),
    (&["Instant::now"], INSTANTS),
    (&["println!", "eprintln!", "print!", "eprint!"], &[]),
];

/// Where the monotonic clock is read. Rules that depend on time take `now` as an argument; these are their callers.
const INSTANTS: &[&str] = &[
    "platform/clock.rs",
    // Time limits on a peer, by tokio's clock, which tests can stop.
    "server/body.rs",
    "server/stream.rs",
    "server/state.rs",
    "server/pair_routes.rs",
    "cli/devices.rs",
    // How long something took, to be shown.
    "cli/progress.rs",
    "cli/restore.rs",
    "cli/send.rs",
    "cli/try_out.rs",
];

/// Where tokio may not appear, but for the bridge.
const BLOCKING: &[&str] = &["model", "store", "chunker", "codec", "signer"];
const BRIDGE: &str = "store/local_vault.rs";

/// What is nowhere, tests included.
const NOWHERE: &[&str] = &["#[ignore", "#[should_panic", "todo!", "unimplemented!", "dbg!"];

/// Every item of a list under such a heading names the test that guards it.
const GUARDED: &[&str] = &["Invariants", "8. Writing"];

/// A source file and what is left of it for the rules.
struct Source {
    /// From `src/` or `tests/` on, with slashes.
    path: String,
    text: String,
    /// Without comments and the insides of texts.
    bare: String,
    /// And without what is under `#[cfg(test)]`.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let bare = without_comments_and_texts(text);
        let code = without_tests(&bare);
        Self { path: path.into(), text: text.into(), bare, code }
    }

    /// The top module it belongs to: `server` for `src/server/router.rs`; `None` in `tests/` and for the roots.
    fn module(&self) -> Option<&str> {
        let name = self.in_src()?.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (!matches!(name, "lib" | "main")).then_some(name)
    }

    fn in_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// Whether it is that file, or belongs to that module.
    fn is_in(&self, place: &str) -> bool {
        self.in_src().is_some_and(|path| {
            path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// `path:line` of a place in one of its texts.
    fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path, self.text[..offset].matches('\n').count() + 1)
    }
}

/// Blanks comments and what stands between quotes; lengths and lines stay.
fn without_comments_and_texts(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut bare = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let hashes = rest.strip_prefix('r').map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let (skip, end) = if rest.starts_with("//") {
            (0, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (0, rest.find("*/").map_or(rest.len(), |end| end + 2))
        } else if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') && (!is_word || bytes[at - 1] == b'b') {
            let close = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            (begin, rest[begin..].find(&close).map_or(rest.len(), |end| begin + end))
        } else if rest.starts_with('"') {
            (1, end_of_text(rest, '"'))
        } else if rest.starts_with("'\\") || rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
            (1, end_of_text(rest, '\''))
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for byte in &mut bare[at + skip..at + end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        // Past the closing quote; a comment has none.
        at += end + usize::from(skip > 0);
    }
    String::from_utf8(bare).expect("blanks take the place of whole characters")
}

/// The offset of the quote that ends what `rest` begins with.
fn end_of_text(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at,
            _ => {}
        }
    }
    rest.len()
}

const TEST_ONLY: &str = "#[cfg(test)]";

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(bare: &str) -> String {
    let mut code = bare.as_bytes().to_vec();
    for (begin, _) in bare.match_indices(TEST_ONLY) {
        let end = begin + TEST_ONLY.len() + end_of_item(&bare[begin + TEST_ONLY.len()..]);
        for byte in &mut code[begin..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(code).expect("blanks take the place of whole characters")
}

/// Where the item ends that `rest` begins with: after its `;`, its `,` or its closing brace.
fn end_of_item(rest: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'}' if depth <= 1 => return at + usize::from(depth == 1),
            b'}' => depth -= 1,
            b';' | b',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Files that exist in tests only, for each `#[cfg(test)] mod x;`: `src/a/x.rs` and `src/a/x/`.
fn test_only_files(sources: &[Source]) -> Vec<String> {
    let mut files = Vec::new();
    for source in sources {
        let folder = source.path.trim_end_matches(".rs").trim_end_matches("/lib");
        for (begin, _) in source.bare.match_indices(TEST_ONLY) {
            let item = source.bare[begin + TEST_ONLY.len()..].trim_start();
            let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
            if let Some((name, _)) = item.strip_prefix("mod ").and_then(|rest| rest.split_once(';'))
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            {
                files.push(format!("{folder}/{name}"));
            }
        }
    }
    files
}

/// Offsets of a word that is not the end of a longer one.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
            || !word.starts_with(char::is_alphabetic)
    })
}

fn identifier(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// A module names only modules on lower floors; `main.rs` names only the face.
fn floors(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let Some(module) = source.module() else {
        for at in words(&source.code, "lan_backup::").chain(words(&source.code, "crate::")) {
            let named = identifier(&source.code[at..][source.code[at..].find("::").map_or(0, |end| end + 2)..]);
            if source.path.starts_with("src/") && !(source.path == "src/main.rs" && named == "cli") {
                found.push(format!("{}: names `{named}`; main.rs names `cli` only, lib.rs nothing", source.at(at)));
            }
        }
        return found;
    };
    let Some(floor) = floor_of(module) else {
        return vec![format!("{}:1: module `{module}` is on no floor", source.path)];
    };
    for at in words(&source.code, "crate::") {
        let named = identifier(&source.code[at + "crate::".len()..]);
        if named.is_empty() {
            found.push(format!("{}: a group of crate paths; one `use` for each module", source.at(at)));
            continue;
        }
        match floor_of(named) {
            _ if named == module => {}
            None => found.push(format!("{}: `{named}` is on no floor", source.at(at))),
            Some(other) if other >= floor => {
                found.push(format!("{}: `{module}` (floor {floor}) names `{named}` (floor {other})", source.at(at)));
            }
            Some(_) => {}
        }
    }
    found
}

/// No `super::`, no glob imports, no `mod.rs`.
fn imports(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if source.path.ends_with("/mod.rs") {
        found.push(format!("{}:1: `foo.rs` beside `foo/`, not `mod.rs`", source.path));
    }
    if source.in_src().is_some() {
        found.extend(words(&source.code, "super::").map(|at| format!("{}: `super::` outside tests", source.at(at))));
        found.extend(words(&source.code, "::*").map(|at| format!("{}: a glob import outside tests", source.at(at))));
    }
    found
}

/// Begins with `//!`, and is not too long without its unit tests.
fn shape(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.starts_with("//! ") {
        found.push(format!("{}:1: does not begin by saying what it is for (`//!`)", source.path));
    }
    let last = source.code.trim_end().matches('\n').count() + 1;
    if last > MAX_LINES {
        found.push(format!("{}:{MAX_LINES}: {last} lines of code; split it by noun", source.path));
    }
    found
}

/// Libraries, disk, clock, environment and printing are where they belong.
fn places(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (needles, allowed) in PLACES {
        if source.in_src().is_none() || allowed.iter().any(|place| source.is_in(place)) {
            continue;
        }
        for needle in *needles {
            found.extend(words(&source.code, needle).map(|at| format!("{}: `{needle}` here", source.at(at))));
        }
    }
    if BLOCKING.iter().any(|place| source.is_in(place)) && !source.is_in(BRIDGE) {
        found.extend(words(&source.code, "tokio::").map(|at| format!("{}: tokio in blocking code", source.at(at))));
    }
    for needle in NOWHERE {
        found.extend(words(&source.bare, needle).map(|at| format!("{}: `{needle}`", source.at(at))));
    }
    found
}

/// The names of all test functions.
fn test_names(sources: &[Source]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for source in sources {
        for (at, _) in source.bare.match_indices("#[test]").chain(source.bare.match_indices("#[tokio::test")) {
            if let Some((_, rest)) = source.bare[at..].split_once("fn ") {
                names.insert(identifier(rest));
            }
        }
    }
    names
}

/// A document names tests as `*(`name`, `name`)*`. Each must exist, and an item of a guarded list must name one.
fn guards(path: &str, text: &str, tests: &BTreeSet<&str>) -> Vec<String> {
    let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
    let mut found = Vec::new();
    for (begin, _) in text.match_indices("*(`") {
        let end = text[begin..].find(")*").map_or(text.len(), |end| begin + end);
        for name in text[begin..end].split('`').skip(1).step_by(2) {
            if !tests.contains(name) {
                found.push(format!("{path}:{}: there is no test `{name}`", line_of(begin)));
            }
        }
    }
    let mut offset = 0;
    let (mut guarded, mut item) = (false, None);
    for line in text.split_inclusive('\n').chain(["# end\n"]) {
        let begins =
            line.starts_with("- ") || line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
        if begins || line.trim().is_empty() || line.starts_with('#') {
            if let Some(begin) = item.take()
                && !text[begin..offset].contains("*(`")
            {
                found.push(format!("{path}:{}: names no test that guards it", line_of(begin)));
            }
            item = (guarded && begins).then_some(offset);
        }
        if let Some(heading) = line.strip_prefix("## ") {
            guarded = GUARDED.contains(&heading.trim());
        }
        offset = (offset + line.len()).min(text.len());
    }
    found
}

fn collect(folder: &Path, root: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder of the sources can be read").path();
        if path.is_dir() {
            collect(&path, root, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.strip_prefix(root).expect("it was found below").to_str().expect("sources have plain names");
            sources.push(Source::new(name, &text));
        }
    }
}

/// Everything below `src/` and `tests/`; what exists in tests only has no code for the rules about code.
fn all_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        collect(&root.join(folder), root, &mut sources);
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    forget_tests(&mut sources);
    assert!(sources.len() > 100, "the sources are not where this test looks for them");
    sources
}

fn forget_tests(sources: &mut [Source]) {
    let test_only = test_only_files(sources);
    for source in sources {
        if test_only.iter().any(|file| source.is_in(file.trim_start_matches("src/"))) {
            source.code = String::new();
        }
    }
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn modules_name_only_lower_floors() {
    assert_none(&all_sources().iter().flat_map(floors).collect::<Vec<_>>());
}

#[test]
fn imports_are_written_so_that_floors_can_be_searched_for() {
    assert_none(&all_sources().iter().flat_map(imports).collect::<Vec<_>>());
}

#[test]
fn files_say_what_they_are_for_and_are_short() {
    assert_none(&all_sources().iter().flat_map(shape).collect::<Vec<_>>());
}

#[test]
fn libraries_disk_clock_environment_and_printing_are_where_they_belong() {
    assert_none(&all_sources().iter().flat_map(places).collect::<Vec<_>>());
}

#[test]
fn every_test_that_a_document_names_exists_and_every_invariant_names_one() {
    let sources = all_sources();
    let tests = test_names(&sources);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for document in
        ["docs/store-format.md", "docs/architecture.md", "docs/bar.md", "docs/threat-model.md", "protocol.md"]
    {
        let text = fs::read_to_string(root.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
        found.extend(guards(document, &text, &tests));
    }
    assert_none(&found);
}

#[cfg(test)]
mod the_search {
    use super::*;

    /// The violations that a rule finds in one file.
    fn in_file(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
        rule(&Source::new(path, text))
    }

    fn once(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, place: &str) {
        let found = in_file(rule, path, text);
        assert!(found.len() == 1 && found[0].starts_with(place), "{text:?} in {path}: {found:?}");
    }

    fn fine(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) {
        assert_eq!(in_file(rule, path, text), Vec::<String>::new(), "{text:?} in {path}");
    }

    #[test]
    fn sideways_and_upward_imports_and_modules_on_no_floor_are_found() {
        once(floors, "src/store/pack.rs", "//! A\nuse crate::backup::scan;\n", "src/store/pack.rs:2:");
        once(floors, "src/store.rs", "//! A\n\nfn f() { crate::server::start() }\n", "src/store.rs:3:");
        once(floors, "src/store.rs", "use crate::{model, vault};", "src/store.rs:1:");
        once(floors, "src/store.rs", "use crate::novel::X;", "src/store.rs:1:");
        once(floors, "src/novel.rs", "//! A\n", "src/novel.rs:1:");
        once(floors, "src/main.rs", "fn main() { lan_backup::server::start() }", "src/main.rs:1:");
        once(floors, "src/lib.rs", "use crate::model::Pin;", "src/lib.rs:1:");
        fine(floors, "src/store.rs", "use crate::store::pack::Pack;\nuse crate::model::{Block, Pin};\n");
        fine(floors, "src/main.rs", "fn main() { lan_backup::cli::main() }");
        fine(floors, "src/store.rs", "//! [`crate::cli`]\nconst A: &str = \"crate::cli::X\"; /* crate::cli */\n");
        fine(floors, "tests/it/a.rs", "use lan_backup::server;\n");
    }

    #[test]
    fn what_is_under_cfg_test_is_left_out_and_nothing_after_it() {
        let text = "#[cfg(test)]\nmod tests {\n    fn f() { let c = '{'; let t = \"}\"; super::g([0; 4]) }\n}\nuse super::x;\n";
        once(imports, "src/store.rs", text, "src/store.rs:5:");
        once(imports, "src/store.rs", "#[cfg(test)]\nmod live;\nuse super::x;\n", "src/store.rs:3:");
        once(
            imports,
            "src/store.rs",
            "struct A {\n#[cfg(test)]\na: [super::B; 2],\nb: super::C,\n}",
            "src/store.rs:4:",
        );
        once(imports, "src/store.rs", "fn f<'a>(a: &'a str) { r#\"super::\"#; super::g(b'\\'') }", "src/store.rs:1:");
    }

    #[test]
    fn files_that_exist_in_tests_only_are_left_out() {
        let mut sources = [
            Source::new(
                "src/server.rs",
                "#[cfg(test)]\nmod live;\n#[cfg(test)]\npub(crate) mod double;\nmod lively;\n",
            ),
            Source::new("src/server/live.rs", "use super::a;"),
            Source::new("src/server/live/more.rs", "use super::a;"),
            Source::new("src/server/double.rs", "use super::a;"),
            Source::new("src/server/lively.rs", "use super::a;"),
        ];
        forget_tests(&mut sources);
        let found: Vec<_> = sources.iter().flat_map(imports).collect();
        assert!(found.len() == 1 && found[0].starts_with("src/server/lively.rs:1:"), "{found:?}");
    }

    #[test]
    fn globs_groups_and_mod_rs_are_found() {
        once(imports, "src/store.rs", "use rusqlite::*;", "src/store.rs:1:");
        once(imports, "src/store.rs", "pub use pack::{a, index::*};", "src/store.rs:1:");
        once(imports, "src/store/mod.rs", "//! A\n", "src/store/mod.rs:1:");
        fine(imports, "src/store.rs", "use rusqlite::Connection;\n");
    }

    #[test]
    fn long_and_silent_files_are_found_and_unit_tests_do_not_count() {
        let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
        once(shape, "src/store.rs", "use std::io;\n", "src/store.rs:1:");
        once(shape, "src/store.rs", &format!("//! A\n{}", lines(MAX_LINES)), "src/store.rs:450:");
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(MAX_LINES));
        fine(shape, "src/store.rs", &format!("//! A\n{}{tests}", lines(MAX_LINES - 1)));
    }

    #[test]
    fn things_out_of_place_are_found() {
        once(places, "src/client.rs", "use axum::Router;", "src/client.rs:1:");
        once(places, "src/backup/read.rs", "//! A\nuse std::fs::File;", "src/backup/read.rs:2:");
        once(places, "src/server/room.rs", "fn f() { Instant::now(); }", "src/server/room.rs:1:");
        once(places, "src/cli/pin.rs", "fn f() { std::env::args(); }", "src/cli/pin.rs:1:");
        once(places, "src/cli/pin.rs", "fn f() { println!(\"{}\", 1); }", "src/cli/pin.rs:1:");
        once(places, "src/store/index.rs", "use tokio::sync::Mutex;", "src/store/index.rs:1:");
        once(places, "src/restore/run.rs", "use zip::ZipWriter;", "src/restore/run.rs:1:");
        once(places, "src/client.rs", "#[cfg(test)]\nmod tests { fn f() { todo!() } }", "src/client.rs:2:");
        once(places, "tests/it/a.rs", "#[test]\n#[ignore]\nfn f() {}", "tests/it/a.rs:2:");
        fine(places, "src/store/local_vault.rs", "use tokio::task;\n");
        fine(places, "src/server/router.rs", "use axum::Router;\n");
        fine(places, "src/client/pair.rs", "use tokio_rustls::TlsConnector;\n");
        fine(places, "tests/it/a.rs", "fn f() { std::fs::read(x); }\n");
    }

    #[test]
    fn a_guard_that_is_not_there_and_an_invariant_without_one_are_found() {
        let source = [Source::new(
            "tests/a.rs",
            "#[test]\nfn it_holds() {}\n#[tokio::test]\nasync fn so_it_does() {}\nfn no_test() {}",
        )];
        let tests = test_names(&source);
        let check = |text: &str| guards("a.md", text, &tests);
        assert_eq!(check("A *(`it_holds`,\n`so_it_does`)* B `gone`"), Vec::<String>::new());
        assert_eq!(check("A\n*(`it_holds`, `no_test`)*"), ["a.md:2: there is no test `no_test`"]);
        let list = "## Invariants\n\n- One\n  *(`it_holds`)*\n- Two\n- Three *(`it_holds`)*\n\n## Else\n\n- Four\n";
        assert_eq!(check(list), ["a.md:5: names no test that guards it"]);
        assert_eq!(check("## 8. Writing\n\n1. One\n"), ["a.md:3: names no test that guards it"]);
    }
}
