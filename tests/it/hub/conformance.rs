//! What every way to a hub has to do, told to each of them.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use keytide::{
    model::Secret,
    replica::{
        postgres::{self, Postgres},
        rest::{self, Rest},
        transport::{Error, ErrorKind, Transport},
        wire::Function,
    },
};
use serde_json::{Value, json};

use super::{
    PASSWORD, ROW_SECRET, hub, over_postgres,
    pgbouncer::PgBouncer,
    postrust::{self, Postrust},
    skipped, tls, url,
};
use crate::pg::{self, Cluster, Options};

const PATIENCE: Duration = Duration::from_secs(30);

/// A way under test.
pub struct Way<'a> {
    transport: Arc<dyn Transport>,
    secrets: Vec<String>,
    /// Another one to the same place, with a time of its own for calls.
    again: Box<dyn Fn(Duration) -> Arc<dyn Transport> + 'a>,
}

impl<'a> Way<'a> {
    pub fn new(secrets: &[&str], again: impl Fn(Duration) -> Arc<dyn Transport> + 'a) -> Self {
        let secrets = secrets.iter().chain(&[ROW_SECRET]).map(|secret| (*secret).to_owned()).collect();
        Self { transport: again(Duration::from_millis(7_500)), secrets, again: Box::new(again) }
    }

    fn with_timeout(&self, call_timeout: Duration) -> Way<'_> {
        let secrets: Vec<&str> = self.secrets.iter().map(String::as_str).collect();
        let mut way = Way::new(&secrets, |call_timeout| (self.again)(call_timeout));
        way.transport = (self.again)(call_timeout);
        way
    }

    async fn call(&self, function: Function, request: &str) -> Result<String, Error> {
        let result = self.transport.call(function, request).await;
        if let Err(error) = &result {
            let told = format!("{error} {error:?} {}", self.transport.target());
            for secret in &self.secrets {
                assert!(!told.contains(secret.as_str()), "a secret was told: {told}");
            }
            assert!(told.len() < 2_000, "too much was told: {told}");
        }
        result.map(|reply| reply.body)
    }

    pub async fn answers(&self, request: Value) -> Value {
        match self.call(Function::Push, &request.to_string()).await {
            Ok(body) => serde_json::from_str(&body).unwrap(),
            Err(error) => panic!("{}: {request}: {error}", self.transport.target()),
        }
    }

    pub async fn fails(&self, request: Value) -> Error {
        self.fails_in(Function::Push, request).await
    }

    async fn fails_in(&self, function: Function, request: Value) -> Error {
        match self.call(function, &request.to_string()).await {
            Ok(body) => panic!("{}: {request} was answered with {body}", self.transport.target()),
            Err(error) => error,
        }
    }

    /// Until it answers again; what it says until then is what a hub that is away sounds like.
    async fn comes_back(&self) {
        let came_back = eventually(async || match self.call(Function::Push, "{}").await {
            Ok(_) => true,
            Err(error) => {
                let away =
                    matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Timeout);
                assert!(away, "{error:?}");
                false
            }
        });
        assert!(came_back.await, "{} does not come back", self.transport.target());
    }
}

/// Whether a condition comes true in time.
pub async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

async fn conforms(way: &Way<'_>, cluster: &mut Cluster) {
    values_arrive_as_they_are(way).await;
    errors_have_their_kinds(way).await;
    a_failed_call_writes_nothing(way, cluster).await;
    long_texts_and_secrets_stay_behind(way).await;
    functions_that_are_missing_or_forbidden(way).await;
    calls_may_come_at_once(way).await;
    bytes_are_counted(way).await;
    a_call_ends_in_time(way, cluster).await;
    a_connection_that_dies_is_replaced(way, cluster).await;
    a_hub_that_takes_no_writes_says_so(way, cluster).await;
}

