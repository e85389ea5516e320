//! Client tokens: made, shown once, limited, revoked.

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
    form::Form,
    layout::{self, Here},
    limits::{self, Limits},
    signed::{Answer, Failure, Posted, Signed},
    users::Choices,
    visitor::{Params, Visitor, link},
    words,
};
use crate::{
    admin::view::{self, Code},
    model::TokenId,
};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/tokens", get(list).post(create))
        .route("/tokens/revoke", post(revoke))
        .route("/tokens/{id}", get(one).post(edit))
}

impl<'a> From<&'a view::Token> for Limits<'a> {
    fn from(token: &'a view::Token) -> Self {
        Self {
            requests_per_minute: token.requests_per_minute,
            requests_per_day: token.requests_per_day,
            tokens_per_day: token.tokens_per_day,
            allowed_models: &token.allowed_models,
            allowed_addresses: &token.allowed_addresses,
        }
    }
}

/// What of the list is looked at: who goes on from it to a token comes back to it.
#[derive(Clone, Copy)]
struct Shown<'a> {
    provider: &'a str,
    search: &'a str,
    page: &'a str,
}

impl<'a> Shown<'a> {
    fn of(get: impl Fn(&str) -> &'a str) -> Self {
        Self { provider: get("provider"), search: get("search"), page: get("page") }
    }

    fn parameters(&self) -> [(&'static str, &'a str); 3] {
        [("provider", self.provider), ("search", self.search), ("page", self.page)]
    }

    fn list(&self) -> String {
        link("/tokens", &self.parameters())
    }

    fn one(&self, id: TokenId) -> String {
        link(&format!("/tokens/{id}"), &self.parameters())
    }

    /// As a form passes it on.
    fn fields(&self) -> Markup {
        html! { @for (name, value) in self.parameters() { input type="hidden" name=(name) value=(value); } }
    }
}

async fn list(signed: Signed, params: Params) -> Answer {
    let form = Form::of([("user", Some(params.get("user").to_owned()))]);
    shown(&signed, Shown::of(|name| params.get(name)), &form, None).await
}

/// The list, and the form for another one, with why it was refused, if it was.
async fn shown(signed: &Signed, shown: Shown<'_>, form: &Form, refused: Option<&Refused>) -> Answer {
    let Shown { provider, search, page } = shown;
    // Without a page the API lists all of them.
    let page = if page.is_empty() { "1" } else { page };
    let path = link("/admin/tokens", &[("provider", provider), ("search", search), ("page", page)]);
    let (list, providers, users) = tokio::join!(
        signed.get::<view::TokenList>(&path),
        signed.get::<Vec<view::Provider>>("/admin/providers"),
        Choices::of(signed)
    );
    let (list, providers) = (list?, providers?);
    let users = users?.with_user(signed, form.get("user").parse().ok()).await?;
    let at =
        |to: usize| link("/tokens", &[("provider", provider), ("search", search), ("page", &to.to_string())]);
    if let Some(last) = layout::last_page(list.page, list.pages, at) {
        return Ok(last);
    }
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        div.head {
            h1 { (t("Tokens", "令牌")) }
            (layout::choose_provider(visitor, &providers, &list.provider, "/tokens"))
            (layout::search(visitor, &signed.session, "/tokens", &[("provider", provider)], (search, t("Name, user, id or token", "名称、用户、编号或完整令牌"))))
        }
        section.card aria-label=(t("Tokens", "令牌")) {
            div #tokens data-live[refused.is_none()] {
                @if list.tokens.is_empty() && !search.is_empty() {
                    @let all = link("/tokens", &[("provider", provider)]);
                    (layout::nothing_like_that(visitor, t("No token is like that.", "没有符合条件的令牌。"), &all))
                } @else if list.tokens.is_empty() {
                    p.empty { (t("There is no token yet. Callers need one: create it below.", "还没有令牌。调用方需要令牌，请在下方创建。")) }
                } @else {
                    table.cards {
                        caption.hidden { (t("Tokens", "令牌")) }
                        thead { tr {
                            th scope="col" { (t("Name", "名称")) }
                            th scope="col" { (t("User", "用户")) }
                            th scope="col" { (t("Limits", "限额")) }
                            th.number scope="col" { (t("Today", "今日")) }
                            th.number scope="col" { (t("Requests", "请求")) }
                            th.number scope="col" { (t("Tokens used", "Token 用量")) }
                            th scope="col" { (t("Last used", "最近使用")) }
                        } }
                        tbody { @for token in &list.tokens { (row(visitor, &shown, token)) } }
                    }
                    (layout::pager(visitor, list.page, list.pages, at))
                }
            }
        }
        section.card {
            h2 { (t("Create a token", "创建令牌")) }
            form.wide method="post" action="/tokens" data-written[refused.is_some()] {
                (layout::csrf(&signed.session))
                input type="hidden" name="provider" value=(list.provider);
                @if let Some(refused) = refused { (words::news(visitor, refused)) }
                (fields(visitor, form, &users))
                div.row { button.primary type="submit" { (t("Create the token", "创建")) } }
            }
        }
    };
    let title = t("Tokens", "令牌");
    Ok(match refused {
        Some(_) => signed.again(Here::Tokens, title, &body),
        None => signed.page(Here::Tokens, title, &body),
    })
}

