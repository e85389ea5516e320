//! Keys that come in, one or many, and go out as a file.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, header};
use maud::{Markup, html};

use super::fields;
use crate::{
    admin::view,
    console::{
        api::Refused,
        assets,
        form::Form,
        layout::{self, Here},
        signed::{Answer, Posted, Signed},
        users::Choices,
        visitor::{Lang, Params, Visitor, link},
        words,
    },
};

/// Which of the two forms was refused, what was written in it, and why.
#[derive(Clone, Copy)]
struct Again<'a> {
    many: bool,
    form: &'a Form,
    refused: &'a Refused,
}

pub(super) async fn show(signed: Signed, params: Params) -> Answer {
    shown(&signed, params.get("provider"), None).await
}

async fn shown(signed: &Signed, provider: &str, again: Option<Again<'_>>) -> Answer {
    let (providers, users) =
        tokio::join!(signed.get::<Vec<view::Provider>>("/admin/providers"), Choices::of(signed));
    let (providers, users) = (providers?, users?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let is_chosen = |one: &&view::Provider| match provider {
        "" => one.default,
        name => one.name == name,
    };
    let chosen = providers.iter().find(is_chosen).map_or("", |one| one.name.as_str());
    let body = html! {
        div.head {
            h1 { (t("Add keys", "添加密钥")) }
            (layout::choose_provider(visitor, &providers, chosen, "/keys/add"))
        }
        div.pair {
            (one(signed, chosen, &users, again.filter(|again| !again.many)))
            (many(signed, chosen, &users, again.filter(|again| again.many)))
        }
        script type="module" src=(assets::path("import.js")) {}
    };
    let title = t("Add keys", "添加密钥");
    Ok(match again {
        Some(_) => signed.again(Here::Keys, title, &body),
        None => signed.page(Here::Keys, title, &body),
    })
}

fn one(signed: &Signed, provider: &str, users: &Choices, again: Option<Again<'_>>) -> Markup {
    let t = |en, zh| signed.visitor.t(en, zh);
    let empty = Form::default();
    let form = again.map_or(&empty, |again| again.form);
    html! {
        section.card {
            h2 { (t("One key", "单个密钥")) }
            form.wide method="post" action="/keys/add" autocomplete="off" data-written[again.is_some()] {
                (layout::csrf(&signed.session))
                @if let Some(again) = again { (words::news(&signed.visitor, again.refused)) }
                input type="hidden" name="provider" value=(provider);
                div {
                    label for="key" { (t("Key", "密钥")) }
                    input #key.mono name="key" value=(form.get("key")) required spellcheck="false" autocapitalize="off" autocomplete="off";
                }
                (fields(&signed.visitor, form, users))
                div.row { button.primary type="submit" { (t("Add the key", "添加")) } }
            }
        }
    }
}

fn many(signed: &Signed, provider: &str, users: &Choices, again: Option<Again<'_>>) -> Markup {
    let t = |en, zh| signed.visitor.t(en, zh);
    let empty = Form::default();
    let list = again.map_or("", |again| again.form.whole("list"));
    html! {
        section.card {
            h2 { (t("Many keys", "批量导入")) }
            form.wide #import method="post" action="/keys/import" autocomplete="off" data-written[again.is_some()]
                data-progress=(t("Imported", "已导入")) data-added=(t("new", "新增")) data-existing=(t("there already", "已存在"))
                data-invalid=(t("not understood", "无法识别")) data-failed=(t("The import stopped; what was imported stays. Send the same again.", "导入中断；已导入的保留，可重新提交。"))
                data-bad-json=(t("This is not a JSON list of keys, nor an object with \"keys\".", "这不是 JSON 密钥列表，也不是含有 \"keys\" 的对象。"))
                data-unreadable=(t("The file cannot be read: it may have changed since it was chosen. Choose it again.", "无法读取文件，可能在选择之后有改动。请重新选择。"))
                data-long-line=(t("A line is longer than 1 MB; put each key on a line of its own. It is line", "有一行超过 1 MB；请每行一个密钥。所在行："))
                data-no-answer=(t("There was no answer that can be read.", "没有收到可识别的回答。"))
                data-done=(t("The import is done.", "导入完成。")) data-of-codes=(words::for_modules(&signed.visitor)) {
                (layout::csrf(&signed.session))
                @if let Some(again) = again { (words::news(&signed.visitor, again.refused)) }
                input type="hidden" name="provider" value=(provider);
                div #choose-file hidden {
                    label for="file" { (t("A file: text, CSV, NDJSON or JSON", "文件：文本、CSV、NDJSON 或 JSON")) }
                    input #file type="file" accept=".txt,.csv,.json,.ndjson,.jsonl,text/plain,text/csv,application/json";
                    span.hint { (t("Sent in pieces, so it may be large.", "分段发送，可以很大。")) }
                }
                div {
                    label for="list" { (t("Or paste them, one a line", "或直接粘贴，每行一个")) }
                    textarea #list.mono name="list" spellcheck="false" autocapitalize="off" {
                        // Browsers leave out the first end of line.
                        "\n" (list)
                    }
                    span.hint {
                        (t("As CSV, more may follow:", "按 CSV 格式，密钥之后可写：")) " "
                        code { "username, expires_at, note, weight, owner" } (t(". ", "。"))
                        (t("A first line may name the columns; owner is a user's id.", "首行可写列名；owner 为用户编号。"))
                    }
                }
                div {
                    label for="owner-of-all" { (t("Shared by, where a line does not say", "共享者（该行未写时）")) }
                    (users.field(&signed.visitor, again.map_or(&empty, |again| again.form), ("owner-of-all", "owner"), t("nobody in particular", "不指定")))
                }
                div.row { button.primary type="submit" { (t("Import", "导入")) } }
            }
            div #progress aria-live="polite" hidden {}
            // What the module fills and shows beside what is read out.
            div #lines {}
            @for kind in [Kind::Invalid, Kind::Existing] {
                template id=(kind.name()) { (lines(&signed.visitor, kind, &[], None)) }
            }
        }
    }
}