async fn values_arrive_as_they_are(way: &Way<'_>) {
    let odd = "{\"big\":12345678901234567890123.45600,\"edge\":9007199254740993,\"min\":-9223372036854775808,\
               \"text\":\"é 钥匙 🔑 \\u0007 \\\"quoted\\\" 'and' \\\\ $1 ? %s\",\"no\":null,\"deep\":[[[{}]]]}";
    let body = way.call(Function::Hello, odd).await.unwrap();
    for number in ["12345678901234567890123.45600", "9007199254740993", "-9223372036854775808"] {
        assert!(body.contains(number), "{body}");
    }
    let (sent, received): (Value, Value) =
        (serde_json::from_str(odd).unwrap(), serde_json::from_str(&body).unwrap());
    assert_eq!(sent, received);

    let large = json!({ "rows": vec!["0123456789é".repeat(10); 9_000] });
    assert_eq!(way.answers(large.clone()).await, large);
    let answer = way.answers(json!({ "large": 1_000_000 })).await;
    assert_eq!(answer["large"].as_str().map(str::len), Some(1_000_000));
    for function in [Function::Hello, Function::Push, Function::Pull] {
        assert_eq!(way.call(function, "{}").await.unwrap(), "{}");
    }
}

async fn errors_have_their_kinds(way: &Way<'_>) {
    for (code, expected) in [
        ("42501", ErrorKind::Forbidden),
        ("42P01", ErrorKind::Missing),
        ("42703", ErrorKind::Missing),
        ("42883", ErrorKind::NoSchema),
        ("25006", ErrorKind::ReadOnly),
        ("53100", ErrorKind::Full),
        ("53300", ErrorKind::Busy),
        ("40P01", ErrorKind::Busy),
        ("40001", ErrorKind::Busy),
        ("57014", ErrorKind::Timeout),
        ("28P01", ErrorKind::Credentials),
        ("P0001", ErrorKind::Server),
        ("22P02", ErrorKind::Server),
        ("XX000", ErrorKind::Server),
    ] {
        let error = way.fails(json!({ "fail": code })).await;
        assert_eq!(error.kind, expected, "{}: {code}: {error}", way.transport.target());
    }
    assert_eq!(way.answers(json!({ "after": 1 })).await, json!({ "after": 1 }));
}

/// The commit is a part of the call: a constraint that is looked at only then fails it, too.
async fn a_failed_call_writes_nothing(way: &Way<'_>, cluster: &Cluster) {
    way.answers(json!({ "write": "once" })).await;
    assert_eq!(way.fails(json!({ "write": "once" })).await.kind, ErrorKind::Server);
    assert_eq!(way.fails(json!({ "write": "never", "fail": "P0001" })).await.kind, ErrorKind::Server);
    let written = cluster.psql_in("keytide", "SELECT string_agg(what, ' ' ORDER BY what) FROM written");
    assert_eq!(written, "once");
    cluster.psql_in("keytide", "TRUNCATE written");
}

async fn long_texts_and_secrets_stay_behind(way: &Way<'_>) {
    let message = format!("the value \"{ROW_SECRET}\" is {}", "very ".repeat(2_000));
    let error = way.fails(json!({ "fail": "P0001", "message": message })).await;
    assert!(error.detail.contains("the value"), "{error}");
    assert!(error.detail.chars().count() < 300, "{error}");
    let error = way.fails(json!({ "fail": "P0001", "message": "several\nlines\u{1b}[31m" })).await;
    assert!(!error.detail.contains(char::is_control), "{error:?}");
}

async fn functions_that_are_missing_or_forbidden(way: &Way<'_>) {
    assert_eq!(way.fails_in(Function::Retain, json!({})).await.kind, ErrorKind::NoSchema);
    assert_eq!(way.fails_in(Function::Sizes, json!({})).await.kind, ErrorKind::Forbidden);
}

async fn calls_may_come_at_once(way: &Way<'_>) {
    let calls = (0..12).map(|n| async move {
        assert_eq!(way.answers(json!({ "n": n, "sleep": 0.01 })).await["n"], n);
    });
    futures_util::future::join_all(calls).await;
}

