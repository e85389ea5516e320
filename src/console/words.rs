//! What went wrong, in the visitor's language.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{
    api::Refused,
    visitor::{Lang, Visitor},
};
use crate::admin::view::{Code, Flaw, InvalidLine};

/// Of the control API, which says it in English itself. A code that is new there has to get its words here.
const fn in_chinese(code: Code) -> &'static str {
    match code {
        Code::BodyTimeout => "内容未能及时送达，请重新提交。",
        Code::BodyTooLarge => "内容过大，请分批提交。",
        Code::BodyTruncated => "内容未完整送达，请重新提交。",
        Code::Csrf => "此请求不是从本站页面发出的，或页面已过期。请刷新页面后重试。",
        Code::EmptyBody => "提交的内容为空。",
        Code::FileExists => "该文件已存在，请换一个文件名。",
        Code::HubFailed => "中心库没有完成这次操作，详情见存储与同步页面。",
        Code::InternalError => "请求未能完成，原因见日志。",
        Code::InvalidAdminToken => "管理令牌不正确。它保存在数据目录的 admin-token 文件中，或写在配置里。",
        Code::InvalidBody => "提交的内容无法识别，请检查各个字段。",
        Code::InvalidCsv => "无法读取 CSV：请检查首行的列名。",
        Code::InvalidId => "编号的格式不正确。",
        Code::InvalidJson => "这不是有效的 JSON。",
        Code::InvalidKey => "这不是有效的密钥：长度至少 8 个字符，不能有空格、引号、逗号或括号。",
        Code::InvalidPath => "文件路径无法使用：请填写服务器上的绝对路径。",
        Code::InvalidQuery => "地址中的参数无法识别。",
        Code::InvalidSelection => "请先选择要操作的项目。",
        Code::InvalidSubject => "无法识别的对象：应为用户、令牌或地址。",
        Code::InvalidTime => "时间必须在未来。",
        Code::InvalidTokenSettings => "令牌的设置有误：请检查名称、有效期、限额、模型和地址。",
        Code::InvalidUserSettings => "用户的设置有误：请检查名称、限额、模型和地址。",
        Code::KeyExists => "这个密钥已经在池中。",
        Code::MethodNotAllowed => "这个地址不接受此类请求。",
        Code::NoAnswer => "没有收到回答。",
        Code::NoSession => "此请求没有会话。",
        Code::NoVerdict => "这个对象当前没有被限制。",
        Code::ProviderMismatch => "地址和内容指定了不同的服务商，请只指定一个。",
        Code::PublicStatsOff => "这里没有开放公共统计。",
        Code::SessionEnded => "会话已结束，请重新登录。",
        Code::StoreUnavailable => "本地存储暂时无法写入，这一次没有更改。请查看存储页面。",
        Code::SyncOff => "没有启用同步：请设置 DATABASE_URL 或配置中的 [sync]，然后重启。",
        Code::TokenExists => "这个令牌已经存在。",
        Code::TooManyAttempts => "错误的令牌尝试过多，请稍后再试。",
        Code::TooManyUsers => "用户数量已达上限。",
        Code::UnknownFormat => "无法识别的格式：请使用文本、CSV、NDJSON 或 JSON。",
        Code::UnknownHub => "没有这个名称的中心库。",
        Code::UnknownKey => "这个密钥已不存在，可能刚被删除。",
        Code::UnknownPath => "这个地址没有内容。",
        Code::UnknownProvider => "没有这个服务商。",
        Code::UnknownToken => "这个令牌已不存在，可能刚被吊销。",
        Code::UnknownUser => "没有这个用户，可能刚被删除。",
        Code::UserExists => "已有同名用户。",
        Code::WrongForm => "这个密钥的格式与该服务商不符（见 key_pattern）。",
        Code::WrongProvider => "这是另一个服务商的密钥。",
    }
}

