//! Users: their limits, their days, whether they may come in.

use std::collections::HashMap;

use axum::{
    Router,
    extract::Path,
    routing::{get, post},
};
use http::Method;
use maud::{Markup, html};

use super::{
    Console,
    api::Refused,
    chart::{self, Bar},
    form::Form,
    layout::{self, Here},
    limits::{self, Limits},
    signed::{Answer, Failure, Posted, Signed},
    visitor::{Params, Visitor, link},
    words,
};
use crate::{
    admin::view::{self, Code},
    model::{Day, Timestamp, UserId},
};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{id}", get(one).post(edit))
        .route("/users/{id}/delete", post(delete))
}

impl<'a> From<&'a view::User> for Limits<'a> {
    fn from(user: &'a view::User) -> Self {
        Self {
            requests_per_minute: user.requests_per_minute,
            requests_per_day: user.requests_per_day,
            tokens_per_day: user.tokens_per_day,
            allowed_models: &user.allowed_models,
            allowed_addresses: &user.allowed_addresses,
        }
    }
}

async fn list(signed: Signed, params: Params) -> Answer {
    shown(&signed, params.get("search"), params.get("page"), None).await
}

/// The list, and the form for another one, or the one that was refused.
async fn shown(signed: &Signed, search: &str, page: &str, refused: Option<(&Form, &Refused)>) -> Answer {
    let query = [("search", search), ("page", page), ("sort", "name")];
    let page: view::UserPage = signed.get(&link("/admin/users", &query)).await?;
    let at = |to: usize| link("/users", &[("search", search), ("page", &to.to_string())]);
    if let Some(last) = layout::last_page(page.page, page.pages, at) {
        return Ok(last);
    }
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        div.head {
            h1 { (t("Users", "用户")) }
            (layout::search(visitor, &signed.session, "/users", &[], (search, t("Name or id", "名称或编号"))))
        }
        section.card aria-label=(t("Users", "用户")) {
            div #users data-live[refused.is_none()] {
                @if page.users.is_empty() && !search.is_empty() {
                    (layout::nothing_like_that(visitor, t("No user is like that.", "没有符合条件的用户。"), "/users"))
                } @else if page.users.is_empty() {
                    p.empty { (t("There is no user yet. Users are people whose tokens share limits and daily logs.", "还没有用户。用户的多个令牌共享限额与每日记录。")) }
                } @else {
                    table.cards {
                        caption.hidden { (t("Users", "用户")) }
                        thead { tr {
                            th scope="col" { (t("Name", "名称")) }
                            th scope="col" { (t("State", "状态")) }
                            th scope="col" { (t("Limits", "限额")) }
                            th.number scope="col" { (t("Requests today", "今日请求")) }
                            th.number scope="col" { (t("Tokens today", "今日 Token")) }
                            th.number scope="col" { (t("Own tokens", "令牌数")) }
                        } }
                        tbody { @for user in &page.users {
                            tr {
                                th.name scope="row" { span {
                                    a.clip href={ "/users/" (user.id) } { bdi { (user.name) } }
                                    @if let Some(note) = &user.note { small.faint.clip { bdi { (note) } } }
                                } }
                                td data-label=(t("State", "状态")) { (state(visitor, user.enabled)) }
                                td.name data-label=(t("Limits", "限额")) { (limits::shown(visitor, &user.into())) }
                                td.number data-label=(t("Requests today", "今日请求")) { (visitor.number(user.requests_today)) }
                                td.number data-label=(t("Tokens today", "今日 Token")) { (visitor.short(user.tokens_today)) }
                                td.number data-label=(t("Own tokens", "令牌数")) { (user.tokens.len()) }
                            }
                        } }
                    }
                    (layout::pager(visitor, page.page, page.pages, at))
                }
            }
        }
        section.card {
            h2 { (t("Add a user", "添加用户")) }
            form.wide method="post" action="/users" data-written[refused.is_some()] {
                (layout::csrf(&signed.session))
                @if let Some((form, refused)) = refused { (words::news(visitor, refused)) (fields(visitor, form)) }
                @else { (fields(visitor, &Form::default())) }
                div.row { button.primary type="submit" { (t("Add the user", "添加")) } }
            }
        }
    };
    let title = t("Users", "用户");
    Ok(match refused {
        Some(_) => signed.again(Here::Users, title, &body),
        None => signed.page(Here::Users, title, &body),
    })
}

