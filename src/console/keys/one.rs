//! One key: how it stands and why, what it did, what can be done.

use std::collections::HashMap;

use axum::extract::Path;
use http::Method;
use maud::{Markup, html};

use super::{reason, state};
use crate::{
    admin::view,
    console::{
        api::Refused,
        chart::{self, Bar},
        form::Form,
        layout::{self, Here},
        signed::{Answer, Posted, Signed},
        visitor::{Params, Visitor, link},
    },
    model::{KeyId, Timestamp},
};

const HOURS: i64 = 48;
const HOUR_MS: i64 = 3_600_000;

pub(super) async fn show(signed: Signed, Path(id): Path<String>, params: Params) -> Answer {
    let id = checked(&signed, &id)?;
    let provider = match params.get("provider") {
        "" => holder(&signed, id).await?,
        named => named.to_owned(),
    };
    let provider = provider.as_str();
    let of = |path: String| link(&path, &[("provider", provider)]);
    let (key, hours) = (of(format!("/admin/api-keys/{id}")), of(format!("/admin/keys/{id}/hours")));
    let (key, hours) = tokio::join!(signed.get::<view::Key>(&key), signed.get::<view::KeyHours>(&hours));
    let (key, hours) = (key?, hours?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        p { a href=(link("/keys", &[("provider", provider)])) { "← " (t("All keys", "全部密钥")) } }
        div.head { h1.mono { bdi { (key.key) } } (actions(&signed, provider, &key)) }
        div #key-state data-live {
            div.pair {
                (facts(visitor, &key))
                (chart::requests(visitor, t("Attempts in the last 48 hours", "最近 48 小时的调用"), t("Hour", "小时"), &bars(visitor, &hours)))
            }
        }
        (edit_form(&signed, provider, &key))
    };
    Ok(signed.page(Here::Keys, &key.key, &body))
}

/// The provider that has the key, for links that know only its id; the default one where none has it.
async fn holder(signed: &Signed, id: KeyId) -> Result<String, crate::console::signed::Failure> {
    let path = format!("/admin/api-keys/{id}");
    for provider in signed.get::<Vec<view::Provider>>("/admin/providers").await? {
        let of = link(&path, &[("provider", &provider.name)]);
        match signed.api.get::<view::Key>(&of).await {
            Ok(_) => return Ok(provider.name),
            Err(refused) if refused.status == http::StatusCode::NOT_FOUND => {}
            Err(refused) => return Err(signed.refused(&refused)),
        }
    }
    Ok(String::new())
}

/// Only an id goes on into a path.
fn checked(signed: &Signed, id: &str) -> Result<KeyId, crate::console::signed::Failure> {
    id.parse().map_err(|_| {
        signed.refused(&Refused {
            status: http::StatusCode::NOT_FOUND,
            code: "invalid_id".to_owned(),
            message: "There is no key at this address.".to_owned(),
        })
    })
}

fn actions(signed: &Signed, provider: &str, key: &view::Key) -> Markup {
    let t = |en, zh| signed.visitor.t(en, zh);
    html! {
        form.line method="post" action="/keys/change" {
            (layout::csrf(&signed.session))
            input type="hidden" name="id" value=(key.id);
            input type="hidden" name="provider" value=(provider);
            input type="hidden" name="back" value=(signed.visitor.here);
            @if key.enabled && key.disabled_until.is_none() {
                div {
                    label.hidden for="hours" { (t("For how long", "停用时长")) }
                    select #hours name="hours" {
                        option value="" { (t("until enabled again", "直到再次启用")) }
                        option value="1" { (t("for an hour", "1 小时")) }
                        option value="24" { (t("for a day", "1 天")) }
                        option value="168" { (t("for a week", "1 周")) }
                    }
                }
                button name="do" value="disable" { (t("Switch off", "停用")) }
            }
            @if key.status != crate::model::Status::Active || key.consecutive_failures > 0 {
                button.primary name="do" value="enable" { (t("Enable and clear", "启用并清除状态")) }
            }
            button name="do" value="test" { (t("Test", "测试")) }
            button.danger name="do" value="delete" { (t("Delete…", "删除…")) }
        }
    }
}