const fn flaw_in_chinese(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::KeyEmpty => "密钥为空",
        Flaw::KeyTooLong => "密钥超过 512 个字符",
        Flaw::KeyTooShort => "密钥不足 8 个字符",
        Flaw::KeyWithSpace => "密钥中有空格或换行",
        Flaw::KeyWithStrangeLetter => "密钥中有密钥不会有的字符",
        Flaw::KeyWithDelimiter => "密钥中有引号、逗号、分号或括号，请检查文件格式",
        Flaw::TextTooLong => "账号或备注超过 256 个字符",
        Flaw::TextWithControl => "账号或备注中有控制字符",
        Flaw::InvalidWeight => "权重必须在 1 到 1000 之间",
        Flaw::InvalidExpiry => "有效期无法识别",
        Flaw::InvalidOwner => "所属用户必须是用户编号（UUID）",
        Flaw::UnknownOwner => "没有这个所属用户：请先创建，或留空",
        Flaw::OtherProvider => "这是另一个服务商的密钥",
        Flaw::OtherForm => "与该服务商的密钥格式不符（见 key_pattern）",
        Flaw::NotUtf8 => "这一行不是 UTF-8 编码",
        Flaw::UnreadableLine => "这一行无法识别",
        Flaw::OpenQuote => "引号没有闭合",
        Flaw::TooManyCells => "单元格多于列数",
    }
}

/// What callers get, and so the playground too, where the control API has no such word.
const OF_CALLS: [(&str, &str); 28] = [
    ("address_not_allowed", "该令牌不能从这个地址使用。"),
    ("blocked", "该令牌、其用户或来源地址暂时被禁止使用，请查看事件页面。"),
    ("daily_requests_exceeded", "今日请求数已达上限。"),
    ("daily_tokens_exceeded", "今日 Token 用量已达上限。"),
    ("headers_too_large", "请求头过多或过大。"),
    ("invalid_api_key", "该令牌无效，可能刚被吊销。"),
    ("invalid_type", "请求中有字段的类型不正确。"),
    ("invalid_utf8", "请求内容不是 UTF-8 编码。"),
    ("keys_rejected", "所有尝试的密钥都被服务商拒绝，请查看密钥页面。"),
    ("missing_model", "请填写模型。"),
    ("missing_token", "请求没有附带令牌。"),
    ("model_not_allowed", "该令牌不能使用这个模型。"),
    ("model_not_found", "没有这个模型。"),
    ("no_available_keys", "没有可用的密钥，请查看密钥页面。"),
    ("no_native_api", "该服务商不支持 Ollama 原生接口，请使用 /v1 接口。"),
    ("provider_disabled", "该服务商已停用。"),
    ("query_too_long", "地址中的参数过长。"),
    ("rate_limit_exceeded", "请求过于频繁，请稍后再试。"),
    ("refused", "请求被拒绝。"),
    ("throttled", "因异常使用，该令牌、其用户或来源地址暂时被减速，请查看事件页面。"),
    ("token_expired", "该令牌已过期。"),
    ("unreadable", "页面无法读取接口的回答。"),
    ("unsupported_encoding", "请求内容经过压缩，请不经压缩发送。"),
    ("upstream_broken", "服务商的回答中断了。"),
    ("upstream_error", "服务商返回了错误，请重试。"),
    ("upstream_timeout", "服务商没有及时回答。"),
    ("upstream_unreachable", "无法连接服务商。"),
    ("user_disabled", "该令牌的用户已停用。"),
];

/// What keytide itself puts into an answer that has begun. Whatever else stands there is the provider's, whose codes may
/// mean something else.
const IN_STREAMS: [&str; 4] = ["invalid_api_key", "token_expired", "upstream_broken", "user_disabled"];

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let errors = Code::ALL.iter().map(|code| (code.as_str(), in_chinese(*code)));
    let flaws = Flaw::ALL.iter().map(|flaw| (flaw.as_str(), flaw_in_chinese(*flaw)));
    errors.chain(OF_CALLS).chain(flaws)
}