fn row(visitor: &Visitor, shown: &Shown<'_>, token: &view::Token) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        tr {
            th.name scope="row" {
                span {
                    a.clip href=(shown.one(token.id)) { bdi { (token.name) } }
                    small.mono.faint { bdi { (token.token) } }
                    @if token.expired { " " span.state.expired { (t("Expired", "过期")) } }
                    @else if let Some(at) = token.expires_at { small.faint { " " (t("ends", "到期")) " " (visitor.ago(at)) } }
                }
            }
            td.name.blank[token.user.is_none()] data-label=(t("User", "用户")) {
                @match token.user {
                    Some(user) => a href={ "/users/" (user) } { bdi.clip { (token.user_name.as_deref().unwrap_or("–")) } },
                    None => span.faint { "–" },
                }
            }
            td.name data-label=(t("Limits", "限额")) { (limits::shown(visitor, &token.into())) }
            td.number data-label=(t("Today", "今日")) { (visitor.number(token.requests_today)) }
            td.number data-label=(t("Requests", "请求")) { (visitor.number(token.request_count)) }
            td.number data-label=(t("Tokens used", "Token 用量")) { (visitor.short(token.prompt_tokens + token.completion_tokens)) }
            td.nowrap data-label=(t("Last used", "最近使用")) { (visitor.ago_or_never(token.last_used)) }
        }
    }
}

/// What the form of a token holds before it is changed.
fn written(token: &view::Token) -> Form {
    let day = token.expires_at.map(|at| at.to_string().chars().take(10).collect::<String>());
    let own = [
        ("name", Some(token.name.clone())),
        ("user", token.user.map(|user| user.to_string())),
        ("expires_at", day.clone()),
        ("expires_at_was", day),
    ];
    Form::of(own.into_iter().chain(Limits::from(token).written()))
}

fn fields(visitor: &Visitor, form: &Form, users: &Choices) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        div.fields {
            div {
                label for="name" { (t("Name", "名称")) }
                input #name name="name" required maxlength="128" autocomplete="off" value=(form.get("name"));
            }
            div {
                label for="user" { (t("User", "用户")) }
                (users.field(visitor, form, ("user", "user"), t("nobody in particular", "不指定")))
                span.hint { (t("Their limits hold as well.", "同时受该用户的限额约束。")) }
            }
            div {
                label for="expires" { (t("Expires on (0:00 UTC)", "有效期至（UTC 零点）")) }
                input #expires name="expires_at" type="date" value=(form.get("expires_at"));
                input type="hidden" name="expires_at_was" value=(form.get("expires_at_was"));
            }
        }
        (limits::fields(visitor, form))
    }
}

async fn create(Posted { signed, form }: Posted) -> Answer {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let provider = form.get("provider");
    let of = Shown { provider, search: "", page: "" };
    let wished = || {
        let limits = limits::read(visitor, &form)?;
        Ok(view::AddToken {
            name: form.get("name").to_owned(),
            expires_at: form.parsed(visitor, "expires_at")?,
            user: form.parsed(visitor, "user")?,
            allowed_models: Some(limits.allowed_models),
            allowed_addresses: Some(limits.allowed_addresses),
            requests_per_minute: limits.requests_per_minute,
            requests_per_day: limits.requests_per_day,
            tokens_per_day: limits.tokens_per_day,
            token: None,
        })
    };
    let body = match wished() {
        Ok(body) => body,
        Err(refused) => return shown(&signed, of, &form, Some(&refused)).await,
    };
    let to = link("/admin/tokens", &[("provider", provider)]);
    let made: view::Token = match signed.api.send(Method::POST, &to, &body).await {
        Ok(made) => made,
        Err(refused) => return shown(&signed, of, &form, Some(&refused)).await,
    };
    // The one page that shows it: it goes into no cookie, no address and no log.
    let title = t("The token is made", "令牌已创建");
    let page = html! {
        h1 { (title) }
        section.card {
            p { (t("Copy it now: it is not shown again.", "请立即复制，之后不会再显示。")) }
            label for="made" { bdi { (made.name) } }
            div.row {
                input #made.mono readonly value=(made.token) spellcheck="false";
                button.primary type="button" data-copy="made" { (t("Copy", "复制")) }
            }
        }
        p { a.button href=(of.list()) { (t("Back to the tokens", "返回令牌列表")) } }
    };
    Ok(signed.page(Here::Tokens, title, &page))
}

async fn find(signed: &Signed, provider: &str, id: &str) -> Result<view::Token, Failure> {
    let id: TokenId = signed.id(id, Code::UnknownToken)?;
    signed.get(&link(&format!("/admin/tokens/{id}"), &[("provider", provider)])).await
}

