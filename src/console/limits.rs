//! The limits that tokens and users have alike: their fields in forms, and what came of them.

use maud::{Markup, html};
use serde_json::Number;

use super::{api::Refused, form::Form, visitor::Visitor};
use crate::admin::view::Amount;

/// As they are now.
pub(super) struct Limits<'a> {
    pub(super) requests_per_minute: Option<u32>,
    pub(super) requests_per_day: Option<u64>,
    pub(super) tokens_per_day: Option<u64>,
    pub(super) allowed_models: &'a [String],
    pub(super) allowed_addresses: &'a [String],
}

/// As they are wished for; empty fields are no limit.
pub(super) struct Wished {
    pub(super) requests_per_minute: Option<Amount>,
    pub(super) requests_per_day: Option<Amount>,
    pub(super) tokens_per_day: Option<Amount>,
    pub(super) allowed_models: Vec<String>,
    pub(super) allowed_addresses: Vec<String>,
}

/// Name, English, Chinese, the most that the API takes.
const AMOUNTS: [(&str, &str, &str, &str); 3] = [
    ("requests_per_minute", "Requests a minute", "每分钟请求数", "1000000"),
    ("requests_per_day", "Requests a day", "每日请求数", "1000000000"),
    ("tokens_per_day", "Tokens a day", "每日 Token 数", "1000000000000"),
];

impl Limits<'_> {
    /// As they stand in the form.
    pub(super) fn written(&self) -> [(&'static str, Option<String>); 5] {
        [
            ("requests_per_minute", self.requests_per_minute.map(|most| most.to_string())),
            ("requests_per_day", self.requests_per_day.map(|most| most.to_string())),
            ("tokens_per_day", self.tokens_per_day.map(|most| most.to_string())),
            ("allowed_models", Some(self.allowed_models.join(", "))),
            ("allowed_addresses", Some(self.allowed_addresses.join(", "))),
        ]
    }
}

pub(super) fn fields(visitor: &Visitor, now: &Form) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        div.fields {
            @for (name, en, zh, most) in AMOUNTS {
                div {
                    label for=(name) { (t(en, zh)) }
                    input id=(name) name=(name) type="number" min="1" max=(most) value=(now.get(name))
                        placeholder=(t("no limit", "不限"));
                }
            }
            div {
                label for="allowed_models" { (t("Models", "模型")) }
                input #allowed_models name="allowed_models" value=(now.get("allowed_models"))
                    placeholder=(t("all; or like llama3, gpt-*", "全部；或如 llama3, gpt-*"));
            }
            div {
                label for="allowed_addresses" { (t("Addresses", "来源地址")) }
                input #allowed_addresses name="allowed_addresses" value=(now.get("allowed_addresses"))
                    placeholder=(t("all; or like 10.0.0.0/8", "全部；或如 10.0.0.0/8"));
            }
        }
    }
}

/// # Errors
/// When something that has to be a number is none. Whether it is in range is for the API to say.
pub(super) fn read(visitor: &Visitor, form: &Form) -> Result<Wished, Refused> {
    let amount = |name: &str| {
        let Some(text) = form.given(name) else { return Ok(None) };
        let number = serde_json::from_str::<Number>(&text);
        number.map(|number| Some(Amount(number))).map_err(|_| Refused {
            status: http::StatusCode::BAD_REQUEST,
            code: "invalid_limit".to_owned(),
            message: visitor.t("A limit is a whole number.", "限额必须是整数。").to_owned(),
        })
    };
    let list = |name: &str| {
        let parts = form.get(name).split([',', ' ', '\n', '，']).map(str::trim);
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    Ok(Wished {
        requests_per_minute: amount("requests_per_minute")?,
        requests_per_day: amount("requests_per_day")?,
        tokens_per_day: amount("tokens_per_day")?,
        allowed_models: list("allowed_models"),
        allowed_addresses: list("allowed_addresses"),
    })
}

/// In words, for lists.
pub(super) fn shown(visitor: &Visitor, limits: &Limits<'_>) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let amounts = [
        (limits.requests_per_minute.map(u64::from), t("requests/min", "请求/分钟")),
        (limits.requests_per_day, t("requests/day", "请求/日")),
        (limits.tokens_per_day, t("tokens/day", "Token/日")),
    ];
    let mut parts: Vec<String> = amounts
        .into_iter()
        .filter_map(|(amount, unit)| Some(format!("{} {unit}", visitor.short(amount?))))
        .collect();
    if !limits.allowed_models.is_empty() {
        parts.push(limits.allowed_models.join(", "));
    }
    if !limits.allowed_addresses.is_empty() {
        parts.push(limits.allowed_addresses.join(", "));
    }
    html! {
        @if parts.is_empty() { span.faint { (t("none", "无")) } } @else { bdi.clip { (parts.join(" · ")) } }
    }
}