fn facts(visitor: &Visitor, key: &view::Key) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let stats = &key.stats;
    let text = |text: &Option<String>| {
        html! {
            @if let Some(text) = text { bdi { (text) } } @else { span.faint { "–" } }
        }
    };
    html! {
        section.card {
            h2 { (t("How it stands", "当前情况")) }
            dl.facts {
                dt { (t("State", "状态")) }
                dd { (state(visitor, key.status)) " " (reason(visitor, key)) }
                dt { (t("Account", "账号")) } dd { (text(&key.username)) }
                dt { (t("Note", "备注")) } dd { (text(&key.note)) }
                dt { (t("Attempts", "调用")) }
                dd {
                    (visitor.number(stats.total_requests)) " · "
                    (visitor.number(stats.success_count)) " " (t("succeeded", "成功")) " · "
                    (visitor.number(stats.failure_count)) " " (t("failed", "失败")) " · "
                    (visitor.number(stats.other_count)) " " (t("other", "其他"))
                }
                dt { (t("Success rate", "成功率")) }
                dd { @if stats.total_requests == 0 { "–" } @else { (visitor.percent(stats.success_rate)) } }
                dt { (t("Failures in a row", "连续失败")) } dd { (key.consecutive_failures) }
                dt { (t("In flight", "进行中")) } dd { (key.in_flight) }
                dt { (t("Last success", "最近成功")) } dd { (visitor.ago_or_never(stats.last_success)) }
                dt { (t("Last failure", "最近失败")) } dd { (visitor.ago_or_never(stats.last_failure)) }
                dt { (t("Added", "添加时间")) } dd { (visitor.time(key.created_at)) }
                dt { (t("Expires", "有效期至")) }
                dd { @if let Some(at) = key.expires_at { (visitor.time(at)) } @else { (t("never", "永久")) } }
                dt { (t("Weight", "权重")) } dd { (key.weight) }
                dt { "ID" } dd.mono { (key.id) }
            }
        }
    }
}

/// Every hour has its place, also those in which nothing was asked.
fn bars(visitor: &Visitor, hours: &view::KeyHours) -> Vec<Bar> {
    let known: HashMap<i64, &view::KeyHour> =
        hours.hours.iter().map(|hour| (hour.hour_start.0, hour)).collect();
    let this_hour = visitor.now.0 - visitor.now.0.rem_euclid(HOUR_MS);
    let of = |ago: i64| {
        let start = Timestamp(this_hour - ago * HOUR_MS);
        let (good, bad, all) = known
            .get(&start.0)
            .map_or((0, 0, 0), |hour| (hour.successful_requests, hour.failed_requests, hour.total_requests));
        Bar {
            label: visitor.format(start, "%H:%M", "%H:%M"),
            name: visitor.format(start, "%-d %b, %H:%M", "%-m月%-d日 %H:%M"),
            good,
            bad,
            other: all.saturating_sub(good + bad),
        }
    };
    (0..HOURS).rev().map(of).collect()
}

fn edit_form(signed: &Signed, provider: &str, key: &view::Key) -> Markup {
    let t = |en, zh| signed.visitor.t(en, zh);
    let expires = key.expires_at.map(|at| at.to_string().chars().take(10).collect::<String>());
    html! {
        section.card {
            h2 { (t("Change what people say of it", "编辑")) }
            form.wide method="post" action={ "/keys/" (key.id) } {
                (layout::csrf(&signed.session))
                input type="hidden" name="provider" value=(provider);
                div.fields {
                    div {
                        label for="username" { (t("Account", "账号")) }
                        input #username name="username" maxlength="256" value=[key.username.as_deref()];
                    }
                    div {
                        label for="note" { (t("Note", "备注")) }
                        input #note name="note" maxlength="256" value=[key.note.as_deref()];
                    }
                    div {
                        label for="weight" { (t("Weight", "权重")) }
                        input #weight name="weight" type="number" min="1" max="1000" value=(key.weight);
                    }
                    div {
                        label for="expires" { (t("Expires on (0:00 UTC)", "有效期至（UTC 零点）")) }
                        input #expires name="expires_at" type="date" value=[expires.as_deref()];
                        input type="hidden" name="expires_at_was" value=[expires.as_deref()];
                    }
                }
                div.row { button.primary type="submit" { (t("Save", "保存")) } }
            }
        }
    }
}

pub(super) async fn edit(Path(id): Path<String>, Posted { signed, form }: Posted) -> Answer {
    let provider = form.get("provider");
    let id = checked(&signed, &id)?;
    let page = link(&format!("/keys/{id}"), &[("provider", provider)]);
    let body = match wished(&signed, &form) {
        Ok(body) => body,
        Err(refused) => return Ok(signed.went(&page, Err(refused))),
    };
    let to = link(&format!("/admin/api-keys/{id}"), &[("provider", provider)]);
    let saved = signed.send::<view::Key>(Method::PATCH, &to, &body).await;
    let outcome = saved.map(|_| signed.visitor.t("Saved.", "已保存。").to_owned());
    Ok(signed.went(&page, outcome))
}

fn wished(signed: &Signed, form: &Form) -> Result<view::EditKey, Refused> {
    Ok(view::EditKey {
        username: Some(form.given("username")),
        note: Some(form.given("note")),
        weight: Some(form.parsed(&signed.visitor, "weight")?),
        expires_at: form.new_day(&signed.visitor, "expires_at")?,
        owner: None,
    })
}
