use std::time::Duration;

use super::*;

const KEY: &str = "sk-alpha-0123456789abcdef";

#[tokio::test]
async fn a_key_is_added_shown_edited_and_deleted() {
    let world = World::new();
    let body =
        json!({"key": KEY, "username": "Ann", "note": "first", "expires_at": "2040-01-01", "weight": 7});
    let reply = world.json("POST", "/admin/api-keys?provider=alpha", body.clone()).await;
    assert_eq!(reply.status, 201);
    assert!(!reply.text.contains(KEY));
    let key = reply.json();
    assert_eq!(
        (&key["key"], &key["status"], &key["reason"]),
        (&json!("sk-a…cdef"), &json!("active"), &Value::Null)
    );
    assert_eq!((&key["weight"], &key["expires_at"]), (&json!(7), &json!("2040-01-01T00:00:00Z")));
    assert_eq!(key["stats"]["total_requests"], 0);
    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.json(), key);
    assert_eq!(world.json("POST", "/admin/api-keys", body).await.error(), (409, "key_exists".to_owned()));

    let edited = world.json("PATCH", &path, json!({"note": null, "weight": 9})).await.json();
    assert_eq!(
        (&edited["note"], &edited["weight"], &edited["username"]),
        (&Value::Null, &json!(9), &json!("Ann"))
    );
    let world = world.restart().await;
    assert_eq!(world.get(&path).await.json(), edited, "it was durable");

    assert_eq!(world.call("DELETE", &path, "").await.json(), json!({"deleted": 1}));
    assert_eq!(world.call("DELETE", &path, "").await.error(), (404, "unknown_key".to_owned()));
    assert_eq!(world.get(&path).await.error(), (404, "unknown_key".to_owned()));
    assert!(world.restart().await.pool("alpha").counts(START).total == 0);
}

