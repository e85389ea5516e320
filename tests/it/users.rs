//! Users, and limits by day, address and token, as callers meet them.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use keytide::{
    demo::upstream::{Behaviour, Upstream},
    model::{Clock, Counts, Timestamp, TokenId, UserId},
};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    endings::loaded,
    harness::{Keytide, Setup, TOKEN, chat, error_code, setup_of, until, upstream},
    scripted::Scripted,
};

const CHAT: &str = "/v1/chat/completions";
const CALLERS: usize = 64;
const ANN: u128 = 0x0a11_0000_0000_4000_8000_0000_0000_0001;
const PHONE: &str = "sk-phone-0123456789";
const LAPTOP: &str = "sk-laptop-0123456789";
const DAY: Duration = Duration::from_secs(86_400);
/// An hour before midnight in UTC.
const EVENING: Timestamp = Timestamp(1_790_031_600_000);

fn setup(upstream: &Upstream, extra: &str) -> Setup {
    let mut setup = Setup::new(upstream, extra).keys("ollama", &["key-a-0123456789", "key-b-0123456789"]);
    setup.clock = Clock::manual(EVENING);
    setup
}

/// Two tokens of one user.
fn of_ann(setup: Setup, per_day: Option<u64>) -> Setup {
    [PHONE, LAPTOP].into_iter().fold(setup, |setup, text| {
        setup.token("ollama", text, |token| {
            token.user = Some(UserId(ANN));
            token.limits.requests_per_day = per_day;
        })
    })
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// How many of many callers at once are served, with one token or the other.
async fn crowd(keytide: &Keytide, each: usize) -> [usize; 2] {
    let callers = (0..CALLERS).map(|caller| async move {
        let text = [PHONE, LAPTOP][caller % 2];
        let mut served = 0;
        for n in 0..each {
            let answer = keytide.post_as(text, CHAT, &chat((caller + n) % 3 == 0)).await;
            match answer.status().as_u16() {
                200 => served += 1,
                429 => {}
                other => panic!("{other}"),
            }
            answer.bytes().await.unwrap();
        }
        (caller % 2, served)
    });
    join_all(callers).await.into_iter().fold([0; 2], |mut sum, (of, served)| {
        sum[of] += served;
        sum
    })
}

#[tokio::test]
async fn never_one_request_too_many() {
    let upstream = upstream().await;
    let keytide = of_ann(setup(&upstream, ""), Some(70))
        .user(ANN, |user| {
            user.limits.requests_per_minute = Some(60);
            user.limits.requests_per_day = Some(100);
        })
        .start()
        .await;
    // By the minute, by the user's day, and no more.
    let mut served = [0; 2];
    for (minute, most) in [(0, 60), (1, 40), (2, 0)] {
        let [phone, laptop] = crowd(&keytide, 3).await;
        assert_eq!(phone + laptop, most, "minute {minute}");
        served = [served[0] + phone, served[1] + laptop];
        keytide.clock.advance(Duration::from_secs(60));
    }
    assert!(served.iter().all(|count| *count <= 70), "{served:?}");
    // What the user's limit refused was not taken from the tokens.
    let path = format!("/admin/users/{}", UserId(ANN));
    let none = json!({"requests_per_minute": null, "requests_per_day": null});
    keytide.admin("PATCH", &path, &none).await;
    let [phone, laptop] = crowd(&keytide, 3).await;
    assert_eq!([served[0] + phone, served[1] + laptop], [70, 70]);
    let books = keytide.settled("ollama", 140).await;
    assert_eq!(books.total.counts, Counts { success: 140, ..Counts::default() });
    assert_eq!(upstream.tally().total().attempts, 140);
    let user = keytide.admin("GET", &path, &json!({})).await;
    assert_eq!(user["requests_today"], 140);
    keytide.stop().await;
}

#[tokio::test]
async fn a_day_ends_while_many_call() {
    let upstream = upstream().await;
    let setup = of_ann(setup(&upstream, "[limits]\ntime_zone = \"Asia/Kolkata\"\n"), None);
    let keytide = setup.user(ANN, |user| user.limits.requests_per_day = Some(150)).start().await;
    // 23:59:59.9 in Kolkata, which is half an hour off.
    let to_midnight = Duration::from_millis((18 * 3600 + 1800 + 86_400 - 23 * 3600) * 1000 - 100);
    keytide.clock.advance(to_midnight);
    let tick = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            keytide.clock.advance(Duration::from_millis(10));
        }
    };
    let (before, ()) = tokio::join!(crowd(&keytide, 5), tick);
    let after = crowd(&keytide, 5).await;
    let served: usize = before.iter().chain(&after).sum();
    let today = keytide.admin("GET", &format!("/admin/users/{}", UserId(ANN)), &json!({})).await;
    assert!(today["requests_today"] == 150 && served <= 300, "{before:?} {after:?}");
    let answer = keytide.post_as(PHONE, CHAT, &chat(false)).await;
    assert_eq!(header(&answer, "x-ratelimit-reset-requests"), "24h0m0s");
    // Back over midnight: the day that was left goes on, and has no more room than it had.
    let Clock::Manual(clock) = &keytide.clock else { unreachable!() };
    clock.fetch_sub(1000, std::sync::atomic::Ordering::SeqCst);
    let left: usize = crowd(&keytide, 3).await.iter().sum();
    assert_eq!(served + left, 300);
    assert_eq!(
        error_code(keytide.post_as(PHONE, CHAT, &chat(false)).await).await.1,
        "daily_requests_exceeded"
    );
    keytide.clock.advance(DAY + Duration::from_secs(1));
    assert_eq!(crowd(&keytide, 3).await.iter().sum::<usize>(), 150);
    keytide.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_day() {
    let upstream = upstream().await;
    let setup = of_ann(setup(&upstream, "[limits]\ntime_zone = \"Asia/Kolkata\"\n"), Some(3));
    let keytide = setup.user(ANN, |user| user.limits.requests_per_day = Some(4)).start().await;
    for text in [PHONE, PHONE, LAPTOP] {
        assert_eq!(keytide.post_as(text, CHAT, &chat(false)).await.status(), 200);
    }
    // A list is nothing of the day after a restart either.
    let list = keytide.client.get(format!("{}/v1/models", keytide.url)).bearer_auth(PHONE);
    assert_eq!(list.send().await.unwrap().status(), 200);
    keytide.settled("ollama", 3).await;
    let path = format!("/admin/users/{}", UserId(ANN));
    let before = keytide.admin("GET", &path, &json!({})).await;
    assert!(before["requests_today"] == 3 && before["tokens_today"].as_u64().unwrap() > 0, "{before}");
    let keytide = keytide.restart().await;
    let after = keytide.admin("GET", &path, &json!({})).await;
    let of_day = |user: &Value| [&user["requests_today"], &user["tokens_today"]].map(Clone::clone);
    assert_eq!(of_day(&after), of_day(&before));
    let answer = keytide.post_as(PHONE, CHAT, &chat(false)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "x-ratelimit-remaining-requests"), "0");
    assert_eq!(
        error_code(keytide.post_as(LAPTOP, CHAT, &chat(false)).await).await,
        (429, "daily_requests_exceeded".to_owned())
    );
    keytide.clock.advance(DAY);
    assert_eq!(keytide.post_as(LAPTOP, CHAT, &chat(false)).await.status(), 200);
    keytide.stop().await;
}

