use super::*;

#[tokio::test]
async fn a_trial_goes_the_way_of_a_caller_s_request() {
    let world = World::new();
    let made = world.json("POST", "/admin/tokens?provider=beta", json!({"name": "try"})).await.json();
    let trial = |token: &Value| json!({"token": token, "model": "m", "message": "hi", "system": "be brief", "temperature": 0.5});
    let said = world.json("POST", "/admin/playground?provider=beta", trial(&made["id"])).await.json();
    assert_eq!((&said["path"], &said["token"]), (&json!("/beta/v1/chat/completions"), &made["token"]));
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    let body = json!({"model": "m", "messages": messages, "stream": false, "temperature": 0.5});
    assert_eq!(said["body"], body);
    let models = format!("/admin/playground/models?provider=beta&token={}", made["id"].as_str().unwrap());
    assert_eq!(world.get(&models).await.json()["path"], "/beta/v1/models");
    // A token opens its own provider alone.
    let other = world.json("POST", "/admin/playground?provider=alpha", trial(&made["id"])).await;
    assert_eq!(other.error(), (404, "unknown_token".to_owned()));
}

#[tokio::test]
async fn templates_are_for_everybody_and_the_configuration_is_not() {
    let world = World::new();
    let bare = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let templates = world.send(bare("/api/test-templates")).await.json();
    let first = &templates["templates"][0];
    for field in ["id", "label", "description", "systemPrompt", "userMessage", "temperature"] {
        assert!(!first[field].is_null(), "{field}");
    }
    assert_eq!(world.send(bare("/admin/config")).await.status, 401);
    let setting = |name: &str| view::Setting {
        name: name.into(),
        value: "x".into(),
        source: "default".into(),
        at_next_start: false,
    };
    world
        .state
        .set_configuration(view::Configuration { file: None, settings: vec![setting("server.listen")] });
    assert_eq!(world.get("/admin/config").await.json()["settings"][0]["name"], "server.listen");
}
