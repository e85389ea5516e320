//! Keys changed from the list or from their own page: those chosen, or all of a list.

use std::time::Duration;

use axum::response::Response;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::Method;
use maud::{Markup, html};
use sha2::{Digest, Sha256};

use super::state;
use crate::{
    admin::view,
    console::{
        api::Refused,
        layout::{self, Here},
        sign_in::own_path,
        signed::{Answer, Posted, Signed},
        visitor::{Lang, Visitor, link},
        words,
    },
    model::KeyId,
};

/// What is tested while a page waits for it.
const MOST_TESTS: usize = 200;
/// Ten years.
const MOST_HOURS: u64 = 87_600;
/// As many as fit into one request to the API.
const AT_ONCE: usize = 20_000;

pub(super) async fn change(Posted { signed, form }: Posted) -> Answer {
    let visitor = &signed.visitor;
    let (provider, back) = (form.get("provider"), own_path(form.get("back")));
    let is_all = !form.get("all").is_empty();
    let filter = [("provider", provider), ("status", form.get("status")), ("search", form.get("search"))];
    let mut ids: Vec<KeyId> = form.all("id").iter().filter_map(|id| id.parse().ok()).collect();
    if is_all {
        ids = signed.get::<view::KeyIds>(&link("/admin/api-keys/ids", &filter)).await?.ids;
    }
    if ids.is_empty() {
        let nothing = Refused {
            status: http::StatusCode::BAD_REQUEST,
            code: "invalid_selection".to_owned(),
            message: "Choose the keys first.".to_owned(),
        };
        return Ok(signed.went(back, Err(nothing)));
    }
    let to = |path| link(path, &[("provider", provider)]);
    match form.get("do") {
        // A list that has changed meanwhile is asked about once more.
        "delete" if form.get("sure") != digest(&ids) => {
            Ok(ask(&signed, back, &ids, is_all.then_some(&filter), provider))
        }
        "delete" => {
            let (mut deleted, mut stopped) = (0, None);
            for ids in ids.chunks(AT_ONCE) {
                let body = view::DeleteKeys { ids: ids.to_vec(), keys: Vec::new() };
                match signed.api.send::<view::Deleted>(Method::DELETE, &to("/admin/api-keys"), &body).await {
                    Ok(done) => deleted += done.deleted,
                    Err(refused) => {
                        stopped = Some(refused);
                        break;
                    }
                }
            }
            let count = visitor.number(deleted as u64);
            let done = match visitor.lang {
                Lang::En => format!("Deleted: {count}. Their statistics stay."),
                Lang::Zh => format!("已删除 {count} 个密钥，统计数据保留。"),
            };
            Ok(ended(&signed, back, (deleted, done), stopped))
        }
        "test" => test(&signed, provider, back, ids).await,
        "disable" => {
            let hours: Option<u64> = match form.parsed(visitor, "hours") {
                Ok(hours) => hours,
                Err(refused) => return Ok(signed.went(back, Err(refused))),
            };
            let until = hours
                .map(|hours| visitor.now.saturating_add(Duration::from_secs(hours.min(MOST_HOURS) * 3600)));
            let body = |ids| view::DisableKeys { ids: Some(ids), until, ..view::DisableKeys::default() };
            Ok(switch(&signed, (&to("/admin/keys/disable"), back), ("Switched off", "已停用"), &ids, body)
                .await)
        }
        "enable" => {
            let body = |ids| view::EnableKeys { ids: Some(ids), ..view::EnableKeys::default() };
            Ok(switch(&signed, (&to("/admin/keys/enable"), back), ("Enabled", "已启用"), &ids, body).await)
        }
        _ => {
            let nothing = Refused {
                status: http::StatusCode::BAD_REQUEST,
                code: "invalid_action".to_owned(),
                message: visitor
                    .t("Say what is to be done with the keys.", "请指定要对密钥执行的操作。")
                    .to_owned(),
            };
            Ok(signed.went(back, Err(nothing)))
        }
    }
}