#[tokio::test]
async fn a_token_that_moves_leaves_behind_what_its_user_has_used() {
    const BOB: u128 = ANN + 1;
    const IDLE: &str = "sk-idle-0123456789";
    let upstream = upstream().await;
    let keytide = of_ann(setup(&upstream, ""), None)
        // Its provider has no keys: what is asked for is charged all the same.
        .token("openrouter", IDLE, |token| token.user = Some(UserId(ANN)))
        .user(ANN, |_| {})
        .user(BOB, |_| {})
        .start()
        .await;
    let idle = format!("/openrouter{CHAT}");
    for (text, path, served) in
        [(PHONE, CHAT, 200), (PHONE, CHAT, 200), (LAPTOP, CHAT, 200), (IDLE, &idle, 503)]
    {
        assert_eq!(keytide.post_as(text, path, &chat(false)).await.status(), served);
    }
    let token = |provider: &str, text: &str| {
        format!("/admin/tokens/{}?provider={provider}", TokenId::derive(provider, text))
    };
    keytide.admin("PATCH", &token("ollama", PHONE), &json!({"user": UserId(BOB)})).await;
    keytide.admin("DELETE", &token("openrouter", IDLE), &json!({})).await;
    assert_eq!(keytide.post_as(PHONE, CHAT, &chat(false)).await.status(), 200);
    keytide.settled("ollama", 4).await;
    let used = async |keytide: &Keytide| {
        let mut used = Vec::new();
        for user in [ANN, BOB] {
            let user = keytide.admin("GET", &format!("/admin/users/{}", UserId(user)), &json!({})).await;
            used.push((user["requests_today"].as_u64().unwrap(), user["tokens_today"].as_u64().unwrap()));
        }
        used
    };
    let before = used(&keytide).await;
    assert_eq!(before.iter().map(|(requests, _)| *requests).collect::<Vec<_>>(), [4, 1]);
    let keytide = keytide.restart().await;
    assert_eq!(used(&keytide).await, before);
    keytide.stop().await;
}

