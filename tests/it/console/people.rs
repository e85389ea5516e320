//! Tokens and users, and what is tried out with them.

use serde_json::json;

use super::{FormOf, Visitor, World, browser::signed_in};
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
    let (status, again) = visitor.refused("/users", &user).await;
    assert_eq!(status, 422, "two of one name");
    assert!(again.contains("value=\"demo-*, gpt-4\"") && again.contains("value=\"2\""), "{again}");
    let wrong = [("name", "Bob"), ("requests_per_minute", "many")];
    let (_, again) = visitor.refused("/users", &wrong).await;
    assert!(again.contains("A limit is a whole number.") && again.contains("value=\"many\""), "{again}");

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
    assert!(own.contains(&format!("href=\"/tokens?user={id}#name\"")), "{own}");
    let theirs = visitor.page(&format!("/tokens?user={id}")).await;
    assert!(theirs.contains(&format!("<option value=\"{id}\" selected>Ann &amp; ")), "{theirs}");

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
    // Whoever goes from a page of what was found to a token comes back to it.
    let found = visitor.page("/tokens?search=des&page=1").await;
    assert!(found.contains(&format!("href=\"/tokens/{made}?search=des&amp;page=1\"")), "{found}");
    let own = visitor.page(&format!("/tokens/{made}?search=des&page=1")).await;
    assert!(own.contains("href=\"/tokens?search=des&amp;page=1\""), "{own}");
    let revoke = own.split_once("action=\"/tokens/revoke\"").unwrap().1.split_once("</form>").unwrap().0;
    for kept in ["name=\"search\" value=\"des\"", "name=\"page\" value=\"1\""] {
        assert!(revoke.contains(kept), "{revoke}");
    }
    let wish = [("id", &*made), ("sure", "1"), ("search", "des"), ("page", "1")];
    let revoked = visitor.post("/tokens/revoke", &wish).await;
    assert_eq!(revoked.headers()["location"], "/tokens?search=des&page=1");
    let told = revoked.headers()["set-cookie"].to_str().unwrap();
    assert!(told.starts_with("keytide_said=good%7CThe%20token%20is%20revoked"), "{told}");
    let list = visitor.page("/tokens").await;
    assert!(!list.contains("desk"), "{list}");
    assert_eq!(error_code(ask().await).await, (401, "invalid_api_key".to_owned()));
    assert_eq!(visitor.get(&format!("/tokens/{made}")).await.status(), 404);
    assert!(visitor.post_on(&format!("/users/{id}/delete"), &[]).await.contains("The user is deleted."));
    assert_eq!(visitor.get(&format!("/users/{id}")).await.status(), 404);
}

#[tokio::test]
async fn a_page_beyond_the_end_is_the_last_one() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    for path in ["/tokens", "/users"] {
        let answer = visitor.get(&format!("{path}?page=7")).await;
        let none_yet = visitor.page(path).await.contains("no user yet");
        assert_eq!(answer.status() == 200, none_yet, "{path}");
    }
    world.keytide.admin("POST", "/admin/users", &json!({"name": "Ann"})).await;
    for (path, last) in [
        ("/tokens?page=7", "/tokens?page=1"),
        ("/users?page=7&search=ann", "/users?search=ann&page=1"),
        ("/keys?page=7&sort=status", "/keys?sort=status&page=1"),
    ] {
        let answer = visitor.get(path).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (303, &last.parse().unwrap()));
        assert_eq!(visitor.get(last).await.status(), 200);
    }
}

