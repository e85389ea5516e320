//! The little of the WebDriver protocol that the tests need: JSON over HTTP, to Debian's chromedriver.
//!
//! No crate for it fits: one brings another kind of licence, another changes how texts are added up in every test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How an answer names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session of one browser, which ends with it.
pub struct Driver {
    client: Client,
    session: String,
    process: Child,
}

impl Drop for Driver {
    /// The browser is no child of the driver's group: it ends with the session, also where a test does not end well.
    fn drop(&mut self) {
        drop(self.end_session());
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What the driver said instead of doing it.
#[derive(Debug)]
pub struct Refused(pub String);

/// The driver chooses a port that is free, and says which.
async fn port_of(output: ChildStdout) -> u16 {
    const LEAD: &str = "ChromeDriver was started successfully on port ";
    let (tell, told) = oneshot::channel();
    // To its end: a driver that nobody listens to would stop at what it says.
    thread::spawn(move || {
        let mut tell = Some(tell);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let port = line.strip_prefix(LEAD).map(|port| port.trim_end_matches('.').parse::<u16>().unwrap());
            if let Some((tell, port)) = port.and_then(|port| Some((tell.take()?, port))) {
                // Nobody waits any more when the test has ended.
                let _gone = tell.send(port);
            }
        }
    });
    timeout(PATIENCE, told).await.expect("chromedriver starts in time").expect("chromedriver names its port")
}

impl Driver {
    pub async fn start(flags: &[String]) -> Self {
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let mut process = Command::new(&program)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started ({error}): install chromium-driver"));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let output = process.stdout.take().unwrap();
        let mut driver = Self { client, session: String::new(), process };
        let base = format!("http://127.0.0.1:{}", port_of(output).await);
        driver.session = base.clone();
        let wishes = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let deadline = Instant::now() + PATIENCE;
        let made = loop {
            match driver.call(Method::POST, "/session", &wishes).await {
                Ok(made) => break made,
                Err(Refused(why)) => assert!(Instant::now() < deadline, "no browser: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        driver.session = format!("{base}/session/{}", made["sessionId"].as_str().unwrap());
        driver
    }

    fn end_session(&self) -> std::io::Result<()> {
        let address = self.session.trim_start_matches("http://");
        let (host, path) = address.split_once('/').unwrap_or((address, ""));
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Refused> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| Refused(error.to_string()))?;
        let is_good = answer.status().is_success();
        let mut answer: Value = answer.json().await.map_err(|error| Refused(error.to_string()))?;
        let value = answer["value"].take();
        if is_good {
            Ok(value)
        } else {
            Err(Refused(value["message"].as_str().unwrap_or_default().to_owned()))
        }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, Refused> {
        self.call(Method::POST, path, &body).await
    }

    pub async fn go(&self, url: &str) {
        self.post("/url", json!({"url": url})).await.unwrap();
    }

    pub async fn address(&self) -> String {
        self.call(Method::GET, "/url", &Value::Null).await.unwrap().as_str().unwrap().to_owned()
    }

    pub async fn find(&self, css: &str) -> Result<String, Refused> {
        let found = self.post("/element", json!({"using": "css selector", "value": css})).await?;
        Ok(found[ELEMENT].as_str().unwrap().to_owned())
    }

    pub async fn click(&self, element: &str) -> Result<(), Refused> {
        self.post(&format!("/element/{element}/click"), json!({})).await.map(drop)
    }

    pub async fn write(&self, element: &str, text: &str) -> Result<(), Refused> {
        self.post(&format!("/element/{element}/value"), json!({"text": text})).await.map(drop)
    }

    /// Refused, too, where the page goes away under the script.
    pub async fn try_run(&self, script: &str) -> Result<Value, Refused> {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// The script calls its last argument with the result.
    pub async fn run_to_end(&self, script: &str) -> Value {
        self.post("/execute/async", json!({"script": script, "args": []})).await.unwrap()
    }

    /// A command of the browser's own protocol.
    pub async fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": name, "params": parameters})).await.unwrap()
    }

    /// What was written into a log since it was last asked for.
    pub async fn log(&self, kind: &str) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": kind})).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn quit(&self) {
        self.call(Method::DELETE, "", &Value::Null).await.unwrap();
    }
}
