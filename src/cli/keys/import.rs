//! `keytide keys import`

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use reqwest::{Method, header};
use serde_json::{Map, Value, json};

use crate::cli::{
    client::{Client, Reply},
    error::Error,
    io::{Io, Unit},
    show,
    table::{Align, Table},
    users,
    view::{Imported, KeyPage, Line},
};

/// What the server reads in one request.
const MAX_BYTES: u64 = 64_000_000;
/// From this size on the server is asked whether it would listen, before everything is sent.
const LARGE: usize = 256 << 10;

/// Add many keys from a file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys import keys.txt --provider ollama          one key a line
  keytide keys import keys.csv --dry-run                  key,username,expires_at,note,weight,owner
  pass show pool | keytide keys import - --username alice@example.com

JSON, NDJSON, CSV and plain lines are told apart by the file's name or content.
Lines that are no key never stop the others; the exit code is then 1.")]
pub(super) struct Args {
    /// The file, or "-" for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is, when it cannot be told
    #[arg(long)]
    format: Option<Format>,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The upstream account of keys that do not name one
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// The user who shares the keys that name nobody, by name or id
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Ndjson,
    Csv,
    /// One key a line
    Text,
}

impl Format {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("json", "application/json"),
            Self::Ndjson => ("ndjson", "application/x-ndjson"),
            Self::Csv => ("csv", "text/csv"),
            Self::Text => ("text", "text/plain"),
        }
    }

    fn of(path: &Path, content: &[u8]) -> Self {
        let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "json" => Self::Json,
            "ndjson" | "jsonl" => Self::Ndjson,
            "csv" => Self::Csv,
            _ => Self::sniff(content),
        }
    }

    fn sniff(content: &[u8]) -> Self {
        let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content).trim_ascii();
        let first = content.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
        let is_one_value = first.len() == content.len();
        match first.first() {
            Some(b'{' | b'"') if !is_one_value && serde_json::from_slice::<Value>(first).is_ok() => {
                Self::Ndjson
            }
            // One record alone is NDJSON too; what has "keys" is the other form.
            Some(b'{') if is_one_value && is_record(first) => Self::Ndjson,
            Some(b'{' | b'[') => Self::Json,
            _ if first.contains(&b',') || first.eq_ignore_ascii_case(b"key") => Self::Csv,
            _ => Self::Text,
        }
    }
}

fn is_record(json: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(json).is_ok_and(|object| object.contains_key("key"))
}

pub(super) async fn run(args: &Args, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let content = read(&args.file, io)?;
    let mut format = args.format.unwrap_or_else(|| Format::of(&args.file, &content));
    let mut body = content;
    if let Some(username) = &args.username {
        (body, format) = with_username(body, format, username)?;
    }
    if body.len() as u64 > MAX_BYTES {
        return Err(Error::failed(format!(
            "this is more than {} in one import; split the file",
            show::bytes(MAX_BYTES)
        )));
    }
    if body.len() > LARGE {
        let _: Reply<KeyPage> = client.get("admin/api-keys", &[("pageSize", "1")]).await?;
    }
    let (name, content_type) = format.names();
    let mut query = vec![("format", name)];
    if args.dry_run {
        query.push(("dry_run", "true"));
    }
    let owner = match &args.owner {
        Some(owner) => Some(users::find(owner, client).await?),
        None => None,
    };
    query.extend(owner.as_deref().map(|owner| ("owner", owner)));
    let request = client
        .request(Method::POST, "admin/api-keys/import", &query)
        .header(header::CONTENT_TYPE, content_type);
    let bar = io.progress(body.len() as u64, "sending keys", Unit::Bytes);
    let sent = bar.clone();
    let request = Client::upload(request, body, move |bytes| sent.set_position(bytes));
    let reply: Reply<Imported> = client.send(request).await?;
    bar.finish_and_clear();
    if json {
        io.line(&reply.text)?;
    } else {
        report(&reply.value, io)?;
    }
    if reply.value.invalid > 0 { Err(Error::Shown) } else { Ok(()) }
}

