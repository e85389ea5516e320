//! How full file and hubs are, and how replication stands.

use axum::{
    Router,
    routing::{get, post},
};
use http::Method;
use maud::{Markup, html};

use super::{
    Console,
    layout::{self, Here},
    signed::{Answer, Posted, Signed},
    visitor::{Lang, Visitor},
};
use crate::{
    admin::view,
    model::Space,
    replica::status::{HubState, HubStatus, StreamState},
};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/storage", get(show))
        .route("/storage/sync", post(sync))
        .route("/storage/retain", post(retain))
}

async fn show(signed: Signed) -> Answer {
    let (storage, sync) =
        tokio::join!(signed.get::<view::Storage>("/admin/storage"), signed.get::<view::Sync>("/admin/sync"));
    let (storage, sync) = (storage?, sync?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        div.head {
            h1 { (t("Storage and sync", "存储与同步")) }
            div.row {
                @if !sync.hubs.is_empty() {
                    form method="post" action="/storage/sync" { (layout::csrf(&signed.session)) button.primary type="submit" { (t("Sync now", "立即同步")) } }
                }
                form method="post" action="/storage/retain" { (layout::csrf(&signed.session)) button type="submit" { (t("Tidy up now", "立即整理")) } }
            }
        }
        div #storage data-live {
            @if let Some(problem) = &storage.problem { p.news.bad role="alert" { (problem) } }
            (place(visitor, t("The local file", "本地文件"), &storage.file, &storage.local))
            @if sync.hubs.is_empty() {
                section.card {
                    h2 { (t("Hubs", "中心库")) }
                    p.empty { (t(
                        "Nothing replicates: this file is all there is. To share keys and figures with other instances, set DATABASE_URL and restart.",
                        "没有启用同步，数据只在本地文件中。要与其他实例共享密钥和统计，请设置 DATABASE_URL 并重启。",
                    )) }
                }
            }
            @for hub in &sync.hubs {
                (replication(visitor, hub))
                @if let Some(space) = storage.hubs.iter().find(|space| space.hub == hub.name) {
                    (place(visitor, &hub.name, &space.target, &space.space))
                }
            }
        }
    };
    Ok(signed.page(Here::Storage, t("Storage and sync", "存储与同步"), &body))
}

fn place(visitor: &Visitor, name: &str, target: &str, space: &Space) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let filled: Vec<_> = space.tables.iter().filter(|table| table.bytes > 0).collect();
    let largest = space.tables.iter().map(|table| table.bytes).max().unwrap_or(0).max(1);
    html! {
        section.card {
            div.head {
                h2 { (name) }
                span.state.good[space.rung.number() == 0].warn[(1..3).contains(&space.rung.number())].bad[space.rung.number() >= 3] {
                    (t("step", "档位")) " " (space.rung.number()) " / 3"
                }
            }
            p.faint.mono { bdi { (target) } }
            @match (space.used_bytes, space.budget_bytes) {
                (Some(used), Some(budget)) => {
                    p {
                        strong { (visitor.bytes(used)) } " " (t("of", "/")) " " (visitor.bytes(budget))
                        @if let Some(percent) = space.percent() { " (" (visitor.percent(percent)) ")" }
                    }
                    progress max=(budget) value=(used.min(budget)) aria-label=(t("Used of the budget", "已用预算")) {}
                }
                (Some(used), None) => p { strong { (visitor.bytes(used)) } " " (t("used; no budget is set", "已用；未设预算")) },
                _ => p.faint { (t("Not measured yet.", "尚未测量。")) },
            }
            @if visitor.lang == Lang::En && !space.rung_means.is_empty() { p.faint { (space.rung_means) "." } }
            @for advice in &space.advice { p.news.plain { (advice) } }
            @if !filled.is_empty() {
                details open {
                    summary { (t("Tables", "数据表")) }
                    div.scroll tabindex="0" role="region" aria-label={ (name) ": " (t("Tables", "数据表")) } {
                        table {
                            thead { tr {
                                th scope="col" { (t("Table", "表")) }
                                th.number scope="col" { (t("Size", "大小")) }
                                th.number scope="col" { (t("Rows", "行数")) }
                                th.number scope="col" { (t("Share", "份额")) }
                                th.number scope="col" { (t("Growth a day", "日增长")) }
                                th.number scope="col" { (t("Full in", "预计占满")) }
                            } }
                            tbody { @for table in filled {
                                tr {
                                    th.name scope="row" {
                                        (table.name)
                                        progress max=(table.share_bytes.unwrap_or(largest).max(1)) value=(table.bytes.min(table.share_bytes.unwrap_or(largest))) aria-hidden="true" {}
                                    }
                                    td.number { (visitor.bytes(table.bytes)) }
                                    td.number { (visitor.number(table.rows)) }
                                    td.number { @match table.share_bytes { Some(share) => (visitor.bytes(share)), None => "–" } }
                                    td.number { @match table.growth_bytes {
                                        Some(growth) if growth < 0 => { "−" (visitor.bytes(growth.unsigned_abs())) }
                                        Some(growth) => (visitor.bytes(growth.unsigned_abs())),
                                        None => "–",
                                    } }
                                    td.number { @match table.days_left { Some(days) => { (visitor.number(days)) " " (t("days", "天")) } None => "–" } }
                                }
                            } }
                        }
                    }
                }
            }
        }
    }
}

