//! The pages as browsers and people meet them: what every answer carries, and what happens in a real browser.

mod browser;
mod hub;
mod imports;
mod keys;
mod overview;
mod pages;
mod people;
mod screenshots;
mod search;
mod webdriver;

use std::time::Duration;

use keytide::{
    config::{Config, Loaded, Overrides},
    model::Delta,
};
use reqwest::{Client, StatusCode, header, redirect};

use crate::harness::{Keytide, Setup, client, upstream};

/// The admin token that the settings are made from, which no page shows.
const CONFIGURED: &str = "configured-admin-token";

/// A keytide with some keys, and what keeps it going.
pub struct World {
    pub keytide: Keytide,
    _upstream: keytide::demo::upstream::Upstream,
}

impl World {
    pub async fn new(keys: &[&str]) -> Self {
        Self::with(keys, Delta::default()).await
    }

    /// One that has counted something before.
    pub async fn with(keys: &[&str], counted: Delta) -> Self {
        Self::configured("", keys, counted).await
    }

    /// `extra` is TOML.
    pub async fn configured(extra: &str, keys: &[&str], counted: Delta) -> Self {
        let upstream = upstream().await;
        let keytide = Setup::new(&upstream, extra).keys("ollama", keys).counted(counted).start().await;
        keytide.app.show_settings(&loaded(&keytide));
        Self { keytide, _upstream: upstream }
    }

    pub fn admin_token(&self) -> &str {
        self.keytide.app.admin_token().secret.expose()
    }

    /// The name of its sessions' cookie.
    pub fn cookie(&self) -> String {
        format!("keytide_session_{}", self.keytide.url.rsplit(':').next().unwrap())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.keytide.url)
    }
}

/// Settings that are only for show.
fn loaded(keytide: &Keytide) -> Loaded {
    let file = keytide.dir.path().join("config.toml");
    let text = format!(
        "[server]\nadmin_token = \"{CONFIGURED}\"\n[store]\nflush_interval = \"50ms\"\n\
         [sync]\ndatabase_url = \"postgres://keytide:{CONFIGURED}@db.example.org:6543/pool?sslmode=require\"\n\
         [providers.openrouter]\nproxy = \"http://user:{CONFIGURED}@proxy.example:3128\"\n\
         headers = {{ X-Title = \"tides\", X-Secret = \"{CONFIGURED}\" }}\n"
    );
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), &Overrides::default(), std::iter::empty()).unwrap()
}

/// Follows no redirect, as the answers themselves are looked at.
fn plain_client() -> Client {
    drop(client());
    Client::builder().redirect(redirect::Policy::none()).timeout(Duration::from_secs(30)).build().unwrap()
}

/// A browser without a window: a cookie, and the second secret of its session.
struct Visitor<'a> {
    world: &'a World,
    client: Client,
    cookie: String,
    csrf: String,
}

impl<'a> Visitor<'a> {
    async fn sign_in(world: &'a World) -> Self {
        let client = plain_client();
        let form = [("token", world.admin_token()), ("next", "/keys?status=active")];
        let answer = client.post(world.url("/login")).form_of(&form).send().await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/keys?status=active".parse().unwrap())
        );
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let mut visitor = Self { world, client, cookie, csrf: String::new() };
        let page = visitor.page("/").await;
        visitor.csrf =
            page.split_once("name=\"csrf\" value=\"").unwrap().1.split('"').next().unwrap().to_owned();
        visitor
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.client.get(self.world.url(path)).header("cookie", &self.cookie);
        request.header("accept", "text/html").send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let mut form = form.to_vec();
        form.push(("csrf", &self.csrf));
        self.client
            .post(self.world.url(path))
            .header("cookie", &self.cookie)
            .form_of(&form)
            .send()
            .await
            .unwrap()
    }

    /// Posts what is not taken, and reads the page that says so.
    async fn refused(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let answer = self.post(path, form).await;
        assert!(!answer.headers().contains_key("location"), "{path}");
        (answer.status(), answer.text().await.unwrap())
    }

    /// Posts, and reads the page that it leads to, news and all.
    async fn post_on(&self, path: &str, form: &[(&str, &str)]) -> String {
        let answer = self.post(path, form).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        let to = answer.headers()["location"].to_str().unwrap().to_owned();
        let said = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let cookie = format!("{}; {said}", self.cookie);
        let request = self.client.get(self.world.url(&to)).header("cookie", cookie);
        request.header("accept", "text/html").send().await.unwrap().text().await.unwrap()
    }
}

