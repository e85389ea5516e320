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
    search,
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

/// What the monitor found, as the API names it.
const FOUND: [(&str, &str, &str); 12] = [
    ("frequency", "far more requests than usual", "请求频率远超平常"),
    ("sustained", "busier than usual day after day", "连日高于平常"),
    ("failure_rate", "more failures than usual", "失败率高于平常"),
    ("addresses", "many new networks", "出现大量新的来源网络"),
    ("keys", "more keys than usual", "使用的密钥多于平常"),
    ("models", "more models than usual", "使用的模型多于平常"),
    ("hammering", "going on at a limit", "达到限额后仍持续请求"),
    ("unknown_tokens", "unknown tokens from one place", "同一来源使用未知令牌"),
    ("many_addresses", "unknown tokens from many places", "多个来源使用未知令牌"),
    ("turned_away", "turned away again and again", "反复被拒绝"),
    ("admin_login", "wrong admin tokens", "错误的管理令牌"),
    ("storm", "many events as one", "大量事件合并"),
];

/// In the order in which they are shown.
const DETAILS: [(&str, &str, &str); 14] = [
    ("subject", "who", "对象"),
    ("seen", "seen", "实测"),
    ("usual", "usual", "平常"),
    ("new_network", "new network", "新网络"),
    ("unusual_hour", "unusual hour", "异常时段"),
    ("since", "since", "自"),
    ("rate_limit", "limits", "限流"),
    ("auth_fail", "sign-ins and tokens", "认证失败"),
    ("abuse", "unusual use", "异常使用"),
    ("place", "place", "位置"),
    ("from", "from step", "原档位"),
    ("rung", "to step", "现档位"),
    ("used_bytes", "used", "已用"),
    ("budget_bytes", "budget", "预算"),
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
    let at = |to: usize| {
        let to = to.to_string();
        let query: Vec<_> = own.into_iter().chain([("page", to.as_str())]).collect();
        link("/events", &query)
    };
    if let Some(last) = layout::last_page(page.page, page.pages, at) {
        return Ok(last);
    }
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let is_filtered = own.iter().any(|(_, value)| !value.is_empty());
    let body = html! {
        h1 { (t("Events", "事件")) }
        @if !verdicts.verdicts.is_empty() { (kept_out(&signed, &verdicts)) }
        section.card aria-label=(t("Events", "事件")) {
            form.line method="post" action=(search::PATH) {
                (layout::csrf(&signed.session))
                input type="hidden" name="list" value="/events";
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
                    input #subject name="subject" value=(get("subject")) placeholder=(t("user, key or address", "用户、密钥或地址"))
                        autocomplete="off" spellcheck="false" autocapitalize="off";
                }
                div { label for="from" { (t("From (UTC)", "起始（UTC）")) } input #from type="date" name="from" value=(get("from")); }
                div { label for="to" { (t("Before (UTC)", "截止（UTC）")) } input #to type="date" name="to" value=(get("to")); }
                button type="submit" { (t("Show", "筛选")) }
            }
            div #events data-live {
                @if page.events.is_empty() && is_filtered {
                    (layout::nothing_like_that(visitor, t("No event is like that.", "没有符合条件的事件。"), "/events"))
                } @else if page.events.is_empty() {
                    p.empty { (t("Nothing unusual has been seen.", "没有发现异常。")) }
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
                    (layout::pager(visitor, page.page, page.pages, at))
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
    let found = event.details.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut details: Vec<_> = event.details.as_object().into_iter().flatten().collect();
    details.retain(|(name, _)| !matches!(name.as_str(), "kind" | "means"));
    details.sort_by_key(|(name, _)| {
        DETAILS.iter().position(|(known, ..)| known == name).unwrap_or(DETAILS.len())
    });
    html! {
        tr {
            th.name.nowrap scope="row" { (visitor.ago(event.at)) }
            td data-label=(t("Severity", "严重程度")) {
                span.state.bad[event.severity >= 4].warn[event.severity == 3] { (event.severity) " / 5" }
            }
            td data-label=(t("What", "内容")) { span { (kind) @if !found.is_empty() { br; small.faint { (named(visitor, &FOUND, found)) } } } }
            td.name data-label=(t("Details", "详情")) {
                span.pairs {
                    @if let Some(user) = event.user { span { a href={ "/users/" (user) } { (t("user", "用户")) " " (user.short()) } } }
                    @if let Some(key) = event.key { span { a href={ "/keys/" (key) } { (t("key", "密钥")) " " (key.short()) } } }
                    @for (name, value) in details {
                        span { small.faint { (named(visitor, &DETAILS, name)) " " } small { (plain(visitor, name, value)) } }
                    }
                    @if event.weight > 1 { span { small.faint { (t("times", "次数")) " " } small { (event.weight) } } }
                }
            }
        }
    }
}

/// What is new to this page is named as the API names it, which is nobody else's word.
fn named(visitor: &Visitor, names: &[(&str, &str, &str)], name: &str) -> Markup {
    match names.iter().find(|(known, ..)| *known == name) {
        Some((_, en, zh)) => html! { (visitor.t(en, zh)) },
        None => html! { (name.replace('_', " ")) },
    }
}

/// Who, with what they are in the page's language; addresses and networks say it themselves.
fn subject(visitor: &Visitor, text: &str) -> Markup {
    const KINDS: [(&str, &str, &str); 4] = [
        ("user", "user", "用户"),
        ("token", "token", "令牌"),
        ("key", "key", "密钥"),
        ("address", "address", "地址"),
    ];
    if text == "everyone" {
        return html! { (visitor.t("everyone", "所有调用方")) };
    }
    // As events write it, and as verdicts do.
    let parts = text.split_once(' ').or_else(|| text.split_once(':'));
    let known = parts.and_then(|(kind, rest)| Some((KINDS.iter().find(|(name, ..)| *name == kind)?, rest)));
    match known {
        Some(((_, en, zh), rest)) => html! { (visitor.t(en, zh)) " " bdi { (rest) } },
        None => html! { bdi { (text) } },
    }
}

/// A text without its quotes, a time as the visitor writes it, a number without needless digits.
fn plain(visitor: &Visitor, name: &str, value: &Value) -> Markup {
    if let (true, Some(bytes)) = (name.ends_with("_bytes"), value.as_u64()) {
        return html! { (visitor.bytes(bytes)) };
    }
    let others = |text: &str| html! { bdi { (text) } };
    match value {
        Value::Bool(true) => html! { (visitor.t("yes", "是")) },
        Value::Bool(false) => html! { (visitor.t("no", "否")) },
        Value::Null => html! { "–" },
        Value::String(text) if name == "subject" => subject(visitor, text),
        Value::String(text) if text == "file" => html! { (visitor.t("the local file", "本地文件")) },
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(at) => html! { (visitor.format(at, "%-d %b, %H:%M:%S", "%-m月%-d日 %H:%M:%S")) },
            Err(_) => others(text),
        },
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 => html! { (format!("{number:.2}")) },
            Some(number) => html! { (format!("{number:.0}")) },
            None => html! { (number) },
        },
        other => others(&other.to_string()),
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
                        th.name.mono scope="row" { (subject(visitor, &verdict.subject)) }
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
        signed.api.send(Method::DELETE, &format!("/admin/verdicts/{subject}"), &()).await;
    let done = done.map(|_| signed.visitor.t("They may come in again.", "限制已解除。").to_owned());
    Ok(signed.went("/events", done))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri, header};

    use super::*;

    #[test]
    fn what_was_found_has_a_chinese_name() {
        let is_chinese = |text: &str| text.chars().any(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter));
        for (name, _, zh) in KINDS.iter().chain(&FOUND).chain(&DETAILS) {
            assert!(is_chinese(zh), "{name}: {zh}");
        }
    }

    #[test]
    fn subjects_are_of_a_kind_in_every_language() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, "zh".parse().unwrap());
        let [en, zh] = [HeaderMap::new(), headers]
            .map(|headers| Visitor::of(&headers, &Uri::from_static("/events"), Timestamp(0)));
        for (text, in_en, in_zh) in [
            ("token ab12cd34", "token <bdi>ab12cd34</bdi>", "令牌 <bdi>ab12cd34</bdi>"),
            (
                "user:97665549-effe-5e34-a023-53e3b2c34a6d",
                "user <bdi>97665549-effe-5e34-a023-53e3b2c34a6d</bdi>",
                "用户 <bdi>97665549-effe-5e34-a023-53e3b2c34a6d</bdi>",
            ),
            ("address:192.0.2.1", "address <bdi>192.0.2.1</bdi>", "地址 <bdi>192.0.2.1</bdi>"),
            ("key 0a1b2c3d", "key <bdi>0a1b2c3d</bdi>", "密钥 <bdi>0a1b2c3d</bdi>"),
            ("2001:db8::/64", "<bdi>2001:db8::/64</bdi>", "<bdi>2001:db8::/64</bdi>"),
            ("everyone", "everyone", "所有调用方"),
        ] {
            let says = |visitor| subject(visitor, text).into_string();
            assert_eq!((&*says(&en), &*says(&zh)), (in_en, in_zh));
        }
    }
}
