//! In and out, and what a visitor prefers.

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use maud::{Markup, html};
use serde_json::json;

use super::{
    Console,
    api::{Api, Refused},
    form::Form,
    layout::{self, Here},
    signed::{Answer, Posted},
    visitor::{LANG, Params, THEME, Visitor},
    words,
};
use crate::admin::view;

/// Whoever is signed in already goes on.
pub(super) async fn page(
    State(console): State<Console>,
    visitor: Visitor,
    params: Params,
    parts: Parts,
) -> Response {
    if Api::of(&console.api, &parts).get::<view::Session>("/admin/session").await.is_ok() {
        return Redirect::to(own_path(params.get("next"))).into_response();
    }
    let ended = match params.get("ended") {
        "" => None,
        "undone" => Some(visitor.t(
            "You are not signed in any more, so what you have just sent was not done. Sign in, and do it again.",
            "您已退出登录，刚才提交的操作没有执行。请登录后重新操作。",
        )),
        _ => Some(visitor.t("Your session has ended. Sign in again to go on.", "会话已结束，请重新登录以继续。")),
    };
    shown(&visitor, StatusCode::OK, own_path(params.get("next")), ended.map(|text| html! { (text) }))
}

fn shown(visitor: &Visitor, status: StatusCode, next: &str, says: Option<Markup>) -> Response {
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        div.door {
            h1 { (t("Sign in", "登录")) }
            p.faint { (t(
                "With the admin token. It is in the file admin-token of the data folder, or in your configuration.",
                "请使用管理令牌。它保存在数据目录的 admin-token 文件中，或写在您的配置里。",
            )) }
            @if let Some(says) = says { div.news.bad role="alert" { (says) } }
            form method="post" action="/login" {
                input type="hidden" name="next" value=(next);
                // Programs that keep passwords ask whose it is.
                input type="text" name="username" value="admin" autocomplete="username" hidden;
                label for="token" { (t("Admin token", "管理令牌")) }
                input #token type="password" name="token" required autofocus
                    autocomplete="current-password" spellcheck="false" autocapitalize="off";
                button.primary type="submit" { (t("Sign in", "登录")) }
            }
        }
    };
    let mut response = layout::page(visitor, None, Here::Door, t("Sign in", "登录"), &body);
    *response.status_mut() = status;
    response
}

pub(super) async fn begin(State(console): State<Console>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let visitor = Visitor::of(&parts.headers, &parts.uri, console.clock.now());
    let api = Api::of(&console.api, &parts);
    let form = match Form::from_request(Request::from_parts(parts, body), &console).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let next = own_path(form.get("next"));
    let token = json!({"token": form.get("token")}).to_string();
    match api.raw(Method::POST, "/admin/session", Body::from(token)).await {
        Ok(answer) => {
            let mut response = Redirect::to(next).into_response();
            for cookie in answer.headers().get_all(header::SET_COOKIE) {
                response.headers_mut().append(header::SET_COOKIE, cookie.clone());
            }
            response
        }
        Err(refused) => shown(&visitor, refused.status, next, Some(words::of(&visitor, &refused))),
    }
}

pub(super) async fn end(Posted { signed, .. }: Posted) -> Answer {
    let answer = signed.api.raw(Method::DELETE, "/admin/session", Body::empty()).await;
    let answer = answer.map_err(|refused: Refused| signed.refused(&refused))?;
    let mut response = Redirect::to("/login").into_response();
    for cookie in answer.headers().get_all(header::SET_COOKIE) {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

/// Language and theme; whoever they are, so nothing has to be shown for it.
pub(super) async fn prefer(form: Form) -> Response {
    let mut response = Redirect::to(own_path(form.get("next"))).into_response();
    let wishes = [(LANG, "lang", &["en", "zh"][..]), (THEME, "theme", &["auto", "light", "dark"])];
    for (cookie, field, allowed) in wishes {
        let wish = form.get(field);
        if allowed.contains(&wish) {
            let text = format!("{cookie}={wish}; Path=/; Max-Age=31536000; SameSite=Lax");
            if let Ok(text) = HeaderValue::try_from(text) {
                response.headers_mut().append(header::SET_COOKIE, text);
            }
        }
    }
    response
}

/// A path of ours; anything that a browser could take for another place is the first page.
pub(super) fn own_path(text: &str) -> &str {
    let is_plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_plain && text.starts_with('/') && !text.starts_with("//") { text } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        for own in ["/", "/keys?status=failed&page=2", "/keys/97665549-effe-5e34-a023-53e3b2c34a6d"] {
            assert_eq!(own_path(own), own);
        }
        for foreign in
            ["", "//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\r\nb", "/\t/x"]
        {
            assert_eq!(own_path(foreign), "/", "{foreign}");
        }
    }
}
