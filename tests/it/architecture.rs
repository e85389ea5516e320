//! Who may know whom: every `crate::…` path in `src` is an arrow from one room to another, and an arrow that
//! is not in the table fails. If the table is wrong, change the table and say why.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A room, or the part of one that a path begins with, and what it may use: rooms, or parts of them.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    // For long work beside requests.
    ("breather", &[]),
    ("store", &["model", "breather"]),
    ("pool", &["model"]),
    ("upstream", &["model"]),
    ("ledger", &["model", "breather"]),
    // It brings the monitor what happens, and holds what comes of it.
    ("guard", &["model", "ledger", "monitor"]),
    // Told what happens, and tells what is abnormal: it neither reads nor does anything itself.
    ("monitor", &["model"]),
    ("replica", &["model", "store"]),
    ("gateway", &["model", "pool", "upstream", "guard", "ledger", "monitor"]),
    ("observe", &["gateway::metrics", "replica::status", "ledger", "pool", "store", "model", "guard"]),
    ("admin", &["model", "store", "pool", "ledger", "guard", "monitor", "replica::status"]),
    // It asks the control API as anybody could, reads the words of its answers, and passes on who asks.
    ("console", &["admin::view", "guard::Origin", "model", "replica::status"]),
    // Composed of each room's own options.
    ("config", &["model", "store", "pool", "upstream", "gateway", "monitor", "replica::route"]),
    ("demo", &["model"]),
    // A whole keytide in one process, listening where it can.
    ("demo/tour", &["model", "app", "admin", "config", "gateway::serve"]),
    // doctor reaches a provider the way requests do.
    (
        "cli",
        &[
            "config",
            "admin::view",
            "replica::status",
            "replica::schema",
            "replica::postgres",
            "replica::transport",
            // Beside the schema: a move into it, by the one who owns the database.
            "replica::usage_logs",
            // It asks hubs what they hold, without a server.
            "replica::route",
            "replica::wire",
            "replica::space",
            "store",
            "model",
            "app",
            "demo",
            "upstream",
        ],
    ),
];

/// The places that wire the rooms.
const EVERYTHING: [&str; 3] = ["app", "lib", "main"];

/// Names that stay out of a place, and what they would bring in.
const BANNED: &[(&[&str], Banned)] = &[
    (&["axum", "hyper", "tokio::fs", "tokio::net"], Banned::Inside(&["model", "pool"])),
    (&["redb"], Banned::Outside("store")),
    (&["bincode"], Banned::Outside("store/codec")),
];

enum Banned {
    Inside(&'static [&'static str]),
    Outside(&'static str),
}

const MACROS: [&str; 2] = ["todo", "dbg"];

