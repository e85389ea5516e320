//! All pages at once, and what is not usual: sizes, names, and those who are signed out.

use std::{fmt::Write, io};

use keytide::gateway;
use reqwest::StatusCode;
use serde_json::json;

use super::{
    Visitor, World,
    browser::{Browser, signed_in, skipped},
    plain_client, screenshots,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_in_the_dark_and_fits_a_phone() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let world = World::new(&["sk-one-0123456789", "dead-0123456789", "limited-0123456789"]).await;
    let pages = screenshots::filled(&world).await;
    for (size, lang) in [((1280, 900), "en"), ((390, 844), "zh")] {
        let browser = Browser::start(&world, size).await;
        browser.sign_in(&world).await;
        browser.prefer(lang, "dark").await;
        for (name, path) in &pages {
            browser.go(path).await;
            if lang == "zh" {
                browser.speaks_chinese().await;
            }
            // Whose status is an error, of which the browser itself complains.
            if *name == "not-there" {
                browser.complained_only_of("404").await;
            }
            browser.is_accessible().await;
            browser.fits().await;
        }
        browser.go("/keys/add").await;
        browser.write("#list", "sk-two-0123456789\nsk-two-0123456789\nshort").await;
        browser.press("#import button").await;
        browser.sees("main", if lang == "en" { "1 not understood" } else { "无法识别 1 行" }).await;
        browser.sees("td", if lang == "en" { "shorter than 8" } else { "密钥不足 8 个字符" }).await;
        browser.is_accessible().await;
        browser.fits().await;
        if lang == "zh" {
            browser.speaks_chinese().await;
        }
        // It has no address of its own, so nothing on it leads away from what it says.
        assert_eq!(browser.run("return document.querySelectorAll('.preferences').length").await, 0);
        browser.ends_well().await;
    }
}

#[tokio::test]
async fn a_large_file_is_imported_in_pieces() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    const LINES: usize = 180_000;
    const KEYS: usize = 10_000;
    let world = World::new(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.csv");
    let mut text = "key,username,note\r\n".to_owned();
    let note = "每把钥匙都有一条很长的备注 ".repeat(6);
    for n in 0..LINES {
        write!(text, "sk-file-{:08},person-{n}@example.org,\"{note}, and so on\"\r\n", n % KEYS).unwrap();
    }
    text += "bad,,\r\n";
    assert!(text.len() > 50 << 20, "{}", text.len());
    std::fs::write(&file, text).unwrap();
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.sign_in(&world).await;
    browser.go("/keys/add").await;
    browser.write("#file", file.to_str().unwrap()).await;
    browser.press("#import button").await;
    browser
        .sees("#progress", "The import is done. 10,000 new, 170,000 there already, 1 not understood")
        .await;
    browser.sees("#lines td.number", "180002").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn files_that_are_no_lists_are_explained() {
    let Some((_world, browser)) = signed_in(&[]).await else { return };
    let dir = tempfile::tempdir().unwrap();
    browser.prefer("zh", "light").await;
    for (name, content, says) in [
        ("one-line.txt", "x".repeat(1_200_000), "有一行超过 1 MB"),
        ("broken.json", "[\"sk-".to_owned(), "这不是 JSON 密钥列表"),
        ("other.csv", "colour,key\nred,sk-one-0123456789\n".to_owned(), "请检查首行的列名"),
        ("mac.txt", "sk-one-0123456789\rshort\rsk-two-0123456789".to_owned(), "密钥不足 8 个字符"),
        ("empty.txt", String::new(), "导入完成。 0 新增"),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, content).unwrap();
        browser.go("/keys/add").await;
        browser.write("#file", file.to_str().unwrap()).await;
        browser.press("#import button").await;
        browser.sees("main", says).await;
    }
    browser.complained_only_of("400").await;
    browser.go("/keys").await;
    browser.sees(".choice small", "2").await;
    // The list goes out as often as somebody asks for it.
    browser
        .run("window.out = 0; addEventListener('submit', event => { out += event.defaultPrevented ? 0 : 1 })")
        .await;
    for times in 1..=2 {
        browser.press("[data-download] button").await;
        browser.comes_true(&format!("out === {times}")).await;
    }
    browser.ends_well().await;
}

