//! What can be wrong with a hub, one thing after another. Requests go on being answered and counted, an operator is
//! told what is wrong and what to do, and when it is over everything arrives, once.

use keytide::replica::transport::ErrorKind;
use serde_json::{Value, json};

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::{KEYS, World, key},
};
use crate::{
    hub::tls::{self, Age, Authority},
    pg::{self, Cluster},
};

/// Of the database, where one is asked for.
const PASSWORD: &str = "the-right-horse-77";

/// An instance with a hub that gets into trouble.
struct Scene {
    world: World,
    served: i64,
}

impl Scene {
    /// `hubs` is made of the port that leads to the cluster.
    async fn new(cluster: Cluster, openrouter: Option<&str>, hubs: impl FnOnce(u16) -> String) -> Self {
        let mut world = World::over(cluster).await;
        let cutter = Cutter::start(world.cluster.port).await;
        let config = node::config(&world.upstream, openrouter, &hubs(cutter.port));
        world.nodes.push(Node::with(0, cutter, &config).await);
        Self { world, served: 0 }
    }

    /// A hub in order, which has seen some requests.
    async fn begun(cluster: Cluster, hubs: impl FnOnce(u16) -> String) -> Self {
        let mut scene = Self::new(cluster, None, hubs).await;
        scene.world.apply_schema().await;
        scene.world.stock().await;
        scene.goes_on().await;
        scene.is_well().await;
        scene
    }

    async fn plain() -> Self {
        Self::begun(Cluster::start(pg::Options::default()), node::hub).await
    }

    fn node(&self) -> &Node {
        &self.world.nodes[0]
    }

    /// Requests are answered and counted, whatever the hub does.
    async fn goes_on(&mut self) {
        let before = self.node().stats().await["total_requests"].as_i64().unwrap();
        self.served += self.node().serve("ollama", 12).await;
        let after = self.node().stats().await["total_requests"].as_i64().unwrap();
        assert_eq!(after - before, 12, "counted here");
    }

    /// Requests go on, and a round ends with these words and this advice.
    async fn suffers(&mut self, words: &str, kind: ErrorKind) {
        self.goes_on().await;
        self.node().edit(&key(5), &json!({"note": format!("during {words}")})).await;
        let status = self.node().sync_now().await.unwrap();
        let hub = &status["hubs"][0];
        assert_eq!(hub["state"], "failing", "{words}: {hub:#}");
        let error = &hub["last_error"];
        assert!(error["message"].as_str().unwrap_or_default().contains(words), "{words}: {hub:#}");
        assert_eq!(error["advice"], kind.advice(), "{words}: {hub:#}");
        assert!(hub["lag_ms"].is_u64() && error["times"].as_u64() >= Some(1), "{hub:#}");
        self.is_discreet(&status);
        self.goes_on().await;
    }

    /// Nothing that is secret stands in what operators read.
    fn is_discreet(&self, status: &Value) {
        let told = format!("{status} {}", self.node().process.as_ref().unwrap().log());
        for n in 0..KEYS {
            assert!(!told.contains(&key(n)), "a key is told: {told}");
        }
        for secret in [PASSWORD, crate::harness::TOKEN, node::ADMIN] {
            assert!(!told.contains(secret), "{secret} is told: {told}");
        }
    }

    /// Everything is with the hub, once.
    async fn is_well(&mut self) {
        self.world.is_exact(self.served).await;
        let status = self.node().sync().await;
        assert_eq!(status["hubs"][0]["last_error"], Value::Null, "{status:#}");
        self.is_discreet(&status);
    }

    /// The hub has the last edit.
    async fn has_note(&self, words: &str) {
        let sql = format!("SELECT note FROM ollama_api_keys WHERE api_key = '{}'", key(5));
        assert_eq!(self.world.sql(&sql)[0][0], format!("during {words}"));
    }

    /// Connections are made anew.
    fn reconnect(&self) {
        self.node().cutter.refuse(true);
        self.node().cutter.refuse(false);
    }

