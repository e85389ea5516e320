//! Every page in both languages, both themes and on a phone, for people to look at: `scripts/screenshots` runs it.

use std::{fs, path::Path, time::Duration};

use keytide::model::{Clock, Counts, Delta, Hour, KeyId, KeyUsage, ProviderDelta, Usage};
use serde_json::json;

use super::{
    World,
    browser::{Browser, skipped},
    hub,
};
use crate::{
    harness::{chat, chat_with},
    pg::{Cluster, Options},
};

const PAGES: [(&str, &str); 13] = [
    ("overview", "/"),
    ("keys", "/keys"),
    ("keys-failed", "/keys?status=failed"),
    ("keys-add", "/keys/add"),
    ("tokens", "/tokens"),
    ("users", "/users"),
    ("events", "/events"),
    ("storage", "/storage"),
    ("playground", "/playground"),
    ("settings", "/settings"),
    ("stats", "/stats"),
    ("api-docs", "/api-docs"),
    ("not-there", "/keys/nothing"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes pictures for people: scripts/screenshots"]
async fn pictures_of_every_page() {
    let folder = std::env::var("SCREENSHOTS").expect("scripts/screenshots sets SCREENSHOTS");
    fs::create_dir_all(&folder).unwrap();
    let kinds = ["good", "good", "dead", "good", "quota", "flaky", "good", "limited", "good"];
    let keys: Vec<String> = (0..60).map(|n| format!("{}-{n:024x}", kinds[n % kinds.len()])).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    // With a hub, where Postgres is installed: the page of storage and sync has most to show then.
    let cluster = (!skipped(&["HUB_TESTS"])).then(|| Cluster::start(Options::default()));
    let hub = cluster.as_ref().map(hub::settings);
    let world = World::configured(&hub.unwrap_or_default(), &keys, history(&keys)).await;
    let pages = filled(&world).await;
    for (size, device) in [((1280, 900), "desk"), ((390, 844), "phone")] {
        let browser = Browser::start(&world, size).await;
        for lang in ["en", "zh"] {
            for theme in ["light", "dark"] {
                browser.prefer(lang, theme).await;
                browser.go("/login").await;
                browser.picture(Path::new(&folder), &format!("login-{device}-{lang}-{theme}")).await;
            }
        }
        browser.prefer("en", "light").await;
        browser.go("/login").await;
        browser.sign_in(&world).await;
        for lang in ["en", "zh"] {
            for theme in ["light", "dark"] {
                browser.prefer(lang, theme).await;
                for (name, path) in &pages {
                    browser.go(path).await;
                    browser.picture(Path::new(&folder), &format!("{name}-{device}-{lang}-{theme}")).await;
                    browser.fits().await;
                }
            }
        }
    }
}

/// All pages of a pool as it is after a while, by name and path.
pub async fn filled(world: &World) -> Vec<(&'static str, String)> {
    let (key, user, token) = fill(world).await;
    let own = [
        ("key", format!("/keys/{key}")),
        ("user", format!("/users/{user}")),
        ("token", format!("/tokens/{token}")),
    ];
    PAGES.map(|(name, path)| (name, path.to_owned())).into_iter().chain(own).collect()
}

/// A month as pools have them: days and nights, weekends, an hour in which the provider failed, an hour in which it rained.
fn history(keys: &[&str]) -> Delta {
    let now = Hour::of(Clock::System.now());
    let mut of = ProviderDelta::default();
    for ago in 1..29 * 24_u32 {
        let hour = Hour(now.0 - ago);
        let (of_day, day) = (f64::from(hour.0 % 24), hour.0 / 24);
        let daily = 1.0 + ((of_day - 8.0) / 24.0 * std::f64::consts::TAU).sin();
        let weekly = if matches!(day % 7, 2 | 3) { 0.35 } else { 1.0 };
        let grown = 0.4 + 0.6 * f64::from(29 * 24 - ago) / (29.0 * 24.0);
        let all = 900.0 * daily * weekly * grown + f64::from(hour.0 * 7919 % 97);
        for (model, part) in [
            ("gpt-oss:120b", 0.55),
            ("qwen3-coder:480b", 0.25),
            ("deepseek-v3.1:671b", 0.15),
            ("(other)", 0.05),
        ] {
            let requests = (all * part) as u64;
            let failure = if ago == 9 { requests / 4 } else { requests / 180 };
            let other = requests / 90;
            let counts = Counts { success: requests - failure - other, failure, other };
            let (prompt_tokens, completion_tokens) = (requests * 1130, requests * 412);
            let usage = Usage { counts, prompt_tokens, completion_tokens, last_used: Some(hour.start()) };
            of.hours.insert((hour, model.into()), usage);
            let key = KeyId::derive("ollama", keys[(hour.0 as usize * 31 + requests as usize) % keys.len()]);
            of.keys.entry(key).or_default().add(&KeyUsage {
                counts,
                last_used: Some(hour.start()),
                ..KeyUsage::default()
            });
        }
    }
    Delta { providers: [("ollama".into(), of)].into(), ..Delta::default() }
}

/// Traffic, people and their tokens, as a pool has them after a while; returns a key, a user and a token.
async fn fill(world: &World) -> (String, String, String) {
    let keytide = &world.keytide;
    let text = |value: &serde_json::Value| value["id"].as_str().unwrap().to_owned();
    let mut last = (String::new(), String::new());
    for (name, note, limit) in [
        ("Ann Example", "Research", Some(500)),
        ("王小明", "数据团队", Some(20)),
        ("<script>alert(\"x\")</script>", "\u{202e}right to left", None),
    ] {
        let user =
            json!({"name": name, "note": note, "requests_per_day": limit, "tokens_per_day": 2_000_000});
        let user = text(&keytide.admin("POST", "/admin/users", &user).await);
        let token = json!({"name": format!("{name} · laptop"), "user": user, "requests_per_minute": 120,
            "allowed_models": ["demo-*"]});
        let made = keytide.admin("POST", "/admin/tokens", &token).await;
        for n in 0..25 {
            let ask = chat_with(&format!("Tell me of tide {n}"), n % 2 == 0);
            let answer = keytide.post_as(made["token"].as_str().unwrap(), "/v1/chat/completions", &ask).await;
            drop(answer.bytes().await);
        }
        last = (user, text(&made));
    }
    for _ in 0..120 {
        drop(keytide.post("/v1/chat/completions", &chat(false)).await.bytes().await);
    }
    let keys = keytide.client.get(world.url("/admin/api-keys?sort=total_requests&order=desc"));
    let keys: serde_json::Value =
        keys.bearer_auth(world.admin_token()).send().await.unwrap().json().await.unwrap();
    for _ in 0..40 {
        drop(
            keytide
                .client
                .get(world.url("/admin/stats"))
                .bearer_auth("not-the-admin-token")
                .timeout(Duration::from_millis(50))
                .send()
                .await,
        );
    }
    (text(&keys["keys"][0]), last.0, last.1)
}