async fn switch<B: serde::Serialize>(
    signed: &Signed,
    (path, back): (&str, &str),
    words: (&str, &str),
    ids: &[KeyId],
    body: impl Fn(Vec<KeyId>) -> B,
) -> Response {
    let (mut changed, mut missing, mut stopped) = (0, 0, None);
    for ids in ids.chunks(AT_ONCE) {
        match signed.api.send::<view::Changed>(Method::POST, path, &body(ids.to_vec())).await {
            Ok(done) => {
                changed += done.changed;
                missing += done.missing.len();
            }
            Err(refused) => {
                stopped = Some(refused);
                break;
            }
        }
    }
    ended(signed, back, (changed, counted(signed, words, changed, missing)), stopped)
}

/// How a change of many ended; one that broke off says how many it had changed by then.
fn ended(signed: &Signed, back: &str, (count, done): (usize, String), stopped: Option<Refused>) -> Response {
    match stopped {
        None => signed.went(back, Ok(done)),
        Some(refused) if count == 0 => signed.went(back, Err(refused)),
        Some(refused) => signed.broke_off(back, done, refused),
    }
}

fn counted(signed: &Signed, (en, zh): (&str, &str), changed: usize, missing: usize) -> String {
    let visitor = &signed.visitor;
    let count = visitor.number(changed as u64);
    let gone = match (missing, visitor.lang) {
        (0, _) => String::new(),
        (_, Lang::En) => format!(" {missing} had been deleted meanwhile."),
        (_, Lang::Zh) => format!("其中 {missing} 个已被删除。"),
    };
    match visitor.lang {
        Lang::En => format!("{en}: {count}.{gone}"),
        Lang::Zh => format!("{zh} {count} 个密钥。{gone}"),
    }
}

/// Of which keys it was asked: as many others are not those.
fn digest(ids: &[KeyId]) -> String {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.0.to_be_bytes()));
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// Deleting is asked about once more. Of a whole list the form says which list it is: its keys may be many.
fn ask(
    signed: &Signed,
    back: &str,
    ids: &[KeyId],
    list: Option<&[(&str, &str); 3]>,
    provider: &str,
) -> Response {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let count = visitor.number(ids.len() as u64);
    let keys = link("/keys", &[("provider", provider)]);
    let title = match visitor.lang {
        Lang::En if ids.len() == 1 => "Delete this key?".to_owned(),
        Lang::En => format!("Delete {count} keys?"),
        Lang::Zh => format!("删除 {count} 个密钥？"),
    };
    let body = html! {
        h1 { (title) }
        p { (t(
            "They leave the pool of every instance. Their statistics stay, and go on if a key is added again.",
            "它们将从所有实例的池中移除。统计数据保留，重新添加后继续累计。",
        )) }
        form method="post" action="/keys/change" {
            (layout::csrf(&signed.session))
            input type="hidden" name="back" value=(if back.starts_with("/keys/") { &keys } else { back });
            input type="hidden" name="sure" value=(digest(ids));
            @if let Some(list) = list {
                input type="hidden" name="all" value="1";
                @for (name, value) in list { input type="hidden" name=(name) value=(value); }
            } @else {
                input type="hidden" name="provider" value=(provider);
                @for id in ids { input type="hidden" name="id" value=(id); }
            }
            div.row {
                button.danger name="do" value="delete" { (t("Delete", "删除")) }
                a.button href=(back) { (t("Keep them", "取消")) }
            }
        }
    };
    signed.page(Here::Keys, &title, &body)
}