async fn bytes_are_counted(way: &Way<'_>) {
    way.answers(json!({})).await;
    let before = way.transport.traffic();
    // Random digits, which no compression makes small.
    let text: String = (0..50_000).map(|_| fastrand::alphanumeric()).collect();
    way.answers(json!({ "t": text })).await;
    let after = way.transport.traffic();
    let (sent, received) = (after.sent - before.sent, after.received - before.received);
    assert!((50_000..54_000).contains(&sent), "sent {sent}");
    assert!((30_000..54_000).contains(&received), "received {received}");
}

async fn a_call_ends_in_time(way: &Way<'_>, cluster: &Cluster) {
    let hasty = way.with_timeout(Duration::from_secs(2));
    let began = Instant::now();
    let error = hasty.fails(json!({ "sleep": 60 })).await;
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert_eq!(hasty.answers(json!({ "n": 1 })).await["n"], 1);
    if way.transport.kind() == "postgres" {
        // The hub was told to give up first, and holds nothing for us.
        assert!(began.elapsed() < Duration::from_secs(4));
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'keytide' AND state <> 'idle'";
        assert!(eventually(async || cluster.psql(busy) == "0").await);
        assert_eq!(hasty.answers(json!({ "show": "transaction_isolation" })).await["is"], "read committed");
    }
}

async fn a_connection_that_dies_is_replaced(way: &Way<'_>, cluster: &mut Cluster) {
    let error = way.fails(json!({ "die": true })).await;
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error:?}");
    way.comes_back().await;
    cluster.restart();
    way.comes_back().await;
    // With nobody there, there is an answer all the same, and soon.
    cluster.stop();
    let began = Instant::now();
    let error = way.with_timeout(Duration::from_secs(3)).fails(json!({})).await;
    assert!(matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Busy), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(4));
    cluster.restart();
    way.comes_back().await;
}

async fn a_hub_that_takes_no_writes_says_so(way: &Way<'_>, cluster: &Cluster) {
    let set = |value: &str| {
        cluster.psql(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        cluster.psql("SELECT pg_reload_conf()");
    };
    set("on");
    let refused = eventually(async || match way.call(Function::Push, "{\"write\":\"late\"}").await {
        Ok(_) => {
            cluster.psql_in("keytide", "BEGIN READ WRITE; TRUNCATE written; COMMIT");
            false
        }
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::ReadOnly, "{error}");
            true
        }
    });
    assert!(refused.await);
    assert_eq!(way.answers(json!({ "n": 1 })).await["n"], 1, "what only reads goes on");
    set("off");
    assert!(eventually(async || way.call(Function::Push, "{\"write\":\"late\"}").await.is_ok()).await);
}

/// The suite on a runtime of several threads, within a time that no working way needs.
async fn run(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(240), test).await.expect("the suite does not end");
}