fn replication(visitor: &Visitor, hub: &HubStatus) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let (words, kind) = match hub.state {
        HubState::Off => (t("off", "未启用"), ""),
        HubState::Connecting => (t("connecting", "连接中"), "warn"),
        HubState::Ok => (t("in step", "已同步"), "good"),
        HubState::Resyncing => (t("reading everything anew", "正在重新同步"), "warn"),
        HubState::Failing => (t("failing, tried again", "失败，正在重试"), "bad"),
        HubState::Stopped => (t("stopped until somebody decides", "已停止，等待处理"), "bad"),
    };
    html! {
        section.card {
            div.head { h2 { (t("Replication", "同步")) ": " (hub.name) } span class={ "state " (kind) } { (words) } }
            @if let Some(error) = &hub.last_error {
                p.news.bad { (error.message) " " (error.advice) " " small { (visitor.ago(error.at)) } }
            }
            dl.facts {
                dt { (t("Where", "位置")) } dd.mono { bdi { (hub.target) } " (" (hub.transport) ")" }
                dt { (t("Lag", "延迟")) } dd { @if hub.lag_ms == 0 { (t("none", "无")) } @else { (visitor.number(hub.lag_ms / 1000)) " s" } }
                dt { (t("Last round", "上次同步")) } dd { (visitor.ago_or_never(hub.last_success)) }
                @if let Some(next) = hub.next_round { dt { (t("Next round", "下次同步")) } dd { (visitor.ago(next)) } }
                dt { (t("Sent and received", "发送与接收")) } dd { (visitor.bytes(hub.traffic.sent)) " · " (visitor.bytes(hub.traffic.received)) }
            }
            @if !hub.streams.is_empty() {
                div.scroll tabindex="0" role="region" aria-label=(t("Providers", "服务商")) {
                    table {
                        thead { tr {
                            th scope="col" { (t("Provider", "服务商")) }
                            th scope="col" { (t("State", "状态")) }
                            th.number scope="col" { (t("Waiting", "待同步")) }
                            th scope="col" { (t("Last read", "最近读取")) }
                        } }
                        tbody { @for stream in &hub.streams {
                            tr {
                                th scope="row" { (stream.provider) }
                                td {
                                    span.state.good[stream.state == StreamState::Ok] { (stream_state(visitor, stream.state)) }
                                    @if let Some(reason) = &stream.reason { br; small.faint { (reason) } }
                                }
                                td.number { (visitor.number(stream.pending_rows + stream.open_rows)) }
                                td { (visitor.ago_or_never(stream.last_pull)) }
                            }
                        } }
                    }
                }
            }
            @if !hub.instances.is_empty() {
                div.scroll tabindex="0" role="region" aria-label=(t("Instances", "实例")) {
                    table {
                        thead { tr {
                            th scope="col" { (t("Instance", "实例")) }
                            th scope="col" { (t("Version", "版本")) }
                            th scope="col" { (t("Last seen", "最近在线")) }
                        } }
                        tbody { @for instance in &hub.instances {
                            tr {
                                th scope="row" { bdi { (instance.name) } @if instance.own { " " span.state.good { (t("this one", "本机")) } } }
                                td { (instance.version) }
                                td { (visitor.ago(instance.last_seen)) }
                            }
                        } }
                    }
                }
            }
            @for note in &hub.notes { p.faint { (visitor.ago(note.at)) ": " (note.text) } }
            @for report in &hub.reports { p.faint { (report.text) } }
        }
    }
}

fn stream_state<'a>(visitor: &Visitor, state: StreamState) -> &'a str
where
    'static: 'a,
{
    match state {
        StreamState::New => visitor.t("not asked yet", "尚未连接"),
        StreamState::Ok => visitor.t("in step", "已同步"),
        StreamState::Resyncing => visitor.t("reading anew", "重新同步中"),
        StreamState::Missing => visitor.t("tables are missing", "缺少数据表"),
        StreamState::Failing => visitor.t("failing", "失败"),
        StreamState::Stopped => visitor.t("stopped", "已停止"),
    }
}

async fn sync(Posted { signed, .. }: Posted) -> Answer {
    let done: Result<view::Sync, _> =
        signed.send(Method::POST, "/admin/sync/now", &view::SyncHub::default()).await;
    let done =
        done.map(|_| signed.visitor.t("The hub and this instance are in step.", "同步完成。").to_owned());
    Ok(signed.went("/storage", done))
}

async fn retain(Posted { signed, .. }: Posted) -> Answer {
    let done: Result<view::Storage, _> = signed.send(Method::POST, "/admin/storage/retain", &()).await;
    let done = done.map(|_| {
        signed.visitor.t("File and hubs keep to their budgets.", "整理完成，均在预算之内。").to_owned()
    });
    Ok(signed.went("/storage", done))
}
