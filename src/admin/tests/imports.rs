use super::*;

async fn send(world: &World, query: &str, kind: &str, body: impl Into<Body>) -> Reply {
    let request = Request::post(format!("/admin/api-keys/import{query}"))
        .header("x-admin-token", TOKEN)
        .header("content-type", kind)
        .body(body.into());
    world.send(request.unwrap()).await
}

#[tokio::test]
async fn every_format_is_taken() {
    let world = World::new();
    let json = json!({"keys": ["sk-alpha-one", {"key": "sk-alpha-two", "weight": 5}], "username": "Ann"});
    let report = send(&world, "", "application/json", json.to_string()).await.json();
    assert_eq!(
        (&report["added"], &report["total"], &report["provider"]),
        (&json!(2), &json!(2), &json!("alpha"))
    );
    let text = "sk-alpha-one\n\n# note\nsk-alpha-three\nsk-alpha-three\nwith space\n";
    let report = send(&world, "", "text/plain; charset=utf-8", text).await.json();
    let expected = [("added", 1), ("existing", 2), ("invalid", 1), ("blank", 2), ("total", 6)];
    for (field, count) in expected {
        assert_eq!(report[field], count, "{field}: {report}");
    }
    assert_eq!(report["existing_lines"][1]["line"], 5);
    assert_eq!(report["invalid_lines"][0]["line"], 6);
    assert_eq!(report["truncated"], false);
    let csv = "key,username,expires_at\nsk-alpha-four,Bob,2040-01-01\n";
    let report = send(&world, "?format=csv", "text/plain", csv).await.json();
    assert_eq!((&report["added"], &report["total"]), (&json!(1), &json!(1)));
    assert_eq!(report["columns"], json!(["key", "username", "expires_at"]));
    let later =
        send(&world, "?format=csv&columns=username,key", "text/plain", "key,sk-alpha-four\n").await.json();
    assert_eq!((&later["existing"], &later["columns"]), (&json!(1), &json!(["username", "key"])));
    let wrong = send(&world, "?format=text&columns=key", "text/plain", "sk-alpha-four").await;
    assert_eq!(wrong.error(), (400, "invalid_query".to_owned()));
    let report = send(&world, "", "application/x-ndjson", "\"sk-alpha-five\"\n{\"key\":1}\n").await.json();
    assert_eq!((&report["added"], &report["invalid"]), (&json!(1), &json!(1)));

    let world = world.restart().await;
    assert_eq!(world.pool("alpha").counts(START).total, 5);
    let page = world.get("/admin/api-keys?search=Ann").await.json();
    assert_eq!(page["total"], 2);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::new();
    let report = send(&world, "?dry_run=true", "text/plain", "sk-alpha-one\n").await.json();
    assert_eq!((&report["added"], &report["dry_run"]), (&json!(1), &json!(true)));
    assert_eq!(world.pool("alpha").counts(START).total, 0);
}

#[tokio::test]
async fn keys_of_another_provider_are_reported_not_mixed_in() {
    let world = World::new();
    let text = "sk-be-0123456789abcdef0123\nsk-alpha-one\n";
    let reply = send(&world, "", "text/plain", text).await;
    let report = reply.json();
    assert_eq!((&report["added"], &report["invalid"]), (&json!(1), &json!(1)));
    assert!(report["invalid_lines"][0]["reason"].as_str().unwrap().contains("\"beta\""), "{report}");
    assert_eq!(report["invalid_lines"][0]["key"], "sk-b…0123");
    assert!(!reply.text.contains("sk-be-0123"));
    let report = send(&world, "?provider=beta", "text/plain", text).await.json();
    assert_eq!(
        (&report["added"], &report["invalid"], &report["provider"]),
        (&json!(1), &json!(1), &json!("beta"))
    );
    assert_eq!(world.pool("beta").counts(START).total, 1);
}