#[tokio::test]
async fn names_stay_names() {
    let world = World::new(&[]).await;
    let visitor = Visitor::sign_in(&world).await;
    let long = "x".repeat(10_000);
    for (path, field, page) in
        [("/users", "name", "/users"), ("/tokens", "name", "/tokens"), ("/keys/add", "username", "/keys/add")]
    {
        let form = [(field, long.as_str()), ("key", "sk-one-0123456789")];
        let (status, answer) = visitor.refused(path, &form).await;
        assert!(status == 422 && answer.contains("news bad"), "{page}: {answer}");
        assert!(answer.len() < 30_000, "it stands in its field alone");
    }
    let names = [
        "\u{202e}evil\u{202c} right to left",
        "<script>alert(1)</script>",
        "ש\u{5dc}ום עולם",
        "wwwww".repeat(25).leak(),
    ];
    for (n, name) in names.iter().enumerate() {
        let key = format!("sk-name-{n:08}");
        assert!(
            visitor.post_on("/keys/add", &[("key", &key), ("username", name)]).await.contains("in the pool")
        );
        assert!(visitor.post_on("/users", &[("name", name)]).await.contains("The user is added."));
        let made = visitor.post("/tokens", &[("name", name)]).await;
        assert_eq!(made.status(), StatusCode::OK, "{name}");
    }
    for path in ["/keys", "/users", "/tokens", "/playground"] {
        assert!(!visitor.page(path).await.contains("<script>alert"), "{path}");
    }
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    for size in [(1280, 900), (390, 844)] {
        let browser = Browser::start(&world, size).await;
        browser.sign_in(&world).await;
        for path in
            ["/keys", "/users", "/tokens", "/playground", "/keys?search=%3Cscript%3Ealert(1)%3C%2Fscript%3E"]
        {
            browser.go(path).await;
            browser.fits().await;
        }
        browser.go("/keys").await;
        // Each stands where it belongs, whatever its letters say.
        let places = "return [...document.querySelectorAll('tbody td.name bdi')].map(one => getComputedStyle(one).unicodeBidi)";
        assert_eq!(browser.run(places).await, json!(vec!["isolate"; 4]));
        browser.ends_well().await;
    }
}

#[tokio::test]
async fn what_is_deleted_meanwhile_is_said_once() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys").await;
    browser.press("tbody th a").await;
    browser.sees("h2", "How it stands").await;
    let id = browser.run("return document.querySelector('[name=id]').value").await;
    world.keytide.admin("DELETE", &format!("/admin/api-keys/{}", id.as_str().unwrap()), &json!({})).await;
    browser.sees(".news.lost", "This is no longer there").await;
    browser
        .run(
            "window.asked = 0; const own = fetch; window.fetch = (...all) => { asked++; return own(...all) }",
        )
        .await;
    // What stands in the page stays to be read, and nobody asks again.
    browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    assert_eq!(
        browser.run("return [asked, document.querySelectorAll('.news.lost').length]").await,
        json!([0, 1])
    );
    browser.complained_only_of("404").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn a_refresh_that_is_refused_says_why_and_goes_on() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys").await;
    browser.sees("tbody", "Active").await;
    for (status, page, says) in [
        (429, "<main><p class=\"news bad\">Too many, wait.</p></main>", "Too many, wait."),
        (403, "<h1>a proxy's own page</h1>", "The connection is lost. Trying again… (403)"),
    ] {
        let answer = json!({"status": status});
        browser
            .run(&format!(
                "window.own ??= fetch; window.fetch = async () => new Response({}, {answer})",
                json!(page)
            ))
            .await;
        browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
        browser.sees(".news.lost", says).await;
        // What was there stays.
        browser.sees("tbody", "Active").await;
        browser.run("window.fetch = window.own").await;
        browser.comes_true("document.querySelector('.news.lost') === null").await;
    }
    // It goes on by itself.
    world.keytide.admin("POST", "/admin/keys/disable", &json!({"all": true})).await;
    browser.sees("tbody", "switched off by a person").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn every_refusal_of_a_call_has_words() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let request = visitor.client.get(world.url("/playground"));
    let request = request.header("cookie", format!("{}; keytide_lang=zh", visitor.cookie));
    let page = request.send().await.unwrap().text().await.unwrap();
    let words = page.split_once("data-of-codes=\"").unwrap().1.split('"').next().unwrap();
    let words: serde_json::Value = serde_json::from_str(&words.replace("&quot;", "\"")).unwrap();
    let without: Vec<_> =
        gateway::Code::ALL.iter().map(|code| code.as_str()).filter(|code| !words[code].is_string()).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[tokio::test]
