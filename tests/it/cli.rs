//! The command line against a server that keeps to the admin API, as far as a client can tell.

use std::{
    io::{self, Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use keytide::cli::{self, Hooks, Io};
use serde_json::{Value, json};

const TOKEN: &str = "an-admin-token-of-the-tests";
const ONE: &str = "97665549-effe-5e34-a023-53e3b2c34a6d";
const TWO: &str = "97665549-0000-5e34-a023-53e3b2c34a6d";
const THREE: &str = "0123abcd-effe-5e34-a023-53e3b2c34a6d";

/// What the server was asked: method, path with query, body.
type Asked = Arc<Mutex<Vec<(Method, String, String)>>>;

struct Server {
    url: String,
    asked: Asked,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let asked = Asked::default();
        let app = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(asked.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { url, asked, _runtime: runtime }
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with(line, "")
    }

    fn run_with(&self, line: &str, stdin: &str) -> Ran {
        run(line, stdin, &[("KEYTIDE_URL", &self.url), ("KEYTIDE_ADMIN_TOKEN", TOKEN)], Sink::default())
    }

    fn last(&self) -> (Method, String, Value) {
        let asked = self.asked.lock().expect("no panic held it");
        let (method, uri, body) = asked.last().expect("the server was asked");
        (method.clone(), uri.clone(), serde_json::from_str(body).unwrap_or(body.as_str().into()))
    }
}

fn key(id: &str, status: &str) -> Value {
    json!({
        "id": id, "key": "sk-o…3f9a", "username": "alice", "note": null, "status": status,
        "reason": if status == "failed" { Some("rate_limit") } else { None },
        "created_at": "2026-01-01T00:00:00Z", "expires_at": null, "failed_until": null, "disabled_until": null,
        "enabled": true, "needs_verification": false, "weight": 1, "consecutive_failures": 0, "in_flight": 0,
        "stats": {"total_requests": 1234, "success_count": 1233, "failure_count": 1, "other_count": 0,
                  "success_rate": 99.92, "last_used": null, "last_success": null, "last_failure": null}
    })
}

/// A user, if the query finds them.
fn user(id: &str, name: &str, query: &str) -> Option<Value> {
    let wanted = query.split('&').find_map(|pair| pair.strip_prefix("search=")).unwrap_or_default();
    let wanted = wanted.to_lowercase();
    (id.starts_with(&wanted) || name.to_lowercase().contains(&wanted)).then(|| {
        json!({
            "id": id, "name": name, "note": null, "enabled": name != "bob", "created_at": "2026-01-01T00:00:00Z",
            "requests_per_minute": null, "requests_per_day": 1000, "tokens_per_day": null, "allowed_models": [],
            "allowed_addresses": ["10.0.0.0/8"], "requests_today": 12, "tokens_today": 3456,
            "day_ends_at": "2026-11-23T00:00:00Z",
            "tokens": [{"provider": "ollama", "id": THREE, "name": "app"}]
        })
    })
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body =
        json!({"error": {"message": message, "type": "invalid_request_error", "code": code, "param": null}});
    (status, axum::Json(body)).into_response()
}

async fn answer(
    State(asked): State<Asked>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    asked.lock().expect("no panic held it").push((method.clone(), uri.to_string(), body.clone()));
    if headers.get(header::AUTHORIZATION).is_none_or(|found| found != &format!("Bearer {TOKEN}")[..]) {
        return error(StatusCode::UNAUTHORIZED, "invalid_admin_token", "The admin token is wrong.");
    }
    let query = uri.query().unwrap_or_default();
    if query.contains("provider=nobody") {
        return error(StatusCode::NOT_FOUND, "unknown_provider", "There is no provider nobody.");
    }
    let sent: Value = serde_json::from_str(&body).unwrap_or_default();
    let ids = sent["ids"].as_array().cloned().unwrap_or_default();
    let unknown: Vec<&Value> =
        ids.iter().filter(|id| ![ONE, TWO, THREE].contains(&id.as_str().unwrap_or_default())).collect();
    let changed = ids.len() - unknown.len();
    let json = match (method.as_str(), uri.path()) {
        ("GET", "/admin/api-keys") => {
            let keys = [key(ONE, "active"), key(TWO, "failed"), key(THREE, "active")];
            let wanted = |key: &&Value| {
                let id = key["id"].as_str().unwrap_or_default();
                let status = key["status"].as_str().unwrap_or_default();
                query.split('&').all(|pair| match pair.split_once('=') {
                    Some(("search", text)) => id.starts_with(text),
                    Some(("status", text)) => status == text,
                    _ => true,
                })
            };
            let keys: Vec<&Value> = keys.iter().filter(wanted).collect();
            json!({"provider": "ollama", "page": 1, "pageSize": 50, "total": keys.len(), "pages": 1, "keys": keys})
        }
        ("PATCH", "/admin/api-keys/0123abcd-effe-5e34-a023-53e3b2c34a6d") => key(THREE, "active"),
        ("POST", "/admin/api-keys") => {
            return (StatusCode::CREATED, axum::Json(key(THREE, "active"))).into_response();
        }
        ("POST", "/admin/api-keys/import") => json!({
            "provider": "ollama", "added": 2, "existing": 1, "invalid": 1, "blank": 1, "total": 5, "dry_run": false,
            "existing_lines": [{"line": 3, "key": "sk-o…3f9a"}],
            "invalid_lines": [{"line": 2, "reason": "holds a space", "key": "…"}], "truncated": false
        }),
        ("POST", "/admin/api-keys/export") => return "sk-one\nsk-two\n".into_response(),
        ("DELETE", "/admin/api-keys") => json!({"deleted": changed, "missing": unknown}),
        ("POST", "/admin/keys/enable" | "/admin/keys/disable") => {
            json!({"changed": changed, "missing": unknown})
        }
        ("POST", "/admin/keys/health-check") => {
            let lines = [
                json!({"id": ONE, "ok": true, "status": "active", "detail": "200"}),
                json!({"id": TWO, "ok": false, "status": "failed", "detail": "401: the key was refused"}),
                json!({"summary": {"checked": 2, "ok": 1, "failed": 1}}),
            ];
            return lines.map(|line| format!("{line}\n")).concat().into_response();
        }
        ("GET", "/admin/users") => {
            let users = [user(ONE, "Ann", query), user(TWO, "Bob", query), user(THREE, "bob", query)];
            let users: Vec<Value> = users.into_iter().flatten().collect();
            json!({"page": 1, "pageSize": 50, "total": users.len(), "pages": 1, "users": users})
        }
        ("POST", "/admin/users") => json!({"id": ONE, "name": sent["name"], "enabled": true}),
        ("GET" | "PATCH", "/admin/users/97665549-effe-5e34-a023-53e3b2c34a6d") => {
            user(ONE, "Ann", "").unwrap()
        }
        ("DELETE", "/admin/users/97665549-effe-5e34-a023-53e3b2c34a6d") => json!({"deleted": 1}),
        ("PATCH", "/admin/tokens/0123abcd-effe-5e34-a023-53e3b2c34a6d") => {
            json!({"id": THREE, "token": "sk-a…zzzz", "name": "app"})
        }
        ("GET", "/admin/tokens") => {
            json!({"provider": "ollama", "tokens": [{"id": THREE, "token": "sk-a…zzzz", "name": "app"}]})
        }
        ("POST", "/admin/tokens") => {
            json!({"id": THREE, "token": "sk-the-whole-token", "name": sent["name"]})
        }
        ("DELETE", "/admin/tokens") => json!({"deleted": 1}),
        ("GET", "/admin/events") => json!({"page": 1, "pageSize": 50, "total": 1, "pages": 1, "events": [{
            "id": ONE, "type": "abuse", "severity": 4, "at": "2026-12-01T10:20:30Z", "user": ONE, "key": null,
            "weight": 3, "details": {"kind": "frequency", "seen": 900.0, "usual": 10.5}
        }]}),
        ("GET", "/admin/verdicts") => json!({"in_force": true, "verdicts": [
            {"subject": "address:192.0.2.7", "action": "block", "factor": null, "until": "2026-12-01T10:20:30Z"},
            {"subject": "user:7", "action": "throttle", "factor": 0.5, "until": "2026-12-01T10:20:30Z"},
        ]}),
        ("DELETE", "/admin/verdicts/address:192.0.2.7") => json!({"subject": "address:192.0.2.7"}),
        ("GET", "/admin/providers") => json!([{"name": "ollama", "enabled": true}]),
        ("GET", "/admin/stats") => json!({
            "provider": "ollama", "total_api_keys": 3, "active_keys": 2, "failed_keys": 1, "disabled_keys": 0,
            "expired_keys": 0, "total_client_tokens": 1, "total_requests": 1234567, "success_count": 1234567,
            "failure_count": 0, "success_rate": 100.0, "storage": "redb", "timestamp": "2026-01-01T00:00:00Z",
            "models": [{"model": "gpt-oss:20b", "total_requests": 7, "success_rate": 50.0}]
        }),
        ("GET", "/admin/storage") => json!({
            "file": "/data/keytide.redb", "healthy": true, "problem": null, "file_bytes": 4096, "tables": [],
            "journal_entries": 0
        }),
        ("POST", "/admin/storage/backup") => json!({"file": sent["file"], "bytes": 4096}),
        ("GET", "/health") => json!({"status": "ok"}),
        _ => return error(StatusCode::NOT_FOUND, "not_found", "There is nothing here."),
    };
    axum::Json(json).into_response()
}

/// A stream that can be looked at afterwards, and that may stop taking.
#[derive(Clone, Default)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    broken: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.bytes.lock().expect("no panic held it").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().expect("no panic held it").clone()).expect("text")
    }
}