#[tokio::test]
async fn what_was_revoked_comes_back_with_the_day_it_had() {
    let upstream = upstream().await;
    let mut keytide = of_ann(setup(&upstream, ""), None).user(ANN, |_| {}).start().await;
    let path = format!("/admin/tokens/{}", TokenId::derive("ollama", PHONE));
    let again = json!({"name": "again", "token": PHONE, "requests_per_day": 5});
    let mut served = 0;
    for is_restarted in [false, true, false] {
        assert_eq!(keytide.post_as(PHONE, CHAT, &chat(false)).await.status(), 200);
        served += 1;
        keytide.settled("ollama", served).await;
        keytide.admin("DELETE", &path, &json!({})).await;
        if is_restarted {
            keytide = keytide.restart().await;
        }
        let token = keytide.admin("POST", "/admin/tokens", &again).await;
        assert_eq!((&token["requests_today"], &token["request_count"]), (&json!(served), &json!(served)));
    }
    assert_eq!(crowd(&keytide, 1).await, [2, 32]);
    keytide.stop().await;
}

#[tokio::test]
async fn what_keytide_refuses_costs_nothing() {
    let upstream = upstream().await;
    let keytide = of_ann(setup(&upstream, ""), Some(2))
        .user(ANN, |user| {
            user.limits.requests_per_minute = Some(2);
            user.limits.allowed_models = vec!["demo-*".into()];
        })
        .start()
        .await;
    let post = async |body: &str| {
        let request = keytide.client.post(format!("{}{CHAT}", keytide.url)).bearer_auth(PHONE);
        error_code(request.body(body.to_owned()).send().await.unwrap()).await
    };
    for _ in 0..3 {
        assert_eq!(post("{").await, (400, "invalid_json".to_owned()));
        let forbidden = "{\"model\":\"other\",\"messages\":[]}";
        assert_eq!(post(forbidden).await, (403, "model_not_allowed".to_owned()));
    }
    let answer = keytide.post_as(PHONE, CHAT, &chat(false)).await;
    assert_eq!(answer.status(), 200);
    let told = |name: &str| header(&answer, &format!("x-ratelimit-{name}-requests"));
    assert_eq!([told("limit"), told("remaining")], ["2", "1"]);
    // Of two limits with as much left, the one that lasts longer.
    assert_eq!(told("reset"), "1h0m0s");
    // A list counts for the minute, and for no day.
    let list = keytide.client.get(format!("{}/v1/models", keytide.url)).bearer_auth(PHONE);
    assert_eq!(list.send().await.unwrap().status(), 200);
    let (status, code) = error_code(keytide.post_as(PHONE, CHAT, &chat(false)).await).await;
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    keytide.clock.advance(Duration::from_secs(60));
    assert_eq!(keytide.post_as(PHONE, CHAT, &chat(false)).await.status(), 200);
    let answer = keytide.post_as(PHONE, CHAT, &chat(false)).await;
    assert_eq!(header(&answer, "retry-after"), "3540");
    assert_eq!(header(&answer, "x-should-retry"), "false");
    let body: Value = answer.json().await.unwrap();
    let error = &body["error"];
    assert_eq!((&error["code"], &error["limit"]), (&json!("daily_requests_exceeded"), &json!(2)));
    assert_eq!((&error["remaining"], &error["reset"]), (&json!(0), &json!("2026-09-22T00:00:00Z")));
    // Without limits there is nothing to tell.
    let answer = keytide.post(CHAT, &chat(false)).await;
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
    keytide.stop().await;
}