/// What was refused and why, beside the sentence in which it was said, which may tell more.
pub(super) fn of(visitor: &Visitor, refused: &Refused) -> Markup {
    let known = all().find(|(code, _)| *code == refused.code);
    html! {
        @match (visitor.lang, known) {
            (Lang::Zh, Some((_, text))) => { (text) " " (original(visitor, &refused.message)) }
            // What is not known here is said as it came.
            (Lang::Zh, None) => span lang=[refused.message.is_ascii().then_some("en")] { (refused.message) },
            (Lang::En, _) => (refused.message),
        }
    }
}

/// As [`of`], of what came within an answer.
pub(super) fn in_stream(visitor: &Visitor, refused: &Refused) -> Markup {
    match IN_STREAMS.contains(&&*refused.code) {
        true => of(visitor, refused),
        false => of(visitor, &Refused { code: String::new(), ..refused.clone() }),
    }
}

/// As a page says it.
pub(super) fn news(visitor: &Visitor, refused: &Refused) -> Markup {
    html! { div.news.bad role="alert" { (of(visitor, refused)) } }
}

pub(super) fn of_line(visitor: &Visitor, line: &InvalidLine) -> String {
    match visitor.lang {
        Lang::En => line.reason.clone(),
        Lang::Zh => flaw_in_chinese(line.code).to_owned(),
    }
}

/// For the modules, which ask the control API themselves: words by code, where they are not those that come with it.
pub(super) fn for_modules(visitor: &Visitor) -> String {
    by_code(visitor, |_| true)
}

/// As [`for_modules`], of what comes within an answer.
pub(super) fn for_streams(visitor: &Visitor) -> String {
    by_code(visitor, |code| IN_STREAMS.contains(&code))
}

fn by_code(visitor: &Visitor, is_wanted: impl Fn(&str) -> bool) -> String {
    let known = all().filter(|(code, _)| visitor.lang == Lang::Zh && is_wanted(code));
    let words: Map<_, _> = known.map(|(code, text)| (code.to_owned(), Value::from(text))).collect();
    Value::Object(words).to_string()
}

/// Before what is there in English alone.
pub(super) const ORIGINAL: &str = "原文（英文）";

/// A sentence that is there in English alone. In Chinese something has been said of it before.
pub(super) fn original(visitor: &Visitor, text: &str) -> Markup {
    html! {
        @match visitor.lang {
            Lang::En => (text),
            Lang::Zh => details.original { summary { (ORIGINAL) } span lang="en" { (text) } },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn every_word_is_chinese_and_a_sentence_where_it_stands_alone() {
        let is_chinese = |text: &str| text.chars().any(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter));
        for (code, text) in all() {
            assert!(is_chinese(text), "{code}: {text}");
        }
        for code in Code::ALL {
            assert!(in_chinese(*code).ends_with('。'), "{}", code.as_str());
        }
    }

    #[test]
    fn what_a_provider_says_within_an_answer_is_not_taken_for_keytides() {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::ACCEPT_LANGUAGE, "zh".parse().unwrap());
        let visitor = Visitor::of(&headers, &http::Uri::from_static("/playground"), Timestamp(0));
        let mut refused = Refused {
            status: http::StatusCode::BAD_GATEWAY,
            code: "rate_limit_exceeded".to_owned(),
            message: "slower, says the provider".to_owned(),
        };
        assert!(!in_stream(&visitor, &refused).into_string().contains("请求过于频繁"));
        assert!(of(&visitor, &refused).into_string().contains("请求过于频繁"));
        refused.code = "upstream_broken".to_owned();
        assert!(in_stream(&visitor, &refused).into_string().contains("服务商的回答中断了。"));
        for code in IN_STREAMS {
            assert!(all().any(|(known, _)| known == code), "{code}");
        }
    }

    #[test]
    fn words_go_by_the_names_on_the_wire() {
        for flaw in Flaw::ALL {
            assert_eq!(serde_json::to_value(flaw).unwrap(), flaw.as_str());
        }
        let names: HashSet<_> = all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all().count(), "a name means one thing");
    }
}