#[tokio::test]
async fn what_cannot_be_read_as_a_whole_is_refused() {
    let world = World::new();
    for (query, kind, body, status, code) in [
        ("", "application/json", "{\"keys\":[\"sk-alpha-one\"", 400, "invalid_json"),
        ("", "application/json", "{\"keys\":[],\"colour\":1}", 400, "invalid_body"),
        ("", "application/json", "", 400, "empty_body"),
        ("", "text/csv", "key,colour\n", 400, "invalid_csv"),
        ("", "application/x-www-form-urlencoded", "sk-alpha-one", 415, "unknown_format"),
        ("?format=xml", "text/plain", "sk-alpha-one", 400, "invalid_query"),
        ("?provider=gamma", "text/plain", "sk-alpha-one", 404, "unknown_provider"),
        (
            "?provider=alpha",
            "application/json",
            "{\"keys\":[],\"provider\":\"beta\"}",
            400,
            "provider_mismatch",
        ),
    ] {
        let reply = send(&world, query, kind, body).await;
        assert_eq!(reply.error(), (status, code.to_owned()), "{kind} {body}");
        assert!(!reply.text.contains("sk-alpha-one"));
    }
    assert_eq!(send(&world, "", "text/plain", "").await.json()["total"], 0);
    let large = vec![b'\n'; (64 << 20) + 1];
    assert_eq!(send(&world, "", "text/plain", large).await.error(), (413, "body_too_large".to_owned()));
    assert_eq!(world.pool("alpha").counts(START).total, 0);
}

