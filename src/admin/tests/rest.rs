use super::*;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn statistics_add_up() {
    let world = World::new();
    world.add("sk-alpha-one").await;
    for kind in [Kind::Success, Kind::Success, Kind::Failure, Kind::Other] {
        world.count("sk-alpha-one", kind, "llama3", START);
    }
    world.count("sk-alpha-one", Kind::Success, "old", Timestamp(START.0 - 24 * HOUR_MS));
    world.count("sk-alpha-one", Kind::Success, "edge", Timestamp(START.0 - 23 * HOUR_MS));
    let stats = world.get("/admin/stats").await.json();
    for (field, value) in [
        ("total_api_keys", 1),
        ("active_keys", 1),
        ("total_requests", 6),
        ("success_count", 4),
        ("failure_count", 1),
        ("other_count", 1),
        ("prompt_tokens", 60),
        ("completion_tokens", 30),
    ] {
        assert_eq!(stats[field], value, "{field}");
    }
    assert_eq!((&stats["storage"], &stats["success_rate"]), (&json!("redb"), &json!(66.67)));
    assert_eq!(
        (&stats["models"][0]["model"], &stats["models"][0]["total_requests"]),
        (&json!("llama3"), &json!(4))
    );
    assert_eq!(world.get("/admin/stats?provider=beta").await.json()["total_requests"], 0);
    assert_eq!(world.get("/admin/stats?provider=gamma").await.error(), (404, "unknown_provider".to_owned()));

    let bare = || Request::get("/admin/public-stats").body(Body::empty()).unwrap();
    let public = world.send(bare()).await.json();
    assert_eq!(public["global"]["totalRequests"], 6);
    assert_eq!(public["global"]["lastUpdated"], START.to_string());
    assert_eq!(public["topModels"].as_array().unwrap().len(), 3);
    let recent: Vec<_> = public["recentTopModels"].as_array().unwrap().iter().map(|m| &m["model"]).collect();
    assert_eq!(recent, ["llama3", "edge"]);
    let trend = public["hourlyTrend"].as_array().unwrap();
    assert_eq!(trend.len(), 24);
    assert_eq!((&trend[0]["requests"], &trend[1]["requests"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&trend[23]["requests"], &trend[23]["success"], &trend[23]["failure"]),
        (&json!(4), &json!(2), &json!(1))
    );
    let quiet = world.get("/admin/public-stats?provider=beta").await.json();
    assert_eq!(quiet["hourlyTrend"].as_array().unwrap().len(), 24);
    world.state.set_public_stats(false);
    assert_eq!(world.send(bare()).await.error(), (404, "public_stats_off".to_owned()));
}

#[tokio::test]
async fn the_store_is_measured_and_backed_up() {
    let world = World::new();
    world.add("sk-alpha-one").await;
    let storage = world.get("/admin/storage").await.json();
    assert_eq!((&storage["healthy"], &storage["problem"]), (&json!(true), &Value::Null));
    let (used, total) = (&storage["local"]["used_bytes"], &storage["local"]["total_bytes"]);
    assert!(used.as_u64().unwrap() > 0 && used.as_u64() < total.as_u64(), "{storage}");
    assert_eq!(storage["hubs"][0]["hub"], "eu");
    assert_eq!((&storage["hubs"][0]["rung"], &storage["hubs"][0]["used_bytes"]), (&json!(3), &json!(96)));
    assert!(storage["file_bytes"].as_u64().unwrap() > 0 && storage["tables"].as_array().unwrap().len() > 3);
    let file = world.path("copy.redb");
    let done = world.json("POST", "/admin/storage/backup", json!({"file": file})).await.json();
    assert!(done["bytes"].as_u64().unwrap() > 0, "{done}");
    let again = world.json("POST", "/admin/storage/backup", json!({"file": file})).await;
    assert_eq!(again.error(), (409, "file_exists".to_owned()));
    for bad in ["relative.redb", "", "/", "/nowhere/at/all/copy.redb"] {
        let reply = world.json("POST", "/admin/storage/backup", json!({"file": bad})).await;
        assert_eq!(reply.error(), (400, "invalid_path".to_owned()), "{bad}: {}", reply.text);
    }
    assert_eq!(world.get("/admin/storage?x=1").await.error(), (400, "invalid_query".to_owned()));
}

#[tokio::test]
async fn nobody_waits_for_the_most_of_a_backup() {
    use std::sync::atomic::Ordering::SeqCst;

    let world = World::new();
    let (body, edits) = (json!({"file": world.path("copy.redb")}), world.state.edits.clone());
    let an_edit = edits.lock().await;
    let mut backup = std::pin::pin!(world.json("POST", "/admin/storage/backup", body));
    while world.prepared.load(SeqCst) == 0 {
        assert!(futures_util::poll!(backup.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(an_edit);
    assert_eq!(backup.await.status, 200);
}

/// What only this file may tell would be told by its copy too.
#[tokio::test]
async fn what_cannot_be_closed_off_is_not_copied() {
    let world = World::new();
    world.add("sk-alpha-one").await;
    let file = world.path("copy.redb");
    world.unsealable.store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = world.json("POST", "/admin/storage/backup", json!({"file": file})).await;
    assert_eq!(refused.error(), (503, "store_unavailable".to_owned()));
    assert!(
        refused.text.contains("the disk is full") && refused.text.contains("count twice"),
        "{}",
        refused.text
    );
    assert!(!std::path::Path::new(&file).exists());
    world.unsealable.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.json("POST", "/admin/storage/backup", json!({"file": file})).await.status, 200);
}

#[tokio::test]
async fn providers_are_listed() {
    let world = World::new();
    world.add("sk-alpha-one").await;
    let list = world.get("/admin/providers").await.json();
    assert_eq!(
        (&list[0]["name"], &list[0]["default"], &list[1]["default"]),
        (&json!("alpha"), &json!(true), &json!(false))
    );
    assert_eq!((&list[0]["keys"]["active"], &list[0]["strategy"]), (&json!(1), &json!("round_robin")));
    assert_eq!(list[0]["base_url"], "alpha.example");
}

#[tokio::test]
async fn health_readiness_and_figures() {
    let world = World::new();
    let health = world.get("/health").await.json();
    assert_eq!(health, json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
    let ready = world.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    assert_eq!(ready.json()["warnings"].as_array().unwrap().len(), 2, "{}", ready.text);
    world.add("sk-alpha-one").await;
    for n in 0..60 {
        world.count("sk-alpha-one", Kind::Success, &format!("model \"{n}\""), START);
    }
    let figures = world.get("/metrics").await;
    assert!(figures.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "keytide_requests_total{provider=\"alpha\",outcome=\"success\"} 60",
        "keytide_keys{provider=\"alpha\",state=\"active\"} 1",
        "keytide_model_requests_total{provider=\"alpha\",model=\"(other)\",outcome=\"success\"} 10",
        "keytide_usage_tokens_total{provider=\"alpha\",kind=\"prompt\"} 600",
        "keytide_request_duration_seconds_bucket{le=\"+Inf\",provider=\"alpha\"} 0",
        "keytide_store_healthy 1",
        "keytide_flush_failing 0",
        "keytide_build_info{version=",
    ] {
        assert!(figures.text.contains(line), "{line} is not in\n{}", figures.text);
    }
    assert!(figures.text.ends_with("# EOF\n"));
    assert!(figures.text.lines().all(|line| line.starts_with('#') || line.starts_with("keytide_")));
    world.store.clone().close().await.unwrap();
    assert_eq!(world.get("/health").await.status, 200);
}

#[tokio::test]
async fn hours_and_days_add_up() {
    let world = World::new();
    world.add("sk-alpha-one").await;
    let ago = |hours: i64| Timestamp(START.0 - hours * HOUR_MS);
    for (hours, model) in
        [(0, "new"), (0, "new"), (23, "edge"), (24, "old"), (29 * 24, "older"), (31 * 24, "gone")]
    {
        world.count("sk-alpha-one", Kind::Success, model, ago(hours));
    }
    let trend = world.get("/admin/trend").await.json();
    let requests = |list: &str| -> Vec<u64> {
        trend[list].as_array().unwrap().iter().map(|span| span["requests"].as_u64().unwrap()).collect()
    };
    let (hours, days) = (requests("hours"), requests("days"));
    assert_eq!((hours.len(), hours[0], hours[23], hours.iter().sum::<u64>()), (24, 1, 2, 3));
    assert_eq!((days.len(), days[0], days.iter().sum::<u64>()), (30, 1, 5));
    assert_eq!((&trend["hours"][23]["prompt_tokens"], &trend["time_zone"]), (&json!(20), &json!("UTC")));
    assert_eq!(trend["days"][29]["start"], "2027-01-15T00:00:00Z");
    let recent: Vec<_> = trend["recent_models"].as_array().unwrap().iter().map(|m| &m["model"]).collect();
    assert_eq!(recent, ["new", "edge"]);
    assert_eq!(world.get("/admin/trend?provider=beta").await.json()["days"].as_array().unwrap().len(), 30);
}
