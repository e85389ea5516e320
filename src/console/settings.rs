//! The configuration in force: what each setting is, and who said so.

use std::borrow::Cow;

use axum::{Router, routing::get};
use maud::{Markup, html};

use super::{
    Console,
    layout::{self, Here},
    signed::{Answer, Signed},
    visitor::{Lang, Params, Visitor},
};
use crate::admin::view;

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/settings", get(show))
}

async fn show(signed: Signed, params: Params) -> Answer {
    let configuration: view::Configuration = signed.get("/admin/config").await?;
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let search = params.get("search").trim();
    let wanted = |setting: &&view::Setting| is_like(setting, search);
    let (defaults, set): (Vec<_>, Vec<_>) =
        configuration.settings.iter().filter(wanted).partition(|setting| setting.source == "default");
    let body = html! {
        div.head {
            h1 { (t("Settings", "设置")) }
            (layout::search(visitor, &signed.session, "/settings", &[], (search, t("Name or value", "名称或取值"))))
        }
        p.faint {
            @match &configuration.file {
                Some(file) => { (t("Read from", "读取自")) " " code { (file) } (t(". ", "。")) }
                None => { (t("No file was read.", "没有读取配置文件。")) " " }
            }
            (t(
                "To change something, edit the file or the environment, and reload (SIGHUP) or restart.",
                "修改请编辑文件或环境变量，然后重新加载（SIGHUP）或重启。",
            ))
        }
        section.card aria-label=(t("Settings", "设置")) {
            @if defaults.is_empty() && set.is_empty() {
                (layout::nothing_like_that(visitor, t("No setting is like that.", "没有符合条件的设置。"), "/settings"))
            } @else {
                @if !set.is_empty() { h2 { (t("Set here", "已设置")) } (table(visitor, &set)) }
                @if !defaults.is_empty() {
                    details open[set.is_empty() || !search.is_empty()] {
                        summary { (t("At their defaults", "默认值")) " (" (defaults.len()) ")" }
                        (table(visitor, &defaults))
                    }
                }
            }
        }
    };
    Ok(signed.page(Here::Settings, t("Settings", "设置"), &body))
}

/// Whether the text is in its name or its value.
pub(super) fn is_like(setting: &view::Setting, text: &str) -> bool {
    let text = text.to_lowercase();
    setting.name.contains(&text) || setting.value.to_lowercase().contains(&text)
}

fn source<'a>(visitor: &Visitor, source: &'a str) -> Cow<'a, str> {
    match (visitor.lang, source.strip_prefix("environment variable ")) {
        (Lang::En, _) => source.into(),
        (Lang::Zh, Some(name)) => format!("环境变量 {name}").into(),
        (Lang::Zh, None) if source == "default" => "默认值".into(),
        (Lang::Zh, None) => source.into(),
    }
}

fn table(visitor: &Visitor, settings: &[&view::Setting]) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    html! {
        table.cards {
            thead { tr {
                th scope="col" { (t("Setting", "设置项")) }
                th scope="col" { (t("Value", "取值")) }
                th scope="col" { (t("From", "来源")) }
            } }
            tbody { @for setting in settings {
                tr {
                    th.name scope="row" { code { (setting.name) } }
                    td.name data-label=(t("Value", "取值")) { span {
                        @if setting.value.is_empty() { span.faint { "–" } }
                        @else if setting.value == "(set)" { span.faint { (t("set, and not shown", "已设置，不显示")) } }
                        @else { code { bdi { (setting.value) } } }
                        @if setting.at_next_start { " " span.state.warn { (t("at the next start", "下次启动时生效")) } }
                    } }
                    td.name data-label=(t("From", "来源")) { span.faint { (source(visitor, &setting.source)) } }
                }
            } }
        }
    }
}
