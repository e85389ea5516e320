use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::{
    ledger::Books,
    model::{TableSpace, Timestamp},
    pool, store,
};

#[tokio::test]
async fn not_ready_without_a_provider_or_while_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&store::Options::new(dir.path()), Timestamp(0)).unwrap();
    let state = State::new(Parts {
        providers: Vec::new(),
        store,
        ledger: Arc::new(Ledger::new(Books::default(), 1)),
        clock: Clock::manual(Timestamp(0)),
        flush_failing: Box::new(|| true),
        hubs: Box::new(|| {
            vec![HubStatus { name: "eu".to_owned(), state: HubState::Failing, ..HubStatus::default() }]
        }),
        spaces: Box::new(|| {
            let table = TableSpace { name: "daily_logs".to_owned(), bytes: 70, ..TableSpace::default() };
            let (budget_bytes, used_bytes) = (Some(100), Some(86));
            let space = Space {
                budget_bytes,
                used_bytes,
                rung: Rung::Short,
                tables: vec![table],
                ..Space::default()
            };
            vec![("file".to_owned(), Space::default()), ("hub/eu".to_owned(), space)]
        }),
        watched: Box::new(|| Watched {
            events: vec![("abuse".to_owned(), 4, 2)],
            observations_lost: 7,
            blocked: 1,
            ..Watched::default()
        }),
    });
    let ask = async || {
        let request = http::Request::get("/ready").body(axum::body::Body::empty()).unwrap();
        let response = router(state.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Readiness>(&bytes).unwrap())
    };
    let (status, answer) = ask().await;
    assert_eq!((status, answer.ready, answer.reasons.len()), (503, false, 2));
    let entry = |enabled| ProviderEntry {
        name: "p".into(),
        enabled,
        pool: Pool::new("p", pool::Options::default()),
        metrics: Arc::new(crate::gateway::metrics::Metrics::new(1)),
    };
    state.set_providers(vec![entry(false)]);
    assert_eq!(ask().await.1.reasons.len(), 2);
    state.set_providers(vec![entry(true)]);
    let (status, answer) = ask().await;
    assert_eq!((status, answer.reasons.len(), answer.warnings.len()), (503, 1, 3));
    assert!(answer.warnings[1].contains("eu"), "{answer:?}");
    let request = http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let bytes = router(state).oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains("keytide_hub_ok{hub=\"eu\"} 0"), "{text}");
    for line in [
        "keytide_storage_bytes{where=\"hub/eu\",table=\"daily_logs\"} 70",
        "keytide_storage_budget_bytes{where=\"hub/eu\"} 100",
        "keytide_storage_used_bytes{where=\"hub/eu\"} 86",
        "keytide_storage_rung{where=\"hub/eu\"} 2",
        "keytide_storage_rung{where=\"file\"} 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("keytide_hub_bytes_total{hub=\"eu\",direction=\"sent\"} 0"), "{text}");
    for line in [
        "keytide_security_events_total{type=\"abuse\",severity=\"4\"} 2",
        "keytide_observations_lost_total 7",
        "keytide_verdicts{action=\"block\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