trait FormOf {
    fn form_of(self, form: &[(&str, &str)]) -> Self;
}

impl FormOf for reqwest::RequestBuilder {
    fn form_of(self, form: &[(&str, &str)]) -> Self {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        self.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.finish())
    }
}

#[tokio::test]
async fn programs_get_what_is_here_and_browsers_the_way_in() {
    let world = World::new(&[]).await;
    let client = plain_client();
    let index: serde_json::Value = client.get(world.url("/")).send().await.unwrap().json().await.unwrap();
    assert_eq!(index["name"], "keytide");
    for (path, to) in [("/", "/login"), ("/keys?status=failed", "/login?next=%2Fkeys%3Fstatus%3Dfailed")] {
        let answer = client.get(world.url(path)).header("accept", "text/html").send().await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["location"]),
            (StatusCode::SEE_OTHER, &to.parse().unwrap())
        );
    }
    let nowhere = client.get(world.url("/nothing/here")).send().await.unwrap();
    assert_eq!(crate::harness::error_code(nowhere).await, (404, "unknown_path".to_owned()));
    let nowhere = client.get(world.url("/nothing/here")).header("accept", "text/html").send().await.unwrap();
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    assert!(nowhere.text().await.unwrap().contains("There is no page at this address."));
    let ended = client
        .get(world.url("/keys"))
        .header("cookie", format!("{}=gone", world.cookie()))
        .send()
        .await
        .unwrap();
    let to = ended.headers()["location"].to_str().unwrap();
    let page = client.get(world.url(to)).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let page = page.text().await.unwrap();
    assert!(page.contains("Your session has ended."), "{page}");
    assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains("onclick"), "{page}");
}

#[tokio::test]
async fn a_wrong_token_and_a_foreign_next_lead_nowhere() {
    let world = World::new(&[]).await;
    let client = plain_client();
    let login = |token: &str, next: &str| {
        client.post(world.url("/login")).form_of(&[("token", token), ("next", next)]).send()
    };
    let wrong = login("not-the-admin-token", "/").await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key("set-cookie"));
    assert!(wrong.text().await.unwrap().contains("The admin token is wrong"));
    for next in ["https://evil.example/", "//evil.example", "/\\evil.example"] {
        let answer = login(world.admin_token(), next).await.unwrap();
        assert_eq!(answer.headers()["location"], "/", "{next}");
    }
}

#[tokio::test]
async fn behind_a_proxy_wrong_tokens_slow_down_only_who_tries_them() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "");
    setup.config.server.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
    let keytide = setup.start().await;
    let url = format!("{}/admin/providers", keytide.url);
    let client = plain_client();
    let ask = |from: &'static str, token: &str| {
        let request = client.get(&url).bearer_auth(token).header("x-forwarded-for", from);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    const GUESSER: &str = "203.0.113.7";
    for _ in 0..5 {
        assert_eq!(ask(GUESSER, "not-the-admin-token").await, 401);
    }
    // From here on their tries wait for each other, longer and longer; for those that are too many there is no place.
    let mut waiting: Vec<_> =
        (0..20).map(|_| Box::pin(tokio::spawn(ask(GUESSER, "not-the-admin-token")))).collect();
    loop {
        let (status, _, others) = futures_util::future::select_all(waiting).await;
        waiting = others;
        if status.unwrap() == 429 {
            break;
        }
    }
    let token = keytide.app.admin_token().secret.expose().to_owned();
    assert_eq!(ask(GUESSER, &token).await, 429, "nor for the right one, until they have stopped");
    const VISITOR: &str = "198.51.100.7";
    assert_eq!(ask(VISITOR, "mistyped-admin-token").await, 401);
    assert_eq!(ask(VISITOR, &token).await, 200);
    assert!(waiting.iter().any(|one| !one.is_finished()), "all that while others waited");
    waiting.iter().for_each(|one| one.abort());
}