#[derive(Debug)]
struct Ran {
    code: u8,
    out: String,
    err: String,
}

/// The line is split at spaces; what holds a folder's path is from `tempfile` and has none.
fn run(line: &str, stdin: &str, env: &[(&str, &str)], stdout: Sink) -> Ran {
    let stderr = Sink::default();
    let mut io = Io {
        stdin: Box::new(Cursor::new(stdin.to_owned())),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        stdin_is_terminal: false,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
    };
    let hooks =
        Hooks { serve: |_, _| anyhow::bail!("serve was called"), demo: |_| anyhow::bail!("demo was called") };
    let args = std::iter::once("keytide").chain(line.split(' ').filter(|word| !word.is_empty()));
    let code = cli::run_with(args.map(Into::into), hooks, &mut io);
    Ran { code, out: stdout.text(), err: stderr.text() }
}

fn data_dir() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("a plain path").to_owned();
    (dir, path)
}

#[test]
fn lists_are_tables_or_what_the_server_said() {
    let server = Server::start();
    let ran = server.run("keys list --status failed");
    assert_eq!((ran.code, ran.err.trim()), (0, "1 key of ollama"), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "ID        KEY        USERNAME  STATUS  WHY         REQUESTS  SUCCESS  LAST USED");
    assert_eq!(lines[1], "97665549  sk-o…3f9a  alice     failed  rate limit     1,234  99.92 %  never");

    let ran = server.run("keys list --json --provider ollama");
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["total"], 3);
    assert!(server.last().1.starts_with("/admin/api-keys?provider=ollama&page=1&pageSize=50"));
    assert_eq!(server.run("keys list --all --json").out.lines().count(), 3);

    let ran = server.run("stats");
    assert!(ran.out.contains("1,234,567  100.00 %") && ran.out.contains("gpt-oss:20b"), "{ran:?}");
    assert_eq!(server.run("stats --json").out.lines().count(), 1);
    assert!(server.run("tokens list").out.contains("0123abcd  sk-a…zzzz  app"));
}