/// The users that a form offers.
pub(super) struct Choices {
    users: Vec<(UserId, String)>,
    are_all: bool,
}

impl Choices {
    const MOST: usize = 1000;

    pub(super) async fn of(signed: &Signed) -> Result<Self, Failure> {
        let path = link("/admin/users", &[("pageSize", &Self::MOST.to_string()), ("sort", "name")]);
        let page: view::UserPage = signed.get(&path).await?;
        let are_all = page.total <= page.users.len();
        Ok(Self { users: page.users.into_iter().map(|user| (user.id, user.name)).collect(), are_all })
    }

    /// One who is there, however many others there are.
    pub(super) fn with(mut self, id: UserId, name: &str) -> Self {
        if self.name(id).is_none() {
            self.users.push((id, name.to_owned()));
        }
        self
    }

    /// As [`Choices::with`], where only the id is known: nobody where there is no such user.
    pub(super) async fn with_user(self, signed: &Signed, id: Option<UserId>) -> Result<Self, Failure> {
        let Some(id) = id.filter(|id| self.name(*id).is_none()) else { return Ok(self) };
        match signed.api.get::<view::User>(&format!("/admin/users/{id}")).await {
            Ok(user) => Ok(self.with(id, &user.name)),
            Err(refused) if refused.status == http::StatusCode::NOT_FOUND => Ok(self),
            Err(refused) => Err(signed.refused(&refused)),
        }
    }

    pub(super) fn name(&self, id: UserId) -> Option<&str> {
        self.users.iter().find(|(known, _)| *known == id).map(|(_, name)| name.as_str())
    }

    /// The field of that id and name, in which one of them is chosen, or nobody.
    pub(super) fn field(
        &self,
        visitor: &Visitor,
        form: &Form,
        (id, name): (&str, &str),
        nobody: &str,
    ) -> Markup {
        let t = |en, zh| visitor.t(en, zh);
        let chosen = form.get(name).parse::<UserId>().ok();
        html! {
            select id=(id) name=(name) {
                option value="" { (nobody) }
                // Whoever is not among the names stays: saving something else must not set anything free of them.
                @if let Some(id) = chosen.filter(|id| self.name(*id).is_none()) {
                    option value=(id) selected { (t("the user", "用户")) " " (id.short()) }
                }
                @for (id, name) in &self.users { option value=(id) selected[chosen == Some(*id)] { (name) } }
            }
            @if !self.are_all {
                span.hint { (t(
                    "The first thousand by name are listed. A token for any other user is made from the user's own page.",
                    "仅列出按名称排序的前一千个用户。其他用户的令牌可从其页面创建。",
                )) }
            }
        }
    }
}

fn state(visitor: &Visitor, enabled: bool) -> Markup {
    html! {
        @if enabled { span.state.good { (visitor.t("May call", "可用")) } }
        @else { span.state.bad { (visitor.t("Switched off", "停用")) } }
    }
}

/// What the form of a user holds before it is changed.
fn written(user: &view::User) -> Form {
    let own = [("name", Some(user.name.clone())), ("note", user.note.clone())];
    Form::of(own.into_iter().chain(Limits::from(user).written()))
}

fn fields(visitor: &Visitor, form: &Form) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        div.fields {
            div {
                label for="name" { (t("Name", "名称")) }
                input #name name="name" required maxlength="128" autocomplete="off" value=(form.get("name"));
            }
            div {
                label for="note" { (t("Note", "备注")) }
                input #note name="note" maxlength="256" value=(form.get("note"));
            }
        }
        (limits::fields(visitor, form))
    }
}

async fn create(Posted { signed, form }: Posted) -> Answer {
    let visitor = &signed.visitor;
    let wished = match limits::read(visitor, &form) {
        Ok(wished) => wished,
        Err(refused) => return shown(&signed, "", "", Some((&form, &refused))).await,
    };
    let body = view::AddUser {
        name: form.get("name").to_owned(),
        note: form.given("note"),
        enabled: None,
        requests_per_minute: wished.requests_per_minute,
        requests_per_day: wished.requests_per_day,
        tokens_per_day: wished.tokens_per_day,
        allowed_models: Some(wished.allowed_models),
        allowed_addresses: Some(wished.allowed_addresses),
    };
    match signed.api.send::<view::User>(Method::POST, "/admin/users", &body).await {
        Ok(user) => Ok(signed.went(
            &format!("/users/{}", user.id),
            Ok(visitor
                .t(
                    "The user is added. Tokens name their user when they are made.",
                    "用户已添加。创建令牌时可指定用户。",
                )
                .to_owned()),
        )),
        Err(refused) => shown(&signed, "", "", Some((&form, &refused))).await,
    }
}

