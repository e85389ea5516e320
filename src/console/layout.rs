//! What all pages have in common: the frame, the way about, news, errors, and a few small parts.

use axum::response::{Html, IntoResponse, Redirect, Response};
use http::{HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use super::{
    api::Refused,
    assets, search,
    visitor::{Lang, SAID, Said, Theme, Visitor, link},
    words,
};
use crate::admin::view;

/// Where in the console a page stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    Overview,
    Keys,
    Tokens,
    Users,
    Events,
    Storage,
    Playground,
    Settings,
    /// Before the console: the way in, and what is open to everybody.
    Door,
    /// Where there is no page.
    Nowhere,
}

/// Place, path, English, Chinese.
const PLACES: [(Here, &str, &str, &str); 9] = [
    (Here::Overview, "/", "Overview", "概览"),
    (Here::Keys, "/keys", "Keys", "密钥"),
    (Here::Tokens, "/tokens", "Tokens", "令牌"),
    (Here::Users, "/users", "Users", "用户"),
    (Here::Events, "/events", "Events", "事件"),
    (Here::Storage, "/storage", "Storage and sync", "存储与同步"),
    (Here::Playground, "/playground", "Playground", "试用"),
    (Here::Settings, "/settings", "Settings", "设置"),
    (Here::Door, "/api-docs", "API documentation", "API 文档"),
];

/// Of those pages that everybody may see, and the console itself.
const OPEN: [(&str, &str, &str); 3] = [
    ("/", "Console", "控制台"),
    ("/stats", "Public statistics", "公共统计"),
    ("/api-docs", "API documentation", "API 文档"),
];

pub(super) fn page(
    visitor: &Visitor,
    session: Option<&view::Session>,
    here: Here,
    title: &str,
    body: &Markup,
) -> Response {
    let mut response = Html(text(visitor, session, here, title, body)).into_response();
    if visitor.said.is_some() {
        let told = format!("{SAID}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
        if let Ok(told) = HeaderValue::try_from(told) {
            response.headers_mut().append(header::SET_COOKIE, told);
        }
    }
    response
}

pub(super) fn text(
    visitor: &Visitor,
    session: Option<&view::Session>,
    here: Here,
    title: &str,
    body: &Markup,
) -> String {
    let t = |en, zh| visitor.t(en, zh);
    let lang = if visitor.lang == Lang::Zh { "zh-CN" } else { "en" };
    let text = html! {
        (DOCTYPE)
        html lang=(lang) data-theme=(visitor.theme.name()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · keytide" }
                link rel="icon" type="image/svg+xml" href=(assets::path("icon.svg"));
                link rel="stylesheet" href=(assets::path("style.css"));
                script type="module" src=(assets::path("base.js")) {}
            }
            body data-lost=(t("The connection is lost. Trying again…", "连接已断开，正在重试…"))
                data-unsent=(t("Not sent: no proper answer came. What you have written stays; press the button again.", "未发送：没有收到正常的回答。已填写的内容仍在，请重新提交。"))
                data-ended=(t("The session has ended; what you have written stays. Sign in beside this page, then go on here.", "会话已结束，已填写的内容仍在。请在新标签页登录，再回到这里继续。"))
                data-sign-in=(t("Sign in", "登录"))
                data-gone=(t("This is no longer there: it was deleted meanwhile.", "此内容已不存在，可能刚被删除。"))
                data-copied=(t("Copied", "已复制")) data-original=(words::ORIGINAL) {
                a.skip href="#main" { (t("Skip to the content", "跳到正文")) }
                header.side {
                    a.brand href="/" { (mark()) "keytide" }
                    @if let Some(session) = session {
                        details.menu open {
                            summary { (t("Menu", "菜单")) }
                            nav aria-label=(t("Pages", "页面")) {
                                @for (place, path, en, zh) in PLACES {
                                    a href=(path) aria-current=[(place == here).then_some("page")] { (t(en, zh)) }
                                }
                            }
                            (preferences(visitor))
                            form.quiet method="post" action="/logout" {
                                (csrf(session))
                                button type="submit" { (t("Sign out", "退出登录")) }
                            }
                        }
                    } @else {
                        nav aria-label=(t("Pages", "页面")) {
                            @for (path, en, zh) in OPEN {
                                a href=(path) aria-current=[(visitor.path() == path).then_some("page")] { (t(en, zh)) }
                            }
                        }
                        (preferences(visitor))
                    }
                }
                main #main tabindex="-1" {
                    @match &visitor.said {
                        Some(Said::Good(text)) => p.news.good role="status" { (text) },
                        Some(Said::Bad { done, refused }) => {
                            @if !done.is_empty() { p.news.plain role="status" { (done) } }
                            (words::news(visitor, refused))
                        }
                        None => {}
                    }
                    (body)
                }
            }
        }
    };
    text.into_string()
}

/// The sign of the pool: two waves.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
            path d="M2 9c3.3-4 6.7-4 10 0s6.7 4 10 0" {}
            path d="M2 16c3.3-4 6.7-4 10 0s6.7 4 10 0" {}
        }
    }
}