#[test]
fn ids_may_be_shortened_while_they_are_clear() {
    let server = Server::start();
    assert_eq!(server.run("keys enable 0123abcd").out, "1 key enabled\n");
    assert_eq!(server.last().2, json!({"ids": [THREE]}));
    let ran = server.run("keys delete 97665549");
    assert!(ran.code == 1 && ran.err.contains("several"), "{ran:?}");
    let ran = server.run_with("keys disable - --until 2030-01-01", &format!("97665549effe\n{THREE}\n"));
    assert_eq!(ran.out, "2 keys disabled until 2030-01-01T00:00:00Z\n");
    assert_eq!(server.last().2, json!({"ids": [ONE, THREE], "until": "2030-01-01T00:00:00Z"}));
    let ran = server.run("keys delete 11111111-1111-4111-8111-111111111111");
    assert!(ran.code == 1 && ran.err.contains("no key has the id"), "{ran:?}");
    assert_eq!(server.run("tokens revoke 0123abcd").out, "1 token revoked\n");
    for line in ["keys enable", "keys enable --all 0123abcd", "keys delete sk-a-whole-secret-key-by-mistake"]
    {
        let ran = server.run(line);
        assert!(ran.code == 2 && ran.err.starts_with("keytide: ") && !ran.err.contains("mistake"), "{ran:?}");
    }
}