pub(super) async fn add(Posted { signed, form }: Posted) -> Answer {
    let (visitor, provider) = (&signed.visitor, form.get("provider"));
    let wished = || {
        Ok(view::AddKey {
            key: form.get("key").to_owned(),
            username: form.given("username"),
            note: form.given("note"),
            expires_at: form.parsed(visitor, "expires_at")?,
            weight: form.parsed(visitor, "weight")?,
            owner: form.parsed(visitor, "owner")?,
            provider: None,
        })
    };
    let body = match wished() {
        Ok(body) => body,
        Err(refused) => {
            return shown(&signed, provider, Some(Again { many: false, form: &form, refused: &refused }))
                .await;
        }
    };
    let to = link("/admin/api-keys", &[("provider", provider)]);
    match signed.api.send::<view::Key>(Method::POST, &to, &body).await {
        Ok(key) => {
            let own = link(&format!("/keys/{}", key.id), &[("provider", provider)]);
            Ok(signed.went(&own, Ok(visitor.t("The key is in the pool.", "密钥已加入池中。").to_owned())))
        }
        Err(refused) => {
            shown(&signed, provider, Some(Again { many: false, form: &form, refused: &refused })).await
        }
    }
}

/// What was pasted; files go to the API in pieces.
pub(super) async fn import(Posted { signed, form }: Posted) -> Answer {
    // With its empty lines: what is told of goes by the number of the line.
    let (visitor, provider, list) = (&signed.visitor, form.get("provider"), form.whole("list"));
    let t = |en, zh| visitor.t(en, zh);
    // A list of keys alone is CSV of one column.
    let of = [("provider", provider), ("format", "csv"), ("owner", form.get("owner"))];
    let to = link("/admin/api-keys/import", &of);
    let answer = signed.api.import(&to, list.to_owned()).await;
    let report: view::ImportReport = match answer {
        Ok(report) => report,
        Err(refused) => {
            return shown(&signed, provider, Some(Again { many: true, form: &form, refused: &refused }))
                .await;
        }
    };
    let invalid: Vec<Line<'_>> = report
        .invalid_lines
        .iter()
        .map(|line| Line { line: line.line, key: &line.key, why: Some(words::of_line(visitor, line)) })
        .collect();
    let existing: Vec<Line<'_>> = report
        .existing_lines
        .iter()
        .map(|line| Line { line: line.line, key: &line.key, why: None })
        .collect();
    let title = t("The import is done", "导入完成");
    let body = html! {
        h1 { (title) }
        section.card {
            p { (summary(visitor, &report)) }
            @if !invalid.is_empty() { (lines(visitor, Kind::Invalid, &invalid, Some(report.invalid))) }
            @if !existing.is_empty() { (lines(visitor, Kind::Existing, &existing, Some(report.existing))) }
        }
        p { a.button.primary href=(link("/keys", &[("provider", provider)])) { (t("To the keys", "查看密钥")) } }
    };
    Ok(signed.page(Here::Keys, title, &body))
}

