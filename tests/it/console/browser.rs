//! Debian's chromium over the pages, with an eye on what it complains of and whom it asks.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    World,
    webdriver::{Driver, Refused},
};

pub use crate::pg::skipped;

/// The whole suite shares the machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Nothing but the pages under test, and nothing of the machine's own browser.
const FLAGS: [&str; 13] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--hide-scrollbars",
    "--lang=en-GB",
];

pub struct Browser {
    driver: Driver,
    origin: String,
    _profile: tempfile::TempDir,
}

/// Who is signed in to a keytide with these keys; nobody where there is no browser.
pub async fn signed_in(keys: &[&str]) -> Option<(World, Browser)> {
    if skipped(&["BROWSER_TESTS"]) {
        return None;
    }
    let world = World::new(keys).await;
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.sign_in(&world).await;
    Some((world, browser))
}

impl Browser {
    /// An empty browser of that size, at the way into `world`.
    pub async fn start(world: &World, size: (u32, u32)) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        flags.push(format!("--window-size={},{}", size.0, size.1));
        let driver = Driver::start(&flags).await;
        // The size of a window is not that of a page in it.
        let sizes =
            json!({"width": size.0, "height": size.1, "deviceScaleFactor": 1, "mobile": size.0 < 500});
        driver.command("Emulation.setDeviceMetricsOverride", sizes).await;
        driver.go(&world.url("/login")).await;
        Self { driver, origin: world.keytide.url.clone(), _profile: profile }
    }

    pub async fn sign_in(&self, world: &World) {
        self.show_token(world).await;
        self.sees("h1", "Overview").await;
    }

    pub async fn show_token(&self, world: &World) {
        self.write("#token", world.admin_token()).await;
        self.press("button.primary").await;
    }

    pub async fn go(&self, path: &str) {
        self.driver.go(&format!("{}{path}", self.origin)).await;
    }

    /// Waits for the element, and for the page to be done with replacing it.
    async fn with_element<F: AsyncFn(&Driver, &str) -> Result<(), Refused>>(&self, css: &str, act: F) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let acted = match self.driver.find(css).await {
                Ok(element) => act(&self.driver, &element).await,
                Err(refused) => Err(refused),
            };
            let Err(refused) = acted else { return };
            assert!(Instant::now() < deadline, "{css}: {}", refused.0);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn is_there(&self, css: &str) {
        self.with_element(css, async |_, _| Ok(())).await;
    }

    pub async fn press(&self, css: &str) {
        self.with_element(css, async |driver, element| driver.click(element).await).await;
    }

    pub async fn write(&self, css: &str, text: &str) {
        self.with_element(css, async |driver, element| driver.write(element, text).await).await;
    }

    /// Waits until an element of that kind holds that text.
    pub async fn sees(&self, css: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let script = format!(
            "return [...document.querySelectorAll({})].map(one => one.innerText).join('\\n')",
            json!(css)
        );
        loop {
            // Between two pages there is none to look at.
            let seen = self.driver.try_run(&script).await;
            let seen = seen.map(|seen| seen.as_str().unwrap_or_default().replace('\u{a0}', " "));
            if seen.as_ref().is_ok_and(|seen| seen.contains(text)) {
                return;
            }
            if Instant::now() > deadline {
                let at = self.driver.address().await;
                panic!("at {at} no {css} says {text:?}, but: {seen:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the script, an expression, is true.
    pub async fn comes_true(&self, script: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.driver.try_run(&format!("return {script}")).await;
            if matches!(answer, Ok(Value::Bool(true))) {
                return;
            }
            if Instant::now() > deadline {
                panic!("at {} it is not so: {script} ({answer:?})", self.driver.address().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The net is gone for this browser, or there again.
    pub async fn cut_off(&self, is_off: bool) {
        self.driver.command("Network.enable", json!({})).await;
        let wish = json!({"offline": is_off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.driver.command("Network.emulateNetworkConditions", wish).await;
    }

    /// It has complained of nothing but that.
    pub async fn complained_only_of(&self, what: &str) {
        let complaints = self.driver.log("browser").await;
        assert!(complaints.iter().all(|complaint| complaint.contains(what)), "{complaints:#?}");
    }

    /// Between two pages there is none to run it in: that is waited out. What a script itself does wrong is said at once.
    pub async fn run(&self, script: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.driver.try_run(script).await {
                Ok(value) => return value,
                Err(Refused(why)) => {
                    assert!(
                        !why.starts_with("javascript error") && Instant::now() < deadline,
                        "{script}: {why}"
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The page is wholly there: nothing sticks out to the side.
    pub async fn fits(&self) {
        let sizes = self.run("return [document.documentElement.scrollWidth, innerWidth]").await;
        let at = self.driver.address().await;
        assert!(sizes[0].as_u64() <= sizes[1].as_u64(), "{at} is wider than its window: {sizes}");
    }

    /// Nothing serious is wrong for those who cannot see, or use no mouse.
    pub async fn is_accessible(&self) {
        let modules =
            PathBuf::from(std::env::var("SDK_NODE_MODULES").expect("scripts/test sets SDK_NODE_MODULES"));
        let axe = modules.join("axe-core/axe.min.js");
        let axe = fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{}: {error}", axe.display()));
        self.run(&axe).await;
        let script = "const done = arguments[arguments.length - 1]; axe.run().then(found => done(found.violations\
            .filter(one => ['serious', 'critical'].includes(one.impact))\
            .map(one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | ')}`)))";
        let found = self.driver.run_to_end(script).await;
        assert_eq!(found, json!([]), "{}", self.driver.address().await);
    }

    /// No sentence stands there in English that does not say of itself that it is English, except for what others wrote,
    /// and commands, which are the same in every language.
    pub async fn speaks_chinese(&self) {
        let script = "const page = document.body.cloneNode(true); \
            for (const other of page.querySelectorAll('[lang=en], pre, code, textarea, bdi')) other.remove(); \
            const said = [page.textContent]; \
            for (const one of [page, ...page.querySelectorAll('*')]) { \
                for (const { name, value } of one.attributes) { \
                    if (/^(title|placeholder|aria-label|data-.*)$/.test(name)) said.push(value); \
                } \
            } \
            const commands = /keytide [a-z]+ [a-z-]+/g; \
            return said.join('\\n').replace(commands, '').match(/[A-Za-z]{2,}(?:,? [A-Za-z]{2,}){2,}/g) ?? []";
        assert_eq!(self.run(script).await, json!([]), "{}", self.driver.address().await);
    }

    pub async fn prefer(&self, lang: &str, theme: &str) {
        let script = format!(
            "for (const text of ['keytide_lang={lang}', 'keytide_theme={theme}']) document.cookie = text + '; Path=/'"
        );
        self.run(&script).await;
    }

    /// A cookie that is gone, as one that has ended.
    pub async fn forget(&self, cookie: &str) {
        let wish = json!({"name": cookie, "url": self.origin});
        self.driver.command("Network.deleteCookies", wish).await;
    }

    /// Of the whole page, however long.
    pub async fn picture(&self, folder: &Path, name: &str) {
        const MOST: u64 = 4000;
        let sizes = self.run("return [innerWidth, document.documentElement.scrollHeight]").await;
        let height = sizes[1].as_u64().unwrap().min(MOST);
        let clip = json!({"x": 0, "y": 0, "width": sizes[0], "height": height, "scale": 1});
        let wish = json!({"captureBeyondViewport": true, "clip": clip});
        let taken = self.driver.command("Page.captureScreenshot", wish).await;
        let picture = BASE64_STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// It has complained of nothing and asked nobody else; then it ends.
    pub async fn ends_well(self) {
        let complaints = self.driver.log("browser").await;
        assert!(complaints.is_empty(), "the browser complains: {complaints:#?}");
        let mut asked = 0;
        for entry in self.driver.log("performance").await {
            let entry: Value = serde_json::from_str(&entry).unwrap();
            let message = &entry["message"];
            if message["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = message["params"]["request"]["url"].as_str().unwrap();
            // What the browser has in itself, its own first page too.
            if ["data:", "blob:", "chrome:"].iter().any(|scheme| url.starts_with(scheme)) {
                continue;
            }
            assert!(url.starts_with(&format!("{}/", self.origin)), "{url} is not of the page's own origin");
            asked += 1;
        }
        assert!(asked > 1, "only {asked} requests were seen");
        self.driver.quit().await;
    }
}