fn read(path: &Path, io: &mut Io) -> Result<Vec<u8>, Error> {
    if path.as_os_str() == "-" {
        return io.read_stdin(MAX_BYTES);
    }
    let fail = |error: std::io::Error| Error::failed(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut content = Vec::new();
    // One byte more tells that there is more.
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(fail)?;
    Ok(content)
}

fn report(found: &Imported, io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("LINE", Align::Right),
        ("RESULT", Align::Left),
        ("REASON", Align::Left),
        ("KEY", Align::Left),
    ]);
    let mut rows: Vec<(&Line, &str)> = found.invalid_lines.iter().map(|line| (line, "invalid")).collect();
    rows.extend(found.existing_lines.iter().map(|line| (line, "existing")));
    rows.sort_by_key(|(line, _)| line.line);
    for (line, result) in rows {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        table.row([show::count(line.line), result.to_owned(), text(&line.reason), text(&line.key)]);
    }
    if !table.is_empty() {
        io.print(&table.render(false))?;
    }
    if found.truncated {
        io.line("… and more lines like these")?;
    }
    let blank = match found.blank {
        0 => String::new(),
        blank => format!(", {} blank or comment", show::count(blank)),
    };
    let verb = if found.dry_run { "would be added" } else { "added" };
    io.line(&format!(
        "{} {verb} to {}: {} existing, {} invalid{blank}",
        show::counted(found.added, "key", "keys"),
        found.provider,
        show::count(found.existing),
        show::count(found.invalid),
    ))
}

/// Puts the account to every key that names none. Lines stay where they are, since the server reports by line.
fn with_username(body: Vec<u8>, format: Format, username: &str) -> Result<(Vec<u8>, Format), Error> {
    let text = String::from_utf8(body).map_err(|_| Error::failed("the keys are not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = match format {
        Format::Json => return Ok((json_with_username(text, username)?, format)),
        Format::Text => text.lines().map(|line| text_line(line, username)).collect::<Vec<_>>(),
        Format::Ndjson => text.lines().map(|line| ndjson_line(line, username)).collect(),
        Format::Csv => csv_lines(text, username)?,
    };
    Ok((lines.join("\n").into_bytes(), Format::Ndjson))
}

fn json_with_username(text: &str, username: &str) -> Result<Vec<u8>, Error> {
    let wrong = |why: String| Error::failed(format!("this is no JSON import: {why}"));
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let body = match value {
        Value::Array(keys) => json!({"keys": keys, "username": username}),
        Value::Object(mut object) => {
            object.entry("username").or_insert_with(|| username.into());
            Value::Object(object)
        }
        _ => return Err(wrong("it must be an object with \"keys\", or a list".to_owned())),
    };
    Ok(body.to_string().into_bytes())
}

fn text_line(line: &str, username: &str) -> String {
    match line.trim() {
        "" => String::new(),
        comment if comment.starts_with('#') => String::new(),
        key => json!({"key": key, "username": username}).to_string(),
    }
}

fn ndjson_line(line: &str, username: &str) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::String(key)) => json!({"key": key, "username": username}).to_string(),
        Ok(Value::Object(mut object)) => {
            if object.get("username").is_none_or(Value::is_null) {
                object.insert("username".to_owned(), username.into());
            }
            Value::Object(object).to_string()
        }
        // The server says what is wrong with it.
        _ => line.to_owned(),
    }
}