/// What is told of lines one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Invalid,
    Existing,
}

impl Kind {
    /// Where the module finds it.
    const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid-lines",
            Self::Existing => "existing-lines",
        }
    }
}

struct Line<'a> {
    line: usize,
    key: &'a str,
    why: Option<String>,
}

/// The first of so many lines; for the module, which counts itself, without either.
fn lines(visitor: &Visitor, kind: Kind, lines: &[Line<'_>], all: Option<usize>) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let title = match kind {
        Kind::Invalid => t("Lines that were not understood", "无法识别的行"),
        Kind::Existing => t("Keys that were there already", "已存在的密钥"),
    };
    let (shown, of) = match all {
        Some(all) => (visitor.number(lines.len() as u64), visitor.number(all as u64)),
        None => ("%SHOWN%".to_owned(), "%ALL%".to_owned()),
    };
    let only = match visitor.lang {
        Lang::En => format!("Only the first {shown} of {of} are shown."),
        Lang::Zh => format!("共 {of} 行，仅显示前 {shown} 行。"),
    };
    html! {
        details open[kind == Kind::Invalid] {
            summary { (title) }
            (layout::region(title, &html! {
                table {
                    thead { tr {
                        th.number scope="col" { (t("Line", "行")) }
                        th scope="col" { (t("Key", "密钥")) }
                        @if kind == Kind::Invalid { th scope="col" { (t("Why", "原因")) } }
                    } }
                    tbody { @for line in lines {
                        tr {
                            td.number { (line.line) }
                            td.mono { bdi { (line.key) } }
                            @if let Some(why) = &line.why { td { (why) } }
                        }
                    } }
                }
            }))
            p.faint.shown hidden[all.is_none_or(|all| all <= lines.len())] { (only) }
        }
    }
}

fn summary(visitor: &Visitor, report: &view::ImportReport) -> String {
    let count = |count: usize| visitor.number(count as u64);
    let (added, existing, invalid) = (count(report.added), count(report.existing), count(report.invalid));
    match visitor.lang {
        Lang::En => format!("{added} new, {existing} there already, {invalid} not understood."),
        Lang::Zh => format!("新增 {added} 个，已存在 {existing} 个，无法识别 {invalid} 行。"),
    }
}

pub(super) async fn export(Posted { signed, form }: Posted) -> Answer {
    let get = |name| form.get(name);
    let format = get("format");
    let list = [("provider", get("provider")), ("status", get("status")), ("search", get("search"))];
    let to = link("/admin/api-keys/export", &[list[0], list[1], list[2], ("format", format)]);
    let answer = signed.api.raw(Method::POST, &to, Body::empty()).await;
    let answer = answer.map_err(|refused| signed.refused(&refused))?;
    let name = format!("keytide-keys.{}", if format == "text" { "txt" } else { format });
    let mut response: Response = answer.into_response();
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
