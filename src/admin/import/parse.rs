//! From the bytes of an import to rows. A row that cannot be read is a row all the same, with its place and
//! the reason: it never stops the others, and nothing is passed over in silence.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{
    error::ApiError,
    extract::{parse_json, presentable},
    form,
    view::{Code, Flaw, Format, KeyRow},
};
use crate::model::{KeyRecord, Timestamp};

/// One line, or one element of the JSON list.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// From 1.
    pub(super) line: usize,
    pub(super) content: Content,
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Key(KeyRow),
    /// Nothing, or a comment.
    Blank,
    /// Names the columns; not counted.
    Header,
    Invalid {
        flaw: Flaw,
        reason: String,
        /// As far as it is known, to be shown masked.
        key: String,
    },
}

impl Content {
    fn invalid(flaw: Flaw, key: &str) -> Self {
        Self::because(flaw, form::says(flaw), key)
    }

    fn because(flaw: Flaw, reason: impl Into<String>, key: &str) -> Self {
        // Enough for a mask; the rest of a long line is nobody's.
        let key = key.chars().take(KeyRecord::MAX_SECRET_LEN).collect();
        Self::Invalid { flaw, reason: reason.into(), key }
    }
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Parsed {
    pub(super) rows: Vec<Row>,
    /// Only JSON can name one.
    pub(super) provider: Option<String>,
    /// Of CSV with anything in it.
    pub(super) columns: Option<Vec<&'static str>>,
}

/// `columns` are those of a CSV whose header is known from elsewhere, so that it has none of its own.
///
/// # Errors
/// When the whole cannot be read: no JSON at all, or a CSV header that makes no sense.
pub(super) fn parse(format: Format, body: &[u8], columns: Option<&str>) -> Result<Parsed, ApiError> {
    if columns.is_some() && format != Format::Csv {
        let why = "Only CSV has columns: leave \"columns\" out, or say format=csv.";
        return Err(ApiError::bad_request(Code::InvalidQuery, why).param("columns"));
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match format {
        Format::Json => json(body),
        Format::Text => Ok(lines(body, text_line)),
        Format::Ndjson => Ok(lines(body, |line| match line {
            "" => Content::Blank,
            line => element(line),
        })),
        Format::Csv => csv(body, columns),
    }
}

/// Line by line, however they end: `\n`, `\r\n`, or `\r` alone; the last line's end ends no further line.
fn lines(body: &[u8], mut read: impl FnMut(&str) -> Content) -> Parsed {
    let row = |(at, line): (usize, &[u8])| {
        let content = match std::str::from_utf8(line) {
            Ok(line) => read(line.trim()),
            Err(_) => Content::invalid(Flaw::NotUtf8, &String::from_utf8_lossy(line)),
        };
        Row { line: at + 1, content }
    };
    Parsed { rows: each_line(body).enumerate().map(row).collect(), ..Parsed::default() }
}

fn each_line(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.strip_prefix(b"\r\n").or(after.get(1..)).unwrap_or_default();
        Some(line)
    })
}

fn text_line(line: &str) -> Content {
    match line {
        "" => Content::Blank,
        comment if comment.starts_with('#') => Content::Blank,
        key => Content::Key(KeyRow { key: key.to_owned(), ..KeyRow::default() }),
    }
}

/// A string or an object.
fn element(json: &str) -> Content {
    // serde would take a list for an object whose fields stand in their order.
    if json.starts_with('[') {
        return Content::because(
            Flaw::UnreadableLine,
            "a list, expected a key, or an object with \"key\"",
            "",
        );
    }
    let row = if json.starts_with('"') {
        serde_json::from_str(json).map(|key: String| KeyRow { key, ..KeyRow::default() })
    } else {
        serde_json::from_str(json)
    };
    match row {
        Ok(row) => Content::Key(KeyRow { key: row.key.trim().to_owned(), ..row }),
        Err(error) => {
            let text = error.to_string();
            // The position inside one element helps nobody.
            let text = text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]);
            // What of it is the key is not known: nothing is shown.
            Content::because(Flaw::UnreadableLine, presentable(text), "")
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"keys\": […]")]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    weight: Option<u16>,
}

fn json(body: &[u8]) -> Result<Parsed, ApiError> {
    let document: Document<'_> = parse_json(body)?;
    let with_defaults = |row: KeyRow| KeyRow {
        username: row.username.or_else(|| document.username.clone()),
        note: row.note.or_else(|| document.note.clone()),
        expires_at: row.expires_at.or(document.expires_at),
        weight: row.weight.or(document.weight),
        ..row
    };
    let row = |(at, raw): (usize, &&RawValue)| Row {
        line: at + 1,
        content: match element(raw.get()) {
            Content::Key(row) => Content::Key(with_defaults(row)),
            other => other,
        },
    };
    let rows = document.keys.iter().enumerate().map(row).collect();
    Ok(Parsed { rows, provider: document.provider.clone(), columns: None })
}