#[tokio::test]
async fn what_was_written_comes_back_with_the_reason() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let token = [
        ("name", "laptop"),
        ("provider", "ollama"),
        ("requests_per_minute", "77"),
        ("allowed_addresses", "10.0.0.0/8, nowhere"),
    ];
    let (status, page) = visitor.refused("/tokens", &token).await;
    assert_eq!(status, 422);
    for kept in ["value=\"laptop\"", "value=\"77\"", "value=\"10.0.0.0/8, nowhere\"", "news bad"] {
        assert!(page.contains(kept), "{kept}: {page}");
    }
    assert!(!visitor.page("/tokens").await.contains("laptop"), "nothing was made");
    let made = world.keytide.admin("POST", "/admin/tokens", &json!({"name": "desk"})).await;
    let own = format!("/tokens/{}", made["id"].as_str().unwrap());
    let (status, page) = visitor.refused(&own, &token).await;
    assert!(status == 422 && page.contains("value=\"laptop\"") && page.contains("nowhere"), "{page}");

    let list = "key,colour\nsk-two-0123456789,red";
    let (status, page) = visitor.refused("/keys/import", &[("list", list), ("provider", "ollama")]).await;
    assert!(status == 422 && page.contains(list) && page.contains("news bad"), "{page}");
    let key =
        [("key", "sk-two-0123456789"), ("weight", "many"), ("note", "from afar"), ("provider", "ollama")];
    let (status, page) = visitor.refused("/keys/add", &key).await;
    assert!(
        status == 422 && page.contains("value=\"from afar\"") && page.contains("value=\"many\""),
        "{page}"
    );

    // After a redirect too.
    let request = visitor.client.post(world.url("/events/lift"));
    let request = request.header("cookie", format!("{}; keytide_lang=zh", visitor.cookie));
    let lifted =
        request.form_of(&[("subject", "address:192.0.2.1"), ("csrf", &visitor.csrf)]).send().await.unwrap();
    let said = lifted.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let request = visitor.client.get(world.url("/events"));
    let request = request.header("cookie", format!("{}; keytide_lang=zh; {said}", visitor.cookie));
    let page = request.send().await.unwrap().text().await.unwrap();
    let news = page.split_once("这个对象当前没有被限制。").unwrap().1.split_once("</div>").unwrap().0;
    assert!(news.contains("<span lang=\"en\">No verdict holds for"), "{news}");

    // In Chinese the API's own sentence stands beside the general one: it names the address.
    let request = visitor.client.post(world.url("/tokens"));
    let request = request.header("cookie", format!("{}; keytide_lang=zh", visitor.cookie));
    let form: Vec<_> = token.into_iter().chain([("csrf", visitor.csrf.as_str())]).collect();
    let page = request.form_of(&form).send().await.unwrap().text().await.unwrap();
    let reason = page.split_once("原文（英文）</summary>").unwrap().1;
    assert!(reason.split_once("</details>").unwrap().0.contains("the 2nd of allowed_addresses"), "{page}");
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
        ("/settings?search=database_url", "sync.database_url"),
        ("/settings?search=headers", "tides"),
        ("/settings?search=openrouter.proxy", "proxy.example"),
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
    let tidied = visitor.post_on("/storage/retain", &[]).await;
    assert!(tidied.contains("The local file is not over its budget. There is no hub"), "{tidied}");
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
    assert!(page.contains(&format!("curl -N {}/ollama/v1/chat", world.keytide.url)), "{page}");
    let unknown = [("token", &*token), ("model", ""), ("message", "x"), ("provider", "ollama")];
    let page = visitor.post("/playground", &unknown).await.text().await.unwrap();
    assert!(page.contains("news bad"), "{page}");
}