#[test]
fn all_keys_are_deleted_only_when_that_is_said_twice() {
    let server = Server::start();
    let ran = server.run("keys delete --all");
    assert!(ran.code == 2 && ran.err.contains("3 keys") && ran.err.contains("--yes"), "{ran:?}");
    assert_eq!(server.last().0, Method::GET);
    assert_eq!(server.run("keys delete --all --yes").out, "3 keys deleted\n");
    server.run("keys enable --status failed");
    assert_eq!(server.last().2, json!({"all": true, "status": "failed"}));
}

#[test]
fn keys_come_from_arguments_and_stdin() {
    let server = Server::start();
    let ran = server.run_with("keys add - --username bob --weight 3", "sk-from-stdin\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "added 0123abcd (sk-o…3f9a), active\n"));
    assert_eq!(server.last().2, json!({"key": "sk-from-stdin", "username": "bob", "weight": 3}));
    for (line, stdin) in [("keys add", ""), ("keys add -", " "), ("keys add -", "a b"), ("keys add a b", "")]
    {
        let ran = server.run_with(line, stdin);
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
    }
}

#[test]
fn imports_report_lines_and_fail_when_one_is_invalid() {
    let server = Server::start();
    let (dir, path) = data_dir();
    std::fs::write(dir.path().join("keys.csv"), "key,username\na,b\n").unwrap();
    let ran = server.run(&format!("keys import {path}/keys.csv --dry-run"));
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        "LINE  RESULT    REASON         KEY\n   2  invalid   holds a space  …\n   3  existing                 sk-o…3f9a\n\
         2 keys added to ollama: 1 existing, 1 invalid, 1 blank or comment\n"
    );
    let (_, uri, body) = server.last();
    assert_eq!(uri, "/admin/api-keys/import?format=csv&dry_run=true");
    assert_eq!(body, json!("key,username\na,b\n"));
    server.run_with("keys import - --username carol", "sk-1\n# none\nsk-2\n");
    let (_, uri, body) = server.last();
    assert_eq!(uri, "/admin/api-keys/import?format=ndjson");
    assert_eq!(body.as_str().unwrap().lines().count(), 3);

    // Long enough to go in many pieces, after a question whether it would be heard at all.
    let many = "sk-0123456789abcdef0123456789abcdef\n".repeat(100_000);
    server.run_with("keys import -", &many);
    assert!(server.last().2 == json!(many));
    let refused = server.run_with("keys import - --provider nobody", &many);
    assert!(refused.err.contains("There is no provider nobody"), "{refused:?}");
    assert_eq!(server.last().0, Method::GET);
}

