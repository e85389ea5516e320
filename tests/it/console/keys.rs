//! Keys come in, are looked at, switched and deleted.

use std::fmt::Write;

use reqwest::StatusCode;
use serde_json::json;

use super::{Visitor, World, browser::signed_in};

#[tokio::test]
async fn keys_come_and_go_by_forms_alone() {
    let world = World::new(&[]).await;
    let visitor = Visitor::sign_in(&world).await;
    assert!(visitor.page("/keys").await.contains("There is no key yet."));
    let hostile = "<script>alert(1)</script>";
    let added =
        [("key", "sk-one-0123456789"), ("username", hostile), ("weight", "7"), ("provider", "ollama")];
    let page = visitor.post_on("/keys/add", &added).await;
    assert!(page.contains("The key is in the pool.") && page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains(hostile) && !page.contains("sk-one-0123456789"), "{page}");
    let (status, again) = visitor.refused("/keys/add", &added).await;
    assert!(status == 422 && again.contains("This key is there already"), "{again}");
    let list = "sk-two-0123456789\nsk-two-0123456789\nshort\nsk-three-0123456789";
    let report = visitor.post("/keys/import", &[("list", list), ("provider", "ollama")]).await;
    let report = report.text().await.unwrap();
    assert!(report.contains("2 new, 1 there already, 1 not understood."), "{report}");
    assert!(report.contains("the key is shorter than 8 characters"), "{report}");

    let page = visitor.page("/keys?search=alert").await;
    let id = page.split_once("name=\"id\" value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let own = visitor.page(&format!("/keys/{id}")).await;
    assert!(own.contains("&lt;script&gt;") && own.contains("value=\"7\""), "{own}");
    let edited = visitor.post_on(&format!("/keys/{id}"), &[("note", "ours"), ("weight", "2")]).await;
    assert!(
        edited.contains("Saved.") && edited.contains("ours") && !edited.contains("&lt;script&gt;"),
        "{edited}"
    );

    // What is not a day ends nothing, and a time within a day outlives the saving of something else.
    let path = format!("/admin/api-keys/{id}");
    world.keytide.admin("PATCH", &path, &json!({"expires_at": "2099-12-31T23:59:00Z"})).await;
    let own = format!("/keys/{id}");
    for (day, was, says, expires_at) in [
        ("soon", "2099-12-31", "Expires on (0:00 UTC)&quot; cannot be read", json!("2099-12-31T23:59:00Z")),
        ("2099-12-31", "2099-12-31", "Saved.", json!("2099-12-31T23:59:00Z")),
        ("2098-01-01", "2099-12-31", "Saved.", json!("2098-01-01T00:00:00Z")),
        ("", "2098-01-01", "Saved.", json!(null)),
    ] {
        let form = [("expires_at", day), ("expires_at_was", was), ("weight", "2")];
        let page = match says {
            "Saved." => visitor.post_on(&own, &form).await,
            _ => visitor.refused(&own, &form).await.1,
        };
        assert!(page.contains(says), "{day}: {page}");
        assert_eq!(world.keytide.admin("PATCH", &path, &json!({})).await["expires_at"], expires_at, "{day}");
    }

    // Who shares it is named, and stays when something else is saved, even when they are gone.
    let ann = world.keytide.admin("POST", "/admin/users", &json!({"name": "Ann <b>"})).await;
    let ann = ann["id"].as_str().unwrap();
    let shared = visitor.post_on(&own, &[("owner", ann), ("owner_was", "")]).await;
    assert!(shared.contains(&format!("<a href=\"/users/{ann}\"><bdi>Ann &lt;b&gt;</bdi></a>")), "{shared}");
    let import = [("list", "sk-hers-0123456789"), ("owner", ann), ("provider", "ollama")];
    assert_eq!(visitor.post("/keys/import", &import).await.status(), StatusCode::OK);
    let hers = [("key", "sk-also-hers-0123456789"), ("owner", ann), ("provider", "ollama")];
    assert!(visitor.post_on("/keys/add", &hers).await.contains(&format!("<a href=\"/users/{ann}\">")));
    let export = visitor.post("/keys/export", &[("format", "csv"), ("provider", "ollama")]).await;
    assert_eq!(export.text().await.unwrap().matches(ann).count(), 3);
    for key in ["sk-hers-0123456789", "sk-also-hers-0123456789"] {
        let path = "/admin/api-keys?provider=ollama";
        world.keytide.admin("DELETE", path, &json!({"keys": [key]})).await;
    }
    visitor.post_on(&format!("/users/{ann}/delete"), &[]).await;
    let kept = visitor.post_on(&own, &[("note", "on"), ("owner", ann), ("owner_was", ann)]).await;
    assert!(kept.contains("Saved.") && kept.contains("a user who is gone"), "{kept}");
    let freed = visitor.post_on(&own, &[("owner", ""), ("owner_was", ann)]).await;
    assert!(freed.contains("Saved.") && !freed.contains("a user who is gone"), "{freed}");

    // All of a list, whatever is chosen.
    let all = [("do", "disable"), ("all", "1"), ("search", ""), ("hours", "24"), ("back", "/keys")];
    assert!(visitor.post_on("/keys/change", &all).await.contains("Switched off: 3."));
    assert!(visitor.page("/keys?status=disabled").await.contains("back <time"));
    let tested = visitor.post("/keys/change", &[("do", "test"), ("id", &id), ("back", "/keys")]).await;
    assert!(tested.text().await.unwrap().contains("Tested: 1 well, 0 not"));
    let ask = visitor.post("/keys/change", &[("do", "delete"), ("id", &id), ("back", "/keys")]).await;
    let ask = ask.text().await.unwrap();
    assert!(ask.contains("Delete this key?"), "{ask}");
    assert_eq!(visitor.get(&format!("/keys/{id}")).await.status(), StatusCode::OK, "it was only asked");
    let sure = [("do", "delete"), ("id", &*id), ("back", "/keys"), ("sure", sure_of(&ask))];
    assert!(visitor.post_on("/keys/change", &sure).await.contains("Deleted: 1."));
    // Somebody else's page still shows it.
    let gone = visitor.get(&format!("/keys/{id}")).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert!(gone.text().await.unwrap().contains("has no key of this id"));
    for (form, says) in [
        (&[("do", "enabel"), ("all", "1"), ("back", "/keys")][..], "Say what is to be done"),
        (&[("do", "disable"), ("all", "1"), ("hours", "soon"), ("back", "/keys")], "cannot be read"),
    ] {
        assert!(visitor.post_on("/keys/change", form).await.contains(says), "{form:?}");
    }
    let late = visitor.post_on("/keys/change", &[("do", "enable"), ("id", &id), ("back", "/keys")]).await;
    assert!(late.contains("1 had been deleted meanwhile."), "{late}");
    let export = visitor.post("/keys/export", &[("format", "text"), ("provider", "ollama")]).await;
    assert!(export.headers()["content-disposition"].to_str().unwrap().contains("keytide-keys.txt"));
    let export = export.text().await.unwrap();
    assert!(export.contains("sk-two-0123456789") && !export.contains("sk-one"), "{export}");

    // A whole list goes as a list, not as the names of its keys; what has changed meanwhile is asked about again.
    let wish = [("do", "delete"), ("all", "1"), ("back", "/keys")];
    let ask = visitor.post("/keys/change", &wish).await.text().await.unwrap();
    assert!(
        ask.contains("Delete 2 keys?") && ask.contains("name=\"all\"") && !ask.contains("name=\"id\""),
        "{ask}"
    );
    // As many keys, but not the same.
    world.keytide.admin("DELETE", "/admin/api-keys", &json!({"keys": ["sk-two-0123456789"]})).await;
    world.keytide.admin("POST", "/admin/api-keys", &json!({"key": "sk-later-0123456789"})).await;
    let sure = [wish[0], wish[1], wish[2], ("sure", sure_of(&ask))];
    let again = visitor.post("/keys/change", &sure).await.text().await.unwrap();
    assert!(again.contains("Delete 2 keys?"), "{again}");
    let sure = [wish[0], wish[1], wish[2], ("sure", sure_of(&again))];
    assert!(visitor.post_on("/keys/change", &sure).await.contains("Deleted: 2."));
}

/// What the page that asks once more has of the keys it asks about.
fn sure_of(page: &str) -> &str {
    page.split_once("name=\"sure\" value=\"").unwrap().1.split('"').next().unwrap()
}

#[tokio::test]
async fn a_key_is_found_whichever_provider_has_it() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let key = format!("sk-or-v1-{:064x}", 7);
    let made = world.keytide.admin("POST", "/admin/api-keys?provider=openrouter", &json!({"key": key})).await;
    let id = made["id"].as_str().unwrap();
    let visitor = Visitor::sign_in(&world).await;
    let page = visitor.page(&format!("/keys/{id}")).await;
    assert!(page.contains("/keys?provider=openrouter"), "{page}");
    let form =
        [("do", "test"), ("id", id), ("provider", "openrouter"), ("back", "/keys?provider=openrouter")];
    let tested = visitor.post("/keys/change", &form).await.text().await.unwrap();
    assert!(tested.contains(&format!("/keys/{id}?provider=openrouter")), "{tested}");
}