const COLUMNS: [&str; 6] = ["key", "username", "expires_at", "note", "weight", "owner"];

/// Read line by line, so that one stray quote spoils one line and not the rest of the file. No field of ours
/// can hold a line break anyway.
fn csv(body: &[u8], columns: Option<&str>) -> Result<Parsed, ApiError> {
    let makes_no_sense = |why| ApiError::bad_request(Code::InvalidCsv, why);
    let given = columns.map(|text| text.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let mut columns = given.map(|cells| header(&cells)).transpose().map_err(makes_no_sense)?;
    let mut refused = None;
    let parsed = lines(body, |line| {
        if line.is_empty() || line.starts_with('#') {
            return Content::Blank;
        }
        let cells = match cells(line) {
            Ok(cells) => cells,
            Err(flaw) => return Content::invalid(flaw, line.split(',').next().unwrap_or_default()),
        };
        if columns.is_none() && is_header(&cells) {
            columns = Some(header(&cells).unwrap_or_else(|why| {
                refused = Some(why);
                Vec::new()
            }));
            return Content::Header;
        }
        csv_row(columns.get_or_insert_with(|| COLUMNS.to_vec()), cells)
    });
    match refused {
        None => Ok(Parsed { columns, ..parsed }),
        Some(why) => Err(makes_no_sense(why)),
    }
}

fn known(cell: &str) -> Option<&'static str> {
    COLUMNS.into_iter().find(|name| name.eq_ignore_ascii_case(cell))
}

/// The one rule for it: whoever sends a file in pieces goes by what the first of them was read as.
fn is_header(cells: &[String]) -> bool {
    let named = |cell: &String| known(cell);
    let keyless = named(&cells[0]).is_some() || form::key(&cells[0]).is_err();
    cells.iter().any(|cell| named(cell) == Some("key") || (keyless && named(cell).is_some()))
}

fn header(cells: &[String]) -> Result<Vec<&'static str>, String> {
    let mut columns = Vec::new();
    for cell in cells {
        match known(cell) {
            Some(name) if columns.contains(&name) => {
                return Err(format!("The CSV header names the column \"{name}\" twice."));
            }
            Some(name) => columns.push(name),
            None => {
                let place = columns.len() + 1;
                return Err(format!(
                    "The CSV header's column {place} is unknown: the columns are key, username, expires_at, \
                     note, weight and owner, of which only key is needed."
                ));
            }
        }
    }
    if columns.contains(&"key") {
        Ok(columns)
    } else {
        Err("The CSV header names no column \"key\".".to_owned())
    }
}

fn cells(line: &str) -> Result<Vec<String>, Flaw> {
    if !line.contains('"') {
        return Ok(line.split(',').map(|cell| cell.trim().to_owned()).collect());
    }
    if !line.bytes().filter(|byte| *byte == b'"').count().is_multiple_of(2) {
        return Err(Flaw::OpenQuote);
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(line.len().min(4096))
        .from_reader(line.as_bytes());
    match reader.records().next() {
        Some(Ok(record)) => Ok(record.iter().map(str::to_owned).collect()),
        Some(Err(_)) | None => Err(Flaw::UnreadableLine),
    }
}

fn csv_row(columns: &[&str], cells: Vec<String>) -> Content {
    let mut row = KeyRow::default();
    let mut surplus = false;
    let mut wrong = None;
    for (at, cell) in cells.into_iter().enumerate() {
        let Some(column) = columns.get(at) else {
            surplus |= !cell.is_empty();
            continue;
        };
        match *column {
            "key" => row.key = cell,
            _ if cell.is_empty() => {}
            "username" => row.username = Some(cell),
            "note" => row.note = Some(cell),
            "expires_at" => match cell.parse() {
                Ok(at) => row.expires_at = Some(at),
                Err(why) => wrong = Some((Flaw::InvalidExpiry, format!("expires_at is {why}"))),
            },
            "owner" => match cell.parse() {
                Ok(owner) => row.owner = Some(owner),
                Err(_) => {
                    wrong = Some((Flaw::InvalidOwner, format!("owner {}", form::says(Flaw::InvalidOwner))))
                }
            },
            _ => match cell.parse() {
                Ok(weight) => row.weight = Some(weight),
                Err(_) => {
                    wrong = Some((Flaw::InvalidWeight, format!("weight {}", form::says(Flaw::InvalidWeight))))
                }
            },
        }
    }
    match wrong {
        Some((flaw, why)) => Content::because(flaw, why, &row.key),
        None if surplus => Content::invalid(Flaw::TooManyCells, &row.key),
        None => Content::Key(row),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