async fn what_is_written_outlives_its_session() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys/add").await;
    browser.write("#list", "sk-two-0123456789").await;
    browser.forget(&world.cookie()).await;
    browser.press("#import button").await;
    browser.sees(".news.lost", "The session has ended").await;
    browser.complained_only_of("401").await;
    assert_eq!(browser.run("return document.getElementById('list').value").await, "sk-two-0123456789");
    // Signed in elsewhere, they go on with it where they were.
    let visitor = Visitor::sign_in(&world).await;
    let (name, value) = visitor.cookie.split_once('=').unwrap();
    browser.run(&format!("document.cookie = '{name}={value}; Path=/'")).await;
    browser.press("#import button").await;
    browser.sees("main", "1 new, 0 there already").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn a_question_outlives_its_session() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    world.keytide.admin("POST", "/admin/tokens", &json!({"name": "laptop"})).await;
    browser.go("/playground").await;
    browser.run("document.getElementById('token').selectedIndex = 1").await;
    browser.run("document.getElementById('model').value = 'demo-large'").await;
    browser.run("document.getElementById('message').value = ''").await;
    browser.write("#message", "What is a tide?").await;
    browser.forget(&world.cookie()).await;
    browser.press("#ask button[type=submit]").await;
    browser.is_there(".news.lost a[target=_blank][href='/login?ended=1']").await;
    browser.complained_only_of("401").await;
    let visitor = Visitor::sign_in(&world).await;
    let (name, value) = visitor.cookie.split_once('=').unwrap();
    browser.run(&format!("document.cookie = '{name}={value}; Path=/'")).await;
    // Coming back is enough for the page to know.
    browser.run("dispatchEvent(new Event('focus'))").await;
    browser.comes_true("document.querySelector('.news.lost') === null").await;
    assert_eq!(browser.run("return document.getElementById('message').value").await, "What is a tide?");
    browser.press("#ask button[type=submit]").await;
    browser.sees("#took", "Answered in").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn what_a_proxy_says_is_no_session_and_two_clicks_are_one() {
    let Some((_world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys/add").await;
    browser.write("#list", "sk-two-0123456789").await;
    browser
        .run(
            "window.own = fetch; window.fetch = async () => new Response('<h1>Bad gateway</h1>', { status: 502 })",
        )
        .await;
    browser.press("#import button").await;
    browser.sees(".news.lost", "Not sent").await;
    browser.run("window.fetch = window.own").await;
    browser.comes_true("document.querySelector('.news.lost') === null").await;
    assert_eq!(browser.run("return document.getElementById('list').value").await, "sk-two-0123456789");
    // While the answer to the question is on its way somebody presses again: later than in the same breath, in which
    // the browser itself would not let them.
    browser
        .run(
            "window.sent = 0; window.asked = 0; const form = document.getElementById('import'); \
             form.requestSubmit = () => { sent++ }; \
             window.fetch = async () => ({ status: 200, ok: true, json: async () => { \
                 if (asked++ === 0) { await new Promise(later => setTimeout(later)); form.querySelector('button').click() } \
                 return { csrf: form.elements.csrf.value } } })",
        )
        .await;
    browser.press("#import button").await;
    browser.comes_true("sent > 0").await;
    assert_eq!(browser.run("return [asked, sent]").await, json!([1, 1]));
    browser.ends_well().await;
}

#[tokio::test]
async fn signing_out_of_an_ended_session_leads_to_the_way_in() {
    let Some((world, browser)) = signed_in(&["sk-one-0123456789"]).await else { return };
    browser.go("/keys/add").await;
    browser.forget(&world.cookie()).await;
    browser.press("form[action='/logout'] button").await;
    browser.sees("h1", "Sign in").await;
    browser.complained_only_of("401").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn a_form_of_somebody_who_is_signed_out_is_explained() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let client = plain_client();
    for path in ["/tokens", "/keys/change", "/keys/import", "/playground", "/storage/retain"] {
        let request = client.post(world.url(path)).header("cookie", format!("{}=gone", world.cookie()));
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body("name=x&csrf=y");
        let answer = request.send().await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/login?ended=undone".parse().unwrap()),
            "{path}"
        );
    }
    let page = client.get(world.url("/login?ended=undone")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("was not done"), "{page}");
}

#[tokio::test]
async fn pages_for_everybody_come_packed_and_those_of_a_session_do_not() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let get = |path: &'static str, cookie: &'static str| {
        let request = visitor.client.get(world.url(path)).header("accept-encoding", "gzip");
        async move { request.header("cookie", cookie).send().await.unwrap() }
    };
    for path in ["/stats", "/api-docs"] {
        for _ in 0..2 {
            let answer = get(path, "keytide_said=good%7Cfor%20one").await;
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
            assert!(answer.headers().contains_key("content-security-policy"));
            let mut page = String::new();
            let packed = answer.bytes().await.unwrap();
            io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut page).unwrap();
            assert!(page.contains("<html lang=\"en\" data-theme=\"auto\">"), "{path}: {page}");
            assert!(!page.contains("for one"), "what one is told is not for all");
            assert_eq!(visitor.page(path).await, page);
        }
        let other = get(path, "keytide_lang=zh; keytide_theme=dark").await.bytes().await.unwrap();
        let mut page = String::new();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*other), &mut page).unwrap();
        assert!(page.contains("<html lang=\"zh-CN\" data-theme=\"dark\">"), "{path}");
    }
    let own = visitor.client.get(world.url("/keys")).header("cookie", &visitor.cookie);
    let own = own.header("accept", "text/html").header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!((own.status(), own.headers().get("content-encoding")), (StatusCode::OK, None));
}