fn with_passwords() -> Options {
    Options { passwords: true, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_directly() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    run(async {
        let mut cluster = hub(with_passwords()).await;
        let port = cluster.port;
        let way = Way::new(&[PASSWORD], |timeout| over_postgres(url(port, "sslmode=disable"), timeout));
        conforms(&way, &mut cluster).await;
        assert_eq!(way.transport.target(), format!("postgres://127.0.0.1:{port}/keytide"));

        let postgres = Postgres::new(&postgres::Options::new(url(port, "sslmode=disable"))).unwrap();
        let own = postgres.connect().await.unwrap();
        own.batch_execute("CREATE TEMPORARY TABLE own (n int); INSERT INTO own VALUES (7)").await.unwrap();
        assert_eq!(own.query_one("SELECT n FROM own", &[]).await.unwrap().get::<_, i32>(0), 7);
        let failed = own.batch_execute("SELECT * FROM elsewhere").await.unwrap_err();
        assert_eq!(postgres::explain(&failed).kind, ErrorKind::Missing);

        let socket =
            format!("postgres:///keytide?host={}&port={port}&user=keytide", cluster.socket().display());
        let way = Way::new(&[], |timeout| over_postgres(Secret::new(socket.as_str()), timeout));
        assert_eq!(way.answers(json!({ "over": "a socket" })).await["over"], "a socket");

        for (user, password) in
            [("keytide", "wrong-0123456789"), ("nobody", "wrong-0123456789"), ("keytide", "")]
        {
            let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/keytide");
            let way =
                Way::new(&["wrong-0123456789"], |timeout| over_postgres(Secret::new(url.as_str()), timeout));
            assert_eq!(way.fails(json!({})).await.kind, ErrorKind::Credentials, "{user}");
        }
        let elsewhere = format!("postgres://postgres:{}@127.0.0.1:{port}/nowhere", "correct%20horse");
        let way =
            Way::new(&["correct horse"], |timeout| over_postgres(Secret::new(elsewhere.as_str()), timeout));
        assert_eq!(way.fails(json!({})).await.kind, ErrorKind::Settings, "another database");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_postgres() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    for version in pg::installed() {
        run(async {
            let cluster = hub(Options { version: Some(version), ..with_passwords() }).await;
            let way = Way::new(&[PASSWORD], |timeout| over_postgres(url(cluster.port, ""), timeout));
            values_arrive_as_they_are(&way).await;
            errors_have_their_kinds(&way).await;
            functions_that_are_missing_or_forbidden(&way).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_through_pgbouncer() {
    if skipped(&["HUB_TESTS", "HUB_PGBOUNCER"]) {
        return;
    }
    run(async {
        let mut cluster = hub(with_passwords()).await;
        let bouncer = PgBouncer::start(cluster.port).await;
        let port = bouncer.port;
        let new = |timeout| over_postgres(url(port, "pgbouncer=true&connection_limit=1"), timeout);
        let way = Way::new(&[PASSWORD], new);
        conforms(&way, &mut cluster).await;

        let wrong = format!("postgres://keytide:wrong-0123456789@127.0.0.1:{port}/keytide");
        let way =
            Way::new(&["wrong-0123456789"], |timeout| over_postgres(Secret::new(wrong.as_str()), timeout));
        assert_eq!(way.fails(json!({})).await.kind, ErrorKind::Credentials);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_over_tls() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    run(async {
        let authority = tls::Authority::new("keytide's tests");
        let files = authority.issue(&["127.0.0.1"], tls::Age::Valid);
        let mut cluster = hub(tls::options(&files)).await;
        let port = cluster.port;
        let query =
            format!("sslmode=verify-full&sslrootcert={}&channel_binding=require", authority.file().display());
        let way = Way::new(&[PASSWORD], |timeout| over_postgres(url(port, &query), timeout));
        conforms(&way, &mut cluster).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rest() {
    if skipped(&["HUB_TESTS", "HUB_POSTRUST"]) {
        return;
    }
    run(async {
        let mut cluster = hub(with_passwords()).await;
        let postrust = Postrust::start(cluster.port).await;
        let new = |key: &str, call_timeout| -> Arc<dyn Transport> {
            let options = rest::Options::new(postrust.base.as_str(), Secret::new(key));
            Arc::new(Rest::new(&rest::Options { call_timeout, ..options }).unwrap())
        };
        let key = postrust::key("service_role");
        let way = Way::new(&[&key], |timeout| new(&key, timeout));
        conforms(&way, &mut cluster).await;

        let visitor = postrust::key("visitor");
        let way = Way::new(&[&visitor], |timeout| new(&visitor, timeout));
        assert_eq!(way.fails(json!({})).await.kind, ErrorKind::Forbidden);
        let forged = postrust::forged_key();
        let way = Way::new(&[&forged], |timeout| new(&forged, timeout));
        assert_eq!(way.fails(json!({})).await.kind, ErrorKind::Credentials);
    })
    .await;
}
