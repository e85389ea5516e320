//! The ways to a hub, over real sockets to real servers: Postgres itself, PgBouncer in front of it, and a REST API
//! like PostgREST's. What each must do is one suite, `conformance`; what strangers may answer is in `strangers`,
//! what may happen to true answers in `damage`.
//!
//! The hub's functions are stand-ins here that do as they are told: ways carry calls, whatever these mean.

mod conformance;
mod damage;
pub mod pgbouncer;
pub mod postrust;
mod strangers;
pub mod tls;

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use keytide::{
    model::Secret,
    replica::{
        postgres::{self, Postgres},
        transport::Transport,
    },
};

use crate::pg::{Cluster, Options};

pub const DATABASE: &str = "keytide";
pub const USER: &str = "keytide";
/// With everything that has a meaning in URLs.
pub const PASSWORD: &str = "p@ss/w:rd #1?%";
pub const ENCODED: &str = "p%40ss%2Fw%3Ard%20%231%3F%25";
/// Stands in rows and error details; nobody may ever see it.
pub const ROW_SECRET: &str = "sk-or-v1-5ec4e7ab1e5ec4e7ab1e";

/// Every one does what its request says.
const FUNCTIONS: &str = "
CREATE ROLE keytide LOGIN PASSWORD 'p@ss/w:rd #1?%';
ALTER ROLE keytide SET default_transaction_isolation = 'repeatable read';
CREATE ROLE service_role NOLOGIN;
CREATE ROLE visitor NOLOGIN;
CREATE ROLE authenticator NOINHERIT LOGIN PASSWORD 'letmein';
GRANT service_role, visitor TO authenticator;
CREATE TABLE public.written (what text UNIQUE DEFERRABLE INITIALLY DEFERRED);
GRANT ALL ON public.written TO keytide, service_role;
CREATE FUNCTION public.die() RETURNS void LANGUAGE sql SECURITY DEFINER
    AS 'SELECT pg_terminate_backend(pg_backend_pid())';
CREATE FUNCTION public.act(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF request ? 'write' THEN
        INSERT INTO public.written VALUES (request ->> 'write');
    END IF;
    IF request ? 'fail' THEN
        RAISE EXCEPTION USING ERRCODE = request ->> 'fail', MESSAGE = coalesce(request ->> 'message', 'as asked'),
            DETAIL = 'sk-or-v1-5ec4e7ab1e5ec4e7ab1e', HINT = 'sk-or-v1-5ec4e7ab1e5ec4e7ab1e';
    END IF;
    IF request ? 'sleep' THEN
        PERFORM pg_sleep((request ->> 'sleep')::float8);
    END IF;
    IF request ? 'die' THEN
        PERFORM public.die();
    END IF;
    IF request ? 'show' THEN
        RETURN jsonb_build_object('is', current_setting(request ->> 'show'));
    END IF;
    IF request ? 'large' THEN
        RETURN jsonb_build_object('large', repeat('x', (request ->> 'large')::int));
    END IF;
    RETURN request;
END $$;
CREATE FUNCTION public.keytide_hello(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.act(request)';
CREATE FUNCTION public.keytide_push(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.act(request)';
CREATE FUNCTION public.keytide_pull(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.act(request)';
CREATE FUNCTION public.keytide_sizes(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.act(request)';
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO keytide, service_role;
REVOKE EXECUTE ON FUNCTION public.keytide_sizes FROM keytide, service_role;
";

/// A cluster whose database `keytide` has the stand-ins. `keytide_sizes` is nobody's to call, `keytide_retain` is
/// not there.
pub async fn hub(options: Options) -> Cluster {
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(options)).await.unwrap();
    cluster.database(DATABASE).await.batch_execute(FUNCTIONS).await.unwrap();
    cluster
}

pub fn url(port: u16, query: &str) -> Secret {
    Secret::new(format!("postgres://{USER}:{ENCODED}@127.0.0.1:{port}/{DATABASE}?{query}"))
}

pub fn over_postgres(url: Secret, call_timeout: Duration) -> Arc<dyn Transport> {
    Arc::new(Postgres::new(&postgres::Options { call_timeout, ..postgres::Options::new(url) }).unwrap())
}

/// Where a tool is: named by a variable, or put there by `scripts/test`, or installed.
fn tool(name: &str, variable: &str) -> std::path::PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| std::path::Path::new(&home).join(".cache"), Into::into);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(cache.join("keytide/tools/bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not installed; scripts/test installs it, {variable} names another")
        })
}

pub use crate::pg::skipped;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server program, which ends with the value that holds it.
struct Server(Child);

impl Server {
    /// Until it takes connections; nothing if it ends before.
    async fn start(command: &mut Command, port: u16) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self(command.spawn().unwrap());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while tokio::time::Instant::now() < deadline && server.0.try_wait().unwrap().is_none() {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_kills_and_keeps_its_port() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let mut cluster = Cluster::start(Options { passwords: true, ..Options::default() });
    cluster.psql("CREATE TABLE t AS SELECT 1 AS n");
    let refused = tokio_postgres::connect(&cluster.url("postgres", "postgres"), tokio_postgres::NoTls).await;
    assert!(refused.is_err(), "without a password");
    cluster.kill9();
    cluster.restart();
    assert_eq!(cluster.psql("SELECT n FROM t"), "1");
    let copy = cluster.copy();
    assert_eq!(copy.psql("SELECT n FROM t"), "1");
    assert_ne!(copy.port, cluster.port);
}
