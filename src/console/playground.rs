//! Asking a model as a caller would, and the same call for one's own program.

use axum::{Router, body::Body, routing::get};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{
    Console,
    api::Refused,
    assets,
    form::Form,
    layout::{self, Here},
    signed::{Answer, Posted, Signed},
    visitor::{Lang, Params, Visitor, link},
    words,
};
use crate::{admin::view, model::TokenId};

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/playground", get(show).post(ask))
}

/// As many tokens as the API lists at once.
const LISTED: usize = 1000;

/// What stands in the fields.
#[derive(Default)]
struct Filled {
    token: String,
    model: String,
    system: String,
    message: String,
    temperature: String,
}

async fn show(signed: Signed, params: Params) -> Answer {
    let templates: view::Templates = signed.get("/api/test-templates").await?;
    let chosen = templates.templates.iter().find(|one| one.id == params.get("template"));
    let filled = chosen.or(templates.templates.first()).map(|one| Filled {
        token: params.get("token").to_owned(),
        model: params.get("model").to_owned(),
        system: one.system_prompt.clone(),
        message: one.user_message.clone(),
        temperature: one.temperature.to_string(),
    });
    page(&signed, params.get("provider"), filled.unwrap_or_default(), None).await
}

async fn ask(Posted { signed, form }: Posted) -> Answer {
    let answer = answer(&signed, &form).await;
    let text = |name| form.get(name).to_owned();
    let filled = Filled {
        token: text("token"),
        model: text("model"),
        system: text("system"),
        message: text("message"),
        temperature: text("temperature"),
    };
    page(&signed, form.get("provider"), filled, Some(answer)).await
}

/// What the model said, to us and to itself.
#[derive(Default)]
struct Said {
    text: String,
    thought: String,
}

/// What came, or why nothing did.
async fn answer(signed: &Signed, form: &Form) -> Result<Said, Markup> {
    let trial = json!({
        "token": form.get("token"), "model": form.get("model"), "message": form.get("message"),
        "system": form.given("system"), "temperature": form.get("temperature").parse::<f32>().ok(),
    });
    let to = link("/admin/playground", &[("provider", form.get("provider"))]);
    let answer = signed.api.raw(Method::POST, &to, Body::from(trial.to_string())).await;
    let answer = answer.map_err(|refused| words::of(&signed.visitor, &refused))?;
    let broken = || html! { (signed.visitor.t("The answer broke off.", "回答中断。")) };
    let body = answer.into_body().collect().await.map_err(|_| broken())?.to_bytes();
    let mut said = Said::default();
    for part in parts(&body).ok_or_else(broken)? {
        if let Some(refused) = Refused::said(StatusCode::BAD_GATEWAY, &part["error"]) {
            return Err(words::in_stream(&signed.visitor, &refused));
        }
        let choice = &part["choices"][0];
        let message = choice.get("delta").unwrap_or(&choice["message"]);
        let text = |name: &str| message[name].as_str();
        said.thought += text("reasoning_content").or(text("reasoning")).unwrap_or_default();
        said.text += text("content").unwrap_or_default();
    }
    match said.text.is_empty() && said.thought.is_empty() {
        true => Err(html! { (signed.visitor.t("There was no answer.", "没有收到回答。")) }),
        false => Ok(said),
    }
}

/// One answer, or a line for each part of it: some providers stream whatever they are asked, and call it what they like.
fn parts(body: &[u8]) -> Option<Vec<Value>> {
    if let Ok(whole) = serde_json::from_slice(body) {
        return Some(vec![whole]);
    }
    let lines = std::str::from_utf8(body).ok()?.lines();
    let data = lines.filter_map(|line| match line.strip_prefix("data:") {
        Some(data) => Some(data.trim()).filter(|data| *data != "[DONE]"),
        None => Some(line).filter(|line| line.starts_with('{')),
    });
    let parts: Vec<Value> = data.map(|data| serde_json::from_str(data).ok()).collect::<Option<_>>()?;
    (!parts.is_empty()).then_some(parts)
}

