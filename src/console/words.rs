//! What went wrong, in the visitor's language.

use super::{
    api::Refused,
    visitor::{Lang, Visitor},
};

/// By the codes of the control API's errors. What is not here is said as the API says it, which is English.
const IN_CHINESE: [(&str, &str); 37] = [
    ("invalid_admin_token", "管理令牌不正确。它保存在数据目录的 admin-token 文件中，或写在配置里。"),
    ("too_many_attempts", "错误的令牌尝试过多，请稍后再试。"),
    ("session_ended", "会话已结束，请重新登录。"),
    ("csrf", "此请求不是从本站页面发出的，或页面已过期。请刷新页面后重试。"),
    ("unknown_provider", "没有这个服务商。"),
    ("unknown_key", "这个密钥已不存在，可能刚被删除。"),
    ("unknown_token", "这个令牌已不存在，可能刚被吊销。"),
    ("unknown_user", "没有这个用户，可能刚被删除。"),
    ("unknown_hub", "没有这个名称的中心库。"),
    ("no_verdict", "这个对象当前没有被限制。"),
    ("invalid_id", "编号的格式不正确。"),
    ("invalid_query", "地址中的参数无法识别。"),
    ("invalid_body", "提交的内容无法识别，请检查各个字段。"),
    ("invalid_token_settings", "令牌的设置有误：请检查名称、限额、模型和地址。"),
    ("invalid_user_settings", "用户的设置有误：请检查名称、限额、模型和地址。"),
    ("invalid_selection", "请先选择要操作的项目。"),
    ("invalid_time", "时间必须在未来。"),
    ("invalid_csv", "无法读取 CSV：请检查首行的列名。"),
    ("invalid_key", "这不是有效的密钥：长度至少 8 个字符，不能有空格、引号、逗号或括号。"),
    ("key_exists", "这个密钥已经在池中。"),
    ("wrong_provider", "这个密钥的格式属于另一个服务商。"),
    ("token_exists", "这个令牌已经存在。"),
    ("user_exists", "已有同名用户。"),
    ("too_many_users", "用户数量已达上限。"),
    ("body_too_large", "内容过大，请分批提交。"),
    ("hub_failed", "中心库没有完成这次操作，详情见本页。"),
    ("sync_off", "没有启用同步：请设置 DATABASE_URL 或配置中的 [sync]，然后重启。"),
    ("store_unavailable", "本地存储暂时无法写入，没有任何更改。请查看存储页面。"),
    ("public_stats_off", "这里没有开放公共统计。"),
    ("no_answer", "没有收到回答。"),
    ("model_not_allowed", "该令牌不能使用这个模型。"),
    ("model_not_found", "没有这个模型。"),
    ("token_expired", "该令牌已过期。"),
    ("user_disabled", "该令牌的用户已停用。"),
    ("no_available_keys", "没有可用的密钥，请查看密钥页面。"),
    ("unreadable", "页面无法读取接口的回答。"),
    ("internal_error", "请求未能完成，原因见日志。"),
];

pub(super) fn of(visitor: &Visitor, refused: &Refused) -> String {
    let known = IN_CHINESE.iter().find(|(code, _)| *code == refused.code);
    match (visitor.lang, known) {
        (Lang::Zh, Some((_, text))) => (*text).to_owned(),
        _ => refused.message.clone(),
    }
}