async fn one(signed: Signed, Path(id): Path<String>) -> Answer {
    let id: UserId = signed.id(&id, Code::UnknownUser)?;
    own_page(&signed, id, None).await
}

/// A user's own page, with the change of them that was refused, if one was.
async fn own_page(signed: &Signed, id: UserId, refused: Option<(&Form, &Refused)>) -> Answer {
    let (user, days) = (format!("/admin/users/{id}"), format!("/admin/users/{id}/days"));
    let (user, days) = tokio::join!(signed.get::<view::User>(&user), signed.get::<view::UserDays>(&days));
    let (user, days) = (user?, days?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        p { a href="/users" { "← " (t("All users", "全部用户")) } }
        div.head {
            div.row { h1 { bdi { (user.name) } } (state(visitor, user.enabled)) }
            form.line method="post" action={ "/users/" (user.id) } {
                (layout::csrf(&signed.session))
                a.button href={ "/tokens?user=" (user.id) "#name" } { (t("Create a token", "创建令牌")) }
                @if user.enabled { button.danger name="enabled" value="no" { (t("Switch off", "停用")) } }
                @else { button.primary name="enabled" value="yes" { (t("Let in again", "重新启用")) } }
            }
        }
        div #user data-live {
            dl.tiles {
                div {
                    dt { (t("Requests today", "今日请求")) } dd { (visitor.number(user.requests_today)) }
                    dd.note { (of_limit(visitor, user.requests_today, user.requests_per_day)) }
                }
                div {
                    dt { (t("Tokens today", "今日 Token")) } dd { (visitor.short(user.tokens_today)) }
                    dd.note { (of_limit(visitor, user.tokens_today, user.tokens_per_day)) }
                }
                div {
                    dt { (t("Day ends", "当日结束")) } dd { (visitor.ago(user.day_ends_at)) }
                    dd.note { (days.time_zone) }
                }
                div {
                    dt { (t("Tokens", "令牌")) } dd { (user.tokens.len()) }
                    dd.note { @for token in &user.tokens { a href=(link(&format!("/tokens/{}", token.id), &[("provider", &token.provider)])) { bdi { (token.name) } } " " } }
                }
            }
            (chart::requests(visitor, t("The last 30 days", "最近 30 天"), t("Day", "日期"), &bars(visitor, &days)))
            (log(visitor, &days))
        }
        section.card {
            h2 { (t("Name and limits", "名称与限额")) }
            form.wide method="post" action={ "/users/" (user.id) } data-written[refused.is_some()] {
                (layout::csrf(&signed.session))
                @if let Some((form, refused)) = refused { (words::news(visitor, refused)) (fields(visitor, form)) }
                @else { (fields(visitor, &written(&user))) }
                div.row { button.primary type="submit" { (t("Save", "保存")) } }
            }
        }
        section.card {
            h2 { (t("Delete this user", "删除用户")) }
            p.faint { (t("Tokens that name them are refused from then on; daily logs stay.", "其令牌将被拒绝，每日记录保留。")) }
            form method="post" action={ "/users/" (user.id) "/delete" } {
                (layout::csrf(&signed.session))
                label.check { input type="checkbox" name="sure" value="1" required; (t("Yes, delete this user", "确认删除该用户")) }
                div.row { button.danger type="submit" { (t("Delete", "删除")) } }
            }
        }
    };
    Ok(match refused {
        Some(_) => signed.again(Here::Users, &user.name, &body),
        None => signed.page(Here::Users, &user.name, &body),
    })
}

fn of_limit(visitor: &Visitor, used: u64, limit: Option<u64>) -> Markup {
    html! {
        @match limit {
            Some(limit) => {
                (visitor.t("of", "上限")) " " (visitor.short(limit))
                progress max=(limit) value=(used.min(limit)) aria-label=(visitor.t("Used of the limit", "已用限额")) {}
            }
            None => (visitor.t("no limit", "不限")),
        }
    }
}

const FULL: (&str, &str) = ("%-d %b %Y", "%Y年%-m月%-d日");

fn date(visitor: &Visitor, day: Day, (en, zh): (&str, &str)) -> String {
    let text = day.to_string();
    match text.parse::<Timestamp>() {
        Ok(at) => visitor.date(at, en, zh),
        Err(_) => text,
    }
}

