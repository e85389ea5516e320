use super::*;

fn cookie_of(reply: &Reply) -> String {
    let line = reply.headers["set-cookie"].to_str().unwrap();
    assert!(
        line.contains("; Path=/;") && line.contains("; HttpOnly") && line.contains("; SameSite=Strict"),
        "{line}"
    );
    line.split(';').next().unwrap().to_owned()
}

async fn sign_in(world: &World) -> (String, String) {
    let body = json!({"token": TOKEN}).to_string();
    let reply = world.send(Request::post("/admin/session").body(body.into()).unwrap()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    (cookie_of(&reply), reply.json()["csrf"].as_str().unwrap().to_owned())
}

async fn with(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::from("{\"ids\":[]}")).unwrap()).await
}

#[tokio::test]
async fn a_session_opens_what_the_token_opens() {
    let world = World::new();
    let (cookie, csrf) = sign_in(&world).await;
    let cookie = ("cookie", &*format!("theme=dark; {cookie}"));
    assert_eq!(with(&world, "GET", "/admin/stats", &[cookie]).await.status, 200);
    let session = with(&world, "GET", "/admin/session", &[cookie]).await.json();
    assert_eq!((&session["csrf"], &session["expires_at"]), (&json!(csrf), &json!("2027-01-15T20:00:00Z")));
    let own = ("x-csrf-token", &*csrf);
    let enable = "/admin/keys/enable";
    assert_eq!(with(&world, "POST", enable, &[cookie, own]).await.status, 200);
    for headers in [
        &[cookie][..],
        &[cookie, ("x-csrf-token", "")],
        &[cookie, ("x-csrf-token", "guessed")],
        &[cookie, own, ("origin", "https://elsewhere.example"), ("host", "here.example")],
        &[cookie, own, ("sec-fetch-site", "cross-site")],
    ] {
        assert_eq!(
            with(&world, "POST", enable, headers).await.error(),
            (403, "csrf".to_owned()),
            "{headers:?}"
        );
    }
    let ended = with(&world, "DELETE", "/admin/session", &[cookie, own]).await;
    assert_eq!(ended.status, 204);
    assert!(ended.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(
        with(&world, "GET", "/admin/stats", &[cookie]).await.error(),
        (401, "session_ended".to_owned())
    );
    assert_eq!(world.get("/admin/session").await.error(), (404, "no_session".to_owned()));
}

#[tokio::test]
async fn another_admin_token_ends_every_session_and_the_same_one_none() {
    let world = World::new();
    let (cookie, _) = sign_in(&world).await;
    world.state.set_admin_token(TOKEN);
    assert_eq!(with(&world, "GET", "/admin/stats", &[("cookie", &cookie)]).await.status, 200);
    world.state.set_admin_token("another-admin-token");
    assert_eq!(with(&world, "GET", "/admin/stats", &[("cookie", &cookie)]).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_are_slowed_down_here_too() {
    let world = World::new();
    let start = tokio::time::Instant::now();
    for _ in 0..7 {
        let body = json!({"token": "wrong"}).to_string();
        let reply = world.send(Request::post("/admin/session").body(body.into()).unwrap()).await;
        assert_eq!(reply.error(), (401, "invalid_admin_token".to_owned()));
        assert!(!reply.headers.contains_key("set-cookie"));
    }
    assert_eq!(start.elapsed().as_secs(), 3);
}

/// A request with that admin token, from that address as a trusted proxy may have told it.
async fn from(world: &World, address: &str, token: &str) -> Reply {
    let mut request =
        Request::get("/admin/stats").header("x-admin-token", token).body(Body::empty()).unwrap();
    let origin = crate::guard::Origin { address: address.parse().unwrap(), is_https: false };
    request.extensions_mut().insert(origin);
    world.send(request).await
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_early_has_tried_nothing_and_nobody_else_waits() {
    use std::time::Duration;

    let world = World::new();
    let (cookie, _) = sign_in(&world).await;
    let (guesser, other) = ("192.0.2.1", "192.0.2.2");
    for _ in 0..5 {
        assert_eq!(from(&world, guesser, "wrong").await.status, 401);
    }
    let start = tokio::time::Instant::now();
    for token in ["wrong", TOKEN].repeat(25) {
        let left = tokio::time::timeout(Duration::from_millis(900), from(&world, guesser, token)).await;
        assert!(left.is_err(), "not even the right one is known of before its wait");
    }
    assert_eq!(start.elapsed().as_secs(), 45, "50 times 0.9 s");
    // Those were no tries: a minute after the last that was one, it is over.
    tokio::time::advance(Duration::from_secs(16)).await;
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        from(&world, guesser, "wrong").await;
    }
    assert!(start.elapsed().is_zero());
    // While that network keeps all its places, others and sessions go on.
    let crowd = futures_util::future::join_all((0..20).map(|_| from(&world, guesser, "wrong")));
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = tokio::time::Instant::now();
        assert_eq!(from(&world, other, TOKEN).await.status, 200);
        assert_eq!(with(&world, "GET", "/admin/stats", &[("cookie", &cookie)]).await.status, 200);
        assert_eq!(from(&world, guesser, TOKEN).await.error(), (429, "too_many_attempts".to_owned()));
        assert!(start.elapsed().is_zero(), "{:?}", start.elapsed());
    };
    let (crowd, ()) = tokio::join!(crowd, others);
    assert_eq!(crowd.iter().filter(|reply| reply.status == 401).count(), 6);
    // A place that was left is free again, and the right one is taken after its wait.
    let start = tokio::time::Instant::now();
    assert_eq!(from(&world, guesser, TOKEN).await.status, 200);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn cookies_are_for_https_alone_where_that_is_what_the_caller_uses() {
    let world = World::new();
    for (is_https, says, secure) in [(true, "", true), (false, "", false), (false, "https://k.example", true)]
    {
        let body = json!({"token": TOKEN}).to_string();
        let mut request = Request::post("/admin/session").header("host", "k.example");
        if !says.is_empty() {
            request = request.header("origin", says);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        let origin = crate::guard::Origin { address: "192.0.2.7".parse().unwrap(), is_https };
        request.extensions_mut().insert(origin);
        let reply = world.send(request).await;
        assert_eq!(reply.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"), secure);
    }
}

#[tokio::test]
async fn whoever_signs_in_again_leaves_no_session_behind() {
    let world = World::new();
    let (before, _) = sign_in(&world).await;
    let body = json!({"token": TOKEN}).to_string();
    let request = Request::post("/admin/session").header("cookie", &before).body(Body::from(body)).unwrap();
    let after = cookie_of(&world.send(request).await);
    assert_eq!(with(&world, "GET", "/admin/stats", &[("cookie", &before)]).await.status, 401);
    assert_eq!(with(&world, "GET", "/admin/stats", &[("cookie", &after)]).await.status, 200);
}
