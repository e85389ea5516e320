//! The figures of `/metrics`, read at each scrape from where they are kept anyway.

use std::{cmp::Reverse, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{State, Watched};
use crate::{
    gateway::metrics::{DURATION_BOUNDS_S, Reading},
    ledger::OTHER,
    model::{Counts, Space, Usage},
    pool::StateCounts,
    replica::status::{HubState, HubStatus},
};

/// Models with a row of their own; the rest are added up, so that a scrape stays small.
const TOP_MODELS: usize = 50;
/// Of a database that is shared with others there may be many.
const TOP_TABLES: usize = 100;

pub(super) fn encode(state: &State, file_bytes: Option<u64>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("keytide");
    registry.register_collector(Box::new(Scrape::read(state, file_bytes)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// One moment's figures.
#[derive(Debug)]
struct Scrape {
    providers: Vec<Provider>,
    file_bytes: Option<u64>,
    store_healthy: bool,
    flush_failing: bool,
    hubs: Vec<HubStatus>,
    spaces: Vec<(String, Space)>,
    watched: Watched,
}

#[derive(Debug)]
struct Provider {
    name: Arc<str>,
    enabled: bool,
    keys: StateCounts,
    total: Usage,
    models: Vec<(String, Counts)>,
    reading: Reading,
}

impl Scrape {
    fn read(state: &State, file_bytes: Option<u64>) -> Self {
        let now = state.clock.now();
        let providers = state.providers.load_full();
        let books = |name: &str| {
            state.ledger.read(|books| match books.providers.get(name) {
                Some(books) => {
                    let models = books.models.iter().map(|(name, usage)| (name.to_string(), usage.counts));
                    (books.total, models.collect())
                }
                None => (Usage::default(), Vec::new()),
            })
        };
        let provider = |entry: &super::ProviderEntry| {
            let (total, models) = books(&entry.name);
            Provider {
                name: entry.name.clone(),
                enabled: entry.enabled,
                keys: entry.pool.counts(now),
                total,
                models: bounded(models),
                reading: entry.metrics.read(),
            }
        };
        Self {
            providers: providers.iter().map(provider).collect(),
            file_bytes,
            store_healthy: state.store.healthy().is_none(),
            flush_failing: (state.flush_failing)(),
            hubs: (state.hubs)(),
            spaces: (state.spaces)(),
            watched: (state.watched)(),
        }
    }
}

fn bounded(mut models: Vec<(String, Counts)>) -> Vec<(String, Counts)> {
    models.sort_unstable_by(|(a, x), (b, y)| Reverse(x.total()).cmp(&Reverse(y.total())).then(a.cmp(b)));
    let rest = models.split_off(models.len().min(TOP_MODELS));
    if !rest.is_empty() {
        let place = models.iter().position(|(name, _)| name == OTHER).unwrap_or_else(|| {
            models.push((OTHER.to_owned(), Counts::default()));
            models.len() - 1
        });
        rest.iter().for_each(|(_, counts)| models[place].1.add(counts));
    }
    models
}

fn by_outcome(counts: &Counts) -> [(&'static str, u64); 3] {
    [("success", counts.success), ("failure", counts.failure), ("other", counts.other)]
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(encoder);
        out.gauge("build_info", "The version that runs", |row| {
            row(&[("version", env!("CARGO_PKG_VERSION"))], 1)
        })?;
        out.gauge("provider_enabled", "Whether a provider is switched on", |row| {
            self.each(|p| row(&[("provider", &p.name)], p.enabled.into()))
        })?;
        out.gauge("keys", "Keys by state", |row| {
            self.each(|p| {
                let states = [
                    ("active", p.keys.active),
                    ("failed", p.keys.failed),
                    ("disabled", p.keys.disabled),
                    ("expired", p.keys.expired),
                ];
                states.iter().try_for_each(|(state, keys)| {
                    row(&[("provider", &p.name), ("state", state)], *keys as i64)
                })
            })
        })?;
        out.gauge("attempts_in_flight", "Attempts under way at providers", |row| {
            self.each(|p| row(&[("provider", &p.name)], p.keys.in_flight as i64))
        })?;
        out.gauge("requests_in_flight", "Client requests under way", |row| {
            self.each(|p| row(&[("provider", &p.name)], p.reading.in_flight as i64))
        })?;
        self.books(&mut out)?;
        self.since_start(&mut out)?;
        self.replication(&mut out)?;
        self.storage(&mut out)?;
        self.monitor(&mut out)?;
        if let Some(bytes) = self.file_bytes {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            out.gauge("store_file_bytes", "Size of the store's file", |row| row(&[], bytes))?;
        }
        out.gauge("store_healthy", "Whether the store can be written", |row| {
            row(&[], self.store_healthy.into())
        })?;
        out.gauge("flush_failing", "Whether the last statistics could not be written", |row| {
            row(&[], self.flush_failing.into())
        })
    }
}

impl Scrape {
    fn each(&self, each: impl FnMut(&Provider) -> fmt::Result) -> fmt::Result {
        self.providers.iter().try_for_each(each)
    }

    /// What outlives a restart.
    fn books(&self, out: &mut Out<'_>) -> fmt::Result {
        out.counter("requests", "Client requests by how they ended, from the books", |row| {
            self.each(|p| {
                by_outcome(&p.total.counts).iter().try_for_each(|(outcome, count)| {
                    row(&[("provider", &p.name), ("outcome", outcome)], *count)
                })
            })
        })?;
        out.counter("model_requests", "Client requests by model, from the books", |row| {
            self.each(|p| {
                p.models.iter().try_for_each(|(model, counts)| {
                    by_outcome(counts).iter().try_for_each(|(outcome, count)| {
                        row(&[("provider", &p.name), ("model", model), ("outcome", outcome)], *count)
                    })
                })
            })
        })?;
        out.counter("usage_tokens", "Tokens that providers counted, from the books", |row| {
            self.each(|p| {
                row(&[("provider", &p.name), ("kind", "prompt")], p.total.prompt_tokens)?;
                row(&[("provider", &p.name), ("kind", "completion")], p.total.completion_tokens)
            })
        })
    }

    fn replication(&self, out: &mut Out<'_>) -> fmt::Result {
        if self.hubs.is_empty() {
            return Ok(());
        }
        out.gauge("hub_ok", "Whether the last round with a hub went well", |row| {
            self.hubs.iter().try_for_each(|hub| {
                let ok = matches!(hub.state, HubState::Ok | HubState::Resyncing);
                row(&[("hub", &hub.name)], ok.into())
            })
        })?;
        out.gauge("hub_lag_milliseconds", "How long the oldest change made here waits for the hub", |row| {
            self.hubs
                .iter()
                .try_for_each(|hub| row(&[("hub", &hub.name)], i64::try_from(hub.lag_ms).unwrap_or(i64::MAX)))
        })?;
        out.gauge("hub_pending_rows", "Rows that the hub has not confirmed", |row| {
            self.hubs.iter().try_for_each(|hub| {
                hub.streams.iter().try_for_each(|stream| {
                    let rows = stream.pending_rows.saturating_add(stream.open_rows);
                    let labels = [("hub", hub.name.as_str()), ("provider", stream.provider.as_str())];
                    row(&labels, i64::try_from(rows).unwrap_or(i64::MAX))
                })
            })
        })?;
        out.counter("hub_bytes", "Bytes to and from a hub, since the start", |row| {
            self.hubs.iter().try_for_each(|hub| {
                row(&[("hub", &hub.name), ("direction", "sent")], hub.traffic.sent)?;
                row(&[("hub", &hub.name), ("direction", "received")], hub.traffic.received)
            })
        })
    }

    fn storage(&self, out: &mut Out<'_>) -> fmt::Result {
        if self.spaces.is_empty() {
            return Ok(());
        }
        let figure = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        out.gauge("storage_bytes", "Bytes of a table in the file or in a hub, as measured last", |row| {
            self.spaces.iter().try_for_each(|(place, space)| {
                let mut tables = space.tables.iter().take(TOP_TABLES);
                tables.try_for_each(|table| {
                    row(&[("where", place), ("table", &table.name)], figure(table.bytes))
                })
            })
        })?;
        out.gauge("storage_used_bytes", "Bytes that count against the budget", |row| {
            self.spaces.iter().try_for_each(|(place, space)| {
                space.used_bytes.map_or(Ok(()), |bytes| row(&[("where", place)], figure(bytes)))
            })
        })?;
        out.gauge("storage_budget_bytes", "Bytes that the file or a hub may have", |row| {
            self.spaces.iter().try_for_each(|(place, space)| {
                space.budget_bytes.map_or(Ok(()), |bytes| row(&[("where", place)], figure(bytes)))
            })
        })?;
        out.gauge("storage_rung", "How far the ladder is climbed, 0 to 3", |row| {
            self.spaces
                .iter()
                .try_for_each(|(place, space)| row(&[("where", place)], space.rung.number().into()))
        })
    }

    fn monitor(&self, out: &mut Out<'_>) -> fmt::Result {
        let watched = &self.watched;
        out.counter("security_events", "What was abnormal, by type and severity, since the start", |row| {
            watched.events.iter().try_for_each(|(kind, severity, count)| {
                row(&[("type", kind), ("severity", &severity.to_string())], *count)
            })
        })?;
        out.counter(
            "security_events_dropped",
            "Events that the store did not take, since the start",
            |row| row(&[], watched.events_dropped),
        )?;
        out.counter(
            "observations_lost",
            "What the monitor was too busy to look at, since the start",
            |row| row(&[], watched.observations_lost),
        )?;
        out.gauge("verdicts", "Users, tokens and addresses that are kept out or slowed down", |row| {
            row(&[("action", "block")], i64::try_from(watched.blocked).unwrap_or(i64::MAX))?;
            row(&[("action", "throttle")], i64::try_from(watched.throttled).unwrap_or(i64::MAX))
        })
    }

    fn since_start(&self, out: &mut Out<'_>) -> fmt::Result {
        out.counter("attempts", "Attempts at providers by how they ended, since the start", |row| {
            self.each(|p| {
                p.reading.attempts.iter().try_for_each(|(outcome, count)| {
                    row(&[("provider", &p.name), ("outcome", outcome)], *count)
                })
            })
        })?;
        out.counter("refused_requests", "Requests refused here by error code, since the start", |row| {
            self.each(|p| {
                let mut refused = p.reading.refused.iter();
                refused.try_for_each(|(code, count)| row(&[("provider", &p.name), ("code", code)], *count))
            })
        })?;
        out.counter("cache_hits", "Answers from the response cache, since the start", |row| {
            self.each(|p| row(&[("provider", &p.name)], p.reading.cache_hits))
        })?;
        out.durations(&self.providers)
    }
}

/// A family at a time, a row at a time.
struct Out<'a>(DescriptorEncoder<'a>);

type Labels<'a, 'b> = &'a [(&'b str, &'b str)];

impl Out<'_> {
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        rows: impl FnOnce(&mut dyn FnMut(Labels<'_, '_>, u64) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows(&mut |labels, value| match labels {
            [] => family.encode_counter::<[(&str, &str); 0], _, u64>(&value, None),
            labels => {
                family.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)
            }
        })
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        rows: impl FnOnce(&mut dyn FnMut(Labels<'_, '_>, i64) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows(&mut |labels, value| match labels {
            [] => family.encode_gauge(&value),
            labels => family.encode_family(&labels)?.encode_gauge(&value),
        })
    }

    fn durations(&mut self, providers: &[Provider]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(
            "request_duration_seconds",
            "From a client request's head to the end of its answer, since the start",
            None,
            MetricType::Histogram,
        )?;
        for provider in providers {
            let bounds = DURATION_BOUNDS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(provider.reading.durations.iter().copied()).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("provider", &*provider.name)];
            let mut row = family.encode_family(&labels)?;
            row.encode_histogram::<[(&str, &str); 0]>(
                provider.reading.duration_sum_s,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}
