use proptest::prelude::*;

use super::*;

fn rows(format: Format, body: impl AsRef<[u8]>) -> Vec<(usize, Content)> {
    let parsed = parse(format, body.as_ref(), None).unwrap();
    parsed
        .rows
        .into_iter()
        .filter(|row| row.content != Content::Header)
        .map(|row| (row.line, row.content))
        .collect()
}

fn key(key: &str) -> Content {
    Content::Key(KeyRow { key: key.to_owned(), ..KeyRow::default() })
}

fn reason(content: &Content) -> &str {
    match content {
        Content::Invalid { reason, .. } => reason,
        other => panic!("not invalid: {other:?}"),
    }
}

#[test]
fn plain_lines() {
    let found = rows(Format::Text, "\u{feff}sk-key-one\r\n\n# a comment\n  sk-key-two  \nsk-key-three");
    assert_eq!(
        found,
        [
            (1, key("sk-key-one")),
            (2, Content::Blank),
            (3, Content::Blank),
            (4, key("sk-key-two")),
            (5, key("sk-key-three"))
        ]
    );
    assert_eq!(rows(Format::Text, ""), []);
    assert_eq!(rows(Format::Text, "\n"), [(1, Content::Blank)]);
    assert_eq!(rows(Format::Text, "\n\n").len(), 2);
}

#[test]
fn a_line_that_is_not_utf_8_stops_nothing() {
    for format in [Format::Text, Format::Csv] {
        let found = rows(format, b"sk-key-one\n\xff\xfe\nsk-key-two\n");
        assert_eq!(found[0].1, key("sk-key-one"));
        assert_eq!(reason(&found[1].1), "the line is not UTF-8");
        assert_eq!(found[2], (3, key("sk-key-two")));
    }
    let found = rows(Format::Ndjson, b"\"sk-key-one\"\n\"\xff\"\n{\"key\":\"sk-key-two\"}\n");
    assert_eq!((found.len(), reason(&found[1].1)), (3, "the line is not UTF-8"));
}

#[test]
fn a_line_of_a_megabyte_is_one_row() {
    let body = format!("{}\nsk-key-two\n", "x".repeat(1 << 20));
    assert_eq!(rows(Format::Text, &body).len(), 2);
    assert_eq!(rows(Format::Csv, &body).len(), 2);
    assert_eq!(rows(Format::Ndjson, &body).len(), 2);
    assert_eq!(rows(Format::Csv, format!("\"{body}")).len(), 2);
}

#[test]
fn csv_with_a_header_in_any_order() {
    let body =
        "\u{feff}Username,KEY,expires_at\r\n\"Ann, the first\",sk-key-one,2030-01-01\r\n\r\n,sk-key-two,\r\n";
    let found = rows(Format::Csv, body);
    let one = KeyRow {
        key: "sk-key-one".to_owned(),
        username: Some("Ann, the first".to_owned()),
        expires_at: Some("2030-01-01".parse().unwrap()),
        ..KeyRow::default()
    };
    assert_eq!(found, [(2, Content::Key(one)), (3, Content::Blank), (4, key("sk-key-two"))]);
}

#[test]
fn csv_without_a_header() {
    let found = rows(Format::Csv, "sk-key-one,Ann,2030-01-01T00:00:00Z,\"say \"\"hi\"\"\",7\nsk-key-two\n");
    let one = KeyRow {
        key: "sk-key-one".to_owned(),
        username: Some("Ann".to_owned()),
        expires_at: Some("2030-01-01".parse().unwrap()),
        note: Some("say \"hi\"".to_owned()),
        weight: Some(7),
        owner: None,
    };
    assert_eq!(found, [(1, Content::Key(one)), (2, key("sk-key-two"))]);
}

#[test]
fn csv_rows_at_fault_stop_nothing() {
    let body = "key,username,expires_at,note,weight\n\"sk-key-one,Ann\nsk-key-two,,soon\nsk-key-three,,,,heavy\n\
                sk-key-four,a,,b,1,surplus\nsk-key-five,,,,,,\n";
    let found = rows(Format::Csv, body);
    assert_eq!(reason(&found[0].1), "a quote is not closed");
    assert!(reason(&found[1].1).starts_with("expires_at is not a time"));
    assert!(reason(&found[2].1).starts_with("weight"));
    assert!(reason(&found[3].1).contains("more cells"));
    assert_eq!(found[4], (6, key("sk-key-five")));
}

#[test]
fn csv_headers_that_make_no_sense_are_refused() {
    for body in ["key,colour\nsk-key-one,red\n", "key,key\n", "username,note\nAnn,x\n", "api_key_name,key\n"]
    {
        assert_eq!(
            parse(Format::Csv, body.as_bytes(), None).unwrap_err().code.as_str(),
            "invalid_csv",
            "{body}"
        );
    }
}