/// Every day has its place, also those on which nothing was asked.
fn bars(visitor: &Visitor, days: &view::UserDays) -> Vec<Bar> {
    let known: HashMap<Day, &view::LogData> = days.days.iter().map(|day| (day.date, &day.log_data)).collect();
    let of = |day: u32| {
        let day = Day(day);
        let uses = known.get(&day).map(|data| &data.shared_key_usage);
        Bar {
            label: date(visitor, day, ("%-d %b", "%-m/%-d")),
            name: date(visitor, day, FULL),
            good: uses.map_or(0, |uses| uses.successful_calls),
            bad: uses.map_or(0, |uses| uses.failed_calls),
            other: uses.map_or(0, |uses| uses.other_calls),
        }
    };
    (days.from.0..=days.to.0).map(of).collect()
}

fn log(visitor: &Visitor, days: &view::UserDays) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        @if !days.days.is_empty() {
            section.card {
                h2 { (t("Daily log", "每日记录")) }
                (layout::region(t("Daily log", "每日记录"), &html! {
                    table {
                        thead { tr {
                            th scope="col" { (t("Day", "日期")) }
                            th.number scope="col" { (t("Conversations", "对话")) }
                            th.number scope="col" { (t("API calls", "API 调用")) }
                            th.number scope="col" { (t("Uploads", "上传")) }
                            th.number scope="col" { (t("Tokens", "Token")) }
                            th.number scope="col" { (t("Keys used", "使用密钥")) }
                            th.number scope="col" { (t("Limits hit", "触发限额")) }
                            th.number scope="col" { (t("Refused", "被拒")) }
                            th.number scope="col" { (t("Server errors", "服务错误")) }
                        } }
                        tbody { @for day in days.days.iter().rev() {
                            @let data = &day.log_data;
                            @let uses = &data.shared_key_usage;
                            tr {
                                th.nowrap scope="row" { (date(visitor, day.date, FULL)) }
                                td.number { (visitor.number(data.conversation_count)) }
                                td.number { (visitor.number(data.api_call_count)) }
                                td.number { (visitor.number(data.upload_count)) }
                                td.number { (visitor.short(uses.prompt_tokens + uses.completion_tokens)) }
                                td.number { (uses.keys_used.len()) @if uses.keys_used_more { "+" } }
                                td.number { (visitor.number(data.error_stats.rate_limit_hits)) }
                                td.number { (visitor.number(data.error_stats.auth_failures)) }
                                td.number { (visitor.number(data.error_stats.server_errors)) }
                            }
                        } }
                    }
                }))
            }
        }
    }
}

async fn edit(Path(id): Path<String>, Posted { signed, form }: Posted) -> Answer {
    let id: UserId = signed.id(&id, Code::UnknownUser)?;
    let page = format!("/users/{id}");
    let body = match form.get("enabled") {
        "" => match limits::read(&signed.visitor, &form) {
            Ok(wished) => view::EditUser {
                name: form.given("name"),
                note: Some(form.given("note")),
                enabled: None,
                requests_per_minute: Some(wished.requests_per_minute),
                requests_per_day: Some(wished.requests_per_day),
                tokens_per_day: Some(wished.tokens_per_day),
                allowed_models: Some(Some(wished.allowed_models)),
                allowed_addresses: Some(Some(wished.allowed_addresses)),
            },
            Err(refused) => return own_page(&signed, id, Some((&form, &refused))).await,
        },
        enabled => view::EditUser { enabled: Some(enabled == "yes"), ..view::EditUser::default() },
    };
    let saved = signed.api.send::<view::User>(Method::PATCH, &format!("/admin/users/{id}"), &body).await;
    match saved {
        Err(refused) if form.get("enabled").is_empty() => {
            own_page(&signed, id, Some((&form, &refused))).await
        }
        saved => Ok(signed.went(&page, saved.map(|_| signed.visitor.t("Saved.", "已保存。").to_owned()))),
    }
}

async fn delete(Path(id): Path<String>, Posted { signed, .. }: Posted) -> Answer {
    let id: UserId = signed.id(&id, Code::UnknownUser)?;
    let done = signed.api.send::<view::Deleted>(Method::DELETE, &format!("/admin/users/{id}"), &()).await;
    let done = done.map(|_| signed.visitor.t("The user is deleted.", "用户已删除。").to_owned());
    Ok(signed.went("/users", done))
}