#[tokio::test]
async fn tokens_are_counted_and_what_tells_them_is_taken_out_again() {
    let mut upstream = Scripted::start().await;
    let lines = format!("base_url = \"{}\"", upstream.base_url());
    let mut setup = setup_of("p", &lines).keys("p", &["key-a-0123456789"]);
    setup.clock = Clock::manual(EVENING);
    let keytide = setup
        .token("p", PHONE, |token| token.user = Some(UserId(ANN)))
        .user(ANN, |user| user.limits.tokens_per_day = Some(100))
        .start()
        .await;
    let chunk = |n: u32| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{n}\"}}}}], \"usage\" : null}}\n\n")
    };
    let usage =
        "data: {\"id\":1,\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":20}}\n\n";
    let (begin, end) = (format!(": hello\r\n\r\n{}{}", chunk(1), chunk(2)), "data: [DONE]\n\n");
    let whole = format!("{begin}{usage}{end}");
    let body = |options: &str| format!("{{ \"model\":\"m\",{options}\"stream\":true}}");
    let asks = "\"stream_options\":{\"include_usage\":true},";
    // Wherever the stream is cut on its way.
    let cuts: Vec<usize> =
        (1..whole.len()).step_by(7).chain([0, begin.len(), begin.len() + usage.len()]).collect();
    for (token, options, sent, seen) in [
        (
            PHONE,
            "",
            "{\"stream_options\":{\"include_usage\":true}, \"model\":\"m\",\"stream\":true}".to_owned(),
            format!("{begin}{end}"),
        ),
        (PHONE, asks, body(asks), whole.clone()),
        (TOKEN, "", body(""), whole.clone()),
    ] {
        for cut in &cuts {
            keytide.clock.advance(DAY);
            let url = format!("{}{CHAT}", keytide.url);
            let request = keytide.client.post(url).bearer_auth(token).body(body(options)).send();
            let (answer, ()) = tokio::join!(async { request.await.unwrap().text().await.unwrap() }, async {
                let mut asked = upstream.next().await;
                assert_eq!(asked.body, sent);
                asked.begin_stream().await;
                asked.write(&whole.as_bytes()[..*cut]).await;
                // Apart on the wire.
                tokio::time::sleep(Duration::from_millis(2)).await;
                asked.write(&whole.as_bytes()[*cut..]).await;
            });
            assert_eq!(answer, seen, "cut at {cut}");
        }
    }
    let ask = async |upstream: &mut Scripted| {
        let request = chat(false);
        let (answer, ()) = tokio::join!(keytide.post_as(PHONE, CHAT, &request), async {
            let answer = "{\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":20}}";
            upstream.next().await.json(200, answer).await;
        });
        (answer.status().as_u16(), header(&answer, "x-ratelimit-remaining-tokens"))
    };
    keytide.clock.advance(DAY);
    for left in ["100", "55", "10"] {
        assert_eq!(ask(&mut upstream).await, (200, left.to_owned()));
    }
    let answer = keytide.post_as(PHONE, CHAT, &chat(false)).await;
    assert_eq!(header(&answer, "x-ratelimit-limit-tokens"), "100");
    assert_eq!(header(&answer, "x-ratelimit-reset-tokens"), "1h0m0s");
    assert_eq!(error_code(answer).await, (429, "daily_tokens_exceeded".to_owned()));
    assert!(upstream.is_quiet());
    keytide.clock.advance(DAY);
    assert_eq!(ask(&mut upstream).await, (200, "100".to_owned()));
    keytide.stop().await;
}

/// The rest of a stream, and how long it took to end.
async fn rest(answer: Response) -> (String, Duration) {
    let begun = Instant::now();
    let (mut stream, mut seen) = (answer.bytes_stream(), Vec::new());
    while let Some(Ok(bytes)) = stream.next().await {
        seen.extend_from_slice(&bytes);
    }
    (String::from_utf8(seen).unwrap(), begun.elapsed())
}

