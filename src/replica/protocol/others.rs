//! Who else there is, as the hub's greetings tell.

use crate::replica::wire::{HelloAnswer, InstanceRow, ReportRow};

/// On the hub's clock: who was seen within this shares the egress budget.
const ALIVE_MS: i64 = 600_000;
/// Bounds on what a strange hub can make us keep.
const MOST: usize = 1000;

#[derive(Clone, Debug, PartialEq)]
pub struct Others {
    /// As the hub named them last, with this one.
    pub instances: Vec<InstanceRow>,
    pub reports: Vec<ReportRow>,
    /// When that was, on the hub's clock.
    pub listed: Option<i64>,
    /// How many there are, with this one; 0 before the first greeting.
    pub alive: u64,
    /// Whether the next greeting is to ask for their names.
    pub(super) wanted: bool,
}

impl Default for Others {
    /// The first greeting of a process asks.
    fn default() -> Self {
        Self { instances: Vec::new(), reports: Vec::new(), listed: None, alive: 0, wanted: true }
    }
}

impl Others {
    pub(super) fn hear(&mut self, answer: HelloAnswer) {
        let now = answer.greeting.now;
        if let Some(mut instances) = answer.instances {
            instances.truncate(MOST);
            (self.instances, self.reports) = (instances, answer.reports);
            self.reports.truncate(MOST);
            self.listed = Some(now);
            self.wanted = false;
        }
        let lives = |instance: &&InstanceRow| now.saturating_sub(instance.last_seen) < ALIVE_MS;
        // Older hubs do not count them, and name them every time.
        self.alive = answer.alive.unwrap_or_else(|| self.instances.iter().filter(lives).count() as u64);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hear(others: &mut Others, more: serde_json::Value) {
        let mut answer = json!({
            "hub": {"id": uuid::Uuid::nil(), "system": "1", "timeline": 1}, "schema": 1, "now": 2_000_000, "status": "ok",
        });
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        others.hear(serde_json::from_value(answer).unwrap());
    }

    fn seen(at: i64) -> serde_json::Value {
        json!({"id": uuid::Uuid::new_v4(), "name": "n", "version": "1", "first_seen": 0, "last_seen": at, "clock_offset": 0})
    }

    #[test]
    fn names_stay_until_they_are_told_again() {
        let mut others = Others::default();
        assert!(others.wanted, "the first greeting asks");
        let report = json!({"kind": "counter_lowered", "table": "t", "count": 2, "last_at": 5});
        hear(&mut others, json!({"alive": 7, "instances": [seen(1)], "reports": [report]}));
        assert_eq!((others.alive, others.instances.len(), others.reports.len()), (7, 1, 1));
        hear(&mut others, json!({"alive": 3}));
        assert_eq!((others.alive, others.instances.len(), others.reports.len()), (3, 1, 1));
        assert_eq!((others.listed, others.wanted), (Some(2_000_000), false));
    }

    #[test]
    fn an_older_hub_names_them_and_does_not_count_them() {
        let mut others = Others::default();
        hear(&mut others, json!({"instances": [seen(2_000_000), seen(1_400_001), seen(1_400_000)]}));
        assert_eq!(others.alive, 2);
    }
}