#[tokio::test]
async fn lists_of_lines_are_cut_and_say_so() {
    let world = World::new();
    let report = send(&world, "", "text/plain", "a b\n".repeat(1500)).await.json();
    assert_eq!((&report["invalid"], &report["truncated"]), (&json!(1500), &json!(true)));
    assert_eq!(report["invalid_lines"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn an_export_can_be_imported_again() {
    let world = World::new();
    let keys: Vec<Value> = (0..600)
        .map(|n| {
            json!({"key": format!("sk-alpha-{n:06}"), "username": format!("User \"{n}\", the"), "weight": 3,
            "note": "# not a comment", "expires_at": "2040-01-01T12:00:00Z"})
        })
        .collect();
    let first = send(&world, "", "application/json", json!({"keys": keys}).to_string()).await.json();
    assert_eq!(first["added"], 600, "{first}");
    for (format, lines) in [("csv", 601), ("ndjson", 600), ("text", 600)] {
        let file = world.call("POST", &format!("/admin/api-keys/export?format={format}"), "").await;
        assert_eq!((file.status, file.text.lines().count()), (200, lines));
        assert_eq!(file.headers["cache-control"], "no-store");
        let other = World::new();
        let report = send(&other, &format!("?format={format}"), "", file.text.clone()).await.json();
        assert_eq!((&report["added"], &report["invalid"]), (&json!(600), &json!(0)), "{format}");
        if format != "text" {
            let again = other.call("POST", &format!("/admin/api-keys/export?format={format}"), "").await;
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&again.text), sorted(&file.text));
        }
    }
    let reply = world.call("POST", "/admin/api-keys/export?format=json", "").await;
    assert_eq!(reply.error(), (400, "unknown_format".to_owned()));
}

/// Not a timed test: run by hand, `cargo test --release -- --ignored --nocapture a_hundred_thousand`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "shows how long things take"]
async fn a_hundred_thousand_keys() {
    let world = World::new();
    let text: String = (0..100_000).map(|n| format!("sk-alpha-{n:032},User {},\n", n % 1000)).collect();
    let start = std::time::Instant::now();
    let report = send(&world, "", "text/csv", text).await.json();
    assert_eq!(report["added"], 100_000);
    println!("import: {:?}", start.elapsed());
    for query in ["", "?search=user%2099", "?sort=username", "?sort=total_requests&order=desc", "?page=1000"]
    {
        let start = std::time::Instant::now();
        assert_eq!(world.get(&format!("/admin/api-keys{query}")).await.status, 200);
        println!("list {query}: {:?}", start.elapsed());
    }
    let start = std::time::Instant::now();
    let reply = world.json("POST", "/admin/keys/disable", json!({"all": true})).await;
    println!("disable: {:?} {}", start.elapsed(), reply.text);
}

#[tokio::test]
async fn lines_end_as_they_do_anywhere_and_flaws_have_names() {
    let world = World::new();
    for (text, added, line) in [
        ("sk-unix-one\nshort\nsk-unix-two", 2, 2),
        ("sk-dos-one\r\nshort\r\nsk-dos-two\r\n", 2, 2),
        ("sk-mac-one\rshort\rsk-mac-two\r", 2, 2),
        ("\r\n\r\rshort\n\nsk-all-one", 1, 4),
    ] {
        let report = send(&world, "", "text/plain", text).await.json();
        assert_eq!(
            (&report["added"], &report["invalid_lines"][0]["line"]),
            (&json!(added), &json!(line)),
            "{text:?}"
        );
        assert_eq!(report["invalid_lines"][0]["code"], "key_too_short");
    }
    let csv = "key,weight,expires_at,note,owner\nsk-a-0123456,0,,,\nsk-b-0123456,x,,,\nsk-c-0123456,,soon,,\n\
        sk-d-0123456,,,,me\nsk-e-0123456,,,,97665549-effe-5e34-a023-53e3b2c34a6d\nsk-f-0123456,,,,,more\n\
        sk-g-0123456,,,\"open,\nsk-be-0123456789abcdef0123,,,,\nsk-i-\u{7}123456,,,,\n";
    let report = send(&world, "?format=csv", "text/csv", csv).await.json();
    let codes: Vec<_> =
        report["invalid_lines"].as_array().unwrap().iter().map(|line| &line["code"]).collect();
    let expected = [
        "invalid_weight",
        "invalid_weight",
        "invalid_expiry",
        "invalid_owner",
        "unknown_owner",
        "too_many_cells",
        "open_quote",
        "other_provider",
        "key_with_strange_letter",
    ];
    assert_eq!(codes, expected.map(Value::from).iter().collect::<Vec<_>>(), "{report}");
}

#[tokio::test]
async fn an_export_and_a_change_are_of_the_list_that_is_looked_at() {
    let world = World::new();
    let keys = "key,note\nsk-alpha-one,Tide\nsk-alpha-two,ebb\nsk-alpha-three,tidal\n";
    send(&world, "?format=csv", "text/csv", keys).await;
    let two = world.get("/admin/api-keys?search=ebb").await.json()["keys"][0]["id"].clone();
    world.json("POST", "/admin/keys/disable", json!({"ids": [two]})).await;
    for (query, keys) in [
        ("search=tid", vec!["sk-alpha-one", "sk-alpha-three"]),
        ("status=disabled", vec!["sk-alpha-two"]),
        ("status=disabled&search=tid", vec![]),
        ("", vec!["sk-alpha-one", "sk-alpha-three", "sk-alpha-two"]),
    ] {
        let file = world.call("POST", &format!("/admin/api-keys/export?format=text&{query}"), "").await.text;
        let mut lines: Vec<_> = file.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, keys, "{query}");
        let ids = world.get(&format!("/admin/api-keys/ids?{query}")).await.json();
        assert_eq!(ids["ids"].as_array().unwrap().len(), keys.len(), "{query}");
    }
    assert_eq!(world.get("/admin/api-keys/ids?page=1").await.error().0, 400);
}

#[tokio::test]
async fn an_export_of_little_comes_in_no_empty_pieces() {
    let world = World::new();
    let keys: Vec<_> = (0..2_000).map(|n| format!("sk-many-{n:06}")).collect();
    assert_eq!(send(&world, "", "text/plain", keys.join("\n")).await.json()["added"], 2_000);
    for (search, count) in [("nobody", 0), (keys[1_999].as_str(), 1)] {
        let path = format!("/admin/api-keys/export?format=text&search={search}");
        let request = Request::post(path).header("x-admin-token", TOKEN).body(Body::empty()).unwrap();
        let mut body = world.router.clone().oneshot(request).await.unwrap().into_body();
        let mut pieces = Vec::new();
        while let Some(piece) = body.frame().await {
            pieces.push(piece.unwrap().into_data().unwrap());
        }
        assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).count(), count, "{search}");
        assert!(pieces.len() <= count + 1, "{search}: {}", pieces.len());
    }
}
