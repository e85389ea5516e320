//! The first page: how it goes, and what needs somebody.

use std::time::Duration;

use maud::{Markup, html};
use serde::de::DeserializeOwned;

use super::{
    chart::{self, Bar},
    layout::{self, Here},
    models,
    signed::{Answer, Signed},
    visitor::{Lang, Params, Visitor, link},
};
use crate::{
    admin::view,
    model::{Rung, Timestamp},
    replica::status::HubState,
};

/// A page waits no longer for a hub that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is older than the last round by so much is held back by a budget, or by a batch that is refused.
const LONG_LAG_MS: u64 = 15 * 60_000;
const DAY_MS: i64 = 24 * 3_600_000;

pub(super) async fn show(signed: Signed, params: Params) -> Answer {
    let provider = params.get("provider");
    let of = |path| link(path, &[("provider", provider)]);
    let (stats, trend, providers) = (of("/admin/stats"), of("/admin/trend"), "/admin/providers");
    let since = Timestamp(signed.visitor.now.0 - DAY_MS).to_string();
    let events = link("/admin/events", &[("severity", "3"), ("from", &since), ("pageSize", "1")]);
    let (stats, trend, providers, attention) = tokio::join!(
        signed.get::<view::Stats>(&stats),
        signed.get::<view::Trend>(&trend),
        signed.get::<Vec<view::Provider>>(providers),
        async {
            tokio::join!(
                soon::<view::Storage>(&signed, "/admin/storage"),
                soon::<view::Sync>(&signed, "/admin/sync"),
                soon::<view::EventPage>(&signed, &events),
            )
        }
    );
    let (stats, trend, providers) = (stats?, trend?, providers?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let needs = needs(visitor, &stats, provider, attention);
    let body = html! {
        div.head {
            h1 { (t("Overview", "概览")) }
            (layout::choose_provider(visitor, &providers, &stats.provider, "/"))
        }
        div #overview data-live {
            (attend(visitor, &needs))
            (tiles(visitor, &stats, &trend))
            div.pair {
                (chart::requests(visitor, t("Last 24 hours", "最近 24 小时"), t("Hour", "小时"), &hours(visitor, &trend)))
                (chart::requests(visitor, t("Last 30 days", "最近 30 天"), t("Day", "日期"), &days(visitor, &trend)))
            }
            div.pair {
                (models::card(visitor, t("Top models now", "当前热门模型"), t("In the last 24 hours.", "最近 24 小时。"), &trend.recent_models))
                (models::card(visitor, t("Top models overall", "累计热门模型"), t("Since the books began.", "自开始统计以来。"), &stats.models))
            }
        }
    };
    Ok(signed.page(Here::Overview, t("Overview", "概览"), &body))
}

async fn soon<T: DeserializeOwned>(signed: &Signed, path: &str) -> Option<T> {
    tokio::time::timeout(PATIENCE, signed.api.get(path)).await.ok()?.ok()
}

/// Something for a person to do, and where.
struct Need {
    text: String,
    to: String,
    remedy: String,
    is_urgent: bool,
}

fn needs(
    visitor: &Visitor,
    stats: &view::Stats,
    provider: &str,
    (storage, sync, events): (Option<view::Storage>, Option<view::Sync>, Option<view::EventPage>),
) -> Vec<Need> {
    let t = |en: &str, zh: &str| visitor.t(en, zh).to_owned();
    let keys = |status: &str| link("/keys", &[("status", status), ("provider", provider)]);
    let mut needs = Vec::new();
    let mut need = |text: String, to: String, remedy: String, is_urgent: bool| {
        needs.push(Need { text, to, remedy, is_urgent });
    };
    if stats.total_api_keys == 0 {
        let text =
            t("There is no key in the pool yet, so nothing can be served.", "池中还没有密钥，无法提供服务。");
        need(text, link("/keys/add", &[("provider", provider)]), t("Add keys", "添加密钥"), true);
    } else if stats.active_keys == 0 {
        let text = t("No key is active: requests are refused.", "没有可用的密钥，请求会被拒绝。");
        need(text, keys(""), t("Look at the keys", "查看密钥"), true);
    } else if stats.failed_keys > 0 {
        let count = visitor.number(stats.failed_keys as u64);
        let text = match visitor.lang {
            Lang::En => format!(
                "{count} of {} keys are cooling down or failing.",
                visitor.number(stats.total_api_keys as u64)
            ),
            Lang::Zh => format!(
                "{} 个密钥中有 {count} 个正在冷却或失败。",
                visitor.number(stats.total_api_keys as u64)
            ),
        };
        need(text, keys("failed"), t("See why", "查看原因"), stats.failed_keys * 2 > stats.total_api_keys);
    }
    if stats.total_client_tokens == 0 {
        let text = t("There is no token yet, so nobody can call.", "还没有客户端令牌，无人可以调用。");
        need(text, link("/tokens", &[("provider", provider)]), t("Create a token", "创建令牌"), true);
    }
    if let Some(problem) = storage.as_ref().and_then(|storage| storage.problem.clone()) {
        let problem = match visitor.lang {
            Lang::En => problem,
            Lang::Zh => "本地存储出现问题，可能无法写入。".to_owned(),
        };
        need(problem, "/storage".to_owned(), t("Storage", "存储"), true);
    }
    let places = storage.iter().flat_map(|storage| {
        let file = std::iter::once((t("The local file", "本地文件"), &storage.local));
        file.chain(storage.hubs.iter().map(|hub| (hub.hub.clone(), &hub.space)))
    });
    for (name, space) in places.filter(|(_, space)| space.rung > Rung::Normal) {
        let percent = space.percent().map_or_else(String::new, |percent| visitor.percent(percent));
        let text = match visitor.lang {
            Lang::En => format!("{name} uses {percent} of its space budget: {}.", space.rung_means),
            Lang::Zh => format!("{name} 已使用存储预算的 {percent}，部分明细已开始精简。"),
        };
        need(text, "/storage".to_owned(), t("Storage", "存储"), space.rung == Rung::Bare);
    }
    if storage.is_none() || sync.is_none() || events.is_none() {
        let text = t(
            "Not everything could be asked in time: storage, hubs or events may need somebody.",
            "部分信息未能及时获取：存储、中心库或事件可能需要处理。",
        );
        need(text, "/storage".to_owned(), t("Storage and sync", "存储与同步"), false);
    }
    for hub in sync.iter().flat_map(|sync| &sync.hubs) {
        let quiet = hub.last_success.map_or(0, |at| visitor.now.since(at).as_millis() as u64);
        if hub.state == HubState::Ok && hub.lag_ms > quiet + LONG_LAG_MS {
            let minutes = visitor.number(hub.lag_ms / 60_000);
            let text = match visitor.lang {
                Lang::En => format!(
                    "What was counted here has been waiting for the hub \"{}\" for {minutes} minutes.",
                    hub.name
                ),
                Lang::Zh => format!("本机的统计已等待同步到中心库「{}」{minutes} 分钟。", hub.name),
            };
            need(text, "/storage".to_owned(), t("See what to do", "查看处理办法"), false);
        }
        if matches!(hub.state, HubState::Failing | HubState::Stopped) {
            let text = match visitor.lang {
                Lang::En => format!("The hub \"{}\" is not in step. Serving and counting go on.", hub.name),
                Lang::Zh => format!("中心库「{}」未能同步。服务与统计不受影响。", hub.name),
            };
            need(
                text,
                "/storage".to_owned(),
                t("See what to do", "查看处理办法"),
                hub.state == HubState::Stopped,
            );
        }
    }
    if let Some(count) = events.map(|events| events.total).filter(|total| *total > 0) {
        let count = visitor.number(count as u64);
        let text = match visitor.lang {
            Lang::En => format!("{count} serious events in the last 24 hours."),
            Lang::Zh => format!("最近 24 小时有 {count} 个严重事件。"),
        };
        need(text, "/events?severity=3".to_owned(), t("Events", "事件"), false);
    }
    needs
}