async fn test(signed: &Signed, provider: &str, back: &str, ids: Vec<KeyId>) -> Answer {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    if ids.len() > MOST_TESTS {
        let too_many = Refused {
            status: http::StatusCode::BAD_REQUEST,
            code: "too_many_tests".to_owned(),
            message: t(
                "At most 200 keys are tested here at a time; `keytide keys test --all` tests more.",
                "这里一次最多测试 200 个密钥；更多请使用 keytide keys test --all。",
            )
            .to_owned(),
        };
        return Ok(signed.went(back, Err(too_many)));
    }
    let path = link("/admin/keys/health-check", &[("provider", provider)]);
    let body = view::CheckKeys { ids: Some(ids), ..view::CheckKeys::default() };
    let report: view::CheckReport =
        signed.api.send(Method::POST, &path, &body).await.map_err(|refused| signed.refused(&refused))?;
    let title = match visitor.lang {
        Lang::En => format!("Tested: {} well, {} not", report.summary.ok, report.summary.failed),
        Lang::Zh => format!("测试结果：{} 个正常，{} 个异常", report.summary.ok, report.summary.failed),
    };
    let body = html! {
        h1 { (title) }
        section.card {
            (layout::region(&title, &html! {
                table {
                    thead { tr {
                        th scope="col" { (t("Key", "密钥")) }
                        th scope="col" { (t("Result", "结果")) }
                        th scope="col" { (t("State now", "当前状态")) }
                        th scope="col" { (t("What the provider said", "服务商的回应")) }
                    } }
                    tbody { @for result in &report.results {
                        tr {
                            th scope="row" { a.mono href=(link(&format!("/keys/{}", result.id), &[("provider", provider)])) { (result.id.short()) } }
                            td { span.state.good[result.ok].bad[!result.ok] { (if result.ok { t("well", "正常") } else { t("not well", "异常") }) } }
                            td { @if let Some(status) = result.status { (state(visitor, status)) } }
                            td { (told(visitor, result)) }
                        }
                    } }
                }
            }))
        }
        p { a.button href=(back) { (t("Back to the keys", "返回密钥列表")) } }
    };
    Ok(signed.page(Here::Keys, &title, &body))
}

/// What the provider said, which of all that stands here is not ours to put into words.
fn told(visitor: &Visitor, result: &view::CheckResult) -> Markup {
    match (visitor.lang, result.ok, result.status) {
        (Lang::En, ..) => html! { (result.detail) },
        (Lang::Zh, true, _) => html! { "可用" },
        (Lang::Zh, false, None) => html! { "这个密钥已不存在，可能刚被删除。" },
        (Lang::Zh, false, Some(_)) => html! { "密钥未通过测试。" (words::original(visitor, &result.detail)) },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Json, Router,
        body::Body,
        response::IntoResponse,
        routing::{delete, get, post},
    };
    use http::{Request, StatusCode, header};
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;
    use crate::model::{Clock, Timestamp};

    /// A control API that changes as many keys as one request holds, and then nothing more.
    fn breaking() -> Router {
        let calls = Arc::new(AtomicUsize::new(0));
        let change = move || {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    let done = json!({"deleted": AT_ONCE, "changed": AT_ONCE, "missing": []});
                    return Json(done).into_response();
                }
                let error = json!({"error": {"code": "store_unavailable", "message": "The disk is full."}});
                (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
            }
        };
        let session = view::Session { csrf: "second".to_owned(), expires_at: Timestamp(0) };
        Router::new()
            .route("/admin/session", get(async move || Json(session)))
            .route("/admin/api-keys", delete(change.clone()))
            .route("/admin/keys/disable", post(change))
    }

    #[tokio::test]
    async fn a_change_that_breaks_off_says_how_far_it_came() {
        let all: Vec<KeyId> = (0..=AT_ONCE as u128).map(KeyId).collect();
        let ids: String = all.iter().map(|id| format!("&id={id}")).collect();
        for (wish, says) in [("delete", "Deleted: 20,000."), ("disable", "Switched off: 20,000.")] {
            let form = format!("csrf=second&back=/keys&do={wish}&sure={}{ids}", digest(&all));
            let request = Request::post("/keys/change").body(Body::from(form)).unwrap();
            let Ok(answer) = crate::console::router(breaking(), Clock::System).oneshot(request).await;
            assert_eq!(answer.headers()[header::LOCATION], "/keys", "{wish}");
            let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
            let Ok(page) = crate::console::router(breaking(), Clock::System)
                .oneshot(
                    Request::get("/nowhere")
                        .header("accept", "text/html")
                        .header("cookie", cookie)
                        .body(Body::empty())
                        .unwrap(),
                )
                .await;
            let page = axum::body::to_bytes(page.into_body(), usize::MAX).await.unwrap();
            let page = String::from_utf8_lossy(&page);
            assert!(page.contains(says) && page.contains("The disk is full."), "{wish}: {page}");
        }
    }
}
