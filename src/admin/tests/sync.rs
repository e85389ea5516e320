use super::*;
use crate::replica::status::{HubState, HubStatus};

/// One hub that cannot be adopted.
pub(super) struct OneHub;

fn hub() -> HubStatus {
    HubStatus {
        name: "default".to_owned(),
        transport: "postgres".to_owned(),
        target: "postgres://db.example:6543/postgres".to_owned(),
        state: HubState::Ok,
        last_success: Some(START),
        next_round: None,
        lag_ms: 0,
        last_error: None,
        clock_offset_ms: Some(-12),
        clock_correction_ms: 0,
        traffic: Default::default(),
        streams: Vec::new(),
        instances: Vec::new(),
        reports: Vec::new(),
        listed_at: None,
        notes: Vec::new(),
    }
}

impl OneHub {
    fn known(hub: Option<String>) -> Result<(), Refusal> {
        match hub.as_deref() {
            None | Some("default") => Ok(()),
            Some(_) => Err(Refusal::UnknownHub(vec!["default".to_owned()])),
        }
    }
}

impl Replication for OneHub {
    fn status(&self) -> BoxFuture<'_, Vec<HubStatus>> {
        Box::pin(async { vec![hub()] })
    }

    fn look(&self) {}

    fn changed(&self) {}

    fn now(&self, name: Option<String>) -> BoxFuture<'_, Result<Vec<HubStatus>, Refusal>> {
        Box::pin(async { Self::known(name).map(|()| vec![hub()]) })
    }

    fn adopt(&self, name: Option<String>) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        Box::pin(async {
            Self::known(name)?;
            Err(Refusal::Failed("the hub is the one that it was; there is nothing to adopt".to_owned()))
        })
    }
}

#[tokio::test]
async fn replication_is_shown_and_steered() {
    let world = World::new();
    let shown = world.get("/admin/sync").await.json();
    assert_eq!(shown["hubs"][0]["state"], "ok");
    assert_eq!(shown["hubs"][0]["clock_offset_ms"], -12);
    let now = world.json("POST", "/admin/sync/now", json!({})).await;
    assert_eq!((now.status, &now.json()["hubs"][0]["name"]), (200, &json!("default")));
    let unknown = world.json("POST", "/admin/sync/now", json!({"hub": "other"})).await;
    assert_eq!(unknown.error(), (404, "unknown_hub".to_owned()));
    assert!(unknown.text.contains("default"), "{}", unknown.text);
    let adopted = world.json("POST", "/admin/sync/adopt", json!({"hub": "default"})).await;
    assert_eq!(adopted.error(), (502, "hub_failed".to_owned()));
    assert_eq!(world.json("POST", "/admin/sync/now", json!({"hubs": 1})).await.status, 400);
}
