//! What everybody may see: the public statistics, and what the API takes and gives.

use std::time::Duration;

use axum::{Router, extract::State, response::Response, routing::get};
use http::request::Parts;
use maud::{Markup, html};
use serde_json::Value;

use super::{
    Console,
    api::Api,
    chart::{self, Bar},
    layout::{self, Here},
    models,
    visitor::{Lang, Params, Visitor, link},
};
use crate::{admin::view, model::Timestamp};

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/stats", get(stats)).route("/api-docs", get(docs))
}

/// How long statistics are shown as they were.
const FRESH: Duration = Duration::from_secs(2);

async fn stats(State(console): State<Console>, visitor: Visitor, params: Params, parts: Parts) -> Response {
    let provider = [("provider", params.get("provider"))];
    // Nothing else that stands in the address makes it another page, and what one is told is not for others.
    let visitor = visitor.of_many(link("/stats", &provider));
    if let Some(kept) = console.kept.find(&visitor, &parts.headers) {
        return kept;
    }
    let api = Api::of(&console.api, &parts);
    let path = link("/admin/public-stats", &provider);
    let stats: view::PublicStats = match api.get(&path).await {
        Ok(stats) => stats,
        Err(refused) => return layout::refused(&visitor, None, &refused),
    };
    let t = |en, zh| visitor.t(en, zh);
    let global = &stats.global;
    let bars: Vec<Bar> = stats
        .hourly_trend
        .iter()
        .map(|hour| Bar {
            label: visitor.format(hour.hour, "%H:%M", "%H:%M"),
            name: visitor.format(hour.hour, "%-d %b, %H:%M", "%-m月%-d日 %H:%M"),
            good: hour.success,
            bad: hour.failure,
            other: hour.requests.saturating_sub(hour.success + hour.failure),
        })
        .collect();
    let body = html! {
        h1 { (t("Public statistics", "公共统计")) }
        div #stats data-live {
            dl.tiles {
                div { dt { (t("Requests", "请求数")) } dd { (visitor.number(global.total_requests)) } dd.note { (t("last", "最近")) " " (visitor.ago_or_never(global.last_updated)) } }
                div { dt { (t("Success rate", "成功率")) } dd { @if global.total_requests == 0 { "–" } @else { (visitor.percent(global.success_rate)) } } dd.note { (visitor.number(global.failure_count)) " " (t("failed", "次失败")) } }
                div { dt { (t("Active keys", "可用密钥")) } dd { (visitor.number(global.active_keys as u64)) } dd.note { (t("of", "共")) " " (visitor.number(global.total_api_keys as u64)) } }
            }
            (chart::requests(&visitor, t("Last 24 hours", "最近 24 小时"), t("Hour", "小时"), &bars))
            div.pair {
                (models::card(&visitor, t("Top models now", "当前热门模型"), t("In the last 24 hours.", "最近 24 小时。"), &stats.recent_top_models))
                (models::card(&visitor, t("Top models overall", "累计热门模型"), t("Since the books began.", "自开始统计以来。"), &stats.top_models))
            }
        }
        p.faint { a href="/api-docs" { (t("API documentation", "API 文档")) } }
    };
    let text = layout::text(&visitor, None, Here::Door, t("Public statistics", "公共统计"), &body);
    console.kept.keep(&visitor, text, visitor.now.saturating_add(FRESH), &parts.headers)
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// What it is made from is part of the program.
async fn docs(State(console): State<Console>, visitor: Visitor, parts: Parts) -> Response {
    let visitor = visitor.of_many("/api-docs".to_owned()).timeless();
    if let Some(kept) = console.kept.find(&visitor, &parts.headers) {
        return kept;
    }
    let api = Api::of(&console.api, &parts);
    let document: Value = match api.get("/openapi.json").await {
        Ok(document) => document,
        Err(refused) => return layout::refused(&visitor, None, &refused),
    };
    let t = |en, zh| visitor.t(en, zh);
    let groups = grouped(&document);
    let body = html! {
        h1 { (t("API documentation", "API 文档")) }
        p {
            (t("Made from the OpenAPI document, for programs at", "由 OpenAPI 文档生成，程序请使用")) " "
            a href="/openapi.json" { "/openapi.json" } (t(".", "。"))
            @if visitor.lang == Lang::Zh { "说明文字为英文。" }
            " " (t("The operator's paths take the admin token, the clients' a token of the provider.", "管理接口使用管理令牌，客户端接口使用该服务商的令牌。"))
        }
        nav.choice aria-label=(t("Subjects", "分类")) { @for (tag, _) in &groups { a.subject href={ "#" (tag) } { (tag) } } }
        @for (tag, operations) in &groups {
            section.card lang="en" #(tag) {
                h2.subject { (tag) }
                @for operation in operations { (described(&visitor, &document, operation)) }
            }
        }
    };
    let text = layout::text(&visitor, None, Here::Door, t("API documentation", "API 文档"), &body);
    console.kept.keep(&visitor, text, Timestamp::MAX, &parts.headers)
}

struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    what: &'a Value,
}

/// By their tags, in the order in which the document has them.
fn grouped(document: &Value) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut groups: Vec<(&str, Vec<Operation<'_>>)> = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, what) in METHODS.iter().filter_map(|method| Some((*method, item.get(*method)?))) {
            let tag = what["tags"][0].as_str().unwrap_or("other");
            let operation = Operation { method, path, what };
            match groups.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, operations)) => operations.push(operation),
                None => groups.push((tag, vec![operation])),
            }
        }
    }
    groups.sort_by_key(|(tag, _)| if *tag == "client" { 0 } else { 1 });
    groups
}

fn described(visitor: &Visitor, document: &Value, operation: &Operation<'_>) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let what = operation.what;
    let texts = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parameters = what["parameters"].as_array().cloned().unwrap_or_default();
    let body = &what["requestBody"]["content"]["application/json"]["schema"];
    let fields = resolved(document, body)["properties"].as_object().cloned().unwrap_or_default();
    html! {
        details {
            summary { span.state { (operation.method.to_uppercase()) } " " code { (operation.path) } " " (texts(&what["summary"])) }
            @if let Some(more) = what["description"].as_str() { p { (more) } }
            @if !parameters.is_empty() || !fields.is_empty() {
                (layout::region(t("What it takes", "参数"), &html! {
                    table {
                        thead { tr { th scope="col" { (t("Name", "名称")) } th scope="col" { (t("In", "位置")) } th scope="col" { (t("Type", "类型")) } th scope="col" { (t("Meaning", "说明")) } } }
                        tbody {
                            @for one in &parameters {
                                tr { th scope="row" { code { (texts(&one["name"])) } } td { (texts(&one["in"])) } td { (kind(document, &one["schema"])) } td { (texts(&one["description"])) } }
                            }
                            @for (name, one) in &fields {
                                tr { th scope="row" { code { (name) } } td { "body" } td { (kind(document, one)) } td { (texts(&one["description"])) } }
                            }
                        }
                    }
                }))
            }
            p.faint { @for (status, answer) in what["responses"].as_object().into_iter().flatten() { code { (status) } " " (texts(&answer["description"])) ". " } }
        }
    }
}

/// The schema that is meant, where only its name is given.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn kind(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    match &schema["type"] {
        Value::String(one) => one.clone(),
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => schema["enum"].as_array().map(|_| "string".to_owned()).unwrap_or_default(),
    }
}
