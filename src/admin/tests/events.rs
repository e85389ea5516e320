use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    guard::Origin,
    model::{Event, UserId},
    monitor::{Action, Verdict, What},
};

const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

fn event(n: u128, kind: &str, severity: u8) -> Event {
    let subject = (kind == "auth_fail").then(|| ("subject".to_owned(), "192.0.2.0/24".into()));
    let details = [("kind".to_owned(), Value::from("frequency"))].into_iter().chain(subject);
    Event {
        id: Uuid::from_u128(n),
        kind: kind.into(),
        user: (kind == "abuse").then_some(UserId(7 << 96)),
        key: None,
        severity,
        details: details.collect(),
        at: START.saturating_add(HOUR * n as u32),
        weight: 1,
    }
}

#[tokio::test]
async fn events_are_found_by_all_they_have() {
    let world = World::new();
    assert_eq!(world.get("/admin/events").await.json()["total"], 0);
    let events = vec![event(1, "abuse", 2), event(2, "auth_fail", 4), event(3, "rate_limit", 1)];
    world.clock.advance(HOUR * 4);
    world.store.record_events(events, MONTH).await.unwrap();
    let found = async |query: &str| {
        let reply = world.get(&format!("/admin/events?{query}")).await;
        assert_eq!(reply.status, 200, "{query}: {}", reply.text);
        let found = reply.json()["events"].as_array().unwrap().clone();
        found.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("").await, ["rate_limit", "auth_fail", "abuse"]);
    for (query, kinds) in [
        ("severity=2", &["auth_fail", "abuse"][..]),
        ("type=abuse", &["abuse"]),
        ("type=storage", &[]),
        ("subject=00000007", &["abuse"]),
        ("subject=user:00000007-0000-0000-0000-000000000000", &["abuse"]),
        ("subject=192.0.2.", &["auth_fail"]),
        ("subject=address:192.0.2.7", &["auth_fail"]),
        ("subject=192.0.2.200", &["auth_fail"]),
        ("subject=192.0.20.7", &[]),
        ("pageSize=1&page=2", &["auth_fail"]),
        ("from=2027-01-15T10:00:00Z", &["rate_limit", "auth_fail"]),
        ("to=2027-01-15T10:00:00Z", &["abuse"]),
        ("from=2027-01-16", &[]),
    ] {
        assert_eq!(found(query).await, kinds, "{query}");
    }
    let one = &world.get("/admin/events?type=abuse").await.json()["events"][0];
    assert_eq!((&one["user"], &one["severity"]), (&json!("00000007-0000-0000-0000-000000000000"), &json!(2)));
    assert_eq!(one["details"], json!({"kind": "frequency"}));
    for (query, param) in [
        ("severity=6", "severity"),
        ("severity=high", "severity"),
        ("from=2027-01-16&to=2027-01-15", "from"),
        ("from=now", "from"),
        ("type=auth_failed", "type"),
        ("page=0", "page"),
        ("colour=red", "colour"),
    ] {
        let reply = world.get(&format!("/admin/events?{query}")).await;
        assert_eq!(
            (reply.error(), &reply.json()["error"]["param"]),
            ((400, "invalid_query".to_owned()), &json!(param))
        );
    }
}

#[tokio::test]
async fn an_address_is_found_as_verdicts_name_it() {
    let world = World::new();
    let address = Subject::at("2001:db8:1:2ff:3::4".parse().unwrap());
    let mut event = event(1, "auth_fail", 2);
    event.details.insert("subject".to_owned(), address.to_string().into());
    world.store.record_events(vec![event], MONTH).await.unwrap();
    let block = Action::Block { span: HOUR };
    world
        .watch
        .verdicts
        .apply(&[Verdict { subject: address, action: block, until: START.saturating_add(HOUR) }], START);
    let listed = world.get("/admin/verdicts").await.json();
    let named = listed["verdicts"][0]["subject"].as_str().unwrap();
    for (subject, total) in
        [(named, 1), ("2001:db8:1:2aa::1", 1), ("2001:db8:1:3ff::1", 0), ("2001:db8:1:", 1)]
    {
        let found = world.get(&format!("/admin/events?subject={subject}")).await;
        assert_eq!(found.json()["total"], total, "{subject}");
    }
    let refused = world.get("/admin/events?type=auth_failed").await.text;
    assert!(refused.contains("rate_limit, auth_fail, abuse, storage"), "{refused}");
}

#[tokio::test]
async fn verdicts_are_listed_and_lifted() {
    let world = World::new();
    assert_eq!(world.get("/admin/verdicts").await.json(), json!({"in_force": true, "verdicts": []}));
    let (user, address) = (Subject::of_user(UserId(7)), Subject::at("2001:db8::1:2:3:4".parse().unwrap()));
    let verdict =
        |subject, action: Action| Verdict { subject, action, until: START.saturating_add(action.span()) };
    let block = Action::Block { span: HOUR };
    let throttle = Action::Throttle { factor: 0.5, span: HOUR * 2 };
    world.watch.verdicts.apply(&[verdict(user, block), verdict(address, throttle)], START);
    let listed = world.get("/admin/verdicts").await.json();
    assert_eq!(
        listed["verdicts"],
        json!([
            {"subject": "address:2001:db8::", "action": "throttle", "factor": 0.5, "until": "2027-01-15T10:00:00Z"},
            {"subject": "user:00000000-0000-0000-0000-000000000007", "action": "block", "factor": null,
             "until": "2027-01-15T09:00:00Z"},
        ])
    );
    for verdict in listed["verdicts"].as_array().unwrap() {
        let path = format!("/admin/verdicts/{}", verdict["subject"].as_str().unwrap());
        assert_eq!(world.call("DELETE", &path, "").await.json(), json!({"subject": verdict["subject"]}));
        assert_eq!(world.call("DELETE", &path, "").await.error(), (404, "no_verdict".to_owned()));
    }
    assert_eq!(world.get("/admin/verdicts").await.json()["verdicts"], json!([]));
    for subject in ["user:1", "key:00000000-0000-0000-0000-000000000007", "address:here", "x"] {
        let reply = world.call("DELETE", &format!("/admin/verdicts/{subject}"), "").await;
        assert_eq!(reply.error(), (400, "invalid_subject".to_owned()), "{subject}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_monitor_hears_of_wrong_admin_tokens() {
    let world = World::new();
    let send = |token: &'static str| {
        let mut request =
            Request::get("/admin/providers").header("x-admin-token", token).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Origin { address: "192.0.2.7".parse().unwrap(), is_https: false });
        world.send(request)
    };
    assert_eq!(send(TOKEN).await.status, 200);
    for _ in 0..7 {
        assert_eq!(send("wrong").await.status, 401);
    }
    let seen = world.watch.collect(&mut Vec::new());
    assert_eq!(seen.len(), 7);
    let of_address = Subject::Address("192.0.2.7".parse().unwrap());
    assert!(seen.iter().all(|seen| seen.what == What::AdminLoginFailed && seen.subject == of_address));
}