/// Not on a page that cannot be asked for again: what only it shows would be lost by a change of the language.
fn preferences(visitor: &Visitor) -> Markup {
    if visitor.here.is_empty() {
        return html! {};
    }
    let t = |en, zh| visitor.t(en, zh);
    let themes =
        [(Theme::Auto, "Auto", "自动"), (Theme::Light, "Light", "浅色"), (Theme::Dark, "Dark", "深色")];
    html! {
        div.preferences {
            form method="post" action="/preferences" {
                input type="hidden" name="next" value=(visitor.here);
                fieldset.switch {
                    legend.hidden { (t("Language", "语言")) }
                    button name="lang" value="en" lang="en" aria-pressed=((visitor.lang == Lang::En)) { "English" }
                    button name="lang" value="zh" lang="zh-CN" aria-pressed=((visitor.lang == Lang::Zh)) { "中文" }
                }
            }
            form method="post" action="/preferences" {
                input type="hidden" name="next" value=(visitor.here);
                fieldset.switch {
                    legend.hidden { (t("Colours", "配色")) }
                    @for (theme, en, zh) in themes {
                        button name="theme" value=(theme.name()) aria-pressed=((visitor.theme == theme)) { (t(en, zh)) }
                    }
                }
            }
        }
    }
}

/// What every form that changes something carries.
pub(super) fn csrf(session: &view::Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf); }
}

/// What may be wider than the window is scrolled in a part of its own, with the keyboard too.
pub(super) fn region(label: &str, content: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { (content) } }
}

/// The page that says why there is no other.
pub(super) fn refused(visitor: &Visitor, session: Option<&view::Session>, refused: &Refused) -> Response {
    let t = |en, zh| visitor.t(en, zh);
    let title = match refused.status {
        StatusCode::NOT_FOUND => t("This is not here", "没有找到"),
        StatusCode::FORBIDDEN => t("This was not done", "操作未执行"),
        status if status.is_server_error() => t("This did not work", "操作失败"),
        _ => t("This cannot be", "无法完成"),
    };
    let body = html! {
        h1 { (title) }
        (words::news(visitor, refused))
        p { a href="/" { (t("To the overview", "回到概览")) } }
    };
    let mut response = page(visitor, session, Here::Nowhere, title, &body);
    *response.status_mut() = refused.status;
    response
}

/// The choice of a provider, where there is one: links, so that it works everywhere.
pub(super) fn choose_provider(
    visitor: &Visitor,
    providers: &[view::Provider],
    chosen: &str,
    path: &str,
) -> Markup {
    html! {
        @if providers.len() > 1 {
            nav.choice aria-label=(visitor.t("Provider", "服务商")) {
                @for provider in providers {
                    @let name = if provider.default { "" } else { provider.name.as_str() };
                    a href=(link(path, &[("provider", name)])) aria-current=[(provider.name == chosen).then_some("true")] {
                        (provider.name)
                        @if !provider.enabled { " " small { (visitor.t("off", "已停用")) } }
                    }
                }
            }
        }
    }
}

/// A search of the list at `path`, of which `kept` says what else it is.
pub(super) fn search(
    visitor: &Visitor,
    session: &view::Session,
    path: &str,
    kept: &[(&str, &str)],
    (value, hint): (&str, &str),
) -> Markup {
    let word = visitor.t("Search", "搜索");
    html! {
        form.line method="post" action=(search::PATH) role="search" {
            (csrf(session))
            input type="hidden" name="list" value=(path);
            @for (name, value) in kept.iter().filter(|(_, value)| !value.is_empty()) {
                input type="hidden" name=(name) value=(value);
            }
            div {
                label.hidden for="search" { (word) }
                // It may be a whole key: browsers are not to keep it, nor to send it to who checks spelling.
                input #search type="search" name="search" value=(value) placeholder=(hint) autocomplete="off" spellcheck="false" autocapitalize="off";
            }
            button type="submit" { (word) }
        }
    }
}

/// In place of a list that is narrowed down to nothing.
pub(super) fn nothing_like_that(visitor: &Visitor, says: &str, all: &str) -> Markup {
    html! { p.empty { (says) " " a href=(all) { (visitor.t("Show all", "显示全部")) } } }
}

/// Where a list has become shorter than the page that is asked for: its last one.
pub(super) fn last_page(page: usize, pages: usize, to: impl Fn(usize) -> String) -> Option<Response> {
    (pages > 0 && page > pages).then(|| Redirect::to(&to(pages)).into_response())
}

/// Back and forth through a list.
pub(super) fn pager(visitor: &Visitor, page: usize, pages: usize, to: impl Fn(usize) -> String) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let place = match visitor.lang {
        Lang::En => format!("Page {page} of {}", visitor.number(pages as u64)),
        Lang::Zh => format!("第 {page} 页，共 {} 页", visitor.number(pages as u64)),
    };
    html! {
        @if pages > 1 {
            nav.pager aria-label=(t("Pages of the list", "列表分页")) {
                @if page > 1 { a.button rel="prev" href=(to(page - 1)) { (t("Previous", "上一页")) } }
                span { (place) }
                @if page < pages { a.button rel="next" href=(to(page + 1)) { (t("Next", "下一页")) } }
            }
        }
    }
}