#[tokio::test]
async fn the_address_of_a_form_leads_to_the_pages() {
    let world = World::new(&[]).await;
    let client = super::plain_client();
    for path in ["/keys/change", "/keys/import", "/logout", "/storage/sync"] {
        let program = client.get(world.url(path)).send().await.unwrap();
        assert_eq!(program.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let browser = client.get(world.url(path)).header("accept", "text/html").send().await.unwrap();
        assert_eq!(
            (browser.status(), &browser.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/".parse().unwrap())
        );
    }
    let stats = client.get(world.url("/admin/stats")).send().await.unwrap();
    assert_eq!(stats.headers()["x-content-type-options"], "nosniff");
    assert!(stats.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let visitor = Visitor::sign_in(&world).await;
    let long = "x".repeat(2_100_000);
    let large = visitor.post("/keys/change", &[("id", &long)]).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.text().await.unwrap().contains("larger than 2 MB"));
}

#[tokio::test]
async fn strange_addresses_are_answered_in_words() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    for (path, status, says) in [
        ("/keys/no-id-at-all", 404, "There is nothing at this address"),
        ("/keys?provider=%3Cscript%3E", 404, "There is no provider"),
        ("/keys?page=0", 400, "Pages are counted from 1."),
        ("/keys?page=x", 400, "page"),
        ("/keys?sort=colour", 400, "The query cannot be read"),
        ("/?provider=nobody", 404, "There is no provider"),
    ] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let page = answer.text().await.unwrap();
        assert!(page.contains(says) && page.contains("To the overview"), "{path}: {page}");
        assert!(!page.contains("aria-current=\"page\""), "{path} is none of the pages");
        assert!(!page.contains("<script>"), "{path}");
    }
    let long = "x".repeat(20_000);
    assert!(visitor.page(&format!("/keys?search={long}")).await.contains("No key is like that."));
    let nothing = visitor.post_on("/keys/change", &[("do", "enable"), ("back", "//evil.example")]).await;
    assert!(nothing.contains("Choose the keys first."), "{nothing}");
}