fn attend(visitor: &Visitor, needs: &[Need]) -> Markup {
    html! {
        section.attention aria-labelledby="attention" {
            h2 #attention { (visitor.t("What needs attention", "需要关注")) }
            @if needs.is_empty() {
                p.calm { (visitor.t("Nothing. All is well.", "一切正常。")) }
            } @else {
                ul {
                    @for need in needs {
                        li.urgent[need.is_urgent] { span { (need.text) } " " a href=(need.to) { (need.remedy) } }
                    }
                }
            }
        }
    }
}

fn tiles(visitor: &Visitor, stats: &view::Stats, trend: &view::Trend) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let today: u64 = trend.hours.iter().map(|span| span.requests).sum();
    let tokens = stats.prompt_tokens + stats.completion_tokens;
    let number = |count: usize| visitor.number(count as u64);
    html! {
        dl.tiles {
            div {
                dt { (t("Requests", "请求数")) }
                dd { (visitor.number(stats.total_requests)) }
                dd.note { (visitor.number(today)) " " (t("in 24 hours", "（24 小时内）")) }
            }
            div {
                dt { (t("Success rate", "成功率")) }
                dd { @if stats.total_requests == 0 { "–" } @else { (visitor.percent(stats.success_rate)) } }
                dd.note { (visitor.number(stats.failure_count)) " " (t("failed", "次失败")) }
            }
            div {
                dt { (t("Active keys", "可用密钥")) }
                dd { (number(stats.active_keys)) }
                dd.note {
                    (t("of", "共")) " " (number(stats.total_api_keys))
                    @if stats.failed_keys > 0 { " · " (number(stats.failed_keys)) " " (t("failed", "失败")) }
                    @if stats.disabled_keys > 0 { " · " (number(stats.disabled_keys)) " " (t("off", "停用")) }
                }
            }
            div {
                dt { (t("Tokens used", "Token 用量")) }
                dd title=(visitor.number(tokens)) { (visitor.short(tokens)) }
                dd.note {
                    (visitor.short(stats.prompt_tokens)) " " (t("in", "输入")) " · "
                    (visitor.short(stats.completion_tokens)) " " (t("out", "输出"))
                }
            }
        }
    }
}

fn bar(span: &view::TrendSpan, label: String, name: String) -> Bar {
    Bar { label, name, good: span.success, bad: span.failure, other: span.other }
}

fn hours(visitor: &Visitor, trend: &view::Trend) -> Vec<Bar> {
    let of = |span: &view::TrendSpan| {
        let name = visitor.format(span.start, "%-d %b, %H:%M", "%-m月%-d日 %H:%M");
        bar(span, visitor.format(span.start, "%H:%M", "%H:%M"), name)
    };
    trend.hours.iter().map(of).collect()
}

/// Days are those of the hub, which need not begin at the visitor's midnight: their noon has the hub's date in most
/// zones.
fn days(visitor: &Visitor, trend: &view::Trend) -> Vec<Bar> {
    let of = |span: &view::TrendSpan| {
        let noon = Timestamp(span.start.0 + DAY_MS / 2);
        let name = visitor.format(noon, "%-d %b %Y", "%Y年%-m月%-d日");
        bar(span, visitor.format(noon, "%-d %b", "%-m/%-d"), name)
    };
    trend.days.iter().map(of).collect()
}