#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// Words and signs; `::` is one sign. Comments are gone, and a text is only its quotes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let begun = at;
        let mut text = String::new();
        match chars[at] {
            '/' if get(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if get(at + 1) == '*' => {
                let mut depth = 0;
                while at < chars.len() {
                    match (chars[at], get(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => {
                at = end_of_string(&chars, at);
                text.push('"');
            }
            // A character, unless it is a lifetime.
            '\'' if get(at + 1) == '\\' || get(at + 2) == '\'' => {
                at += if get(at + 1) == '\\' { 3 } else { 2 };
                while get(at) != '\'' && at < chars.len() {
                    at += 1;
                }
                at += 1;
                text.push('"');
            }
            c if is_word(c) => {
                while at < chars.len() && is_word(chars[at]) {
                    at += 1;
                }
                text = chars[begun..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                if matches!(text.as_str(), "r" | "br") && get(at + hashes) == '"' {
                    let close: String =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    let rest: String = chars[at + hashes + 1..].iter().collect();
                    let length = rest.find(&close).map_or(rest.len(), |end| end + close.len());
                    at += hashes + 1 + rest[..length].chars().count();
                    text = "\"".to_owned();
                }
            }
            ':' if get(at + 1) == ':' => {
                at += 2;
                text = "::".to_owned();
            }
            c => {
                at += 1;
                if !c.is_whitespace() {
                    text.push(c);
                }
            }
        }
        if !text.is_empty() {
            tokens.push(Token { text, line });
        }
        line += chars[begun..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_string(chars: &[char], open: usize) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn matches(tokens: &[Token], at: usize, texts: &[&str]) -> bool {
    texts.iter().enumerate().all(|(n, text)| tokens.get(at + n).is_some_and(|token| token.text == *text))
}

/// Takes out what only tests see. Returns the rest, and the names of modules that are tests and files.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut rest, mut files, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        if !matches(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            rest.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += 7;
        let word = |at: usize| tokens.get(at).map(|token| token.text.as_str());
        let begun = at;
        let mut depth = 0;
        while let Some(text) = word(at) {
            match text {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            at += 1;
            let ended = depth == 0 && (text == ";" || text == "}");
            if ended {
                break;
            }
        }
        if let Some(module) = (begun..at).find(|at| word(*at) == Some("mod"))
            && word(module + 2) == Some(";")
        {
            files.extend(word(module + 1).map(str::to_owned));
        }
    }
    (rest, files)
}

/// The paths that a use tree, or a path in an expression, spells out.
fn paths(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(*at) {
        if token.text == "{" {
            *at += 1;
            while tokens.get(*at).is_some_and(|token| token.text != "}") {
                if matches!(tokens[*at].text.as_str(), ",") {
                    *at += 1;
                } else {
                    paths(tokens, at, &path, found);
                }
            }
            *at += 1;
            return;
        }
        *at += 1;
        if token.text != "self" {
            path.push(token.text.clone());
        }
        if !matches(tokens, *at, &["::"]) {
            // What follows a name inside braces, such as `as other`, says nothing of rooms.
            while !before.is_empty()
                && tokens.get(*at).is_some_and(|token| !matches!(token.text.as_str(), "," | "}" | ";"))
            {
                *at += 1;
            }
            break;
        }
        *at += 1;
    }
    found.push(path);
}

/// Every path into the crate: those that begin with `crate`, and those that climb to it with `super`.
fn arrows(tokens: &[Token], depth: usize, rooms: &BTreeSet<String>) -> Vec<(usize, Vec<String>)> {
    let mut all = Vec::new();
    for start in 0..tokens.len() {
        if start > 0 && tokens[start - 1].text == "::" {
            continue;
        }
        let supers = (0..).take_while(|n| matches(tokens, start + 2 * n, &["super", "::"])).count();
        let mut at = match supers {
            0 if matches(tokens, start, &["crate", "::"]) => start + 2,
            0 => continue,
            // Inside modules within a file one more `super` is the file itself, so more than enough may do.
            _ if supers >= depth => start + 2 * supers,
            _ => continue,
        };
        let mut found = Vec::new();
        paths(tokens, &mut at, &[], &mut found);
        let is_climbing = supers > 0;
        found.retain(|path| path.first().is_some_and(|room| !is_climbing || rooms.contains(room)));
        all.extend(found.into_iter().map(|path| (tokens[start].line, path)));
    }
    all
}

/// A file below `src`, as `pool/slots/attempt`.
struct Source {
    name: String,
    tokens: Vec<Token>,
}

impl Source {
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// How many `super`s lead to the crate.
    fn depth(&self) -> usize {
        self.name.split('/').filter(|part| *part != "mod").count()
    }

    fn is_within(&self, place: &str) -> bool {
        self.name == place || self.name.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '_']))
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    files.sort();
    let mut sources = Vec::new();
    let mut tests = BTreeSet::new();
    for path in files {
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        let name = name.to_str().unwrap().to_owned();
        let (tokens, modules) = without_tests(&tokens(&fs::read_to_string(&path).unwrap()));
        // Where a module's own modules lie.
        let folder = match name.rsplit_once('/') {
            Some((folder, "mod")) => format!("{folder}/"),
            None if matches!(name.as_str(), "lib" | "main") => String::new(),
            _ => format!("{name}/"),
        };
        tests.extend(modules.into_iter().map(|module| format!("{folder}{module}")));
        sources.push(Source { name, tokens });
    }
    let is_test = |source: &Source| {
        tests.iter().any(|test| source.name == *test || source.name.starts_with(&format!("{test}/")))
    };
    sources.retain(|source| !is_test(source));
    sources
}

/// The row of the table that fits a file best.
fn allowed(source: &Source) -> Option<&'static [&'static str]> {
    let rows = ROOMS.iter().filter(|(place, _)| source.is_within(place));
    rows.max_by_key(|(place, _)| place.len()).map(|(_, allowed)| *allowed)
}

fn is_allowed(path: &[String], allowed: &[&str]) -> bool {
    allowed.iter().any(|part| {
        part.split("::")
            .zip(path.iter().map(Some).chain(std::iter::repeat(None)))
            .all(|(part, of_path)| of_path.is_some_and(|of_path| of_path == part))
    })
}

#[test]
fn every_arrow_is_in_the_table() {
    let sources = sources();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let rooms: BTreeSet<String> = sources.iter().map(|source| source.room().to_owned()).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in &sources {
        let room = source.room();
        if EVERYTHING.contains(&room) {
            continue;
        }
        let Some(allowed) = allowed(source) else {
            wrong.push(format!("src/{}.rs: the room {room} is not in the table", source.name));
            continue;
        };
        for (line, path) in arrows(&source.tokens, source.depth(), &rooms) {
            seen += 1;
            if path[0] != room && !is_allowed(&path, allowed) {
                wrong.push(format!("src/{}.rs:{line}: {room} → crate::{}", source.name, path.join("::")));
            }
        }
    }
    assert!(seen > 100, "only {seen} arrows were found");
    assert!(wrong.is_empty(), "arrows that the table does not know:\n{}", wrong.join("\n"));
}

#[test]
fn some_names_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in &sources() {
        for (names, place) in BANNED {
            let is_banned = match place {
                Banned::Inside(rooms) => rooms.contains(&source.room()),
                Banned::Outside(place) => !source.is_within(place),
            };
            for name in names.iter().filter(|_| is_banned) {
                wrong.extend(
                    uses(&source.tokens, name)
                        .into_iter()
                        .map(|line| format!("src/{}.rs:{line}: {name} does not belong here", source.name)),
                );
            }
        }
        for name in MACROS {
            for (at, token) in source.tokens.iter().enumerate() {
                if matches(&source.tokens, at, &[name, "!"]) {
                    wrong.push(format!("src/{}.rs:{}: {name}!", source.name, token.line));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The lines on which a crate, or a module of one, is named at the beginning of a path.
fn uses(tokens: &[Token], name: &str) -> Vec<usize> {
    let wanted: Vec<String> = name.split("::").map(str::to_owned).collect();
    let mut lines = Vec::new();
    for start in 0..tokens.len() {
        let begins = start == 0 || !matches!(tokens[start - 1].text.as_str(), "::" | ".");
        let follows = matches(tokens, start + 1, &["::"]) || matches(tokens, start + 1, &[";"]);
        if begins && follows && tokens[start].text == wanted[0] {
            let mut found = Vec::new();
            paths(tokens, &mut start.clone(), &[], &mut found);
            if found.iter().any(|path| path.starts_with(&wanted)) {
                lines.push(tokens[start].line);
            }
        }
    }
    lines
}

#[test]
fn the_reader_of_sources_reads_them() {
    let source = r##"
        //! crate::pool::Comment
        use crate::{
            model::{Counts, time::{self, Clock}},
            store::{self as disk, Store as Kept}, ledger,
        };
        use super::super::upstream::Client;
        use super::{config, gateway::X};
        const TEXT: &str = "crate::guard::Text \" crate::guard"; /* crate::guard /* crate::guard */ */
        const RAW: &str = r#"crate::guard "quoted" crate::guard"#; const C: char = '"'; // "
        fn f<'a>(x: &'a str) -> crate::demo::Y<'a> { let _ = crate::app::run(x, '\''); }
        #[cfg(test)]
        use crate::cli::Hidden;
        #[cfg(test)]
        mod tests { use crate::admin::Hidden; fn g() { { } } }
        #[cfg(test)]
        mod more;
        fn h() { tokio::fs::read("x"); crate::observe::seen(); }
    "##;
    let (rest, files) = without_tests(&tokens(source));
    let rooms = ["upstream", "config"].map(str::to_owned).into();
    let found: Vec<_> =
        arrows(&rest, 2, &rooms).into_iter().map(|(line, path)| (line, path.join("::"))).collect();
    let expected = [
        (3, "model::Counts"),
        (3, "model::time"),
        (3, "model::time::Clock"),
        (3, "store"),
        (3, "store::Store"),
        (3, "ledger"),
        (7, "upstream::Client"),
        (11, "demo::Y"),
        (11, "app::run"),
        (18, "observe::seen"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    assert_eq!(files, ["more"]);
    assert_eq!(uses(&rest, "tokio::fs"), [18]);
    assert!(uses(&rest, "tokio::net").is_empty());
    assert!(is_allowed(&["admin".into(), "view".into(), "Key".into()], &["admin::view"]));
    assert!(!is_allowed(&["admin".into(), "Routes".into()], &["admin::view"]));
    assert!(!is_allowed(&["admin".into()], &["admin::view"]));
}
