//! Keys: the list, changes of many, what comes in, and one key's own page.

mod add;
mod change;
mod list;
mod one;

use axum::{
    Router,
    routing::{get, post},
};
use maud::{Markup, html};

use super::{Console, form::Form, users::Choices, visitor::Visitor};
use crate::{admin::view, model::Status};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/keys", get(list::show))
        .route("/keys/change", post(change::change))
        .route("/keys/add", get(add::show).post(add::add))
        .route("/keys/import", post(add::import))
        .route("/keys/export", post(add::export))
        .route("/keys/{id}", get(one::show).post(one::edit))
}

/// What people say of a key, new or known.
fn fields(visitor: &Visitor, form: &Form, users: &Choices) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        div.fields {
            div {
                label for="username" { (t("Account", "账号")) }
                input #username name="username" maxlength="256" autocomplete="off" value=(form.get("username"));
                span.hint { (t("Keys of one account share its limits.", "同一账号的密钥共享限额。")) }
            }
            div {
                label for="note" { (t("Note", "备注")) }
                input #note name="note" maxlength="256" value=(form.get("note"));
            }
            div {
                label for="weight" { (t("Weight", "权重")) }
                input #weight name="weight" type="number" min="1" max="1000" placeholder="1" value=(form.get("weight"));
            }
            div {
                label for="expires" { (t("Expires on (0:00 UTC)", "有效期至（UTC 零点）")) }
                input #expires name="expires_at" type="date" value=(form.get("expires_at"));
                input type="hidden" name="expires_at_was" value=(form.get("expires_at_was"));
            }
            div {
                label for="owner" { (t("Shared by", "共享者")) }
                (users.field(visitor, form, ("owner", "owner"), t("nobody in particular", "不指定")))
                input type="hidden" name="owner_was" value=(form.get("owner_was"));
            }
        }
    }
}

const STATES: [Status; 4] = [Status::Active, Status::Failed, Status::Disabled, Status::Expired];

/// As addresses write it.
const fn name(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Failed => "failed",
        Status::Disabled => "disabled",
        Status::Expired => "expired",
    }
}

fn in_words<'a>(visitor: &Visitor, status: Status) -> &'a str
where
    'static: 'a,
{
    match status {
        Status::Active => visitor.t("Active", "可用"),
        Status::Failed => visitor.t("Failed", "失败"),
        Status::Disabled => visitor.t("Off", "停用"),
        Status::Expired => visitor.t("Expired", "过期"),
    }
}

fn state(visitor: &Visitor, status: Status) -> Markup {
    html! { span class={ "state " (name(status)) } { (in_words(visitor, status)) } }
}

/// Why a key is not picked, and until when.
fn reason(visitor: &Visitor, key: &view::Key) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let why = key.reason.map(|reason| match reason {
        view::Reason::RateLimit => t("rate limited by the provider", "被服务商限流"),
        view::Reason::Quota => t("used up until its reset", "额度用尽，等待重置"),
        view::Reason::Auth => t("refused by the provider", "被服务商拒绝认证"),
        view::Reason::Server => t("the provider failed", "服务商故障"),
        view::Reason::Person => t("switched off by a person", "已手动停用"),
        view::Reason::Expired => t("past its expiry", "已过有效期"),
        view::Reason::NeedsVerification => t("refused again and again: test it", "多次被拒，需要测试后恢复"),
    });
    let until = match key.status {
        Status::Failed if !key.needs_verification => key.failed_until,
        Status::Disabled if key.enabled => key.disabled_until,
        _ => None,
    };
    html! {
        @if let Some(why) = why { (why) }
        @if let Some(until) = until { "; " (t("back", "恢复于")) " " (visitor.ago(until)) }
    }
}