#[test]
fn a_later_piece_is_read_as_the_first_was() {
    let first = parse(Format::Csv, b"# ours\nNote,KEY\nx,sk-key-one\n", None).unwrap();
    assert_eq!(first.columns.as_deref(), Some(&["note", "key"][..]));
    // What would be a header at the beginning of a file is a row of it in the middle.
    let later = parse(Format::Csv, b"key,sk-key-two\n", Some("note,key")).unwrap();
    let two = KeyRow { key: "sk-key-two".to_owned(), note: Some("key".to_owned()), ..KeyRow::default() };
    assert_eq!(later.rows, [Row { line: 1, content: Content::Key(two) }]);
    let plain = parse(Format::Csv, b"sk-key-one,Ann", None).unwrap();
    assert_eq!(plain.columns.as_deref(), Some(&COLUMNS[..]));
    assert_eq!(parse(Format::Csv, b"# nothing yet\n\n", None).unwrap().columns, None);
    for (format, columns, code) in [
        (Format::Csv, "key,colour", "invalid_csv"),
        (Format::Csv, "", "invalid_csv"),
        (Format::Text, "key", "invalid_query"),
    ] {
        assert_eq!(parse(format, b"x", Some(columns)).unwrap_err().code.as_str(), code, "{columns}");
    }
}

#[test]
fn ndjson_takes_strings_and_objects() {
    let body = "\"sk-key-one\"\n\n{\"key\":\"sk-key-two\",\"username\":null,\"weight\":3}\n{\"key\":1}\n[]\n\
                {\"key\":\"a\",\"colour\":1}\n{\"key\"";
    let found = rows(Format::Ndjson, body);
    let two = KeyRow { key: "sk-key-two".to_owned(), weight: Some(3), ..KeyRow::default() };
    assert_eq!(found[..3], [(1, key("sk-key-one")), (2, Content::Blank), (3, Content::Key(two))]);
    assert!(reason(&found[5].1).contains("unknown field `colour`"), "{:?}", found[5]);
    assert!(found[3..].iter().all(|(_, content)| !reason(content).is_empty()) && found.len() == 7);
}

#[test]
fn json_has_defaults_and_invalid_elements() {
    let body = r#"{"keys":["sk-key-one",{"key":"sk-key-two","username":"Bob"},5,{"key":7},null],
        "username":"Ann","weight":2,"provider":"p"}"#;
    let parsed = parse(Format::Json, body.as_bytes(), None).unwrap();
    assert_eq!(parsed.provider.as_deref(), Some("p"));
    let names: Vec<_> = parsed
        .rows
        .iter()
        .map(|row| match &row.content {
            Content::Key(row) => row.username.as_deref().unwrap_or_default(),
            other => reason(other),
        })
        .collect();
    assert_eq!(names[..2], ["Ann", "Bob"]);
    assert!(names[2].contains("expected a key, or an object"), "{}", names[2]);
    assert_eq!(parsed.rows.len(), 5);
    assert_eq!(rows(Format::Json, "\u{feff}{\"keys\":[]}"), []);
}

#[test]
fn json_that_cannot_be_read_as_a_whole_is_refused_with_its_place() {
    for (body, says) in [
        ("{\"keys\":[\"sk-key-one\"", "line 1 column 21"),
        ("{\"keys\":[],\"colour\":1}", "unknown field `colour`"),
        ("[\"sk-key-one\"]", "line 1"),
        ("{\"keys\":\"sk-key-one\"}", "line 1"),
        ("", "empty"),
    ] {
        let error = parse(Format::Json, body.as_bytes(), None).unwrap_err();
        assert!(error.status == 400 && error.message.contains(says), "{body}: {}", error.message);
        assert!(!error.message.contains("sk-key-one"), "{}", error.message);
    }
    assert!(parse(Format::Json, b"{\"keys\":[\"\xff\"]}", None).is_err());
}

fn formats() -> impl proptest::strategy::Strategy<Value = Format> {
    prop_oneof![Just(Format::Json), Just(Format::Text), Just(Format::Csv), Just(Format::Ndjson)]
}

proptest! {
    #[test]
    fn nothing_panics(format in formats(), body in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(format, &body, None));
    }

    /// Every line is a row; only a header is taken out.
    #[test]
    fn nothing_is_passed_over(format in formats(), body in "[ a-z0-9,\"#{}:\\n\\r\u{e9}-]{0,200}") {
        if let Ok(parsed) = parse(format, body.as_bytes(), None) && format != Format::Json {
            let body = body.replace("\r\n", "\n").replace('\r', "\n");
            let lines = body.strip_suffix('\n').unwrap_or(&body).split('\n').count();
            prop_assert_eq!(parsed.rows.len(), if body.is_empty() { 0 } else { lines });
            prop_assert!(parsed.rows.iter().enumerate().all(|(at, row)| row.line == at + 1));
        }
    }

    #[test]
    fn what_is_written_is_read(texts in proptest::collection::vec("[ -~]{0,20}", 2), weight in 1u16..=1000,
        owner: Option<u128>,
    ) {
        let owner = owner.map(crate::model::UserId);
        let trimmed = |text: &String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let record = KeyRecord {
            username: trimmed(&texts[0]).map(Into::into),
            note: trimmed(&texts[1]).map(Into::into),
            weight,
            owner,
            ..KeyRecord::new(crate::model::Secret::new("sk-key-one"), Timestamp(0))
        };
        let line = super::super::super::export::csv_line(&record);
        let found = rows(Format::Csv, format!("key,username,expires_at,note,weight,owner\n{line}"));
        let expected = KeyRow {
            key: "sk-key-one".to_owned(),
            username: trimmed(&texts[0]),
            expires_at: None,
            note: trimmed(&texts[1]),
            weight: Some(weight),
            owner,
        };
        prop_assert_eq!(found, vec![(2, Content::Key(expected))]);
    }
}