async fn page(
    signed: &Signed,
    provider: &str,
    filled: Filled,
    answer: Option<Result<Said, Markup>>,
) -> Answer {
    let path = |path: &str| link(path, &[("provider", provider)]);
    let stats = path("/admin/stats");
    let tokens = link("/admin/tokens", &[("provider", provider), ("pageSize", &LISTED.to_string())]);
    let (tokens, stats, providers, templates) = tokio::join!(
        signed.get::<view::TokenList>(&tokens),
        signed.get::<view::Stats>(&stats),
        signed.get::<Vec<view::Provider>>("/admin/providers"),
        signed.get::<view::Templates>("/api/test-templates"),
    );
    let (tokens, stats, providers, templates) = (tokens?, stats?, providers?, templates?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let mut all = tokens.tokens;
    // The one that is asked for, however many there are.
    if let Ok(wanted) = filled.token.parse::<TokenId>()
        && all.iter().all(|token| token.id != wanted)
        && let Ok(token) = signed.api.get(&path(&format!("/admin/tokens/{wanted}"))).await
    {
        all.push(token);
    }
    let usable: Vec<_> = all.iter().filter(|token| !token.expired).collect();
    let model = match filled.model.as_str() {
        "" => stats.models.first().map(|model| model.model.clone()).unwrap_or_default(),
        model => model.to_owned(),
    };
    let body = html! {
        div.head {
            h1 { (t("Playground", "试用")) }
            (layout::choose_provider(visitor, &providers, &tokens.provider, "/playground"))
        }
        @if usable.is_empty() {
            section.card { p.empty {
                (t("A call needs a token, and there is none.", "调用需要令牌，目前还没有。")) " "
                a href=(path("/tokens")) { (t("Create a token", "创建令牌")) }
            } }
        } @else {
            div.pair {
                section.card {
                    h2 { (t("The question", "提问")) }
                    (prompts(visitor, &templates, &[("provider", provider), ("token", &filled.token)]))
                    form.wide #ask method="post" action="/playground"
                        data-no-answer=(t("There was no answer.", "没有收到回答。")) data-took=(t("Answered in", "用时"))
                        data-of-codes=(words::for_modules(visitor)) data-of-streams=(words::for_streams(visitor)) {
                        (layout::csrf(&signed.session))
                        input type="hidden" name="provider" value=(tokens.provider);
                        div.fields {
                            div {
                                label for="token" { (t("Token", "令牌")) }
                                select #token name="token" required {
                                    @if usable.len() > 1 { option value="" { (t("choose one", "请选择")) } }
                                    @for token in usable {
                                        option value=(token.id) selected[token.id.to_string() == filled.token] { (token.name) }
                                    }
                                }
                                @if tokens.total > LISTED {
                                    span.hint {
                                        (t("The oldest are listed. Any other is tried from its own page:", "仅列出最早的令牌。其他令牌可从其页面试用："))
                                        " " a href=(path("/tokens")) { (t("Tokens", "令牌")) }
                                    }
                                }
                                span.hint { (t(
                                    "Used as a caller would, from this machine's own address: that counts where a token allows some addresses only.",
                                    "与调用方的用法相同，但从本机地址发出：若令牌限定了来源地址，须包含本机。",
                                )) }
                            }
                            div {
                                label for="model" { (t("Model", "模型")) }
                                input #model name="model" required list="models" value=(model) autocomplete="off" spellcheck="false";
                                datalist #models { @for one in &stats.models { option value=(one.model) {} } }
                            }
                            div {
                                label for="temperature" { (t("Temperature", "温度")) }
                                input #temperature name="temperature" type="number" min="0" max="2" step="0.1" value=(filled.temperature);
                            }
                        }
                        div { label for="system" { (t("System prompt", "系统提示")) } input #system name="system" value=(filled.system); }
                        div { label for="message" { (t("Message", "消息")) } textarea #message name="message" required { (filled.message) } }
                        div.row {
                            button.primary type="submit" { (t("Ask", "发送")) }
                            button #stop type="button" hidden { (t("Stop", "停止")) }
                        }
                    }
                }
                section.card {
                    h2 { (t("The answer", "回答")) }
                    output #answer.answer for="message" aria-live="polite" {
                        @match &answer {
                            Some(Ok(said)) => {
                                @if !said.thought.is_empty() { span.thought.faint { (said.thought) } }
                                (said.text)
                            }
                            Some(Err(why)) => div.news.bad { (why) },
                            None => span.faint { (t("It appears here as it is written.", "回答会在此逐字显示。")) },
                        }
                    }
                    p #took.faint {}
                }
            }
            section.card {
                h2 { (t("The same from a program", "在程序中调用")) }
                (samples(signed, &tokens.provider, &model, &filled))
            }
            script type="module" src=(assets::path("playground.js")) {}
        }
    };
    Ok(signed.page(Here::Playground, t("Playground", "试用"), &body))
}

fn prompts(visitor: &Visitor, templates: &view::Templates, kept: &[(&str, &str)]) -> Markup {
    html! {
        nav.choice aria-label=(visitor.t("Prompts to begin with", "提示模板")) {
            @for one in &templates.templates {
                @let known = IN_CHINESE.iter().find(|(id, ..)| *id == one.id && visitor.lang == Lang::Zh);
                @let (label, title) = known.map_or((&*one.label, &*one.description), |(_, label, title)| (label, title));
                @let query: Vec<_> = kept.iter().copied().chain([("template", one.id.as_str())]).collect();
                a href=(link("/playground", &query)) title=(title) { (label) }
            }
        }
    }
}

/// Prompts by id, label and description.
const IN_CHINESE: [(&str, &str, &str); 4] = [
    ("hello", "打招呼", "最快的检验方式"),
    ("explain", "解释", "用平实的语言简短回答"),
    ("json", "仅 JSON", "检验模型能否遵守格式"),
    ("code", "代码", "写一小段程序"),
];

/// The module fills in what is typed: `%BODY%` as JSON within single quotes of a shell, `%MODEL%` and `%MESSAGES%`
/// as JSON, which Python and Node read as their own.
const SAMPLES: [(&str, &str); 3] = [
    (
        "curl",
        "curl -N %URL%/chat/completions \\\n  -H 'Authorization: Bearer YOUR_TOKEN' \\\n  -H 'Content-Type: application/json' \\\n  -d '%BODY%'",
    ),
    (
        "Python",
        "from openai import OpenAI\n\nclient = OpenAI(base_url=\"%URL%\", api_key=\"YOUR_TOKEN\")\nstream = client.chat.completions.create(\n    model=%MODEL%,\n    messages=%MESSAGES%,\n    stream=True,\n)\nfor part in stream:\n    print(part.choices[0].delta.content or \"\", end=\"\", flush=True)",
    ),
    (
        "Node",
        "import OpenAI from \"openai\";\n\nconst client = new OpenAI({ baseURL: \"%URL%\", apiKey: \"YOUR_TOKEN\" });\nconst stream = await client.chat.completions.create({\n  model: %MODEL%,\n  messages: %MESSAGES%,\n  stream: true,\n});\nfor await (const part of stream) process.stdout.write(part.choices[0]?.delta?.content ?? \"\");",
    ),
];

/// In one pass: what a visitor writes may look like a place itself.
fn filled_in(template: &str, values: &[(&str, String)]) -> String {
    let value = |part: &str| values.iter().find(|(name, _)| *name == part).map(|(_, value)| value.as_str());
    template.split('%').map(|part| value(part).unwrap_or(part)).collect()
}

fn samples(signed: &Signed, provider: &str, model: &str, filled: &Filled) -> Markup {
    let system = (!filled.system.is_empty()).then(|| json!({"role": "system", "content": filled.system}));
    let messages: Vec<_> =
        system.into_iter().chain([json!({"role": "user", "content": filled.message})]).collect();
    let body =
        json!({"model": model, "messages": messages, "stream": true}).to_string().replace('\'', "'\\''");
    let url = format!("{}/{provider}/v1", signed.origin);
    let values = [
        ("URL", url),
        ("BODY", body),
        ("MODEL", json!(model).to_string()),
        ("MESSAGES", json!(messages).to_string()),
    ];
    html! {
        @for (at, (name, template)) in SAMPLES.into_iter().enumerate() {
            @let text = filled_in(template, &values);
            div.head { h3 { (name) } button.small type="button" data-copy={ "sample-" (at) } { (signed.visitor.t("Copy", "复制")) } }
            pre id={ "sample-" (at) } data-template=(template) data-path={ "/" (provider) "/v1" } tabindex="0" { (text) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_what_they_are() {
        let says = |body: &str| parts(body.as_bytes()).map(|parts| parts.len());
        for (body, count) in [
            ("{\n  \"choices\": []\n}", Some(1)),
            ("data: {\"a\":1}\n\n: still there\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n", Some(2)),
            ("event: x\r\ndata:{\"a\":1}\r\n", Some(1)),
            ("{\"a\":1}\n{\"a\":2}\n", Some(2)),
            ("<h1>Bad gateway</h1>", None),
            ("data: {\"a\":1}\n\ndata: {\"a", None),
            ("", None),
        ] {
            assert_eq!(says(body), count, "{body}");
        }
    }

    #[test]
    fn what_looks_like_a_place_stays_what_it_is() {
        let values = [("BODY", "%MESSAGES% 'x'".to_owned()), ("MESSAGES", "m".to_owned())];
        assert_eq!(filled_in("-d '%BODY%' %MESSAGES%;", &values), "-d '%MESSAGES% 'x'' m;");
    }
}