#[tokio::test]
async fn bad_keys_are_refused_with_the_reason() {
    let world = World::new();
    let post = "/admin/api-keys";
    for (path, body, status, code) in [
        (post, json!({"key": ""}), 400, "invalid_key"),
        (post, json!({"key": "two words here"}), 400, "invalid_key"),
        (post, json!({"key": KEY, "weight": 0}), 400, "invalid_body"),
        (post, json!({"key": KEY, "note": "x".repeat(300)}), 400, "invalid_body"),
        (post, json!({"key": KEY, "colour": 1}), 400, "invalid_body"),
        (post, json!({"key": 5}), 400, "invalid_body"),
        (post, json!({"key": "sk-be-0123456789"}), 400, "wrong_provider"),
        (post, json!({"key": KEY, "provider": "beta"}), 400, "wrong_form"),
        (post, json!({"key": KEY, "provider": "gamma"}), 404, "unknown_provider"),
        ("/admin/api-keys?provider=gamma", json!({"key": KEY}), 404, "unknown_provider"),
        ("/admin/api-keys?provider=alpha", json!({"key": KEY, "provider": "beta"}), 400, "provider_mismatch"),
        ("/admin/api-keys?colour=red", json!({"key": KEY}), 400, "invalid_query"),
    ] {
        let reply = world.json("POST", path, body.clone()).await;
        assert_eq!(reply.error(), (status, code.to_owned()), "{body}");
        assert!(!reply.text.contains(KEY), "{}", reply.text);
    }
    assert_eq!(world.call("POST", post, "{\"key\":").await.error(), (400, "invalid_json".to_owned()));
    assert_eq!(world.call("POST", post, "").await.error(), (400, "empty_body".to_owned()));
    let large = format!("{{\"key\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(world.call("POST", post, large).await.error(), (413, "body_too_large".to_owned()));
    assert_eq!(world.get("/admin/api-keys/not-a-uuid").await.error(), (400, "invalid_id".to_owned()));
    assert_eq!(world.pool("alpha").counts(START).total, 0);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_cut() {
    let world = World::new();
    for n in 0..30 {
        let body = json!({"key": format!("sk-alpha-{n:04}"), "username": format!("User-{:02}", 29 - n),
            "note": if n % 2 == 0 { "even" } else { "odd" }});
        assert_eq!(world.json("POST", "/admin/api-keys", body).await.status, 201);
        world.clock.advance(Duration::from_secs(1));
    }
    let names = async |query: &str| -> Vec<String> {
        let json = world.get(&format!("/admin/api-keys?{query}")).await.json();
        json["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["username"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = world.get("/admin/api-keys?pageSize=7&page=5").await.json();
    assert_eq!((&all["total"], &all["pages"], &all["pageSize"]), (&json!(30), &json!(5), &json!(7)));
    assert_eq!(all["keys"].as_array().unwrap().len(), 2);
    assert_eq!(names("pageSize=2").await, ["User-29", "User-28"]);
    assert_eq!(names("pageSize=2&sort=username").await, ["User-00", "User-01"]);
    assert_eq!(names("pageSize=2&page=2&sort=username&order=desc").await, ["User-27", "User-26"]);
    assert_eq!(names("search=uSeR-1").await.len(), 10);
    assert_eq!(names("search=EVEN").await.len(), 15);
    assert_eq!(names("search=sk-alpha-0003").await, ["User-26"]);
    assert!(names("search=alpha").await.is_empty(), "parts of keys find nothing");
    assert!(names("page=99").await.is_empty());
    let id = KeyId::derive("alpha", "sk-alpha-0003").to_string();
    assert!(names(&format!("search={}", &id[..8])).await.contains(&"User-26".to_owned()));

    world.count("sk-alpha-0005", Kind::Success, "m", START);
    world.count("sk-alpha-0005", Kind::Failure, "m", START);
    world.count("sk-alpha-0006", Kind::Success, "m", START);
    assert_eq!(names("sort=total_requests&order=desc&pageSize=2").await, ["User-24", "User-23"]);
    assert_eq!(names("sort=success_rate&order=desc&pageSize=1").await, ["User-23"]);
    let stats = world.get("/admin/keys/stats?sort=total_requests&order=desc&pageSize=1").await.json();
    assert_eq!(stats["keys"][0]["total_requests"], 2);
    assert_eq!((&stats["keys"][0]["success_rate"], &stats["total"]), (&json!(50.0), &json!(30)));
    for bad in ["page=0", "pageSize=0", "pageSize=1001", "page=x", "sort=colour", "status=on", "colour=red"] {
        assert_eq!(
            world.get(&format!("/admin/api-keys?{bad}")).await.error(),
            (400, "invalid_query".to_owned())
        );
    }
}

#[tokio::test]
async fn a_persons_enable_clears_everything_and_is_durable() {
    let world = World::new();
    let id = world.add(KEY).await;
    let path = format!("/admin/api-keys/{id}");
    world.attempt(Effect::Auth { cooldown: None });
    // On the way to the store, before the enable.
    world.state.flush.flush().await.unwrap();
    let key = world.get(&path).await.json();
    assert_eq!((&key["status"], &key["reason"]), (&json!("failed"), &json!("auth")));
    let off = world.json("POST", "/admin/keys/disable", json!({"ids": [id]})).await.json();
    assert_eq!(off, json!({"changed": 1, "missing": []}));
    assert_eq!(world.get(&path).await.json()["reason"], "person");
    let on =
        world.json("POST", "/admin/keys/enable", json!({"all": true, "status": "disabled"})).await.json();
    assert_eq!(on["changed"], 1);
    assert_eq!(world.get(&path).await.json()["status"], "active");
    let world = world.restart().await;
    let key = world.get(&path).await.json();
    assert_eq!((&key["status"], &key["consecutive_failures"]), (&json!("active"), &json!(0)));
    let again = world.json("POST", "/admin/keys/enable", json!({"ids": [id]})).await.json();
    assert_eq!(again["changed"], 0);
}

#[tokio::test]
async fn a_key_that_comes_back_is_not_ill() {
    let world = World::new();
    let id = world.add(KEY).await;
    world.attempt(Effect::Auth { cooldown: None });
    // Collected with the books, not yet written.
    world.state.ledger.read(|_| ());
    assert_eq!(world.call("DELETE", &format!("/admin/api-keys/{id}"), "").await.status, 200);
    world.add(KEY).await;
    let world = world.restart().await;
    assert_eq!(world.get(&format!("/admin/api-keys/{id}")).await.json()["status"], "active");
}

#[tokio::test]
async fn keys_are_switched_off_until_a_time() {
    let world = World::new();
    let id = world.add(KEY).await;
    let nobody = uuid::Uuid::nil().to_string();
    let body = json!({"ids": [id, nobody, id], "until": "2027-03-01"});
    let reply = world.json("POST", "/admin/keys/disable", body).await.json();
    assert_eq!(reply, json!({"changed": 1, "missing": [nobody]}));
    let key = world.get(&format!("/admin/api-keys/{id}")).await.json();
    assert_eq!(
        (&key["status"], &key["disabled_until"]),
        (&json!("disabled"), &json!("2027-03-01T00:00:00Z"))
    );
    world.clock.advance(Duration::from_secs(400 * 86_400));
    assert_eq!(world.get(&format!("/admin/api-keys/{id}")).await.json()["status"], "active");
    for (path, body, code) in [
        ("disable", json!({"ids": [id], "until": "2020-01-01"}), "invalid_time"),
        ("disable", json!({}), "invalid_selection"),
        ("enable", json!({"ids": [id], "all": true}), "invalid_selection"),
        ("enable", json!({"ids": [id], "status": "failed"}), "invalid_selection"),
        ("enable", json!({"ids": ["x"]}), "invalid_body"),
        ("health-check", json!({"all": true, "concurrency": 65}), "invalid_body"),
        ("health-check", json!({"all": true, "concurrency": 0}), "invalid_body"),
    ] {
        let reply = world.json("POST", &format!("/admin/keys/{path}"), body.clone()).await;
        assert_eq!(reply.error(), (400, code.to_owned()), "{path} {body}");
    }
}

#[tokio::test]
async fn keys_are_checked() {
    let world = World::new();
    let good = world.add(KEY).await;
    let bad = json!({"key": "sk-alpha-bad-one", "username": "bad"});
    world.json("POST", "/admin/api-keys", bad).await;
    let path = "/admin/keys/health-check";
    let report = world.json("POST", path, json!({"all": true})).await.json();
    assert_eq!((&report["checked"], &report["ok"], &report["failed"]), (&json!(2), &json!(1), &json!(1)));
    let failed = report["results"].as_array().unwrap().iter().find(|result| result["ok"] == false).unwrap();
    assert_eq!((&failed["status"], &failed["detail"]), (&json!("failed"), &json!("it answered 401")));

    let nobody = uuid::Uuid::nil().to_string();
    let request = Request::post(path)
        .header("x-admin-token", TOKEN)
        .header("accept", "application/x-ndjson")
        .body(json!({"ids": [good, nobody]}).to_string().into());
    let reply = world.send(request.unwrap()).await;
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["id"], &lines[0]["status"]), (&json!(nobody), &Value::Null));
    assert_eq!(lines[2], json!({"summary": {"checked": 2, "ok": 1, "failed": 1}}));
}

#[tokio::test]
async fn many_keys_are_deleted_by_id_or_text() {
    let world = World::new();
    let first = world.add("sk-alpha-first").await;
    world.add("sk-alpha-second").await;
    let nobody = uuid::Uuid::nil().to_string();
    let body = json!({"ids": [first, nobody], "keys": ["sk-alpha-second", "sk-alpha-first"]});
    let reply = world.json("DELETE", "/admin/api-keys", body).await;
    assert_eq!(reply.json(), json!({"deleted": 2, "missing": [nobody]}));
    let reply = world.json("DELETE", "/admin/api-keys", json!({})).await;
    assert_eq!(reply.error(), (400, "invalid_selection".to_owned()));
}

#[tokio::test]
async fn nothing_changes_when_the_store_takes_nothing() {
    let world = World::new();
    let id = world.add(KEY).await;
    world.store.clone().close().await.unwrap();
    let path = format!("/admin/api-keys/{id}");
    for (method, path, body) in [
        ("POST", "/admin/api-keys", json!({"key": "sk-alpha-another"})),
        ("PATCH", &path, json!({"note": "new"})),
        ("DELETE", &path, json!({})),
        ("POST", "/admin/keys/disable", json!({"ids": [id]})),
        ("POST", "/admin/tokens", json!({"name": "x"})),
    ] {
        let reply = world.json(method, path, body).await;
        assert_eq!(reply.error(), (503, "store_unavailable".to_owned()), "{method} {path}");
    }
    let key = world.get(&path).await.json();
    assert_eq!((&key["note"], &key["status"]), (&Value::Null, &json!("active")));
    let storage = world.get("/admin/storage").await.json();
    assert_eq!((&storage["healthy"], &storage["file_bytes"]), (&json!(false), &Value::Null));
}
