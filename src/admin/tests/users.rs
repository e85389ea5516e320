use std::time::Duration;

use super::*;
use crate::{
    guard,
    model::{Limits, UserId, UserRecord},
};

async fn add(world: &World, body: Value) -> Value {
    let reply = world.json("POST", "/admin/users", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json()
}

fn path(user: &Value) -> String {
    format!("/admin/users/{}", user["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_user_is_made_changed_and_deleted() {
    let world = World::new();
    let body = json!({"name": " Ann ", "note": "first", "requests_per_minute": 60, "requests_per_day": 1000,
        "tokens_per_day": 1_000_000_000_000u64, "allowed_models": ["a", "a"], "allowed_addresses": ["::ffff:10.0.0.1"]});
    let ann = add(&world, body).await;
    assert_eq!((&ann["name"], &ann["enabled"], &ann["note"]), (&json!("Ann"), &json!(true), &json!("first")));
    assert_eq!((&ann["allowed_models"], &ann["allowed_addresses"]), (&json!(["a"]), &json!(["10.0.0.1/32"])));
    assert_eq!((&ann["requests_today"], &ann["day_ends_at"]), (&json!(0), &json!("2027-01-16T00:00:00Z")));
    let token =
        world.json("POST", "/admin/tokens?provider=beta", json!({"name": "app", "user": ann["id"]})).await;
    let seen = world.get(&path(&ann)).await.json();
    assert_eq!(seen["tokens"], json!([{"provider": "beta", "id": token.json()["id"], "name": "app"}]));

    let edit = json!({"note": null, "tokens_per_day": null, "enabled": false, "allowed_models": null});
    let edited = world.json("PATCH", &path(&ann), edit).await.json();
    assert_eq!((&edited["note"], &edited["tokens_per_day"]), (&Value::Null, &Value::Null));
    assert_eq!((&edited["requests_per_day"], &edited["enabled"]), (&json!(1000), &json!(false)));
    let world = world.restart().await;
    assert_eq!(world.get(&path(&ann)).await.json(), edited, "it was durable");
    let text = token.json()["token"].as_str().unwrap().to_owned();
    let find = |world: &World| world.state.provider(Some("beta")).unwrap().tokens.find(&text, START).unwrap();
    assert!(world.state.users.caller(find(&world)).is_err(), "disabled");
    world.json("PATCH", &path(&ann), json!({"enabled": true})).await;
    assert!(world.state.users.caller(find(&world)).is_ok());

    assert_eq!(world.call("DELETE", &path(&ann), "").await.json(), json!({"deleted": 1}));
    assert_eq!(world.call("DELETE", &path(&ann), "").await.error(), (404, "unknown_user".to_owned()));
    assert!(world.state.users.caller(find(&world)).is_err(), "the token stays, and opens nothing");
    let world = world.restart().await;
    assert_eq!(world.get(&path(&ann)).await.error(), (404, "unknown_user".to_owned()));
    assert_eq!(world.get("/admin/users").await.json()["total"], 0);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_can() {
    let world = World::new();
    let ann = add(&world, json!({"name": "Ann"})).await;
    let bob = add(&world, json!({"name": "Bób"})).await;
    for (body, says) in [
        (json!({"name": ""}), "1 to 128 characters"),
        (json!({"name": "x".repeat(129)}), "1 to 128 characters"),
        (json!({"name": "a\u{7}b"}), "1 to 128 characters"),
        (json!({"name": "x", "note": "x".repeat(257)}), "longer than 256"),
        (json!({"name": "x", "requests_per_minute": 0}), "from 1 to 1000000,"),
        (json!({"name": "x", "requests_per_day": -5}), "from 1 to 1000000000,"),
        (json!({"name": "x", "tokens_per_day": 1_000_000_000_001u64}), "from 1 to 1000000000000,"),
        (json!({"name": "x", "allowed_addresses": ["1.2.3.4", "nonsense"]}), "the 2nd of allowed_addresses"),
    ] {
        for (method, path) in [("POST", "/admin/users".to_owned()), ("PATCH", path(&ann))] {
            let reply = world.json(method, &path, body.clone()).await;
            assert_eq!(reply.error(), (400, "invalid_user_settings".to_owned()), "{body}");
            assert!(reply.text.contains(says), "{}", reply.text);
        }
    }
    for body in [
        json!({}),
        json!({"name": 1}),
        json!({"name": "x", "colour": 1}),
        json!({"name": "x", "enabled": "no"}),
    ] {
        assert_eq!(world.json("POST", "/admin/users", body).await.error(), (400, "invalid_body".to_owned()));
    }
    for name in ["Ann", " ann ", "BÓB"] {
        let reply = world.json("POST", "/admin/users", json!({"name": name})).await;
        assert_eq!(reply.error(), (409, "user_exists".to_owned()), "{name}");
    }
    let reply = world.json("PATCH", &path(&ann), json!({"name": "bób"})).await;
    assert_eq!(reply.error(), (409, "user_exists".to_owned()));
    assert!(reply.text.contains(bob["id"].as_str().unwrap()));
    assert_eq!(world.json("PATCH", &path(&ann), json!({"name": "ANN"})).await.json()["name"], "ANN");
    let nobody = format!("/admin/users/{}", uuid::Uuid::nil());
    assert_eq!(world.json("PATCH", &nobody, json!({})).await.error(), (404, "unknown_user".to_owned()));
    assert_eq!(world.get("/admin/users/ann").await.error(), (400, "invalid_id".to_owned()));
    assert_eq!(world.get("/admin/users").await.json()["total"], 2);
}

#[tokio::test]
async fn users_are_found_ordered_and_cut() {
    let world = World::new();
    for n in 0..12 {
        let body = json!({"name": format!("user {:02}", 11 - n), "enabled": n % 3 != 0});
        add(&world, body).await;
        world.clock.advance(Duration::from_secs(1));
    }
    let names = async |query: &str| -> Vec<String> {
        let json = world.get(&format!("/admin/users?{query}")).await.json();
        json["users"]
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("pageSize=2").await, ["user 11", "user 10"]);
    assert_eq!(names("pageSize=2&page=2&sort=name").await, ["user 02", "user 03"]);
    assert_eq!(names("pageSize=1&sort=created_at&order=desc").await, ["user 00"]);
    assert_eq!(names("enabled=false&sort=name").await, ["user 02", "user 05", "user 08", "user 11"]);
    assert_eq!(names("search=USER%201").await, ["user 11", "user 10"]);
    let page = world.get("/admin/users?pageSize=5&page=3").await.json();
    assert_eq!((&page["total"], &page["pages"], &page["page"]), (&json!(12), &json!(3), &json!(3)));
    let id = page["users"][0]["id"].as_str().unwrap();
    assert!(names(&format!("search={}", &id[..8])).await.contains(&"user 01".to_owned()));
    let user: UserId = id.parse().unwrap();
    let day = world.state.users.zone().day_of(START);
    world.meters.shift(user.0, day, guard::Used { requests: 3, tokens: 9 }, START);
    assert_eq!(names("sort=requests_today&order=desc&pageSize=1").await, ["user 01"]);
    assert_eq!(
        world.get("/admin/users?sort=tokens_today&order=desc").await.json()["users"][0]["tokens_today"],
        9
    );
    for bad in ["page=0", "pageSize=1001", "sort=colour", "enabled=maybe", "provider=alpha"] {
        let reply = world.get(&format!("/admin/users?{bad}")).await;
        assert_eq!(reply.error(), (400, "invalid_query".to_owned()), "{bad}");
    }
}

#[tokio::test]
async fn there_is_an_end_to_users() {
    let world = World::new();
    for n in 0..UserRecord::MAX_COUNT {
        let record = UserRecord {
            name: n.to_string().into(),
            note: None,
            created_at: START,
            enabled: true,
            limits: Limits::default(),
        };
        world.state.users.insert(UserId(n as u128), record);
    }
    let reply = world.json("POST", "/admin/users", json!({"name": "x"})).await;
    assert_eq!(reply.error(), (409, "too_many_users".to_owned()));
    let page = world.get("/admin/users?search=99999&pageSize=1").await.json();
    assert_eq!(page["total"], 1);
}

#[tokio::test]
async fn keys_have_owners() {
    let world = World::new();
    let (ann, nobody) =
        (add(&world, json!({"name": "Ann"})).await["id"].clone(), uuid::Uuid::nil().to_string());
    let body = json!({"key": "sk-alpha-0123", "owner": ann});
    let key = world.json("POST", "/admin/api-keys", body).await.json();
    assert_eq!(key["owner"], ann);
    let at = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    assert_eq!(world.json("PATCH", &at, json!({"owner": null})).await.json()["owner"], Value::Null);
    assert_eq!(world.json("PATCH", &at, json!({"owner": ann})).await.json()["owner"], ann);
    assert_eq!(
        world.json("PATCH", &at, json!({"owner": nobody})).await.error(),
        (400, "unknown_user".to_owned())
    );
    let body = json!({"key": "sk-alpha-4567", "owner": nobody});
    assert_eq!(world.json("POST", "/admin/api-keys", body).await.error(), (400, "unknown_user".to_owned()));

    for format in ["csv", "ndjson"] {
        let file = world.call("POST", &format!("/admin/api-keys/export?format={format}"), "").await.text;
        world.call("DELETE", &at, "").await;
        let import = format!("/admin/api-keys/import?format={format}");
        let file = format!(
            "{file}{}\n",
            match format {
                "csv" => format!("sk-alpha-89ab,,,,,{nobody}\nsk-alpha-cdef,,,,,Ann"),
                _ => format!(
                    "{{\"key\":\"sk-alpha-89ab\",\"owner\":\"{nobody}\"}}\n{{\"key\":\"sk-alpha-cdef\",\"owner\":\"Ann\"}}"
                ),
            }
        );
        let report = world.call("POST", &import, file).await.json();
        assert_eq!((&report["added"], &report["invalid"]), (&json!(1), &json!(2)), "{report}");
        assert!(
            report["invalid_lines"][0]["reason"].as_str().unwrap().contains("is no user here"),
            "{report}"
        );
        assert_eq!(world.get(&at).await.json()["owner"], ann, "{format}");
    }
    let import = |owner: &str| format!("/admin/api-keys/import?format=text&owner={owner}");
    let refused = world.call("POST", &import(&nobody), "sk-alpha-more").await;
    assert_eq!(refused.error(), (400, "unknown_user".to_owned()));
    let report = world.call("POST", &import(ann.as_str().unwrap()), "sk-alpha-more").await.json();
    assert_eq!(report["added"], 1);
    let world = world.restart().await;
    assert_eq!(world.get(&at).await.json()["owner"], ann);
    let more = crate::model::KeyId::derive("alpha", "sk-alpha-more");
    assert_eq!(world.get(&format!("/admin/api-keys/{more}")).await.json()["owner"], ann);
}
