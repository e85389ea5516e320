//! What was not usual, and who is kept out for it.

use axum::{
    Router,
    routing::{get, post},
};
use http::Method;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Console,
    layout::{self, Here},
    signed::{Answer, Posted, Signed},
    visitor::{Params, Visitor, link},
};
use crate::{admin::view, model::Timestamp};

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/events", get(list)).route("/events/lift", post(lift))
}

/// As the API names them, English, Chinese.
const KINDS: [(&str, &str, &str); 4] = [
    ("rate_limit", "Limits", "限流"),
    ("auth_fail", "Sign-ins and tokens", "认证失败"),
    ("abuse", "Unusual use", "异常使用"),
    ("storage", "Storage", "存储"),
];

async fn list(signed: Signed, params: Params) -> Answer {
    let get = |name| params.get(name);
    let own = [
        ("severity", get("severity")),
        ("type", get("type")),
        ("subject", get("subject")),
        ("from", get("from")),
        ("to", get("to")),
    ];
    let mut query = own.to_vec();
    query.push(("page", get("page")));
    let path = link("/admin/events", &query);
    let (page, verdicts) =
        tokio::join!(signed.get::<view::EventPage>(&path), signed.get::<view::Verdicts>("/admin/verdicts"));
    let (page, verdicts) = (page?, verdicts?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let is_filtered = own.iter().any(|(_, value)| !value.is_empty());
    let body = html! {
        h1 { (t("Events", "事件")) }
        @if !verdicts.verdicts.is_empty() { (kept_out(&signed, &verdicts)) }
        section.card aria-label=(t("Events", "事件")) {
            form.line method="get" action="/events" {
                div {
                    label for="severity" { (t("Severity", "严重程度")) }
                    select #severity name="severity" {
                        option value="" { (t("any", "不限")) }
                        @for least in 2..=5_u8 {
                            @let value = least.to_string();
                            option value=(value) selected[value == get("severity")] { (t("from", "不低于")) " " (value) }
                        }
                    }
                }
                div {
                    label for="type" { (t("Type", "类型")) }
                    select #type name="type" {
                        option value="" { (t("any", "不限")) }
                        @for (kind, en, zh) in KINDS { option value=(kind) selected[kind == get("type")] { (t(en, zh)) } }
                    }
                }
                div {
                    label for="subject" { (t("Who", "对象")) }
                    input #subject name="subject" value=(get("subject")) placeholder=(t("user, key or address", "用户、密钥或地址"));
                }
                div { label for="from" { (t("From", "起始")) } input #from type="date" name="from" value=(get("from")); }
                div { label for="to" { (t("Before", "截止")) } input #to type="date" name="to" value=(get("to")); }
                button type="submit" { (t("Show", "筛选")) }
            }
            div #events data-live {
                @if page.events.is_empty() {
                    p.empty {
                        @if is_filtered { (t("No event is like that.", "没有符合条件的事件。")) " " a href="/events" { (t("Show all", "显示全部")) } }
                        @else { (t("Nothing unusual has been seen.", "没有发现异常。")) }
                    }
                } @else {
                    table.cards {
                        caption.hidden { (t("Events, the latest first", "事件，最近的在前")) }
                        thead { tr {
                            th scope="col" { (t("When", "时间")) }
                            th scope="col" { (t("Severity", "严重程度")) }
                            th scope="col" { (t("What", "内容")) }
                            th scope="col" { (t("Details", "详情")) }
                        } }
                        tbody { @for event in &page.events { (row(visitor, event)) } }
                    }
                    (layout::pager(visitor, page.page, page.pages, |to| {
                        let mut query = own.to_vec();
                        let to = to.to_string();
                        query.push(("page", &to));
                        link("/events", &query)
                    }))
                }
            }
        }
    };
    Ok(signed.page(Here::Events, t("Events", "事件"), &body))
}

fn row(visitor: &Visitor, event: &view::Event) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let kind =
        KINDS.iter().find(|(kind, ..)| *kind == event.kind).map_or(&*event.kind, |(_, en, zh)| t(en, zh));
    let found = event.details.get("kind").and_then(Value::as_str).unwrap_or_default().replace('_', " ");
    let empty = serde_json::Map::new();
    let details = event.details.as_object().unwrap_or(&empty).iter().filter(|(name, _)| *name != "kind");
    html! {
        tr {
            th.name.nowrap scope="row" { (visitor.ago(event.at)) }
            td data-label=(t("Severity", "严重程度")) {
                span.state.bad[event.severity >= 4].warn[event.severity == 3] { (event.severity) " / 5" }
            }
            td data-label=(t("What", "内容")) { span { (kind) @if !found.is_empty() { br; small.faint { bdi { (found) } } } } }
            td.name data-label=(t("Details", "详情")) {
                span {
                    @if let Some(user) = event.user { a href={ "/users/" (user) } { (t("user", "用户")) " " (user.short()) } " " }
                    @if let Some(key) = event.key { a href={ "/keys/" (key) } { (t("key", "密钥")) " " (key.short()) } " " }
                    @for (name, value) in details {
                        small.faint { (name.replace('_', " ")) ": " } small { bdi { (plain(visitor, value)) } } " "
                    }
                    @if event.weight > 1 { small.faint { "×" (event.weight) } }
                }
            }
        }
    }
}

/// A text without its quotes, a time as the visitor writes it, a number without needless digits.
fn plain(visitor: &Visitor, value: &Value) -> String {
    match value {
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(at) => visitor.format(at, "%-d %b, %H:%M:%S", "%-m月%-d日 %H:%M:%S"),
            Err(_) => text.clone(),
        },
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 => format!("{number:.2}"),
            Some(number) => format!("{number:.0}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn kept_out(signed: &Signed, verdicts: &view::Verdicts) -> Markup {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    html! {
        section.card {
            h2 { (t("Kept out or slowed down", "已限制的对象")) }
            @if !verdicts.in_force { p.faint { (t("The monitor is switched off, so none of these holds.", "监控已关闭，以下限制均未生效。")) } }
            table.cards {
                thead { tr {
                    th scope="col" { (t("Who", "对象")) }
                    th scope="col" { (t("How", "方式")) }
                    th scope="col" { (t("Until", "结束")) }
                    th scope="col" { span.hidden { (t("Let in", "解除")) } }
                } }
                tbody { @for verdict in &verdicts.verdicts {
                    tr {
                        th.name.mono scope="row" { bdi { (verdict.subject) } }
                        td data-label=(t("How", "方式")) {
                            @if verdict.action == "block" { (t("kept out", "禁止")) } @else { (t("slowed down", "减速")) }
                        }
                        td data-label=(t("Until", "结束")) { (visitor.ago(verdict.until)) }
                        td {
                            form method="post" action="/events/lift" {
                                (layout::csrf(&signed.session))
                                input type="hidden" name="subject" value=(verdict.subject);
                                button.small type="submit" { (t("Let in again", "解除限制")) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

async fn lift(Posted { signed, form }: Posted) -> Answer {
    let subject = utf8_percent_encode(form.get("subject"), NON_ALPHANUMERIC).to_string();
    let done: Result<view::Lifted, _> =
        signed.send(Method::DELETE, &format!("/admin/verdicts/{subject}"), &()).await;
    let done = done.map(|_| signed.visitor.t("They may come in again.", "限制已解除。").to_owned());
    Ok(signed.went("/events", done))
}