async fn one(signed: Signed, Path(id): Path<String>, params: Params) -> Answer {
    let shown = Shown::of(|name| params.get(name));
    let token = find(&signed, shown.provider, &id).await?;
    own_page(&signed, shown, &token, None).await
}

/// A token's own page, with the change of it that was refused, if one was.
async fn own_page(
    signed: &Signed,
    shown: Shown<'_>,
    token: &view::Token,
    refused: Option<(&Form, &Refused)>,
) -> Answer {
    let mut users = Choices::of(signed).await?;
    if let (Some(own), Some(name)) = (token.user, &token.user_name) {
        users = users.with(own, name);
    }
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        p { a href=(shown.list()) { "← " (t("All tokens", "全部令牌")) } }
        div.head {
            h1 { bdi { (token.name) } }
            a.button href=(link("/playground", &[("provider", shown.provider), ("token", &token.id.to_string())])) { (t("Try it", "试用")) }
        }
        dl.tiles {
            div { dt { (t("Requests", "请求数")) } dd { (visitor.number(token.request_count)) } dd.note { (visitor.number(token.failure_count)) " " (t("failed", "次失败")) } }
            div { dt { (t("Today", "今日")) } dd { (visitor.number(token.requests_today)) } dd.note { (visitor.short(token.tokens_today)) " " (t("tokens", "Token")) } }
            div { dt { (t("Tokens used", "Token 用量")) } dd { (visitor.short(token.prompt_tokens + token.completion_tokens)) } dd.note { (visitor.short(token.prompt_tokens)) " " (t("in", "输入")) " · " (visitor.short(token.completion_tokens)) " " (t("out", "输出")) } }
            div { dt { (t("Last used", "最近使用")) } dd { (visitor.ago_or_never(token.last_used)) } dd.note { (t("made", "创建于")) " " (visitor.time(token.created_at)) } }
        }
        section.card {
            h2 { (t("Change it", "编辑")) }
            form.wide method="post" action={ "/tokens/" (token.id) } data-written[refused.is_some()] {
                (layout::csrf(&signed.session))
                (shown.fields())
                @if let Some((form, refused)) = refused { (words::news(visitor, refused)) (fields(visitor, form, &users)) }
                @else { (fields(visitor, &written(token), &users)) }
                div.row { button.primary type="submit" { (t("Save", "保存")) } }
            }
        }
        section.card {
            h2 { (t("Revoke it", "吊销")) }
            p.faint { (t("Callers that use it are refused from now on. Its figures stay.", "使用它的调用会立即被拒绝，统计数据保留。")) }
            form method="post" action="/tokens/revoke" {
                (layout::csrf(&signed.session))
                (shown.fields())
                input type="hidden" name="id" value=(token.id);
                label.check { input type="checkbox" name="sure" value="1" required; (t("Yes, revoke this token", "确认吊销该令牌")) }
                div.row { button.danger type="submit" { (t("Revoke", "吊销")) } }
            }
        }
    };
    Ok(match refused {
        Some(_) => signed.again(Here::Tokens, &token.name, &body),
        None => signed.page(Here::Tokens, &token.name, &body),
    })
}

async fn edit(Path(id): Path<String>, Posted { signed, form }: Posted) -> Answer {
    let shown = Shown::of(|name| form.get(name));
    let provider = shown.provider;
    let token = find(&signed, provider, &id).await?;
    let visitor = &signed.visitor;
    let wished = || {
        let limits = limits::read(visitor, &form)?;
        Ok(view::EditToken {
            name: form.given("name"),
            expires_at: form.changed(visitor, "expires_at")?,
            user: Some(form.parsed(visitor, "user")?),
            requests_per_minute: Some(limits.requests_per_minute),
            requests_per_day: Some(limits.requests_per_day),
            tokens_per_day: Some(limits.tokens_per_day),
            allowed_models: Some(Some(limits.allowed_models)),
            allowed_addresses: Some(Some(limits.allowed_addresses)),
        })
    };
    let body = match wished() {
        Ok(body) => body,
        Err(refused) => return own_page(&signed, shown, &token, Some((&form, &refused))).await,
    };
    let to = link(&format!("/admin/tokens/{}", token.id), &[("provider", provider)]);
    match signed.api.send::<view::Token>(Method::PATCH, &to, &body).await {
        Ok(_) => Ok(signed.went(&shown.one(token.id), Ok(visitor.t("Saved.", "已保存。").to_owned()))),
        Err(refused) => own_page(&signed, shown, &token, Some((&form, &refused))).await,
    }
}

async fn revoke(Posted { signed, form }: Posted) -> Answer {
    let shown = Shown::of(|name| form.get(name));
    let token = find(&signed, shown.provider, form.get("id")).await?;
    let to = link(&format!("/admin/tokens/{}", token.id), &[("provider", shown.provider)]);
    let done = signed.api.send::<view::Deleted>(Method::DELETE, &to, &()).await;
    let done = done.map(|_| signed.visitor.t("The token is revoked.", "令牌已吊销。").to_owned());
    Ok(signed.went(&shown.list(), done))
}
