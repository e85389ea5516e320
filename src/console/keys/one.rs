//! One key: how it stands and why, what it did, what can be done.

use std::collections::HashMap;

use axum::extract::Path;
use http::Method;
use maud::{Markup, html};

use super::{fields, reason, state};
use crate::{
    admin::view::{self, Code},
    console::{
        api::Refused,
        chart::{self, Bar},
        form::Form,
        layout::{self, Here},
        signed::{Answer, Failure, Posted, Signed},
        users::Choices,
        visitor::{Params, Visitor, link},
        words,
    },
    model::{KeyId, Timestamp},
};

const HOURS: i64 = 48;
const HOUR_MS: i64 = 3_600_000;

pub(super) async fn show(signed: Signed, Path(id): Path<String>, params: Params) -> Answer {
    let id: KeyId = signed.id(&id, Code::UnknownKey)?;
    own_page(&signed, params.get("provider"), id, None).await
}

/// A key's own page, with the change of it that was refused, if one was.
async fn own_page(signed: &Signed, provider: &str, id: KeyId, refused: Option<(&Form, &Refused)>) -> Answer {
    let (provider, key) = find(signed, provider, id).await?;
    let provider = provider.as_str();
    let hours = link(&format!("/admin/keys/{id}/hours"), &[("provider", provider)]);
    let hours = signed.get::<view::KeyHours>(&hours).await?;
    let users = Choices::of(signed).await?.with_user(signed, key.owner).await?;
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        p { a href=(link("/keys", &[("provider", provider)])) { "← " (t("All keys", "全部密钥")) } }
        div.head { h1.mono { bdi { (key.key) } } (actions(signed, provider, &key)) }
        div #key-state data-live {
            div.pair {
                (facts(visitor, &key, &users))
                (chart::requests(visitor, t("Attempts in the last 48 hours", "最近 48 小时的调用"), t("Hour", "小时"), &bars(visitor, &hours)))
            }
        }
        (edit_form(signed, provider, &key, &users, refused))
    };
    Ok(match refused {
        Some(_) => signed.again(Here::Keys, &key.key, &body),
        None => signed.page(Here::Keys, &key.key, &body),
    })
}

/// The key and its provider, also for links that know only its id.
async fn find(signed: &Signed, provider: &str, id: KeyId) -> Result<(String, view::Key), Failure> {
    let path = format!("/admin/api-keys/{id}");
    let providers = match provider {
        "" => signed.get::<Vec<view::Provider>>("/admin/providers").await?,
        named => {
            let key = signed.get(&link(&path, &[("provider", named)])).await?;
            return Ok((named.to_owned(), key));
        }
    };
    for provider in providers {
        match signed.api.get(&link(&path, &[("provider", &provider.name)])).await {
            Ok(key) => return Ok((provider.name, key)),
            Err(refused) if refused.status == http::StatusCode::NOT_FOUND => {}
            Err(refused) => return Err(signed.refused(&refused)),
        }
    }
    // As the default provider says it.
    signed.get(&path).await.map(|key| (String::new(), key))
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
                button.primary[key.status != crate::model::Status::Active] name="do" value="enable" { (t("Enable and clear", "启用并清除状态")) }
            }
            button name="do" value="test" { (t("Test", "测试")) }
            button.danger name="do" value="delete" { (t("Delete…", "删除…")) }
        }
    }
}

fn facts(visitor: &Visitor, key: &view::Key, users: &Choices) -> Markup {
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
                dt { (t("Shared by", "共享者")) }
                dd {
                    @match key.owner.map(|owner| (owner, users.name(owner))) {
                        Some((owner, Some(name))) => a href={ "/users/" (owner) } { bdi { (name) } },
                        Some((owner, None)) => { (t("a user who is gone", "已删除的用户")) " " (owner.short()) }
                        None => span.faint { "–" },
                    }
                }
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

/// What the form of a key holds before it is changed.
fn written(key: &view::Key) -> Form {
    let day = key.expires_at.map(|at| at.to_string().chars().take(10).collect::<String>());
    let owner = key.owner.map(|owner| owner.to_string());
    Form::of([
        ("username", key.username.clone()),
        ("note", key.note.clone()),
        ("weight", Some(key.weight.to_string())),
        ("expires_at", day.clone()),
        ("expires_at_was", day),
        ("owner", owner.clone()),
        ("owner_was", owner),
    ])
}

fn edit_form(
    signed: &Signed,
    provider: &str,
    key: &view::Key,
    users: &Choices,
    refused: Option<(&Form, &Refused)>,
) -> Markup {
    let t = |en, zh| signed.visitor.t(en, zh);
    let known = written(key);
    let form = refused.map_or(&known, |(form, _)| form);
    html! {
        section.card {
            h2 { (t("Change what people say of it", "编辑")) }
            form.wide method="post" action={ "/keys/" (key.id) } data-written[refused.is_some()] {
                (layout::csrf(&signed.session))
                @if let Some((_, refused)) = refused { (words::news(&signed.visitor, refused)) }
                input type="hidden" name="provider" value=(provider);
                (fields(&signed.visitor, form, users))
                div.row { button.primary type="submit" { (t("Save", "保存")) } }
            }
        }
    }
}

pub(super) async fn edit(Path(id): Path<String>, Posted { signed, form }: Posted) -> Answer {
    let provider = form.get("provider");
    let id: KeyId = signed.id(&id, Code::UnknownKey)?;
    let page = link(&format!("/keys/{id}"), &[("provider", provider)]);
    let body = match wished(&signed, &form) {
        Ok(body) => body,
        Err(refused) => return own_page(&signed, provider, id, Some((&form, &refused))).await,
    };
    let to = link(&format!("/admin/api-keys/{id}"), &[("provider", provider)]);
    match signed.api.send::<view::Key>(Method::PATCH, &to, &body).await {
        Ok(_) => Ok(signed.went(&page, Ok(signed.visitor.t("Saved.", "已保存。").to_owned()))),
        Err(refused) => own_page(&signed, provider, id, Some((&form, &refused))).await,
    }
}

fn wished(signed: &Signed, form: &Form) -> Result<view::EditKey, Refused> {
    Ok(view::EditKey {
        username: Some(form.given("username")),
        note: Some(form.given("note")),
        weight: Some(form.parsed(&signed.visitor, "weight")?),
        expires_at: form.changed(&signed.visitor, "expires_at")?,
        owner: form.changed(&signed.visitor, "owner")?,
    })
}