#[tokio::test]
async fn somebody_makes_a_token_and_chats_with_it() {
    let Some((_world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
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
    // Nobody's token is used before it is chosen.
    assert_eq!(browser.run("return document.getElementById('token').value").await, "");
    assert_eq!(browser.run("return document.getElementById('models').children.length").await, 0);
    browser
        .run(
            "const token = document.getElementById('token'); token.value = [...token.options].at(-1).value; \
             token.dispatchEvent(new Event('change'))",
        )
        .await;
    // The first of the models that the token may use.
    browser.sees("pre", "demo-").await;
    browser.press("#ask button[type=submit]").await;
    browser.sees("#took", "Answered in").await;
    let answer = browser.run("return document.getElementById('answer').textContent").await;
    assert!(answer.as_str().unwrap().len() > 10, "{answer}");
    let asked = browser.run("return document.getElementById('token').value").await;
    // As some providers answer: with thoughts, without an end of the last line, at once, or not at all.
    for (kind, body, status, thought, says) in [
        (
            "text/event-stream",
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{\"content\":\"on \"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{\"content\":\"and on\"}}]}",
            200,
            "hm",
            "on and on",
        ),
        (
            "application/json",
            "{\"choices\":[{\"message\":{\"reasoning\":\"so\",\"content\":\"at once\"}}]}",
            200,
            "so",
            "at once",
        ),
        (
            "application/json",
            "data: {\"choices\":[{\"delta\":{\"content\":\"events by \"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{\"content\":\"another name\"}}]}\n\ndata: [DONE]\n\n",
            200,
            "",
            "events by another name",
        ),
        (
            "application/json",
            "{\n  \"choices\": [\n    {\"message\": {\"content\": \"over many lines\"}}\n  ]\n}\n",
            200,
            "",
            "over many lines",
        ),
        (
            "application/json",
            "{\"choices\":[{\"delta\":{\"content\":\"line \"}}]}\n\
             {\"choices\":[{\"delta\":{\"content\":\"by line\"}}]}\n",
            200,
            "",
            "line by line",
        ),
        ("application/json", "{\"error\":\"nothing but a sentence\"}", 400, "", "nothing but a sentence"),
        (
            "text/event-stream",
            "data: {\"error\":{\"type\":\"overloaded_error\"}}\n\n",
            200,
            "",
            "{\"type\":\"overloaded_error\"}",
        ),
        ("application/json", "{\"detail\":\"Not Found\"}", 404, "", "404: {\"detail\":\"Not Found\"}"),
        ("application/json", "", 502, "", "There was no answer."),
        ("application/json", "{}", 200, "", "There was no answer."),
        ("application/json", "", 200, "", "There was no answer."),
        (
            "application/json",
            "{\"error\":{\"code\":\"x\",\"message\":\"no key is left\"}}",
            503,
            "",
            "no key is left",
        ),
    ] {
        let options = json!({"status": status, "headers": {"content-type": kind}});
        let answer = format!(
            "const own = fetch; window.fetch = async (to, ...rest) => \
                 to.startsWith('/admin/playground') ? new Response({}, {options}) : own(to, ...rest)",
            json!(body)
        );
        browser.run(&answer).await;
        browser.press("#ask button[type=submit]").await;
        browser
            .comes_true(&format!(
                "document.getElementById('answer').textContent === {}",
                json!(format!("{thought}{says}"))
            ))
            .await;
        let apart = browser.run("return document.querySelector('.thought')?.textContent ?? ''").await;
        assert_eq!(apart, thought, "{says}");
    }
    // A provider's own code is not read as keytide's.
    browser.prefer("zh", "light").await;
    browser.go(&format!("/playground?token={}", asked.as_str().unwrap())).await;
    for (code, says) in [
        ("rate_limit_exceeded", "so the provider says"),
        ("upstream_broken", "服务商的回答中断了。 原文（英文）so the provider says"),
    ] {
        let part = json!({"error": {"code": code, "message": "so the provider says"}});
        let answer = format!(
            "const own = fetch; window.fetch = async (to, ...rest) => \
                 to.startsWith('/admin/playground?') ? new Response({}) : own(to, ...rest)",
            json!(format!("data: {part}\n\n"))
        );
        browser.run(&answer).await;
        browser.press("#ask button[type=submit]").await;
        browser
            .comes_true(&format!("document.getElementById('answer').textContent === {}", json!(says)))
            .await;
    }
    browser.prefer("en", "light").await;
    browser.go("/tokens").await;
    browser.sees("tbody tr:last-child td[data-label=Requests]", "1").await;
    browser.write("#search", "lap").await;
    browser.press("[role=search] button").await;
    browser.comes_true("document.querySelectorAll('tbody tr').length === 1").await;
    browser.press("tbody th a").await;
    browser.sees("h1", "laptop").await;
    browser.is_accessible().await;
    browser.press(".head a.button").await;
    browser.comes_true("document.getElementById('token').selectedOptions[0].text === 'laptop'").await;
    for path in ["/users", "/events", "/storage", "/settings", "/stats", "/api-docs"] {
        browser.go(path).await;
        browser.is_accessible().await;
        browser.fits().await;
    }
    browser.ends_well().await;
}

#[tokio::test]
async fn whoever_is_signed_out_elsewhere_or_cut_off_is_told() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys?sort=status").await;
    browser.sees("h1", "Keys").await;
    browser.forget(&world.cookie()).await;
    browser.sees("h1", "Sign in").await;
    browser.show_token(&world).await;
    // Back to where they were.
    browser.sees("th[aria-sort=ascending]", "State").await;
    // The net goes and comes back.
    browser.cut_off(true).await;
    browser.sees(".news.lost", "The connection is lost").await;
    browser.cut_off(false).await;
    browser.comes_true("document.querySelector('.news.lost') === null").await;
    browser.complained_only_of("ERR_INTERNET_DISCONNECTED").await;
    // Signed out while something is written: it stays, beside the way in.
    browser.go("/keys").await;
    browser.write("#search", "half a word").await;
    browser.forget(&world.cookie()).await;
    browser.sees(".news.lost", "The session has ended").await;
    browser.comes_true("document.querySelectorAll('.news.lost').length === 1").await;
    assert_eq!(browser.run("return document.getElementById('search').value").await, "half a word");
    browser.is_there(".news.lost a[target=_blank][href='/login?ended=1']").await;
    browser.go("/login?ended=1").await;
    browser.sees("h1", "Sign in").await;
    browser.show_token(&world).await;
    browser.sees("h1", "Overview").await;
    browser.ends_well().await;
}