fn csv_lines(text: &str, username: &str) -> Result<Vec<String>, Error> {
    const COLUMNS: [&str; 6] = ["key", "username", "expires_at", "note", "weight", "owner"];
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut names: Vec<String> = COLUMNS.map(str::to_owned).to_vec();
    let mut lines = Vec::new();
    for (nth, record) in reader.records().enumerate() {
        let record = record.map_err(|error| Error::failed(format!("this is no CSV: {error}")))?;
        if nth == 0 && record.iter().any(|cell| cell.eq_ignore_ascii_case("key")) {
            names = record.iter().map(str::to_ascii_lowercase).collect();
            continue;
        }
        lines.resize(lines_before(&record, text).max(lines.len()), String::new());
        if record.iter().all(str::is_empty) {
            continue;
        }
        let mut object = Map::new();
        for (at, cell) in record.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
            let name = names.get(at).cloned().unwrap_or_else(|| format!("column {}", at + 1));
            let value = match cell.parse::<u64>() {
                Ok(number) if name == "weight" => number.into(),
                _ => cell.into(),
            };
            object.insert(name, value);
        }
        object.entry("username").or_insert_with(|| username.into());
        lines.push(Value::Object(object).to_string());
    }
    Ok(lines)
}

/// How many lines stand before a record. The reader places a record where its search for it began, which is ahead
/// of blank lines.
fn lines_before(record: &csv::StringRecord, text: &str) -> usize {
    let Some(position) = record.position() else { return 0 };
    let rest = usize::try_from(position.byte()).ok().and_then(|at| text.as_bytes().get(at..));
    let breaks = rest.unwrap_or_default().iter().take_while(|b| matches!(b, b'\r' | b'\n'));
    let skipped = breaks.filter(|b| **b == b'\n').count() as u64;
    usize::try_from(position.line() + skipped).unwrap_or(usize::MAX).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        for (name, content, format) in [
            ("keys.json", "", Format::Json),
            ("KEYS.CSV", "sk-1", Format::Csv),
            ("keys.jsonl", "", Format::Ndjson),
            ("-", "{\"keys\":[\"a\"]}", Format::Json),
            ("-", " [\n\"a\"]", Format::Json),
            ("-", "{\n\"keys\":[]}", Format::Json),
            ("-", "{\"key\":\"a\"}\n{\"key\":\"b\"}\n", Format::Ndjson),
            ("-", "{\"key\":\"a\"}\n", Format::Ndjson),
            ("-", "\"a\"\n\"b\"\n", Format::Ndjson),
            ("-", "\u{feff}key,username\na,b", Format::Csv),
            ("-", "key\na", Format::Csv),
            ("keys.txt", "sk-1\nsk-2", Format::Text),
            ("-", "# my keys\nsk-2", Format::Text),
            ("-", "", Format::Text),
        ] {
            assert_eq!(Format::of(Path::new(name), content.as_bytes()), format, "{name} {content:?}");
        }
    }

    fn lines(text: &str, format: Format) -> Vec<String> {
        let (body, format) = with_username(text.into(), format, "u").unwrap();
        assert_eq!(format, Format::Ndjson);
        String::from_utf8(body).unwrap().split('\n').map(str::to_owned).collect()
    }

    #[test]
    fn an_account_for_all_keeps_lines_and_what_keys_say_themselves() {
        let named = |key: &str, user: &str| json!({"key": key, "username": user}).to_string();
        assert_eq!(
            lines("a\r\n\n# c\n b ", Format::Text),
            [named("a", "u"), String::new(), String::new(), named("b", "u")]
        );
        assert_eq!(
            lines("\"a\"\n{\"key\":\"b\",\"username\":\"x\"}\n{broken", Format::Ndjson),
            [named("a", "u"), named("b", "x"), "{broken".to_owned()]
        );
        assert_eq!(
            lines("username,key\r\nx,a\r\n\r\n,b\r\n", Format::Csv),
            [String::new(), named("a", "x"), String::new(), named("b", "u")]
        );
        assert_eq!(
            lines("username,key\nx,a\n\n,b", Format::Csv),
            [String::new(), named("a", "x"), String::new(), named("b", "u")]
        );
        assert_eq!(lines("a,x,,,7", Format::Csv), [json!({"key":"a","username":"x","weight":7}).to_string()]);
        let (body, _) = with_username(b"[\"a\"]".to_vec(), Format::Json, "u").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({"keys": ["a"], "username": "u"}));
    }
}
