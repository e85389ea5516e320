use super::*;

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
    for body in [json!({}), json!({"name": 1}), json!({"name": "x", "user": "y"})] {
        let reply = world.json("POST", "/admin/tokens", body.clone()).await;
        assert_eq!(reply.error(), (400, "invalid_body".to_owned()), "{body}");
    }
    assert_eq!(world.json("DELETE", "/admin/tokens", json!({})).await.error().0, 400);
    assert_eq!(world.get("/admin/tokens?provider=gamma").await.error().0, 404);
}
