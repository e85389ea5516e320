//! Tokens and users, and what is tried out with them.

use serde_json::json;

use super::{
    Visitor, World,
    browser::{Browser, skipped},
};
use crate::harness::{chat, error_code};

#[tokio::test]
async fn tokens_and_users_are_made_limited_and_revoked_by_forms_alone() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let user = [("name", "Ann & <b>Co</b>"), ("requests_per_day", "2"), ("allowed_models", "demo-*, gpt-4")];
    let page = visitor.post_on("/users", &user).await;
    assert!(
        page.contains("The user is added.") && page.contains("Ann &amp; &lt;b&gt;Co&lt;/b&gt;"),
        "{page}"
    );
    assert!(page.contains("demo-*, gpt-4") && !page.contains("<b>Co"), "{page}");
    let id = page.split_once("action=\"/users/").unwrap().1.split('"').next().unwrap().to_owned();
    assert!(visitor.post_on("/users", &user).await.contains("news bad"), "two of one name");
    let wrong = [("name", "Bob"), ("requests_per_minute", "many")];
    assert!(visitor.post_on("/users", &wrong).await.contains("A limit is a whole number."));

    let token = [("name", "laptop"), ("user", &*id), ("provider", "ollama"), ("requests_per_minute", "100")];
    let made = visitor.post("/tokens", &token).await.text().await.unwrap();
    let text = made.split_once("readonly value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    assert!(text.starts_with("sk-") && made.contains("it is not shown again"), "{made}");
    let list = visitor.page("/tokens").await;
    assert!(list.contains("laptop") && list.contains("100 requests/min") && !list.contains(&text), "{list}");
    let ask = || async { world.keytide.post_as(&text, "/v1/chat/completions", &chat(false)).await };
    assert_eq!(
        (ask().await.status(), ask().await.status(), ask().await.status()).2,
        429,
        "the user's limit holds"
    );
    let own = visitor.page(&format!("/users/{id}")).await;
    assert!(own.contains("Daily log") && own.contains("of 2"), "{own}");

    assert!(visitor.post_on(&format!("/users/{id}"), &[("enabled", "no")]).await.contains("Switched off"));
    assert_eq!(error_code(ask().await).await, (401, "user_disabled".to_owned()));
    assert!(visitor.post_on(&format!("/users/{id}"), &[("enabled", "yes")]).await.contains("May call"));
    let path = list.split_once("href=\"/tokens/").unwrap().1.split('"').next().unwrap();
    let other = visitor.page(&format!("/tokens/{path}")).await;
    assert!(other.contains("Revoke it"));
    let made = list.rsplit_once("href=\"/tokens/").unwrap().1.split('"').next().unwrap().to_owned();
    let edited = [("name", "desk"), ("requests_per_minute", "5"), ("provider", "")];
    let edited = visitor.post_on(&format!("/tokens/{made}"), &edited).await;
    assert!(
        edited.contains("Saved.") && edited.contains("desk") && edited.contains("value=\"5\""),
        "{edited}"
    );
    // A user who is gone, or not among so many, is still the token's.
    let other = [("name", "Cleo")];
    let page = visitor.post_on("/users", &other).await;
    let cleo = page.split_once("action=\"/users/").unwrap().1.split('"').next().unwrap().to_owned();
    let token = world.keytide.admin("POST", "/admin/tokens", &json!({"name": "hers", "user": cleo})).await;
    let hers = token["id"].as_str().unwrap();
    assert!(visitor.post_on(&format!("/users/{cleo}/delete"), &[]).await.contains("The user is deleted."));
    let page = visitor.page(&format!("/tokens/{hers}")).await;
    assert!(page.contains(&format!("<option value=\"{cleo}\" selected>")), "{page}");
    let revoked = visitor.post_on("/tokens/revoke", &[("id", &made), ("sure", "1")]).await;
    assert!(revoked.contains("The token is revoked.") && !revoked.contains("desk"), "{revoked}");
    assert_eq!(error_code(ask().await).await, (401, "invalid_api_key".to_owned()));
    assert_eq!(visitor.get(&format!("/tokens/{made}")).await.status(), 404);
    assert!(visitor.post_on(&format!("/users/{id}/delete"), &[]).await.contains("The user is deleted."));
    assert_eq!(visitor.get(&format!("/users/{id}")).await.status(), 404);
}

