//! Files, which go to the API in pieces of some 256 kB.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    Visitor, World,
    browser::{Browser, signed_in},
};

/// A piece, as the module cuts them.
const PIECE: usize = 1 << 18;

async fn import(browser: &Browser, name: &str, content: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    std::fs::write(&file, content).unwrap();
    browser.go("/keys/add").await;
    browser.write("#file", file.to_str().unwrap()).await;
    browser.press("#import button").await;
    browser.sees("#progress", "The import is done.").await;
}

async fn found(world: &World, search: &str) -> u64 {
    let path = format!("/admin/api-keys?pageSize=1&search={search}");
    let request = world.keytide.client.get(world.url(&path)).bearer_auth(world.admin_token());
    let page: Value = request.send().await.unwrap().json().await.unwrap();
    page["total"].as_u64().unwrap()
}

#[tokio::test]
async fn every_piece_of_a_file_is_read_as_the_first_was() {
    let Some((world, browser)) = signed_in(&[]).await else { return };
    const KEYS: u64 = 4_000;
    let filler = "x".repeat(200);
    // Without a header: every row but the first would be one, if a file began with it.
    let mut plain = format!("sk-plain-first,nobody,,{filler}\n");
    for n in 1..KEYS {
        writeln!(plain, "sk-plain-{n:08},key,,{filler}").unwrap();
    }
    assert!(plain.len() > 3 * PIECE);
    import(&browser, "plain.csv", &plain).await;
    browser.sees("#progress", "4,000 new, 0 there already, 0 not understood").await;
    assert_eq!((found(&world, "key").await, found(&world, "nobody").await), (KEYS - 1, 1));
    // With one behind the mark of an encoding, a comment and an empty line, and its columns in another order.
    let mut marked = "\u{feff}# ours\r\n\r\nNote,KEY\r\n".to_owned();
    for n in 0..KEYS {
        write!(marked, "marked {filler},sk-marked-{n:08}\r\n").unwrap();
    }
    marked += "marked,short\r\n";
    import(&browser, "marked.csv", &marked).await;
    browser.sees("#progress", "4,000 new, 0 there already, 1 not understood").await;
    browser.sees("#lines td.number", "4004").await;
    assert_eq!(found(&world, "marked").await, KEYS);
    // JSON, whose defaults hold in every piece, and whose lines are the places in the list.
    let mut keys: Vec<Value> =
        (0..KEYS).map(|n| json!({"key": format!("sk-json-{n:08}"), "note": filler})).collect();
    keys.push(json!(7));
    let list = json!({"username": "of-all", "keys": keys}).to_string();
    import(&browser, "list.json", &list).await;
    browser.sees("#progress", "4,000 new, 0 there already, 1 not understood").await;
    browser.sees("#lines td.number", "4001").await;
    assert_eq!(found(&world, "of-all").await, KEYS);
    browser.ends_well().await;
}