#[test]
fn exports_are_private_files_that_replace_nothing() {
    let server = Server::start();
    assert_eq!(server.run("keys export --format text").out, "sk-one\nsk-two\n");
    let (dir, path) = data_dir();
    let file = dir.path().join("keys.csv");
    assert_eq!(server.run(&format!("keys export --output {path}/keys.csv")).code, 0);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "sk-one\nsk-two\n");
    let ran = server.run(&format!("keys export --output {path}/keys.csv"));
    assert!(ran.code == 1 && ran.err.contains("--force"), "{ran:?}");
    assert_eq!(server.run(&format!("keys export --force --output {path}/keys.csv")).code, 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn tests_of_keys_fail_when_one_fails() {
    let server = Server::start();
    let ran = server.run("keys test --all");
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    assert!(ran.out.contains("401: the key was refused"));
    assert!(ran.out.ends_with("2 keys tested: 1 ok, 1 failed\n"));
    assert_eq!(server.last().2, json!({"all": true, "concurrency": 8}));
    assert_eq!(server.run("keys test --all --json").out.lines().count(), 3);
}

#[test]
fn a_new_token_stands_alone_on_stdout() {
    let server = Server::start();
    let ran = server.run("tokens create --name ci --model a --model b --rpm 5 --expires-at 2030-01-01");
    assert_eq!((ran.code, ran.out.as_str()), (0, "sk-the-whole-token\n"));
    assert!(!ran.err.is_empty() && !ran.err.contains("sk-the-whole-token"));
    let body = json!({
        "name": "ci", "allowed_models": ["a", "b"], "requests_per_minute": 5, "expires_at": "2030-01-01T00:00:00Z"
    });
    assert_eq!(server.last().2, body);
}

#[test]
fn users_are_meant_by_name_or_id() {
    let server = Server::start();
    let ran = server.run("users list");
    assert_eq!((ran.code, ran.err.trim()), (0, "3 users"), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "ID        NAME  STATUS    TOKENS  REQUESTS TODAY  TOKENS TODAY");
    assert_eq!(lines[1], "97665549  Ann   active         1      12 / 1,000         3,456");
    server.run("users list --search x --disabled --sort tokens_today --order desc --json");
    let asked = "/admin/users?search=x&enabled=false&sort=tokens_today&order=desc&page=1&pageSize=50";
    assert_eq!(server.last().1, asked);

    let ran =
        server.run("users create Ann --note first --rpm 60 --requests-per-day 1000 --address 10.0.0.0/8");
    assert_eq!(ran.out, format!("created Ann ({ONE})\n"));
    let body = json!({"name": "Ann", "note": "first", "requests_per_minute": 60, "requests_per_day": 1000,
        "allowed_addresses": ["10.0.0.0/8"]});
    assert_eq!(server.last().2, body);
    let ran =
        server.run("users limits ann --requests-per-minute none --tokens-per-day 5 --model a --any-address");
    assert_eq!(ran.code, 0, "{ran:?}");
    let body = json!({"requests_per_minute": null, "tokens_per_day": 5, "allowed_models": ["a"],
        "allowed_addresses": null});
    assert_eq!((server.last().0, server.last().2), (Method::PATCH, body));
    let ran = server.run("users show 97665549-effe-5e34-a023-53e3b2c34a6d");
    assert!(ran.out.contains("requests today       12 / 1,000\n"), "{}", ran.out);
    assert!(ran.out.contains("token                0123abcd of ollama, app\n"), "{}", ran.out);
    assert_eq!(server.run("users disable Ann ann").out, "Ann disabled\n");
    assert_eq!(server.last().2, json!({"enabled": false}));
    assert_eq!(server.run("users enable Ann").out, "Ann enabled\n");
    assert_eq!(server.run("users delete Ann").out, "1 user deleted\n");

    for (line, says, code) in [
        ("users show bob", "several users are called bob", 1),
        ("users show 97665549", "the ids of several users begin with 97665549", 1),
        ("users show nobody", "no user is called nobody", 1),
        ("users delete Ann 11111111-1111-4111-8111-111111111111", "no user is called", 1),
        ("users limits Ann", "no limit is named", 2),
        ("tokens limits 0123abcd", "no limit is named", 2),
    ] {
        let ran = server.run(line);
        assert!(ran.code == code && ran.err.contains(says), "{line}: {ran:?}");
        assert_ne!(server.last().0, Method::DELETE);
    }
    for bad in [
        "users create x --rpm 0",
        "users limits Ann --tokens-per-day -1",
        "users limits Ann --model a --any-model",
    ] {
        assert_eq!(server.run(bad).code, 2, "{bad}");
    }
}

#[test]
fn tokens_and_keys_belong_to_users() {
    let server = Server::start();
    server.run("tokens create --name ci --user ANN --requests-per-day 7 --tokens-per-day 8 --address ::1 --provider x");
    let body = json!({"name": "ci", "user": ONE, "requests_per_day": 7, "tokens_per_day": 8,
        "allowed_addresses": ["::1"]});
    assert_eq!((server.last().1.as_str(), server.last().2), ("/admin/tokens?provider=x", body));
    assert_eq!(server.run("tokens limits 0123abcd --user none --rpm 5").out, "token \"app\" changed\n");
    assert_eq!(server.last().2, json!({"user": null, "requests_per_minute": 5}));
    assert_eq!(server.run("tokens create --name ci --user nobody").code, 1);
    assert_eq!(server.last().0, Method::GET);
    server.run_with("keys add - --owner Ann", "sk-from-stdin\n");
    assert_eq!(server.last().2, json!({"key": "sk-from-stdin", "owner": ONE}));
    server.run_with("keys import - --owner Ann", "sk-1\nsk-2\n");
    assert_eq!(server.last().1, format!("/admin/api-keys/import?format=text&owner={ONE}"));
    assert_eq!(server.run("keys owner 0123abcd --user Ann --provider x").out, "1 key changed\n");
    assert_eq!(server.last().1, format!("/admin/api-keys/{THREE}?provider=x"));
    assert_eq!((server.last().0, server.last().2), (Method::PATCH, json!({"owner": ONE})));
    server.run("keys owner 0123abcd --user none");
    assert_eq!(server.last().2, json!({"owner": null}));
    assert_eq!(server.run("keys owner 0123abcd --user nobody").code, 1);
}

#[test]
fn events_are_listed_and_verdicts_lifted() {
    let server = Server::start();
    let listed = server.run("events list --severity 3 --type abuse --subject 97665549 --from 2026-12-01");
    let path = "/admin/events?severity=3&type=abuse&subject=97665549&from=2026-12-01T00%3A00%3A00Z&page=1&pageSize=50";
    assert_eq!(server.last().1, path);
    assert!(
        listed.out.contains("user 97665549") && listed.out.contains("frequency seen=900.0 usual=10.5"),
        "{}",
        listed.out
    );
    let json: Value = serde_json::from_str(&server.run("events list --json").out).unwrap();
    assert_eq!(json["events"][0]["severity"], 4);
    let verdicts = server.run("events verdicts").out;
    assert!(verdicts.contains("address:192.0.2.7") && verdicts.contains("throttle to 0.5"), "{verdicts}");
    let lifted = server.run("events lift address:192.0.2.7");
    assert_eq!((lifted.code, lifted.out.as_str()), (0, "address:192.0.2.7 is let in again\n"));
    assert_eq!(server.last().0, Method::DELETE);
    assert_eq!(server.run("events lift user:8").code, 1);
    assert_eq!(server.run("events list --severity 6").code, 2);
}

#[test]
fn failures_say_what_to_do() {
    let server = Server::start();
    let ran = server.run("stats --provider nobody");
    assert!(ran.code == 1 && ran.err.starts_with("keytide: There is no provider nobody"), "{ran:?}");
    assert!(ran.err.contains("; see `keytide stats`") && !ran.err.contains(".;"), "{ran:?}");
    let ran = server.run("stats --admin-token wrong-admin-token-here");
    assert!(
        ran.code == 1 && ran.err.contains("--admin-token") && !ran.err.contains("wrong-admin"),
        "{ran:?}"
    );

    let (_dir, path) = data_dir();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let ran = run(&format!("stats --data-dir {path} --url {url}"), "", &[], Sink::default());
    assert!(ran.code == 1, "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1);
    assert!(ran.err.starts_with(&format!("keytide: no keytide answers at {url}; start it")), "{ran:?}");

    for line in [
        "nonsense",
        "keys list --page 0",
        "stats --url ftp://x",
        "keys list --statu failed",
        "keys add KEY --weight 1001",
    ] {
        let ran = server.run(line);
        assert!(ran.code == 2 && ran.err.starts_with("keytide: ") && ran.out.is_empty(), "{ran:?}");
    }
    let ran = run("serve --config /nowhere/config.toml", "", &[], Sink::default());
    assert!(ran.code == 1 && ran.err.contains("/nowhere/config.toml does not exist"), "{ran:?}");
    assert_eq!(run("serve", "", &[], Sink::default()).err, "keytide: serve was called\n");
    assert_eq!(run("demo --once --keys 8", "", &[], Sink::default()).err, "keytide: demo was called\n");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let server = Server::start();
    let env = [("KEYTIDE_URL", server.url.as_str()), ("KEYTIDE_ADMIN_TOKEN", TOKEN)];
    for line in ["keys list", "stats", "completions bash", "--help"] {
        let ran = run(line, "", &env, Sink { broken: true, ..Sink::default() });
        assert_eq!((ran.code, ran.err.trim_start_matches("3 keys of ollama\n")), (0, ""), "{line}");
    }
}

#[test]
fn the_token_of_the_data_folder_is_found() {
    let server = Server::start();
    let (dir, path) = data_dir();
    std::fs::write(dir.path().join("admin-token"), format!("{TOKEN}\n")).unwrap();
    let stats = |url: &str| run(&format!("stats --data-dir {path} --url {url}"), "", &[], Sink::default());
    assert_eq!(stats(&server.url).code, 0);
    assert_eq!(stats(&server.url.replace("127.0.0.1", "localhost")).code, 0);
}

#[test]
fn a_new_admin_token_is_private_and_never_shown() {
    let (dir, path) = data_dir();
    let reset =
        |env: &[(&str, &str)]| run(&format!("admin-token reset --data-dir {path}"), "", env, Sink::default());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let ran = reset(&[]);
        assert!(ran.code == 0 && ran.err.contains("SIGHUP"), "{ran:?}");
        let file = dir.path().join("admin-token");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        assert!(token.len() >= 32 && !ran.out.contains(&token) && !ran.err.contains(&token));
        seen.push(token);
    }
    assert_ne!(seen[0], seen[1]);
    let ran = reset(&[("ADMIN_TOKEN", "0123456789abcdef")]);
    assert!(ran.code == 1 && ran.err.contains("environment variable ADMIN_TOKEN"), "{ran:?}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

fn make_store(dir: &Path) -> (tokio::runtime::Runtime, keytide::store::Store) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = keytide::store::Options::new(dir);
    let now = keytide::model::Clock::System.now();
    let (store, _) = runtime.block_on(async { keytide::store::Store::open(&options, now) }).expect("a store");
    (runtime, store)
}

#[test]
fn the_store_is_looked_after_when_nobody_uses_it() {
    let (dir, path) = data_dir();
    let data = dir.path().join("data");
    let nobody = [("KEYTIDE_SERVER__LISTEN", "127.0.0.1:9")];
    let store = |line: &str| run(&format!("store {line}"), "", &nobody, Sink::default());
    let missing = store(&format!("backup {path}/copy.redb --data-dir {path}/data"));
    assert!(missing.code == 1 && missing.err.contains("no file") && !data.exists(), "{missing:?}");

    let (runtime, open) = make_store(&data);
    for command in ["check", "compact", "size", &format!("backup {path}/copy.redb")] {
        let ran = store(&format!("{command} --data-dir {path}/data"));
        assert!(ran.code == 1 && ran.err.contains("stop it first"), "{command}: {ran:?}");
    }
    runtime.block_on(open.close()).unwrap();

    let copied = store(&format!("backup {path}/copy.redb --data-dir {path}/data"));
    assert_eq!(copied.code, 0, "{copied:?}");
    let again = store(&format!("backup {path}/copy.redb --data-dir {path}/data"));
    assert!(again.code == 1 && again.err.contains("already exists"), "{again:?}");
    let restored = store(&format!("restore {path}/copy.redb --data-dir {path}/second --json"));
    assert_eq!(serde_json::from_str::<Value>(&restored.out).unwrap()["keys"], 0);
    for command in ["check", "compact", "size"] {
        let ran = store(&format!("{command} --data-dir {path}/second --json"));
        assert!(ran.code == 0 && serde_json::from_str::<Value>(&ran.out).is_ok(), "{ran:?}");
    }
    assert!(store(&format!("check --data-dir {path}/second")).out.ends_with("sound\n"));
    // A flag that would change nothing is refused.
    for command in ["check", "compact", &format!("restore {path}/copy.redb")] {
        for flag in ["--url http://127.0.0.1:9", "--admin-token 0123456789abcdef"] {
            let ran = store(&format!("{command} {flag} --data-dir {path}/third"));
            assert!(ran.code == 2 && ran.err.contains("asks no server"), "{command} {flag}: {ran:?}");
        }
    }
}

#[test]
fn backup_and_size_go_through_a_running_server() {
    let server = Server::start();
    let ran = server.run("store size");
    assert!(ran.out.contains("/data/keytide.redb: 4.1 kB"), "{ran:?}");
    let ran = server.run("store backup /backup/x.redb");
    assert_eq!(ran.out, "/backup/x.redb written by the server, 4.1 kB\n");
    server.run("store backup x.redb");
    assert!(server.last().2["file"].as_str().unwrap().starts_with('/'));
}

#[test]
fn a_folder_that_is_named_is_not_taken_for_the_servers() {
    let server = Server::start();
    let (dir, path) = data_dir();
    let data = dir.path().join("data");
    let (runtime, open) = make_store(&data);
    let listen = server.url.trim_start_matches("http://");
    // The server wants a token that is not in this folder: it is asked, and is none of this folder's.
    let size = |token: &str| {
        let env = [("KEYTIDE_SERVER__LISTEN", listen), ("KEYTIDE_ADMIN_TOKEN", token)];
        run(&format!("store size --data-dir {path}/data"), "", &env, Sink::default())
    };
    let ran = size("wrong-admin-token-here");
    assert!(ran.code == 1 && ran.err.contains("does not accept"), "in use, perhaps by that server: {ran:?}");
    runtime.block_on(open.close()).unwrap();
    for token in ["wrong-admin-token-here", TOKEN] {
        let ran = size(token);
        assert!(ran.code == 0 && ran.out.contains(&format!("{path}/data/keytide.redb: ")), "{ran:?}");
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_so() {
    let (dir, path) = data_dir();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let upstream = Server::start();
    let env = [
        ("KEYTIDE_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYTIDE_PROVIDERS__OLLAMA__BASE_URL", &upstream.url),
        ("KEYTIDE_PROVIDERS__OPENROUTER__BASE_URL", "http://127.0.0.1:9"),
    ];
    let server = Server::start();
    let line = format!("doctor --json --data-dir {path} --url {} --admin-token {TOKEN}", server.url);
    let ran = run(&line, "", &env, Sink::default());
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!((ran.code, &report["ok"]), (1, &json!(false)));
    let result = |name: &str| {
        let all = report["checks"].as_array().unwrap();
        all.iter()
            .find(|check| check["check"] == name)
            .map(|check| check["result"].clone())
            .unwrap_or_default()
    };
    for (check, expected) in [
        ("clock", "ok"),
        ("configuration", "ok"),
        ("data folder", "failed"),
        ("store", "ok"),
        ("server", "ok"),
        ("admin token", "ok"),
        ("provider ollama", "ok"),
        ("provider openrouter", "failed"),
    ] {
        assert_eq!(result(check), expected, "{check}: {report}");
    }

    let ran = run(
        "doctor",
        "",
        &[("KEYTIDE_SERVER__LISTEN", "nowhere"), ("KEYTIDE_STORE__DIRR", "x")],
        Sink::default(),
    );
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("server.listen") && ran.out.contains("store.dirr"), "{ran:?}");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&format!("completions {shell}"), "", &[], Sink::default());
        assert!(ran.code == 0 && ran.out.contains("health") | ran.out.contains("admin-token"), "{shell}");
    }
}
