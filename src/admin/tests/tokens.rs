use super::*;
use crate::guard;

#[tokio::test]
async fn a_token_is_made_listed_and_revoked() {
    let world = World::new();
    let body = json!({"name": "app", "allowed_models": ["llama3", "gpt-*", "llama3"], "requests_per_minute": 60,
        "expires_at": "2040-01-01"});
    let reply = world.json("POST", "/admin/tokens", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let made = reply.json();
    let text = made["token"].as_str().unwrap().to_owned();
    assert!(text.starts_with("sk-") && text.len() == 51);
    assert_eq!(made["allowed_models"], json!(["llama3", "gpt-*"]));
    let own = json!({"name": "own", "token": "my-own-token-0123456789"});
    assert_eq!(world.json("POST", "/admin/tokens?provider=beta", own.clone()).await.status, 201);
    let again = world.json("POST", "/admin/tokens?provider=beta", own).await;
    assert_eq!(again.error(), (409, "token_exists".to_owned()));

    let world = world.restart().await;
    let reply = world.get("/admin/tokens").await;
    assert!(!reply.text.contains(&text));
    let list = reply.json();
    assert_eq!(list["tokens"].as_array().unwrap().len(), 1, "each provider has its own");
    assert_eq!((&list["tokens"][0]["name"], &list["tokens"][0]["request_count"]), (&json!("app"), &json!(0)));
    let found = world.state.provider(None).unwrap().tokens.find(&text, START);
    assert!(found.is_ok(), "it is in force");

    let nobody = uuid::Uuid::nil().to_string();
    let body = json!({"tokens": [text], "ids": [nobody]});
    let reply = world.json("DELETE", "/admin/tokens", body).await.json();
    assert_eq!(reply, json!({"deleted": 1, "missing": [nobody]}));
    assert!(world.state.provider(None).unwrap().tokens.find(&text, START).is_err());
    let path = format!("/admin/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(world.call("DELETE", &path, "").await.error(), (404, "unknown_token".to_owned()));
    let id = TokenId::derive("beta", "my-own-token-0123456789");
    let reply = world.call("DELETE", &format!("/admin/tokens/{id}?provider=beta"), "").await;
    assert_eq!(reply.json(), json!({"deleted": 1}));
    let world = world.restart().await;
    assert_eq!(world.get("/admin/tokens").await.json()["tokens"], json!([]));
}

#[tokio::test]
async fn tokens_have_bounds() {
    let world = World::new();
    for body in [
        json!({"name": ""}),
        json!({"name": "x".repeat(129)}),
        json!({"name": "a\nb"}),
        json!({"name": "x", "requests_per_minute": 0}),
        json!({"name": "x", "requests_per_minute": 1_000_001}),
        json!({"name": "x", "requests_per_minute": -1}),
        json!({"name": "x", "requests_per_day": 0}),
        json!({"name": "x", "requests_per_day": 1.5}),
        json!({"name": "x", "tokens_per_day": 1e30}),
        json!({"name": "x", "allowed_addresses": ["10.0.0.0/33"]}),
        json!({"name": "x", "allowed_addresses": ["example.com"]}),
        json!({"name": "x", "expires_at": "2020-01-01"}),
        json!({"name": "x", "allowed_models": [""]}),
        json!({"name": "x", "allowed_models": vec!["m"; 257]}),
        json!({"name": "x", "token": "too-short"}),
        json!({"name": "x", "token": "with a space inside it"}),
        json!({"name": "x", "token": "x".repeat(257)}),
    ] {
        let reply = world.json("POST", "/admin/tokens", body.clone()).await;
        assert_eq!(reply.error(), (400, "invalid_token_settings".to_owned()), "{body}");
    }
    for body in [
        json!({}),
        json!({"name": 1}),
        json!({"name": "x", "user": "y"}),
        json!({"name": "x", "requests_per_day": "9"}),
    ] {
        let reply = world.json("POST", "/admin/tokens", body.clone()).await;
        assert_eq!(reply.error(), (400, "invalid_body".to_owned()), "{body}");
    }
    assert_eq!(world.json("DELETE", "/admin/tokens", json!({})).await.error().0, 400);
    assert_eq!(world.get("/admin/tokens?provider=gamma").await.error().0, 404);
}

#[tokio::test]
async fn a_token_is_changed_in_all_but_its_text() {
    let world = World::new();
    let ann = world.json("POST", "/admin/users", json!({"name": "Ann"})).await.json()["id"].clone();
    let body = json!({"name": "app", "user": ann, "requests_per_day": 1000, "tokens_per_day": 1_000_000,
        "allowed_addresses": ["10.1.2.3/8", "10.0.0.0/8"], "token": "sk-own-0123456789abcdef"});
    let made = world.json("POST", "/admin/tokens", body).await.json();
    assert_eq!((&made["user"], &made["requests_per_day"]), (&ann, &json!(1000)));
    assert_eq!(made["user_name"], "Ann");
    assert_eq!(
        (&made["tokens_per_day"], &made["allowed_addresses"]),
        (&json!(1_000_000), &json!(["10.0.0.0/8"]))
    );
    let find =
        |world: &World| world.state.provider(None).unwrap().tokens.find("sk-own-0123456789abcdef", START);
    let caller = world.state.users.caller(find(&world).unwrap()).unwrap();
    caller.admit(guard::Take::Request, START).unwrap().keep();
    caller.spend(70, START);

    let path = format!("/admin/tokens/{}", made["id"].as_str().unwrap());
    let body = json!({"name": " other ", "requests_per_minute": 5, "tokens_per_day": null, "user": null,
        "expires_at": "2040-01-01", "allowed_addresses": []});
    let edited = world.json("PATCH", &path, body).await.json();
    assert_eq!((&edited["name"], &edited["requests_per_minute"]), (&json!("other"), &json!(5)));
    assert_eq!((&edited["tokens_per_day"], &edited["user"]), (&Value::Null, &Value::Null));
    assert_eq!((&edited["requests_per_day"], &edited["allowed_addresses"]), (&json!(1000), &json!([])));
    assert_eq!((&edited["requests_today"], &edited["tokens_today"]), (&json!(1), &json!(70)), "not anew");
    assert!(!edited.to_string().contains("sk-own-0123456789"), "it is not shown again");
    let world = world.restart().await;
    let record = find(&world).unwrap().record.clone();
    assert_eq!((record.user, record.limits.requests_per_day), (None, Some(1000)), "it was durable");

    let nobody = uuid::Uuid::nil().to_string();
    for (body, code) in [
        (json!({"user": nobody}), "unknown_user"),
        (json!({"user": "Ann"}), "invalid_body"),
        (json!({"token": "sk-another-0123456789"}), "invalid_body"),
        (json!({"name": null, "colour": 1}), "invalid_body"),
        (json!({"name": ""}), "invalid_token_settings"),
        (json!({"requests_per_day": 0}), "invalid_token_settings"),
        (json!({"requests_per_minute": 4_294_967_297u64}), "invalid_token_settings"),
    ] {
        let reply = world.json("PATCH", &path, body.clone()).await;
        assert_eq!(reply.error(), (400, code.to_owned()), "{body}");
    }
    let reply = world.json("POST", "/admin/tokens", json!({"name": "x", "user": nobody})).await;
    assert_eq!(reply.error(), (400, "unknown_user".to_owned()));
    let other = format!("{path}?provider=beta");
    assert_eq!(world.json("PATCH", &other, json!({})).await.error(), (404, "unknown_token".to_owned()));
    assert_eq!(find(&world).unwrap().record, record, "what was refused has changed nothing");
}

#[tokio::test]
async fn tokens_are_searched_paged_and_shown_one_by_one() {
    let world = World::new();
    let ann = world.json("POST", "/admin/users", json!({"name": "Ann Example"})).await.json()["id"].clone();
    let mut ids = Vec::new();
    for n in 0..5 {
        let user = if n == 3 { ann.clone() } else { Value::Null };
        let body =
            json!({"name": format!("App {n}"), "user": user, "token": format!("sk-own-0123456789-{n}")});
        ids.push(world.json("POST", "/admin/tokens", body).await.json()["id"].as_str().unwrap().to_owned());
    }
    let all = world.get("/admin/tokens").await.json();
    assert_eq!(
        (&all["total"], &all["pages"], all["tokens"].as_array().unwrap().len()),
        (&json!(5), &json!(1), 5)
    );
    let page = world.get("/admin/tokens?page=2&pageSize=2").await.json();
    assert_eq!((&page["page"], &page["pageSize"], &page["pages"]), (&json!(2), &json!(2), &json!(3)));
    let mut seen = Vec::new();
    for n in 1..=4 {
        let page = world.get(&format!("/admin/tokens?page={n}&pageSize=2")).await.json();
        seen.extend(page["tokens"].as_array().unwrap().iter().map(|token| token["id"].clone()));
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(ids.iter().all(|id| seen.contains(&json!(id))), "each is on one page");
    let prefix = &ids[1][..12];
    for (search, found) in [
        ("app%203", vec![&ids[3]]),
        ("ANN", vec![&ids[3]]),
        ("sk-own-0123456789-2", vec![&ids[2]]),
        (prefix, vec![&ids[1]]),
        ("sk-own", vec![]),
    ] {
        let page = world.get(&format!("/admin/tokens?search={search}")).await.json();
        let shown: Vec<_> = page["tokens"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
        assert_eq!(
            (&page["total"], shown),
            (&json!(found.len()), found.iter().map(|id| json!(id)).collect::<Vec<_>>().iter().collect()),
            "{search}"
        );
    }
    let one = world.get(&format!("/admin/tokens/{}", ids[3])).await;
    assert_eq!((&one.json()["name"], &one.json()["user"]), (&json!("App 3"), &ann));
    assert!(!one.text.contains("sk-own-0123456789"), "{}", one.text);
    for (path, refused) in [
        ("/admin/tokens/nothing", (400, "invalid_id")),
        ("/admin/tokens/97665549-effe-5e34-a023-53e3b2c34a6d", (404, "unknown_token")),
        ("/admin/tokens?page=0", (400, "invalid_query")),
        ("/admin/tokens?pageSize=1001", (400, "invalid_query")),
        ("/admin/tokens?colour=1", (400, "invalid_query")),
    ] {
        assert_eq!(world.get(path).await.error(), (refused.0, refused.1.to_owned()), "{path}");
    }
}