#[tokio::test]
async fn pieces_end_where_lines_do_and_what_is_told_is_counted() {
    let Some((_world, browser)) = signed_in(&[]).await else { return };
    const LINES: usize = 20_000;
    // Lines of 16 bytes: a piece ends behind an end of line; with a letter more, between its two bytes.
    for (first, kind) in [("sk-edge-000000", "even"), ("sk-edge-0000000", "odd")] {
        let mut text = format!("{first}\r\n");
        for n in 1..LINES {
            write!(text, "sk-{}-{n:06}\r\n", if kind == "even" { "edge" } else { "odds" }).unwrap();
        }
        text += "short";
        let cut = &text.as_bytes()[PIECE - 2..PIECE];
        assert_eq!(cut == b"\r\n", kind == "even", "{cut:?}");
        import(&browser, "edge.txt", &text).await;
        browser.sees("#progress", "20,000 new, 0 there already, 1 not understood").await;
        browser.sees("#lines td.number", &(LINES + 1).to_string()).await;
    }
    // Once more: of those that are there already the first are told.
    let known: String = (1..LINES).map(|n| format!("sk-edge-{n:06}\r")).collect();
    let refused = "short\r".repeat(1_500);
    import(&browser, "again.txt", &(known + &refused)).await;
    browser.sees("#progress", "0 new, 19,999 there already, 1,500 not understood").await;
    browser.press("#lines details:not([open]) summary").await;
    browser.sees("#lines .shown", "Only the first 1,000 of 1,500 are shown.").await;
    browser.sees("#lines .shown", "Only the first 1,000 of 19,999 are shown.").await;
    let told = "return [...document.querySelectorAll('#lines details')].map(part => [part.querySelector('summary').textContent, \
                part.querySelectorAll('tbody tr').length, part.querySelector('td').textContent, \
                [...part.querySelectorAll('td.number')].at(-1).textContent])";
    let told = browser.run(told).await;
    let of = |title: &str| told.as_array().unwrap().iter().find(|part| part[0] == title).unwrap().clone();
    assert_eq!(
        of("Keys that were there already"),
        json!(["Keys that were there already", 1000, "1", "1000"])
    );
    assert_eq!(
        of("Lines that were not understood"),
        json!(["Lines that were not understood", 1000, "20000", "20999"])
    );
    browser.is_accessible().await;
    browser.ends_well().await;
}

#[tokio::test]
async fn a_file_is_told_of_as_a_paste_is() {
    let Some((_world, browser)) = signed_in(&[]).await else { return };
    let list = "\n\nsk-one-0123456789\nshort\nsk-one-0123456789\n<b>bold</b> words\n";
    import(&browser, "keys.csv", list).await;
    let of_module = browser.run("return document.getElementById('lines').innerHTML").await;
    let of_module = of_module.as_str().unwrap();
    for part in ["role=\"region\"", "tabindex=\"0\"", "scope=\"col\"", "<bdi>", "<b>"] {
        assert_eq!(of_module.contains(part), part != "<b>", "{part}: {of_module}");
    }
    assert_eq!(browser.run("return document.querySelector('[aria-live] td')").await, Value::Null);
    // The same through the form alone, in a pool in which nothing is yet.
    let other = World::new(&[]).await;
    let visitor = Visitor::sign_in(&other).await;
    let page = visitor.post("/keys/import", &[("list", list), ("provider", "ollama")]).await;
    let page = page.text().await.unwrap();
    assert!(page.contains("1 new, 1 there already, 2 not understood."), "{page}");
    let script = format!(
        "const page = new DOMParser().parseFromString({}, 'text/html'); \
         return [...page.querySelectorAll('main section details')].map(one => one.outerHTML).join('')",
        json!(page)
    );
    assert_eq!(browser.run(&script).await, of_module);
    assert!(of_module.contains("<td class=\"number\">4</td>"), "{of_module}");
    // What was written comes back as it was, empty lines and all.
    let (_, page) = visitor.refused("/keys/import", &[("list", "\n\nkey,colour\n"), ("provider", "")]).await;
    let script = format!(
        "return new DOMParser().parseFromString({}, 'text/html').getElementById('list').value",
        json!(page)
    );
    assert_eq!(browser.run(&script).await, "\n\nkey,colour\n");
    browser.ends_well().await;
}

#[tokio::test]
async fn a_file_that_has_changed_meanwhile_is_not_called_nonsense() {
    let Some((_world, browser)) = signed_in(&[]).await else { return };
    for name in ["list.json", "keys.csv"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, "[\"sk-one-0123456789\"]").unwrap();
        browser.go("/keys/add").await;
        browser.write("#file", file.to_str().unwrap()).await;
        drop(dir);
        browser.press("#import button").await;
        browser.sees("#progress .news.bad", "The file cannot be read").await;
    }
    browser.complained_only_of("ERR_").await;
    browser.ends_well().await;
}