#[tokio::test]
async fn the_other_pages_say_what_there_is() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    for (path, says) in [
        ("/events", "Nothing unusual has been seen."),
        ("/events?severity=3", "No event is like that."),
        ("/storage", "Nothing replicates"),
        ("/settings", "50ms"),
        ("/settings?search=admin_token", "server.admin_token"),
        ("/settings?search=nothing-like-that", "No setting is like that."),
        ("/playground", "The same from a program"),
        ("/stats", "Public statistics"),
        ("/api-docs", "/v1/chat/completions"),
    ] {
        let page = visitor.page(path).await;
        assert!(page.contains(says), "{path}: {page}");
        for secret in [world.admin_token(), super::CONFIGURED, "sk-one-0123456789"] {
            assert!(!page.contains(secret), "{path}");
        }
    }
    assert!(visitor.post_on("/storage/retain", &[]).await.contains("keep to their budgets"));
    let off = visitor.post_on("/storage/sync", &[]).await;
    assert!(off.contains("Nothing replicates: set DATABASE_URL"), "{off}");
    let lifted = visitor.post_on("/events/lift", &[("subject", "address:192.0.2.1")]).await;
    assert!(lifted.contains("No verdict holds for"), "{lifted}");
    // Without a module the answer comes with the page.
    let page = visitor.page("/playground").await;
    let token = page.split_once("<option value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let ask = [
        ("token", &*token),
        ("model", "demo-small"),
        ("message", "it's <b>tide</b>"),
        ("provider", "ollama"),
    ];
    let page = visitor.post("/playground", &ask).await.text().await.unwrap();
    let answer = page.split_once("<output").unwrap().1.split("</output>").next().unwrap();
    assert!(answer.len() > 60 && !answer.contains("news bad"), "{answer}");
    assert!(page.contains("it'\\''s &lt;b&gt;tide") && !page.contains("<b>tide"), "{page}");
    let unknown = [("token", &*token), ("model", ""), ("message", "x"), ("provider", "ollama")];
    let page = visitor.post("/playground", &unknown).await.text().await.unwrap();
    assert!(page.contains("news bad"), "{page}");
}

#[tokio::test]
async fn somebody_makes_a_token_and_chats_with_it() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let world = World::new(&["sk-one-0123456789"]).await;
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.sign_in(&world).await;
    browser.press(".side nav a[href='/tokens']").await;
    browser.write("#name", "laptop").await;
    browser.is_accessible().await;
    browser.press("main button.primary").await;
    browser.sees("h1", "The token is made").await;
    let token = browser.run("return document.getElementById('made').value").await;
    assert!(token.as_str().unwrap().starts_with("sk-"));
    browser.press("[data-copy]").await;
    browser.sees("[data-copy]", "Copied").await;
    browser.go("/playground?template=explain").await;
    browser.is_accessible().await;
    browser
        .run("const token = document.getElementById('token'); token.value = [...token.options].at(-1).value")
        .await;
    // The first of the models that the token may use.
    browser.sees("pre", "demo-").await;
    browser.press("#ask button[type=submit]").await;
    browser.sees("#took", "Answered in").await;
    let answer = browser.run("return document.getElementById('answer').textContent").await;
    assert!(answer.as_str().unwrap().len() > 10, "{answer}");
    browser.go("/tokens").await;
    browser.sees("tbody tr:last-child td[data-label=Requests]", "1").await;
    for path in ["/users", "/events", "/storage", "/settings", "/stats", "/api-docs"] {
        browser.go(path).await;
        browser.is_accessible().await;
        browser.fits().await;
    }
    browser.ends_well().await;
}

#[tokio::test]
async fn whoever_is_signed_out_elsewhere_or_cut_off_is_told() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let world = World::new(&["sk-one-0123456789"]).await;
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.sign_in(&world).await;
    browser.go("/keys?sort=status").await;
    browser.sees("h1", "Keys").await;
    browser.forget("keytide_session").await;
    browser.sees("h1", "Sign in").await;
    browser.write("#token", world.admin_token()).await;
    browser.press("button.primary").await;
    // Back to where they were.
    browser.sees("th[aria-sort=ascending]", "State").await;
    world.keytide.stop().await;
    browser.sees(".news.lost", "The connection is lost").await;
}