    fn sql(&self, sql: &str) {
        self.world.cluster.psql(sql);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_doors_and_strangers_certificates() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let at_home = |of: &Authority, age| of.issue(&["127.0.0.1"], age);
    let cluster = Cluster::start(tls::options(&at_home(&ours, Age::Valid)));
    cluster.psql(&format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"));
    let root = ours.file().display().to_string();
    let mut scene = Scene::begun(cluster, |port| {
        node::hub_at(&format!(
            "postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={root}"
        ))
    })
    .await;

    scene.sql("ALTER ROLE postgres PASSWORD 'another one'");
    scene.reconnect();
    scene.suffers("refuses the user or the password", ErrorKind::Credentials).await;
    scene.sql(&format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"));
    scene.is_well().await;

    for (age, of, words) in [
        (Age::Expired, &ours, "has expired"),
        (Age::Valid, &theirs, "not trusted"),
        (Age::Future, &ours, "not valid yet"),
    ] {
        tls::exchange(&mut scene.world.cluster, &at_home(of, age));
        scene.suffers(words, ErrorKind::Certificate).await;
        tls::exchange(&mut scene.world.cluster, &at_home(&ours, Age::Valid));
        scene.is_well().await;
        scene.has_note(words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_comes_up_later_and_is_empty_then() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    let cutter = Cutter::start(world.cluster.port).await;
    world.cluster.stop();
    let config = node::config(&world.upstream, None, &node::hub(cutter.port));
    let node = Node::with(0, cutter, &config).await;
    node.stock("ollama").await;
    world.nodes.push(node);
    let mut scene = Scene { world, served: 0 };
    scene.suffers("connection", ErrorKind::Unreachable).await;
    scene.world.cluster.restart();
    scene.suffers("keytide_hello", ErrorKind::NoSchema).await;
    scene.world.apply_schema().await;
    scene.is_well().await;
    scene.has_note("keytide_hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_takes_no_writes() {
    let mut scene = Scene::plain().await;
    scene.sql("ALTER DATABASE postgres SET default_transaction_read_only = on");
    scene.reconnect();
    scene.suffers("takes no writes", ErrorKind::ReadOnly).await;
    // What others decide still arrives.
    let key = key(7);
    scene.sql(&format!(
        "SET TRANSACTION READ WRITE; UPDATE ollama_api_keys SET username = 'eve' WHERE api_key = '{key}'"
    ));
    scene.node().sync_now().await;
    assert_eq!(scene.node().key(&key).await.unwrap()["username"], "eve");
    scene.sql("SET TRANSACTION READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only");
    scene.reconnect();
    scene.is_well().await;
    scene.has_note("takes no writes").await;

    scene.sql(&format!(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING \
         ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device', DETAIL = '{key}'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON ollama_api_global_stats \
         FOR EACH ROW EXECUTE FUNCTION full_disk()"
    ));
    scene.suffers("No space left", ErrorKind::Full).await;
    scene.sql("DROP FUNCTION full_disk() CASCADE");
    scene.is_well().await;
    scene.has_note("No space left").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_holds() {
    let mut scene = Scene::plain().await;
    let somebody = scene.world.cluster.connect("postgres", "postgres").await;
    let hold = format!("BEGIN; SELECT FROM ollama_api_keys WHERE api_key = '{}' FOR UPDATE", key(5));
    somebody.batch_execute(&hold).await.unwrap();
    scene.suffers("timeout", ErrorKind::Timeout).await;
    somebody.batch_execute("ROLLBACK").await.unwrap();
    scene.is_well().await;
    scene.has_note("timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_of_another_keytide() {
    let mut scene = Scene::plain().await;
    for function in ["hello", "push", "pull"] {
        scene.sql(&format!(
            "DROP FUNCTION keytide_{function}(jsonb); \
             CREATE FUNCTION keytide_{function}(request jsonb) RETURNS jsonb LANGUAGE sql \
             AS $$ SELECT keytide_greeting() || '{{\"status\": \"unsupported\", \"speaks\": [2, 3]}}' $$"
        ));
    }
    scene.goes_on().await;
    let status = scene.node().sync_now().await.unwrap();
    let hub = &status["hubs"][0];
    assert_eq!(hub["state"], "failing", "{hub:#}");
    let told = hub["last_error"].to_string();
    assert!(told.contains("protocol 2, 3") && told.contains("keytide schema apply"), "{hub:#}");
    scene.goes_on().await;
    scene.world.apply_schema().await;
    scene.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_provider_lacks_is_not_the_others_trouble() {
    let cluster = Cluster::start(pg::Options::default());
    let mut scene = Scene::new(cluster, Some(""), node::hub).await;
    scene.world.apply_schema().await;
    scene.node().stock("openrouter").await;
    scene.world.stock().await;
    scene.goes_on().await;
    let mut others = scene.node().serve("openrouter", 3).await;
    for (damage, what, repair) in [
        (
            "ALTER TABLE ollama_api_model_hourly RENAME TO elsewhere",
            "ollama_api_model_hourly",
            "ALTER TABLE elsewhere RENAME TO ollama_api_model_hourly",
        ),
        (
            "ALTER TABLE ollama_api_key_stats RENAME failure_count TO failures",
            "failure_count",
            "ALTER TABLE ollama_api_key_stats RENAME failures TO failure_count",
        ),
    ] {
        scene.is_well().await;
        scene.sql(damage);
        scene.suffers(what, ErrorKind::Missing).await;
        others += scene.node().serve("openrouter", 5).await;
        let status = scene.node().sync_now().await.unwrap();
        let streams = &status["hubs"][0]["streams"];
        assert_eq!(streams[0]["state"], "missing", "{status:#}");
        assert!(streams[0]["reason"].as_str().unwrap().contains(what), "{status:#}");
        assert_eq!((&streams[1]["state"], &streams[1]["open_rows"]), (&json!("ok"), &json!(0)), "{status:#}");
        let there = scene.world.sql("SELECT total_requests FROM openrouter_api_global_stats");
        assert_eq!(there[0][0], others.to_string(), "the other provider goes on");
        scene.sql(repair);
    }
    scene.is_well().await;

    // Something that nobody thought of keeps one provider's batches away.
    scene.sql(
        "CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$; \
         CREATE TRIGGER veto BEFORE INSERT OR UPDATE ON ollama_api_global_stats FOR EACH ROW EXECUTE FUNCTION veto()",
    );
    scene.suffers("not today", ErrorKind::Server).await;
    others += scene.node().serve("openrouter", 5).await;
    let eighth = key(8);
    scene.sql(&format!("UPDATE ollama_api_keys SET username = 'eve' WHERE api_key = '{eighth}'"));
    scene.node().sync_now().await;
    let there = scene.world.sql("SELECT total_requests FROM openrouter_api_global_stats");
    assert_eq!(there[0][0], others.to_string(), "the other provider goes on");
    assert_eq!(scene.node().key(&eighth).await.unwrap()["username"], "eve", "what others decide is read");
    scene.sql("DROP FUNCTION veto() CASCADE");
    scene.is_well().await;
    assert_eq!(scene.world.compare("openrouter").await, others);
}

/// A fault among one provider's rows, which no look at tables and columns finds.
const TORN: &str = "
    ALTER FUNCTION keytide_page RENAME TO keytide_page_before;
    CREATE FUNCTION keytide_page(list text, stream text, provider text, cursor pg_snapshot, after text, most integer,
        installed timestamptz, OUT rows text, OUT many bigint, OUT last text) LANGUAGE plpgsql STABLE AS $$
    BEGIN
        IF stream = 'ollama_api' THEN RAISE 'a torn page'; END IF;
        SELECT b.rows, b.many, b.last INTO rows, many, last
        FROM public.keytide_page_before(list, stream, provider, cursor, after, most, installed) b;
    END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_of_one_provider_keeps_no_other_waiting() {
    let cluster = Cluster::start(pg::Options::default());
    let mut scene = Scene::new(cluster, Some(""), node::hub).await;
    scene.world.apply_schema().await;
    scene.node().stock("openrouter").await;
    scene.world.stock().await;
    scene.is_well().await;
    scene.sql(TORN);
    for round in 0..3 {
        scene.suffers("a torn page", ErrorKind::Server).await;
        let name = format!("eve {round}");
        scene.sql(&format!("UPDATE openrouter_api_keys SET username = '{name}' WHERE api_key LIKE '%-08-%'"));
        let status = scene.node().sync_now().await.unwrap();
        let read = scene.node().picture_of("openrouter").await["states"].to_string();
        assert!(read.contains(&name), "what others decide is read: {read}");
        let streams = &status["hubs"][0]["streams"];
        assert_eq!(
            (&streams[0]["state"], &streams[1]["state"]),
            (&json!("failing"), &json!("ok")),
            "{status:#}"
        );
        assert!(streams[0]["reason"].as_str().unwrap().contains("a torn page"), "{status:#}");
        let there = scene.world.sql("SELECT total_requests FROM ollama_api_global_stats");
        assert_eq!(there[0][0], scene.served.to_string(), "what is counted still arrives");
    }
    scene.sql("DROP FUNCTION keytide_page; ALTER FUNCTION keytide_page_before RENAME TO keytide_page");
    scene.is_well().await;
    let status = scene.node().sync().await;
    assert_eq!(status["hubs"][0]["streams"][0]["reason"], Value::Null, "{status:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_and_strangers_that_answer() {
    let mut scene = Scene::plain().await;
    for answer_only in [false, true, false, true] {
        for attempt in 1.. {
            scene.goes_on().await;
            let cutter = &scene.node().cutter;
            if answer_only {
                cutter.cut_next_answer("keytide_push")
            } else {
                cutter.cut_next_request("keytide_push")
            }
            let status = scene.node().sync_now().await.unwrap();
            assert!(!scene.node().cutter.is_armed(), "nothing was pushed");
            scene.is_well().await;
            let error = &status["hubs"][0]["last_error"];
            if error.is_null() && attempt < 5 {
                // A round of its own was cut, and this one has come after it.
                continue;
            }
            assert_eq!(error["advice"], ErrorKind::Unreachable.advice(), "{status:#}");
            break;
        }
    }
    for answer in [
        "HTTP/1.1 302 Found\r\nlocation: http://portal.example/\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "N",
        "R\0\0",
    ] {
        scene.node().cutter.stranger(Some(answer));
        scene.goes_on().await;
        let status = scene.node().sync_now().await.unwrap();
        assert_eq!(status["hubs"][0]["state"], "failing", "{answer:?}: {status:#}");
        let advice = status["hubs"][0]["last_error"]["advice"].as_str().unwrap_or_default();
        let expected = [ErrorKind::Garbage.advice(), ErrorKind::Unreachable.advice()];
        assert!(expected.contains(&advice), "{answer:?}: {status:#}");
        scene.node().cutter.stranger(None);
        scene.is_well().await;
    }
}
