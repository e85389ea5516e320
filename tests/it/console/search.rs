//! What somebody looks for, which may be a secret.

use keytide::model::Delta;
use reqwest::StatusCode;
use serde_json::json;

use super::{FormOf, Visitor, World, browser::signed_in};
use crate::harness::TOKEN;

const KEY: &str = "sk-one-0123456789";

/// Where the search leads to. What was looked for is nowhere in the answer, unless the address may name it.
async fn looked(visitor: &Visitor<'_>, form: &[(&str, &str)]) -> String {
    let answer = visitor.post("/search", form).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{form:?}");
    let to = answer.headers()["location"].to_str().unwrap().to_owned();
    let said = format!("{:?}", answer.headers()) + &answer.text().await.unwrap();
    for secret in form.iter().map(|(_, text)| text.trim()).filter(|text| text.starts_with("sk-")) {
        assert!(!said.contains(secret), "{form:?}: {said}");
    }
    to
}

#[tokio::test]
async fn a_whole_secret_leads_to_its_page_and_into_no_address() {
    let aardvark = "[providers.aardvark]\nbase_url = \"http://127.0.0.1:9\"\n";
    let world = World::configured(aardvark, &[KEY], Delta::default()).await;
    let other = format!("sk-or-v1-{:064x}", 7);
    let other_id =
        world.keytide.admin("POST", "/admin/api-keys?provider=openrouter", &json!({"key": other})).await;
    let other_id = other_id["id"].as_str().unwrap().to_owned();
    let visitor = Visitor::sign_in(&world).await;
    let page = visitor.page("/keys").await;
    let id = page.split_once("name=\"id\" value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let key_page = format!("/keys/{id}?provider=ollama");
    for list in ["/keys", "/tokens", "/users", "/settings"] {
        assert!(
            visitor.page(list).await.contains("<form class=\"line\" method=\"post\" action=\"/search\""),
            "{list}"
        );
        assert_eq!(looked(&visitor, &[("list", list), ("search", &format!(" {KEY} "))]).await, key_page);
        let token = looked(&visitor, &[("list", list), ("search", TOKEN)]).await;
        assert!(token.starts_with("/tokens/") && token.ends_with("?provider=ollama"), "{token}");
        assert!(visitor.page(&token).await.contains("Revoke it"));
        // Whichever provider has it.
        let found = looked(&visitor, &[("list", list), ("search", &other), ("provider", "")]).await;
        assert_eq!(found, format!("/keys/{other_id}?provider=openrouter"));
    }
    // One that two of them have is the default's, where none is named.
    let both = "sk-both-0123456789";
    for provider in ["aardvark", "ollama"] {
        let path = format!("/admin/api-keys?provider={provider}");
        world.keytide.admin("POST", &path, &json!({"key": both})).await;
    }
    for (provider, found) in [("", "ollama"), ("aardvark", "aardvark")] {
        let to = looked(&visitor, &[("list", "/keys"), ("search", both), ("provider", provider)]).await;
        assert!(to.ends_with(&format!("?provider={found}")), "{to}");
    }
    let events = [("list", "/events"), ("subject", KEY), ("severity", "2")];
    assert_eq!(looked(&visitor, &events).await, format!("/events?severity=2&subject={id}"));
}

#[tokio::test]
async fn only_what_finds_something_goes_into_an_address() {
    let world = World::new(&[KEY]).await;
    world.keytide.admin("POST", "/admin/users", &json!({"name": "Ann Example"})).await;
    let visitor = Visitor::sign_in(&world).await;
    visitor.post_on("/keys/add", &[("key", "sk-two-0123456789"), ("username", "ann@example.org")]).await;
    let form = [("list", "/keys"), ("search", "ANN@"), ("status", "failed"), ("order", "desc")];
    let to = looked(&visitor, &form).await;
    assert_eq!(to, "/keys?status=failed&order=desc&search=ANN%40");
    assert!(visitor.page(&to).await.contains("No key is like that."), "it is active");
    assert_eq!(looked(&visitor, &[("list", "/users"), ("search", "ann")]).await, "/users?search=ann");
    assert_eq!(looked(&visitor, &[("list", "/settings"), ("search", "50MS")]).await, "/settings?search=50MS");
    assert_eq!(looked(&visitor, &[("list", "/keys"), ("search", " ")]).await, "/keys");
    // A key of another pool, one that was deleted, a mistyped one: whatever it is.
    let unknown = "sk-nobody-knows-0123456789";
    for (list, field) in [
        ("/keys", "search"),
        ("/tokens", "search"),
        ("/users", "search"),
        ("/settings", "search"),
        ("/events", "subject"),
    ] {
        for text in [unknown, &unknown.repeat(300)] {
            let form = [("list", list), (field, text)];
            let answer = visitor.post("/search", &form).await;
            assert_eq!(
                (answer.status(), &answer.headers()["location"]),
                (StatusCode::SEE_OTHER, &list.parse().unwrap())
            );
            assert!(!format!("{answer:?}").contains("nobody"), "{answer:?}");
            let page = visitor.post_on("/search", &form).await;
            assert!(
                page.contains("Nothing here is called that") && !page.contains("nobody-knows"),
                "{list}: {page}"
            );
        }
    }
    let (status, _) = visitor.refused("/search", &[("list", "https://evil.example"), ("search", "x")]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let foreign = visitor.client.post(world.url("/search")).header("cookie", &visitor.cookie);
    let foreign =
        foreign.form_of(&[("list", "/keys"), ("search", KEY), ("csrf", "guessed")]).send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert!(!foreign.headers().contains_key("location"));
}

#[tokio::test]
async fn somebody_pastes_a_key_and_gets_to_it() {
    let Some((_world, browser)) = signed_in(&[KEY]).await else { return };
    browser.go("/keys").await;
    browser.write("#search", KEY).await;
    browser.press("[role=search] button").await;
    browser.sees("h2", "How it stands").await;
    browser.go("/keys").await;
    browser.write("#search", "sk-nobody-knows-0123456789").await;
    browser.press("[role=search] button").await;
    browser.sees(".news.bad", "Nothing here is called that").await;
    browser.sees("tbody", "Active").await;
    browser.is_accessible().await;
    assert_eq!(browser.run("return location.pathname + location.search").await, "/keys");
    browser.ends_well().await;
}