#[tokio::test]
async fn somebody_imports_a_file_and_switches_a_key_off() {
    let Some((world, browser)) = signed_in(&[]).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.csv");
    let mut text = "key,username,note\n".to_owned();
    // More than one piece.
    for n in 0..40_000 {
        writeln!(text, "sk-file-{n:08},person-{n}@example.org,{}", "a long note ".repeat(6)).unwrap();
    }
    text += "bad,,\n";
    std::fs::write(&file, text).unwrap();
    browser.sees(".attention", "There is no key in the pool yet").await;
    browser.press(".attention a").await;
    browser.sees("h1", "Add keys").await;
    browser.is_accessible().await;
    browser.write("#file", file.to_str().unwrap()).await;
    browser.press("#import button").await;
    browser.sees("#progress", "The import is done. 40,000 new, 0 there already, 1 not understood").await;
    browser.sees("#lines td.number", "40002").await;
    browser.is_accessible().await;

    browser.go("/keys?sort=username").await;
    browser.sees(".choice small", "40,000").await;
    browser.is_accessible().await;
    browser.press("tbody tr:nth-child(1) input").await;
    browser.press("button[value=disable]").await;
    browser.sees(".news.good", "Switched off: 1.").await;
    browser.sees("tbody tr:nth-child(1)", "switched off by a person").await;
    browser.press("tbody tr:nth-child(1) th a").await;
    browser.sees(".facts", "switched off by a person").await;
    browser.is_accessible().await;
    browser.press("button[value=enable]").await;
    browser.sees(".facts .state", "Active").await;
    // Deleted from elsewhere while the page is open.
    let id = browser.run("return document.querySelector('[name=id]').value").await;
    world.keytide.admin("DELETE", &format!("/admin/api-keys/{}", id.as_str().unwrap()), &json!({})).await;
    browser.press("button[value=test]").await;
    browser.sees("td", "there is no key of this id").await;
    browser.fits().await;
    browser.ends_well().await;
}