#[tokio::test]
async fn revoked_users_with_live_streams() {
    let upstream = upstream().await;
    let keytide = of_ann(setup(&upstream, ""), None).user(ANN, |_| {}).start().await;
    let user = format!("/admin/users/{}", UserId(ANN));
    let phone = TokenId::derive("ollama", PHONE);
    upstream.set_default(Behaviour::Stall { after: 3 });
    let disable = ("PATCH", user.clone(), json!({"enabled": false}));
    let revoke = ("DELETE", format!("/admin/tokens/{phone}"), json!({}));
    let delete = ("DELETE", user.clone(), json!({}));
    let mut cut = 0;
    for (path, (method, at, body), code, words) in [
        (CHAT, &disable, "user_disabled", "\"code\":\"user_disabled\""),
        ("/v1/messages", &disable, "user_disabled", "event: error\ndata: "),
        ("/api/chat", &disable, "user_disabled", "{\"error\":\"The user of this token is disabled"),
        (CHAT, &revoke, "invalid_api_key", "\"code\":\"invalid_api_key\""),
        (CHAT, &delete, "user_disabled", "\"code\":\"user_disabled\""),
    ] {
        let token = if code == "invalid_api_key" { PHONE } else { LAPTOP };
        let mut body_of = chat(true);
        body_of["max_tokens"] = json!(100);
        let other = keytide.post(path, &body_of).await;
        let answer = keytide.post_as(token, path, &body_of).await;
        assert_eq!(answer.status(), 200);
        let (ended, _) = tokio::join!(rest(answer), keytide.admin(method, at, body));
        cut += 1;
        let (text, took) = ended;
        assert!(text.contains(words) && !text.contains("[DONE]"), "{method} {at}: {text}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(error_code(keytide.post_as(token, path, &body_of).await).await, (401, code.to_owned()));
        // Its upstream call has ended too; another's goes on until its caller leaves.
        until("only the other is under way", || upstream.tally().in_flight() == 1).await;
        drop(other);
        until("nothing is under way", || upstream.tally().in_flight() == 0).await;
        if *method == "PATCH" {
            keytide.admin("PATCH", &user, &json!({"enabled": true})).await;
        }
    }
    // One that waits for its answer is sent away as well.
    keytide.admin("POST", "/admin/users", &json!({"name": "Bob"})).await;
    let bob = keytide.admin("GET", "/admin/users", &json!({})).await["users"][0].clone();
    let text = "sk-bob-0123456789abcdef";
    keytide.admin("POST", "/admin/tokens", &json!({"name": "b", "token": text, "user": bob["id"]})).await;
    upstream.set_default(Behaviour::Hang);
    let (begun, body, path) =
        (Instant::now(), chat(false), format!("/admin/users/{}", bob["id"].as_str().unwrap()));
    let (answer, ()) = tokio::join!(keytide.post_as(text, CHAT, &body), async {
        until("it waits", || upstream.tally().in_flight() == 1).await;
        keytide.admin("PATCH", &path, &json!({"enabled": false})).await;
    });
    assert_eq!(error_code(answer).await, (401, "user_disabled".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(4));
    until("nothing is under way", || upstream.tally().in_flight() == 0).await;
    // A stream is no failure of its key's, and a client that was sent away is counted as one that left.
    let books = keytide.settled("ollama", 2 * cut + 1).await;
    assert_eq!(books.total.counts, Counts { other: 2 * cut + 1, ..Counts::default() });
    keytide.stop().await;
}

#[tokio::test]
async fn callers_come_from_where_they_may() {
    let upstream = upstream().await;
    let mut setup = of_ann(setup(&upstream, ""), None)
        .token("ollama", "sk-far-0123456789", |token| {
            token.limits.allowed_addresses = vec!["203.0.113.0/24".into()];
        })
        .token("ollama", "sk-broken-0123456789", |token| {
            token.limits.allowed_addresses = vec!["nonsense".into()];
        })
        .user(ANN, |user| user.limits.allowed_addresses = vec!["127.0.0.1".into(), "203.0.113.9".into()]);
    let ask = async |keytide: &Keytide, token: &str, hops: &str| {
        let request =
            keytide.client.post(format!("{}{CHAT}", keytide.url)).bearer_auth(token).json(&chat(false));
        let request = if hops.is_empty() { request } else { request.header("x-forwarded-for", hops) };
        let answer = request.send().await.unwrap();
        match answer.status().as_u16() {
            200 => "served".to_owned(),
            403 => error_code(answer).await.1,
            other => other.to_string(),
        }
    };
    let refused = "address_not_allowed";
    let direct = setup.clone().start().await;
    for (token, hops, seen) in [
        (PHONE, "", "served"),
        // Anybody can say so.
        (PHONE, "198.51.100.1", "served"),
        ("sk-far-0123456789", "203.0.113.9", refused),
        ("sk-broken-0123456789", "", refused),
        (TOKEN, "", "served"),
    ] {
        assert_eq!(ask(&direct, token, hops).await, seen, "{token} {hops}");
    }
    direct.stop().await;
    setup.config.server.gateway.trusted_proxies = vec!["127.0.0.0/8".into()];
    let proxied = setup.start().await;
    for (token, hops, seen) in [
        (PHONE, "198.51.100.1", refused),
        (PHONE, "203.0.113.9", "served"),
        ("sk-far-0123456789", "203.0.113.9", "served"),
        ("sk-far-0123456789", "203.0.113.9, 198.51.100.1", refused),
        ("sk-far-0123456789", "198.51.100.1, 203.0.113.77, 127.0.0.2", "served"),
        ("sk-far-0123456789", "", refused),
        (TOKEN, "198.51.100.1", "served"),
    ] {
        assert_eq!(ask(&proxied, token, hops).await, seen, "{token} {hops}");
    }
    let attempts = upstream.tally().total().attempts;
    assert_eq!(attempts, 3 + 4);
    proxied.stop().await;
}

#[tokio::test]
async fn changes_and_reloads_hand_out_nothing_anew() {
    let upstream = upstream().await;
    let keytide = of_ann(setup(&upstream, ""), Some(1000)).user(ANN, |_| {}).start().await;
    let path = format!("/admin/users/{}", UserId(ANN));
    let limit = |limit: u64| json!({"requests_per_day": limit});
    assert_eq!(crowd(&keytide, 1).await, [32, 32]);
    // In the middle of a day: what was used counts.
    keytide.admin("PATCH", &path, &limit(100)).await;
    let changes = async {
        for n in 0..40 {
            keytide.admin("PATCH", &path, &json!({"note": n.to_string()})).await;
        }
    };
    let (served, ()) = tokio::join!(crowd(&keytide, 2), changes);
    assert_eq!(served.iter().sum::<usize>(), 36);
    let mut other = loaded("");
    other.config = keytide.config.clone();
    other.config.server.gateway.cors_origins.clear();
    keytide.app.reload(&other).await.unwrap();
    assert_eq!(crowd(&keytide, 1).await, [0, 0]);
    keytide.admin("PATCH", &path, &limit(110)).await;
    assert_eq!(crowd(&keytide, 1).await.iter().sum::<usize>(), 10);
    keytide.stop().await;
}

#[tokio::test]
async fn whoever_leaves_just_before_the_end_does_not_have_it_for_nothing() {
    let mut upstream = Scripted::start().await;
    let lines = format!("base_url = \"{}\"", upstream.base_url());
    let mut setup = setup_of("p", &lines).keys("p", &["key-a-0123456789"]);
    setup.clock = Clock::manual(EVENING);
    let keytide = setup
        .token("p", PHONE, |token| token.user = Some(UserId(ANN)))
        .user(ANN, |user| user.limits.tokens_per_day = Some(100))
        .start()
        .await;
    let events = |from: u32, to: u32| {
        (from..to)
            .map(|n| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{n}\"}}}}]}}\n\n"))
            .collect::<String>()
    };
    let path = format!("/admin/users/{}", UserId(ANN));
    for (n, (token, sent, counted)) in [(PHONE, 7, 7), (TOKEN, 5, 7), (PHONE, 3, 10)].into_iter().enumerate()
    {
        let url = format!("{}{CHAT}", keytide.url);
        let request =
            keytide.client.post(url).bearer_auth(token).body("{\"model\":\"m\",\"stream\":true}").send();
        let (answer, _asked) = tokio::join!(async { request.await.unwrap() }, async {
            let mut asked = upstream.next().await;
            asked.begin_stream().await;
            asked.write(events(0, sent).as_bytes()).await;
            asked
        });
        let mut answer = answer;
        let mut seen = 0;
        while seen < events(0, sent).len() {
            seen += answer.chunk().await.unwrap().unwrap().len();
        }
        // The usage would be next.
        drop(answer);
        keytide.settled("p", n as u64 + 1).await;
        assert_eq!(keytide.admin("GET", &path, &json!({})).await["tokens_today"], counted, "{n}");
    }
    keytide.stop().await;
}
