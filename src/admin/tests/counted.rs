use super::*;
use crate::{
    ledger::Refusal,
    model::{Limits, UserId, UserRecord},
    store::Change,
};

const ANNA: UserId = UserId(0xa);
const BERT: UserId = UserId(0xb);
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

impl World {
    /// One request of a user, with one attempt.
    fn used(&self, key: &str, by: UserId, kind: Kind, class: Class, at: Timestamp) {
        let request = Ending {
            model: self.books.models.learn("m"),
            kind,
            class,
            used_keys: true,
            prompt_tokens: 10,
            completion_tokens: 5,
            key: None,
            status: 200,
        };
        let millis = (kind == Kind::Success).then_some(250);
        let entry = Entry {
            caller: Caller { token: TokenId(by.0 + 100), user: Some(by) },
            attempt: Some(Attempt { key: KeyId::derive("alpha", key), kind, millis }),
            request: Some(request),
        };
        self.books.record(0, &entry, at);
    }
}

fn ago(ms: i64) -> Timestamp {
    Timestamp(START.0 - ms)
}

#[tokio::test]
async fn a_users_day_has_the_documented_shape() {
    let world = World::new();
    let user = UserRecord {
        name: "Anna".into(),
        note: None,
        created_at: START,
        enabled: true,
        limits: Limits::default(),
    };
    let path = format!("/admin/users/{ANNA}/days");
    assert_eq!(world.get(&path).await.error(), (404, "unknown_user".to_owned()));
    world.store.change(vec![Change::PutUser { id: ANNA, record: user }]).await.unwrap();
    assert_eq!(world.get(&path).await.json()["days"], json!([]), "known, and idle");

    world.used("sk-1", ANNA, Kind::Success, Class::Conversation, ago(DAY));
    world.used("sk-1", ANNA, Kind::Success, Class::Conversation, ago(3));
    world.used("sk-2", ANNA, Kind::Failure, Class::Call, ago(2));
    world.used("sk-2", ANNA, Kind::Other, Class::Upload, ago(1));
    world.used("sk-3", BERT, Kind::Success, Class::Upload, START);
    let caller = Caller { token: TokenId(1), user: Some(ANNA) };
    world.books.note_listing(0, caller, START);
    for (what, times) in [(Refusal::RateLimit, 3), (Refusal::Auth, 2), (Refusal::Server, 1)] {
        (0..times).for_each(|_| world.books.note_refusal(0, ANNA, what, START));
    }
    let reply = world.get(&path).await.json();
    let short = |key: &str| KeyId::derive("alpha", key).short();
    let mut keys = [short("sk-1"), short("sk-2")];
    keys.sort();
    assert_eq!(
        (&reply["user"], &reply["time_zone"], &reply["from"], &reply["to"], &reply["months"]),
        (&json!(ANNA), &json!("UTC"), &json!("2026-12-17"), &json!("2027-01-15"), &json!([]))
    );
    assert_eq!(reply["days"].as_array().unwrap().len(), 2);
    assert_eq!(reply["days"][0]["date"], "2027-01-14");
    assert_eq!(reply["days"][0]["log_data"]["conversation_count"], 1);
    assert_eq!(
        reply["days"][1],
        json!({
            "date": "2027-01-15",
            "log_data": {
                "conversation_count": 1,
                "api_call_count": 2,
                "upload_count": 1,
                "shared_key_usage": {
                    "total_calls": 3,
                    "successful_calls": 1,
                    "failed_calls": 1,
                    "other_calls": 1,
                    "keys_used": keys,
                    "keys_used_more": false,
                    "last_key_used": short("sk-2"),
                    "last_usage_at": ago(1),
                    "prompt_tokens": 30,
                    "completion_tokens": 15,
                },
                "error_stats": {"rate_limit_hits": 3, "auth_failures": 2, "server_errors": 1},
            },
        })
    );
    let only = world.get(&format!("{path}?from=2027-01-14&to=2027-01-14")).await.json();
    assert_eq!(only["days"].as_array().unwrap().len(), 1);
    // One who is not (or no more) there has their days all the same.
    let bert = world.get(&format!("/admin/users/{BERT}/days")).await.json();
    assert_eq!(bert["days"][0]["log_data"]["upload_count"], 1);
    for (query, param) in
        [("from=2027-02-01", "from"), ("from=yesterday", "from"), ("to=20779", "to"), ("since=x", "since")]
    {
        let reply = world.get(&format!("{path}?{query}")).await;
        assert_eq!(reply.error(), (400, "invalid_query".to_owned()), "{query}");
        assert_eq!(reply.json()["error"]["param"], param, "{query}");
    }
    assert_eq!(
        world.get(&format!("{path}?from=1970-01-01&to=9999-12-31")).await.json()["days"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let world = world.restart().await;
    assert_eq!(world.get(&path).await.json(), reply);
}

#[tokio::test]
async fn days_are_of_the_zone() {
    let world = World::new();
    world.state.ledger.set_zone(crate::model::Zone::named("Asia/Shanghai").unwrap());
    // 15:59:59 and 16:00 of UTC.
    let midnight = Timestamp(START.0 + 8 * HOUR);
    world.clock.advance(std::time::Duration::from_secs(9 * 3600));
    for at in [Timestamp(midnight.0 - 1), midnight, midnight] {
        world.used("sk-1", ANNA, Kind::Success, Class::Conversation, at);
    }
    let days = world.get(&format!("/admin/users/{ANNA}/days")).await.json();
    assert_eq!((&days["time_zone"], &days["to"]), (&json!("Asia/Shanghai"), &json!("2027-01-16")));
    let counts: Vec<_> = days["days"]
        .as_array()
        .unwrap()
        .iter()
        .map(|day| day["log_data"]["conversation_count"].clone())
        .collect();
    assert_eq!(counts, [1, 2]);
}

#[tokio::test]
async fn a_shared_keys_figures_are_moving_windows() {
    let world = World::new();
    for key in ["sk-0000-used", "sk-0000-idle"] {
        world.add(key).await;
    }
    let key = "sk-0000-used";
    // Eight days ago it is out of the window, six days ago in it.
    for (days, kind, by) in [
        (8, Kind::Success, ANNA),
        (7, Kind::Failure, ANNA),
        (6, Kind::Success, ANNA),
        (1, Kind::Failure, BERT),
        (0, Kind::Success, ANNA),
        (0, Kind::Other, ANNA),
        (0, Kind::Success, BERT),
    ] {
        world.used(key, by, kind, Class::Conversation, ago(days * DAY));
    }
    // A token without a user is somebody, too.
    world.count(key, Kind::Success, "m", START);
    let reply = world.get("/admin/shared-keys?sort=last_used&order=desc&pageSize=1").await.json();
    assert_eq!(
        (&reply["total"], &reply["pages"], &reply["time_zone"]),
        (&json!(2), &json!(2), &json!("UTC"))
    );
    let shared = &reply["keys"][0];
    assert_eq!(
        (&shared["user_id"], &shared["is_active"], &shared["status"]),
        (&Value::Null, &json!(true), &json!("active"))
    );
    assert!(!shared["key"].as_str().unwrap().contains("0000"));
    assert_eq!(
        shared["usage_stats"],
        json!({
            "total_usage_count": 8,
            "usage_count_today": 4,
            "last_used_at": START,
            "active_users_today": 3,
            "success_rate_7d": 0.6667,
            "avg_daily_usage_7d": 0.86,
        })
    );
    let second = world.get("/admin/shared-keys?sort=last_used&order=desc&pageSize=1&page=2").await.json();
    assert_eq!(
        second["keys"][0]["usage_stats"],
        json!({"total_usage_count": 0, "usage_count_today": 0, "last_used_at": null, "active_users_today": 0,
            "success_rate_7d": 0.0, "avg_daily_usage_7d": 0.0})
    );
    // Midnight passes for idle keys as well.
    world.clock.advance(std::time::Duration::from_secs(24 * 3600));
    let stats =
        world.get("/admin/shared-keys?sort=last_used&order=desc").await.json()["keys"][0]["usage_stats"]
            .clone();
    assert_eq!((&stats["usage_count_today"], &stats["active_users_today"]), (&json!(0), &json!(0)));
    assert_eq!((&stats["success_rate_7d"], &stats["avg_daily_usage_7d"]), (&json!(0.6), &json!(0.71)));
}

#[tokio::test]
async fn a_keys_hours_count_users_once() {
    let world = World::new();
    let id = world.add("sk-key-1").await;
    let start = START.0 / HOUR * HOUR;
    for (at, by, kind) in [
        (ago(49 * HOUR), ANNA, Kind::Success),
        (ago(HOUR), ANNA, Kind::Success),
        (ago(HOUR), ANNA, Kind::Success),
        (ago(HOUR), BERT, Kind::Failure),
        (START, BERT, Kind::Other),
    ] {
        world.used("sk-key-1", by, kind, Class::Conversation, at);
    }
    let reply = world.get(&format!("/admin/keys/{id}/hours")).await.json();
    assert_eq!(
        reply["hours"],
        json!([
            {"hour_start": Timestamp(start - HOUR), "total_requests": 3, "successful_requests": 2, "failed_requests": 1,
                "unique_users": 2, "avg_response_time": 250},
            {"hour_start": Timestamp(start), "total_requests": 1, "successful_requests": 0, "failed_requests": 0,
                "unique_users": 1, "avg_response_time": null},
        ])
    );
    let nobody = uuid::Uuid::nil();
    assert_eq!(
        world.get(&format!("/admin/keys/{nobody}/hours")).await.error(),
        (404, "unknown_key".to_owned())
    );
    assert_eq!(world.get("/admin/keys/x/hours").await.error(), (400, "invalid_id".to_owned()));
    assert_eq!(world.get(&format!("/admin/keys/{id}/hours?provider=beta")).await.error().0, 404);
}
