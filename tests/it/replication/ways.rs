//! The ways that hosted databases offer: a REST API with its roles, and a pooler that hands out a connection for
//! each transaction. Instances that take different ways to one hub come to the same.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    cutter::Cutter,
    node::{self, Load, Node},
    world::{World, key},
};
use crate::{
    harness,
    hub::{self, pgbouncer::PgBouncer, postrust, postrust::Postrust, skipped},
    pg::{self, Cluster},
};

/// As in a project of Supabase's: what is made is everybody's until somebody takes it back.
const ROLES: &str = "
CREATE ROLE keytide LOGIN CREATEROLE BYPASSRLS PASSWORD 'p@ss/w:rd #1?%';
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator NOINHERIT LOGIN PASSWORD 'letmein';
GRANT anon, authenticated, service_role TO authenticator;
ALTER ROLE authenticator SET statement_timeout = '8s';
ALTER ROLE anon SET statement_timeout = '3s';
";
const GIVEN: &str = "
GRANT ALL ON SCHEMA public TO keytide;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE keytide IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE keytide IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE keytide IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
";

/// A database of somebody who is no superuser.
pub async fn project() -> World {
    let cluster = Cluster::start(pg::Options::default());
    cluster.psql(ROLES);
    cluster.psql(&format!("CREATE DATABASE {} OWNER keytide", hub::DATABASE));
    cluster.psql_in(hub::DATABASE, GIVEN);
    let mut world = World::over(cluster).await;
    (world.database, world.owner) = (hub::DATABASE.to_owned(), "keytide".to_owned());
    world.apply_schema().await;
    world
}

impl World {
    async fn join(&mut self, port: u16, hub: impl FnOnce(u16) -> String) {
        let cutter = Cutter::start(port).await;
        let config = node::config(&self.upstream, None, &hub(cutter.port));
        let node = Node::with(self.nodes.len(), cutter, &config).await;
        self.nodes.push(node);
    }

    /// Traffic, edits and lost answers everywhere; then every number is the same everywhere, and right.
    async fn comes_to_the_same(&self) {
        self.stock().await;
        let loads: Vec<_> = self.nodes.iter().map(Load::start).collect();
        for (n, node) in self.nodes.iter().enumerate() {
            node.cutter.cut_next_answer("keytide_push");
            node.edit(&key(4 + n), &json!({"note": format!("of {}", node.name)})).await;
            node.sync_now().await;
            assert!(!node.cutter.is_armed(), "{} pushed nothing", node.name);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let mut seen = 0;
        for load in loads {
            seen += load.answered().await;
        }
        self.is_exact(seen).await;
        for (n, node) in self.nodes.iter().enumerate() {
            let note = json!(format!("of {}", node.name));
            for other in &self.nodes {
                assert_eq!(other.key(&key(4 + n)).await.unwrap()["note"], note, "{}", other.name);
            }
        }
    }
}

/// Through the REST API, with what every visitor of a project's page has.
async fn sees(base: &str, path: &str, key: &str, body: Option<&Value>) -> (u16, String) {
    let client = harness::client();
    let url = format!("{base}/{path}");
    let request = match body {
        Some(body) => client.post(url).json(body),
        None => client.get(url),
    };
    let answer = request.header("apikey", key).bearer_auth(key).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// What instances call.
const CALLED: [&str; 5] =
    ["keytide_hello", "keytide_push", "keytide_pull", "keytide_sizes", "keytide_retain"];

async fn outsiders_get_nothing(world: &World, api: &Postrust) {
    let tables = world.sql(
        "SELECT relname, relispartition::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relnamespace = 'public'::regnamespace \
         AND relname <> 'for_all'",
    );
    let functions = world.sql("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace");
    assert!(tables.len() >= 16 && functions.len() >= 5);
    for role in ["anon", "authenticated"] {
        let key = postrust::key(role);
        assert_eq!(sees(&api.base, "for_all", &key, None).await.0, 200, "the API serves what is open");
        for table in &tables {
            let (status, text) = sees(&api.base, &table[0], &key, None).await;
            // Parts of tables are not served at all by some.
            let is_shut = matches!(status, 401 | 403) || (status == 404 && table[1] == "true");
            assert!(is_shut, "{role} reads {}: {status} {text}", table[0]);
            assert!(!text.contains("0123456789abcdef"), "{role} sees a key: {text}");
        }
        for function in &functions {
            let request = json!({"request": {"protocol": 1}});
            let (status, text) = sees(&api.base, &format!("rpc/{}", function[0]), &key, Some(&request)).await;
            // Of one with another signature an API says that it is not there.
            let is_shut = matches!(status, 401 | 403) || (status == 404 && !CALLED.contains(&&*function[0]));
            assert!(is_shut, "{role} calls {}: {status} {text}", function[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_and_postgres_lead_to_the_same_numbers() {
    if skipped(&["HUB_TESTS", "HUB_POSTRUST"]) {
        return;
    }
    let mut world = project().await;
    // To tell a closed table from an API that serves none; it knows only what is there when it starts.
    world.sql("CREATE TABLE for_all AS SELECT 1 AS n; GRANT SELECT ON for_all TO anon, authenticated");
    let api = Postrust::start_for(world.cluster.port, "anon").await;
    let port: u16 = api.base.rsplit(':').next().unwrap().parse().unwrap();
    let service = postrust::key("service_role");
    let rest = |port: u16| {
        format!(
            "[sync]\ntransport = \"rest\"\nrest_url = \"http://127.0.0.1:{port}\"\nservice_key = \"{service}\"\n\
             interval = \"1s\"\n"
        )
    };
    world.join(port, rest).await;
    world.join(port, rest).await;
    let postgres = world.cluster.port;
    world
        .join(postgres, |port| {
            node::hub_at(&format!("postgresql://keytide@127.0.0.1:{port}/keytide?sslmode=disable"))
        })
        .await;
    world.comes_to_the_same().await;
    outsiders_get_nothing(&world, &api).await;

    // A portal between one of them and the hub.
    let before = world.agree().await;
    let page = "<html><title>Sign in to the hotel's network</title></html>";
    world.nodes[0].cutter.stranger(Some(&format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    )));
    let served = world.nodes[0].serve("ollama", 9).await;
    let status = world.nodes[0].sync_now().await.unwrap();
    let error = &status["hubs"][0]["last_error"];
    let garbage = keytide::replica::transport::ErrorKind::Garbage;
    assert_eq!(error["advice"], garbage.advice(), "{status:#}");
    let told = format!("{status} {}", world.nodes[0].process.as_ref().unwrap().log());
    assert!(!told.contains(&service), "the service key is told: {told}");
    world.nodes[0].cutter.stranger(None);
    world.is_exact(before + served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_one_connection() {
    if skipped(&["HUB_TESTS", "HUB_PGBOUNCER"]) {
        return;
    }
    let mut world = project().await;
    let pooler = PgBouncer::start(world.cluster.port).await;
    for _ in 0..3 {
        world
            .join(pooler.port, |port| {
                let (user, password) = (hub::USER, hub::ENCODED);
                node::hub_at(&format!(
                    "postgresql://{user}:{password}@127.0.0.1:{port}/keytide?pgbouncer=true&sslmode=disable"
                ))
            })
            .await;
    }
    world.comes_to_the_same().await;
}