#[tokio::test]
async fn changes_need_the_session_s_second_secret() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let page = visitor.page("/keys").await;
    let id = page.split_once("name=\"id\" value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let form = [("do", "disable"), ("id", &id), ("back", "/keys")];
    let without = visitor.client.post(world.url("/keys/change")).header("cookie", &visitor.cookie);
    let answer = without.form_of(&form).send().await.unwrap();
    let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    let news = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert_eq!((answer.status(), to.as_deref()), (StatusCode::SEE_OTHER, Some("/keys")));
    assert!(news.starts_with("keytide_said=bad"), "{news}");
    assert!(!visitor.page("/keys").await.contains("switched off by a person"));
    assert!(visitor.post_on("/keys/change", &form).await.contains("Switched off: 1."));
    assert!(visitor.page("/keys").await.contains("switched off by a person"));
    let again = visitor.get("/login?next=%2Fkeys").await;
    assert_eq!(again.headers()["location"], "/keys", "whoever is signed in goes on");
    let out = visitor.post("/logout", &[]).await;
    assert_eq!(
        (out.status(), &out.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/login".parse().unwrap())
    );
    assert_eq!(visitor.get("/keys").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_first_visit_is_small_and_comes_packed() {
    let world = World::new(&["sk-one-0123456789"]).await;
    let visitor = Visitor::sign_in(&world).await;
    let page = visitor.page("/").await;
    let mut bytes = page.len();
    let mut seen = 0;
    for path in page.split('"').filter(|text| text.starts_with("/assets/")) {
        let request = visitor.client.get(world.url(path)).header("accept-encoding", "gzip");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        bytes += answer.bytes().await.unwrap().len();
        seen += 1;
    }
    assert_eq!(seen, 3);
    assert!(bytes < 150_000, "{bytes} bytes");
    assert_eq!(visitor.get("/assets/../config.toml").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(visitor.get("/assets/nothing.js").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn language_and_theme_are_kept_and_served() {
    let world = World::new(&[]).await;
    let client = plain_client();
    let page = |cookie: &'static str, accept: &'static str| {
        let request =
            client.get(world.url("/login")).header("cookie", cookie).header("accept-language", accept);
        async move { request.send().await.unwrap().text().await.unwrap() }
    };
    let plain = page("", "de").await;
    assert!(plain.contains("<html lang=\"en\" data-theme=\"auto\">") && plain.contains("Sign in"), "{plain}");
    assert!(page("", "zh-CN,zh;q=0.9").await.contains("<html lang=\"zh-CN\" data-theme=\"auto\">"));
    let chosen = page("keytide_lang=zh; keytide_theme=dark", "en").await;
    assert!(chosen.contains("<html lang=\"zh-CN\" data-theme=\"dark\">") && chosen.contains("管理令牌"));
    let form = [("theme", "dark"), ("next", "/login?next=%2Fkeys")];
    let kept = client.post(world.url("/preferences")).form_of(&form).send().await.unwrap();
    assert_eq!(kept.headers()["location"], "/login?next=%2Fkeys");
    assert!(kept.headers()["set-cookie"].to_str().unwrap().starts_with("keytide_theme=dark;"));
    let strange = client.post(world.url("/preferences")).form_of(&[("theme", "x\r\ny"), ("next", "//x")]);
    let strange = strange.send().await.unwrap();
    assert_eq!(strange.headers()["location"], "/");
    assert!(!strange.headers().contains_key("set-cookie"));
}
