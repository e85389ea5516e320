//! What a worker's KV holds, brought to a running keytide.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Ran;
use crate::process::{Home, Process};

const KEYS: [&str; 3] = ["sk-kv-secret-key-one", "sk-kv-secret-key-two", "sk-kv-secret-key-three"];
const TOKEN: &str = "sk-kv-secret-token-0123456789";

fn hash(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn migrate(files: &[&std::path::Path], more: &[&str], home: &Home, url: &str) -> Ran {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_keytide"))
        .env_clear()
        .args(["migrate", "kv"])
        .args(files)
        .args(more)
        .args(["--url", url, "--data-dir"])
        .arg(home.data())
        .current_dir(home.dir.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran = Ran { code: done.status.code().unwrap(), out: text(&done.stdout), err: text(&done.stderr) };
    assert!(!format!("{}{}", ran.out, ran.err).contains("secret"), "{}{}", ran.out, ran.err);
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tokens_of_a_kv_come_over() {
    // One for the process: whoever comes first.
    let _others_may_have = rustls::crypto::ring::default_provider().install_default();
    let home = Home::new("[server]\nlisten = \"127.0.0.1:0\"\n");
    let (_process, url) = Process::start(&home).await;
    let file = |name: &str, value: &Value| {
        let path = home.dir.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let (until, past) = (4_102_444_800_i64, 1_600_000_000_000_i64);
    let names = [
        "api_keys_list".to_owned(),
        format!("key_metadata:{}", hash(KEYS[0])),
        format!("disabled:{}", hash(KEYS[1])),
        format!("client_token:{TOKEN}"),
        "client_token:sk-kv-secret-token-expired-99".to_owned(),
        "openrouter:client_token:sk-kv-secret-token-lost-0000".to_owned(),
        "openrouter:api_keys_list".to_owned(),
        "global_stats".to_owned(),
    ];
    let listing: Vec<Value> = names
        .iter()
        .map(|name| {
            if name.starts_with("disabled") {
                json!({"name": name, "expiration": until})
            } else {
                json!({"name": name})
            }
        })
        .collect();
    let listing = file("list.json", &json!(listing));
    // The listing alone says what is missing, tokens masked.
    let alone = migrate(&[&listing], &["--json"], &home, &url);
    assert_eq!(alone.code, 1);
    let alone: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!(alone["missing"].as_array().unwrap().len(), 7, "{alone}");

    let metadata = json!({"username": "ann@example.com", "createdAt": "2024-01-01T00:00:00Z", "expiresAt": "2099-01-01T00:00:00.000Z"});
    let values = file(
        "values.json",
        &json!({
            "api_keys_list": json!(KEYS).to_string(),
            names[1].clone(): {"value": metadata.to_string(), "metadata": null},
            names[2].clone(): "manual",
            names[3].clone(): json!({"token": TOKEN, "name": "app", "createdAt": past, "expiresAt": null, "requestCount": 3}).to_string(),
            names[4].clone(): json!({"name": "old", "expiresAt": past}).to_string(),
            names[5].clone(): null,
            names[6].clone(): "not a list",
        }),
    );
    let files = [listing.as_path(), values.as_path()];
    let dry = migrate(&files, &[], &home, &url);
    for expected in [
        "3 keys would be added to ollama: 0 existing, 0 invalid, 1 of the new ones disabled",
        "1 token would be added to ollama: 0 existing, 1 expired",
        "  openrouter:client_token:sk-k…0000",
        "  openrouter:api_keys_list",
        "1 other name is for statistics",
        "nothing was changed: --run does it",
    ] {
        assert!(dry.out.contains(expected), "{expected}: {}{}", dry.out, dry.err);
    }
    let token = std::fs::read_to_string(home.data().join("admin-token")).unwrap();
    let http = reqwest::Client::new();
    let keys = || async {
        let answer =
            http.get(format!("{url}/admin/api-keys")).bearer_auth(token.trim()).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["keys"].as_array().unwrap().clone()
    };
    assert!(keys().await.is_empty(), "a dry run changes nothing");

    for (added, existing) in [(3, 0), (0, 3)] {
        let ran = migrate(&files, &["--run", "--json"], &home, &url);
        assert_eq!(ran.code, 1, "a value is missing still");
        let done: Value = serde_json::from_str(&ran.out).unwrap();
        let ollama = &done["providers"][0];
        assert_eq!(
            (&ollama["keys"]["added"], &ollama["keys"]["existing"]),
            (&json!(added), &json!(existing)),
            "{done}"
        );
        assert_eq!(ollama["tokens"]["added"], u64::from(added > 0), "{done}");
    }
    let found = keys().await;
    let of = |field: &str, value: &Value| found.iter().filter(|key| &key[field] == value).count();
    assert_eq!(
        (found.len(), of("username", &json!("ann@example.com")), of("status", &json!("disabled"))),
        (3, 1, 1),
        "{found:#?}"
    );
    assert_eq!(of("disabled_until", &json!("2100-01-01T00:00:00Z")), 1, "{found:#?}");
    // Clients go on with the token that they have.
    let models = http.get(format!("{url}/v1/models")).bearer_auth(TOKEN).send().await.unwrap();
    assert_ne!(models.status(), 401);

    let broken = home.dir.path().join("broken.json");
    std::fs::write(&broken, "Success!\n{}").unwrap();
    migrate(&[&broken], &[], &home, &url).fails(1, "it is no JSON");
    migrate(&[&home.dir.path().join("none.json")], &[], &home, &url).fails(1, "cannot read");
}
