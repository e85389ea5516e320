//! Debian's chromium, driven through its own chromedriver, with an eye on what it complains of and whom it asks.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use thirtyfour::{common::log::LoggingPrefsLogLevel, prelude::*};
use tokio::time::Instant;

use super::World;

pub use crate::pg::skipped;

const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing but the pages under test, and nothing of the machine's own browser.
const FLAGS: [&str; 12] = [
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
    "--lang=en-GB",
];

pub struct Browser {
    pub driver: WebDriver,
    origin: String,
    _process: Process,
    _profile: tempfile::TempDir,
}

/// Ends with the value that holds it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Browser {
    /// An empty browser of that size on the way into `world`.
    pub async fn start(world: &World, size: (u32, u32)) -> Self {
        let port = free_port();
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let child = Command::new(&program)
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started ({error}): install chromium-driver"));
        let process = Process(child);
        let profile = tempfile::tempdir().unwrap();
        let mut wishes = DesiredCapabilities::chrome();
        for flag in FLAGS {
            wishes.add_arg(flag).unwrap();
        }
        wishes.add_arg(&format!("--user-data-dir={}", profile.path().display())).unwrap();
        wishes.add_arg(&format!("--window-size={},{}", size.0, size.1)).unwrap();
        wishes.set_logging_prefs("browser", LoggingPrefsLogLevel::All).unwrap();
        wishes.set_logging_prefs("performance", LoggingPrefsLogLevel::All).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let driver = loop {
            match WebDriver::new(format!("http://127.0.0.1:{port}"), wishes.clone()).await {
                Ok(driver) => break driver,
                Err(error) => assert!(Instant::now() < deadline, "no browser: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        // The size of a window is not that of a page in it.
        let metrics =
            json!({"width": size.0, "height": size.1, "deviceScaleFactor": 1, "mobile": size.0 < 500});
        driver.cdp().send_raw("Emulation.setDeviceMetricsOverride", metrics).await.unwrap();
        driver.goto(world.url("/login")).await.unwrap();
        Self { driver, origin: world.keytide.url.clone(), _process: process, _profile: profile }
    }

    pub async fn sign_in(&self, world: &World) {
        self.find("#token").await.send_keys(world.admin_token()).await.unwrap();
        self.press("button.primary").await;
        self.sees("h1", "Overview").await;
    }

    pub async fn go(&self, path: &str) {
        self.driver.goto(format!("{}{path}", self.origin)).await.unwrap();
    }

    pub async fn find(&self, css: &str) -> WebElement {
        let query = self.driver.query(By::Css(css)).wait(PATIENCE, Duration::from_millis(50));
        query.first().await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    pub async fn press(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    pub async fn write(&self, css: &str, text: &str) {
        self.find(css).await.send_keys(text).await.unwrap();
    }

    /// Waits until an element of that kind holds that text.
    pub async fn sees(&self, css: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        while Instant::now() < deadline {
            let all = self.driver.find_all(By::Css(css)).await.unwrap();
            seen.clear();
            for one in all {
                // It may have been replaced since.
                seen += &one.text().await.unwrap_or_default();
                seen.push('\n');
            }
            if seen.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no {css} says {text:?}, but:\n{seen}");
    }

    pub async fn run(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// The page is wholly there: nothing sticks out to the side.
    pub async fn fits(&self) {
        let script = "return [document.documentElement.scrollWidth, innerWidth]";
        let sizes = self.run(script).await;
        assert!(sizes[0].as_u64() <= sizes[1].as_u64(), "the page is wider than its window: {sizes}");
    }

    /// Nothing serious is wrong for those who cannot see, or use no mouse.
    pub async fn is_accessible(&self) {
        let modules =
            PathBuf::from(std::env::var("SDK_NODE_MODULES").expect("scripts/test sets SDK_NODE_MODULES"));
        let axe = modules.join("axe-core/axe.min.js");
        let axe = std::fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{}: {error}", axe.display()));
        self.run(&axe).await;
        let script = "const done = arguments[arguments.length - 1]; axe.run().then(found => done(found.violations\
            .filter(one => ['serious', 'critical'].includes(one.impact))\
            .map(one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | ')}`)))";
        let found = self.driver.execute_async(script, Vec::new()).await.unwrap();
        let at = self.driver.current_url().await.unwrap();
        assert_eq!(found.json(), &json!([]), "{at}");
    }

    /// It has complained of nothing and asked nobody else; then it ends.
    pub async fn ends_well(self) {
        let complaints: Vec<_> = self.driver.browser_log().await.unwrap();
        let complaints: Vec<_> = complaints.into_iter().map(|entry| entry.message).collect();
        assert!(complaints.is_empty(), "the browser complains: {complaints:#?}");
        let mut asked = 0;
        for entry in self.driver.get_log("performance").await.unwrap() {
            let entry: Value = serde_json::from_str(&entry.message).unwrap();
            let message = &entry["message"];
            if message["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = message["params"]["request"]["url"].as_str().unwrap();
            if url.starts_with("data:") || url.starts_with("blob:") || url.starts_with("chrome:") {
                continue;
            }
            assert!(url.starts_with(&format!("{}/", self.origin)), "{url} is not of the page's own origin");
            asked += 1;
        }
        assert!(asked > 1, "only {asked} requests were seen");
        self.driver.quit().await.unwrap();
    }
}

impl Browser {
    pub async fn prefer(&self, lang: &str, theme: &str) {
        let script = format!(
            "for (const text of ['keytide_lang={lang}', 'keytide_theme={theme}']) document.cookie = text + '; Path=/'"
        );
        self.run(&script).await;
    }

    /// Of the whole page, however long.
    pub async fn picture(&self, folder: &std::path::Path, name: &str) {
        const MOST: u64 = 4000;
        let sizes = self.run("return [innerWidth, document.documentElement.scrollHeight]").await;
        let height = sizes[1].as_u64().unwrap().min(MOST);
        let clip = json!({"x": 0, "y": 0, "width": sizes[0], "height": height, "scale": 1});
        let wish = json!({"captureBeyondViewport": true, "clip": clip});
        let taken = self.driver.cdp().send_raw("Page.captureScreenshot", wish).await.unwrap();
        let picture =
            base64::Engine::decode(&base64::prelude::BASE64_STANDARD, taken["data"].as_str().unwrap())
                .unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}
