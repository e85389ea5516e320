//! How full file and hubs are, and how replication stands.

use axum::{
    Router,
    routing::{get, post},
};
use http::{Method, StatusCode};
use maud::{Markup, html};

use super::{
    Console,
    api::Refused,
    layout::{self, Here},
    signed::{Answer, Posted, Signed},
    visitor::{Lang, Visitor},
    words,
};
use crate::{
    admin::view,
    model::{Rung, Space, TableSpace, budget::AdviceCode},
    replica::status::{HubState, HubStatus, NoteCode, Report, StopCode, StreamState, Trouble},
};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/storage", get(show))
        .route("/storage/sync", post(sync))
        .route("/storage/retain", post(retain))
}

async fn show(signed: Signed) -> Answer {
    let (storage, sync) =
        tokio::join!(signed.get::<view::Storage>("/admin/storage"), signed.get::<view::Sync>("/admin/sync"));
    let (storage, sync) = (storage?, sync?);
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let body = html! {
        div.head {
            h1 { (t("Storage and sync", "存储与同步")) }
            div.row {
                @if !sync.hubs.is_empty() {
                    form method="post" action="/storage/sync" { (layout::csrf(&signed.session)) button.primary type="submit" { (t("Sync now", "立即同步")) } }
                }
                form method="post" action="/storage/retain" { (layout::csrf(&signed.session)) button type="submit" { (t("Tidy up now", "立即整理")) } }
            }
        }
        div #storage data-live {
            @if let Some(problem) = &storage.problem {
                div.news.bad role="alert" { (led(visitor, "本地存储出现问题，可能无法写入。", problem)) }
            }
            (place(visitor, (t("The local file", "本地文件"), true), &storage.file, &storage.local))
            @if sync.hubs.is_empty() {
                section.card {
                    h2 { (t("Hubs", "中心库")) }
                    p.empty { (t(
                        "Nothing replicates: this file is all there is. To share keys and figures with other instances, set DATABASE_URL and restart.",
                        "没有启用同步，数据只在本地文件中。要与其他实例共享密钥和统计，请设置 DATABASE_URL 并重启。",
                    )) }
                }
            }
            @for hub in &sync.hubs {
                (replication(visitor, hub))
                @if let Some(space) = storage.hubs.iter().find(|space| space.hub == hub.name) {
                    @let name = format!("{}{}", t("Space at the hub: ", "中心库空间："), hub.name);
                    (place(visitor, (&name, false), &space.target, &space.space))
                }
            }
        }
    };
    Ok(signed.page(Here::Storage, t("Storage and sync", "存储与同步"), &body))
}

fn place(visitor: &Visitor, (name, is_file): (&str, bool), target: &str, space: &Space) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let filled: Vec<_> = space.tables.iter().filter(|table| table.bytes > 0).collect();
    html! {
        section.card {
            div.head {
                h2 { (name) }
                span.state.good[space.rung.number() == 0].warn[(1..3).contains(&space.rung.number())].bad[space.rung.number() >= 3] {
                    (t("step", "档位")) " " (space.rung.number()) " / 3"
                }
            }
            p.faint.mono { bdi { (target) } }
            @match (space.used_bytes, space.budget_bytes) {
                (Some(used), Some(budget)) => {
                    p {
                        strong { (visitor.bytes(used)) } " " (t("of", "/")) " " (visitor.bytes(budget))
                        @if let Some(percent) = space.percent() { " (" (visitor.percent(percent)) ")" }
                    }
                    progress max=(budget) value=(used.min(budget)) aria-label=(t("Used of the budget", "已用预算")) {}
                }
                (Some(used), None) => p { strong { (visitor.bytes(used)) } " " (t("used; no budget is set", "已用；未设预算")) },
                _ => p.faint { (t("Not measured yet.", "尚未测量。")) },
            }
            @match visitor.lang {
                Lang::En => @if !space.rung_means.is_empty() { p.faint.means { (space.rung_means) "." } },
                Lang::Zh => p.faint { (rung_in_chinese(space.rung, is_file)) },
            }
            (advice(visitor, space))
            @if !filled.is_empty() {
                @let (large, small) = filled.split_at(filled.len().min(LARGE));
                (tables(visitor, name, large))
                @if !small.is_empty() {
                    details {
                        summary { (t("Smaller tables", "较小的数据表")) " (" (small.len()) ")" }
                        (tables(visitor, name, small))
                    }
                }
            }
        }
    }
}

/// So many tables are shown before the others have to be asked for.
const LARGE: usize = 8;

fn tables(visitor: &Visitor, of: &str, tables: &[&TableSpace]) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let largest = tables.iter().map(|table| table.bytes).max().unwrap_or(0).max(1);
    html! {
        (layout::region(&format!("{of}: {}", t("Tables", "数据表")), &html! {
            table.cards {
                thead { tr {
                    th scope="col" { (t("Table", "表")) }
                    th.number scope="col" { (t("Size", "大小")) }
                    th.number scope="col" { (t("Rows", "行数")) }
                    th.number scope="col" { (t("Share", "份额")) }
                    th.number scope="col" { (t("Growth a day", "日增长")) }
                    th.number scope="col" { (t("Full in", "预计占满")) }
                } }
                tbody { @for table in tables {
                    @let share = table.share_bytes.unwrap_or(largest).max(1);
                    tr {
                        th.name scope="row" {
                            (table.name)
                            progress max=(share) value=(table.bytes.min(share)) aria-hidden="true" {}
                        }
                        td.number data-label=(t("Size", "大小")) { (visitor.bytes(table.bytes)) }
                        td.number data-label=(t("Rows", "行数")) { (visitor.number(table.rows)) }
                        td.number.blank[table.share_bytes.is_none()] data-label=(t("Share", "份额")) { @match table.share_bytes { Some(share) => (visitor.bytes(share)), None => "–" } }
                        td.number.blank[table.growth_bytes.is_none()] data-label=(t("Growth a day", "日增长")) { @match table.growth_bytes {
                            Some(growth) if growth < 0 => { "−" (visitor.bytes(growth.unsigned_abs())) }
                            Some(growth) => (visitor.bytes(growth.unsigned_abs())),
                            None => "–",
                        } }
                        td.number.blank[table.days_left.is_none()] data-label=(t("Full in", "预计占满")) { @match table.days_left { Some(days) => { (visitor.number(days)) " " (t("days", "天")) } None => "–" } }
                    }
                } }
            }
        }))
    }
}

/// What is there in English alone, behind a sentence that says what it is about.
fn led(visitor: &Visitor, in_chinese: &str, text: &str) -> Markup {
    html! {
        @if visitor.lang == Lang::Zh { (in_chinese) " " }
        (words::original(visitor, text))
    }
}

fn rung_in_chinese(rung: Rung, is_file: bool) -> &'static str {
    match (rung, is_file) {
        (Rung::Normal, _) => "所有数据按正常期限保留。",
        (Rung::Early, false) => "小时统计、每日统计与事件的保留期缩短一周。",
        (Rung::Short, false) => "7 天以前的小时统计合并为日统计，更早的每日记录合并为月记录。",
        (Rung::Bare, false) => "密钥的小时统计、事件详情与用量日志只保留在各实例中。",
        (Rung::Early, true) => "减少保留已确认的批次。",
        (Rung::Short, true) => "模型的小时统计与密钥的每日统计只保留一周。",
        (Rung::Bare, true) => "可选数据中只保留有人查看的部分。",
    }
}

fn advice(visitor: &Visitor, space: &Space) -> Markup {
    html! {
        @for advice in &space.advice {
            div.news.plain { (led(visitor, advice_in_chinese(advice.code), &advice.text)) }
        }
    }
}

const fn advice_in_chinese(code: AdviceCode) -> &'static str {
    match code {
        AdviceCode::BeyondPlan => "[budget] hub 高于套餐的额度：超出后数据库会变为只读，请调低。",
        AdviceCode::Compact => {
            "文件中一半以上是空闲空间：停止 keytide 后运行 keytide store compact 即可收回。"
        }
        AdviceCode::CountsDropped => "中心库离线过久，部分小时与每日明细未能送达，总数不受影响。",
        AdviceCode::LogsDropped => "部分用量日志在送达中心库之前已被删除。",
        AdviceCode::NoUsageLogs => {
            "已启用用量日志，但中心库没有可用的用量日志表：请运行 keytide schema apply --usage-logs（详见原文）。"
        }
        AdviceCode::RaiseBudget => "空间即将用尽：请提高 [budget] 的预算，或删除不再需要的数据。",
        AdviceCode::Rewrite => "有数据表过大，无法自动重写：请在 SQL 编辑器中处理，期间该表会被锁定。",
        AdviceCode::ShareSoon => "有数据表已超出或即将占满份额。",
        AdviceCode::Vacuum => "已删除的行仍占用空间：请在 SQL 编辑器中逐条运行 VACUUM。",
        AdviceCode::VacuumFull => "VACUUM FULL 可以归还磁盘空间，期间该表会被锁定。",
    }
}

/// What happened, and what to do.
const fn trouble_in_chinese(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Busy => "中心库的调用过多，keytide 会稍后重试。",
        Trouble::Certificate => "中心库的证书不受信任或已过期：请用 sslrootcert 指定颁发机构的证书。",
        Trouble::Credentials => {
            "无法登录中心库：请检查 DATABASE_URL 中的用户名和密码，或 service role 密钥。"
        }
        Trouble::Document => {
            "本地保存的中心库状态来自更新版本的 keytide 或已损坏：请使用当时的版本，或恢复备份。"
        }
        Trouble::Fault => "keytide 自身出错，会自动重试：请查看日志并反馈。",
        Trouble::Forbidden => {
            "没有调用中心库函数的权限：请使用数据库所有者或 service role，或运行 keytide schema apply。"
        }
        Trouble::Full => "中心库的空间已满：请释放空间，统计会继续并稍后发送。",
        Trouble::Garbage => "应答的不是 keytide 的中心库：请检查地址，以及中间有没有登录门户或代理。",
        Trouble::Halted => "keytide 正在停止：请在运行时重试。",
        Trouble::Missing => {
            "中心库缺少数据表或列：请运行 keytide schema check 查看，用 keytide schema apply 添加。"
        }
        Trouble::NoSchema => "中心库没有 keytide 的函数：请运行 keytide schema apply。",
        Trouble::ReadOnly => "中心库目前不接受写入：请释放空间或恢复项目，统计会继续并稍后发送。",
        Trouble::Server => "中心库内部出错，keytide 会自动重试：请查看中心库的日志。",
        Trouble::Settings => "中心库的设置无法使用：请修正后重启 keytide。",
        Trouble::Store => "本地存储出现问题，恢复后会自动继续。",
        Trouble::Timeout => "中心库没有及时应答，keytide 会改用较小的批次。",
        Trouble::TooLarge => "数据超过中心库一次接受的大小，keytide 会改用较小的批次。",
        Trouble::Unreachable => "无法连接中心库，keytide 会自动重试：请检查网络以及地址中的主机和端口。",
        Trouble::Unsupported => {
            "中心库的函数属于另一个版本的 keytide：请使用对应的版本，或运行 keytide schema apply。"
        }
    }
}

const fn stop_in_chinese(code: StopCode) -> &'static str {
    match code {
        StopCode::OtherHub => {
            "原中心库的位置上是另一个数据库：若以后以它为准，请运行 keytide sync adopt，否则请修正地址。"
        }
        StopCode::RolledBack => {
            "中心库回退到了本机保留的批次之前：请在最后联系过它的实例上运行 keytide sync adopt。"
        }
    }
}

const fn note_in_chinese(code: NoteCode) -> &'static str {
    match code {
        NoteCode::Adopted => "这个数据库从现在起是中心库。",
        NoteCode::AdoptedInexactly => "接管已完成，但其他实例的部分计数可能缺失或重复。",
        NoteCode::AdoptRefused => "目前无法接管这个数据库。",
        NoteCode::Clock => "部分数据的时间在未来，已按当前时间重新发送：请检查本机时钟。",
        NoteCode::Copied => {
            "运行期间复制的文件正在被另一个实例使用：请停止它，只用 keytide store backup 备份。"
        }
        NoteCode::Expired => "部分小时或每日数据已过保留期，总数不受影响。",
        NoteCode::Forked => "另一个实例在使用同一份文件，本机已改用新的编号。",
        NoteCode::Gone => "部分数据属于已在别处删除的密钥、令牌或用户。",
        NoteCode::KeptBack => "中心库没有空间存放可选数据，这些数据从现在起只保留在本机。",
        NoteCode::LogsLeftOut => "首次连接中心库之前的用量日志未发送，总数已包含。",
        NoteCode::Lost => "部分计数所属的密钥或令牌已无人知晓，未计入。",
        NoteCode::Missing => "中心库缺少数据表或列：请运行 keytide schema apply。",
        NoteCode::Moved => "中心库现在是另一个数据库，它已接替原来的位置。",
        NoteCode::NoUsageLogs => "已启用用量日志，但中心库没有可用的用量日志表（详见原文）。",
        NoteCode::ReadOnly => "中心库目前不接受写入，本机的统计与更改会等待。",
        NoteCode::Resumed => "同步已恢复。",
        NoteCode::ResyncBegun => "正在重新读取全部数据。",
        NoteCode::ResyncDone => "全部数据已重新读取，没有缺失。",
        NoteCode::ResyncIncomplete => "全部数据已重新读取，但有部分请求数不在中心库的总数中。",
        NoteCode::RolledBack => "中心库丢失了部分批次，已重新发送。",
        NoteCode::Stopped => "同步已停止，等待处理。",
        NoteCode::Uncertain => "中心库被接管后，本机此前发送的部分请求数可能缺失。",
        NoteCode::Unsupported => "中心库的函数属于另一个版本的 keytide。",
    }
}

fn reported(visitor: &Visitor, report: &Report) -> Markup {
    let table = &report.table;
    let what = match report.kind.as_str() {
        "counter_lowered" => format!("{table} 中被调低的计数已忽略"),
        "unreadable" => format!("{table} 中无法读取的行已跳过"),
        "late" => format!("{table} 中到达过晚的数据未计入"),
        "no_partition" => format!("{table} 缺少分区，部分行未写入"),
        "locked" => format!("{table} 正在使用，最旧的分区未删除"),
        "not_owner" => format!("{table} 的一个分区属于其他所有者，未删除"),
        _ => String::new(),
    };
    html! {
        @if visitor.lang == Lang::En || what.is_empty() { (words::original(visitor, &report.text)) }
        @else {
            (what) "（" (visitor.number(report.count)) " 次"
            @if let Some(at) = report.last_at { "，最近 " (visitor.ago(at)) }
            "）"
        }
    }
}

fn replication(visitor: &Visitor, hub: &HubStatus) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let (words, kind) = match hub.state {
        HubState::Off => (t("off", "未启用"), ""),
        HubState::Connecting => (t("connecting", "连接中"), "warn"),
        HubState::Ok => (t("in step", "已同步"), "good"),
        HubState::Resyncing => (t("reading everything anew", "正在重新同步"), "warn"),
        HubState::Failing => (t("failing, tried again", "失败，正在重试"), "bad"),
        HubState::Stopped => (t("stopped until somebody decides", "已停止，等待处理"), "bad"),
    };
    html! {
        section.card {
            div.head { h2 { (t("Replication", "同步")) (t(": ", "：")) (hub.name) } span class={ "state " (kind) } { (words) } }
            @if let Some(error) = &hub.last_error {
                div.news.bad {
                    (led(visitor, trouble_in_chinese(error.code), &format!("{}; {}", error.message, error.advice)))
                    " " small { (visitor.ago(error.at)) }
                }
            }
            dl.facts {
                dt { (t("Where", "位置")) } dd.mono { bdi { (hub.target) } " (" (hub.transport) ")" }
                dt { (t("Lag", "延迟")) } dd { @if hub.lag_ms == 0 { (t("none", "无")) } @else { (visitor.number(hub.lag_ms / 1000)) " s" } }
                dt { (t("Last round", "上次同步")) } dd { (visitor.ago_or_never(hub.last_success)) }
                @if let Some(next) = hub.next_round { dt { (t("Next round", "下次同步")) } dd { (visitor.ago(next)) } }
                dt { (t("Sent and received", "发送与接收")) } dd { (visitor.bytes(hub.traffic.sent)) " · " (visitor.bytes(hub.traffic.received)) }
            }
            @if !hub.streams.is_empty() {
                (layout::region(t("Providers", "服务商"), &html! {
                    table {
                        thead { tr {
                            th scope="col" { (t("Provider", "服务商")) }
                            th scope="col" { (t("State", "状态")) }
                            th.number scope="col" { (t("Waiting", "待同步")) }
                            th scope="col" { (t("Last read", "最近读取")) }
                        } }
                        tbody { @for stream in &hub.streams {
                            tr {
                                th scope="row" { (stream.provider) }
                                td {
                                    span.state.good[stream.state == StreamState::Ok] { (stream_state(visitor, stream.state)) }
                                    @if let Some(reason) = &stream.reason {
                                        br;
                                        small.faint {
                                            (led(visitor, stream.stopped.map_or("", stop_in_chinese), reason))
                                        }
                                    }
                                }
                                td.number { (visitor.number(stream.pending_rows + stream.open_rows)) }
                                td { (visitor.ago_or_never(stream.last_pull)) }
                            }
                        } }
                    }
                }))
            }
            @if !hub.instances.is_empty() {
                (layout::region(t("Instances", "实例"), &html! {
                    table {
                        thead { tr {
                            th scope="col" { (t("Instance", "实例")) }
                            th scope="col" { (t("Version", "版本")) }
                            th scope="col" { (t("Last seen", "最近在线")) }
                        } }
                        tbody { @for instance in &hub.instances {
                            tr {
                                th scope="row" { bdi { (instance.name) } @if instance.own { " " span.state.good { (t("this one", "本机")) } } }
                                td { (instance.version) }
                                td { (visitor.ago(instance.last_seen)) }
                            }
                        } }
                    }
                }))
            }
            @for note in &hub.notes {
                div.faint { (visitor.ago(note.at)) (t(": ", "：")) (led(visitor, note_in_chinese(note.code), &note.text)) }
            }
            @for report in &hub.reports { div.faint { (reported(visitor, report)) } }
        }
    }
}

fn stream_state<'a>(visitor: &Visitor, state: StreamState) -> &'a str
where
    'static: 'a,
{
    match state {
        StreamState::New => visitor.t("not asked yet", "尚未连接"),
        StreamState::Ok => visitor.t("in step", "已同步"),
        StreamState::Resyncing => visitor.t("reading anew", "重新同步中"),
        StreamState::Missing => visitor.t("tables are missing", "缺少数据表"),
        StreamState::Failing => visitor.t("failing", "失败"),
        StreamState::Stopped => visitor.t("stopped", "已停止"),
    }
}

async fn sync(Posted { signed, .. }: Posted) -> Answer {
    let visitor = &signed.visitor;
    let done: Result<view::Sync, _> =
        signed.api.send(Method::POST, "/admin/sync/now", &view::SyncHub::default()).await;
    // The round has ended, well or not.
    let done = done.and_then(|sync| match out_of_step(visitor, &sync.hubs) {
        Some(refused) => Err(refused),
        None if sync.hubs.iter().all(|hub| hub.state == HubState::Ok) => {
            Ok(visitor.t("The hub and this instance are in step.", "同步完成。").to_owned())
        }
        None => Ok(visitor
            .t(
                "A round is done; what is left of the first reading goes on.",
                "已完成一轮同步，其余内容仍在读取。",
            )
            .to_owned()),
    });
    Ok(signed.went("/storage", done))
}

/// Of the hubs that were asked, the first that could not be brought into step.
fn out_of_step(visitor: &Visitor, hubs: &[HubStatus]) -> Option<Refused> {
    let hub = hubs.iter().find(|hub| matches!(hub.state, HubState::Failing | HubState::Stopped))?;
    let why = match &hub.last_error {
        Some(error) => format!("{}; {}", error.message, error.advice),
        None => {
            let stopped = hub.streams.iter().find(|stream| stream.state == StreamState::Stopped);
            let reason = stopped.and_then(|stream| stream.reason.as_deref());
            reason.unwrap_or_else(|| visitor.t("it has stopped", "已停止")).to_owned()
        }
    };
    Some(Refused {
        status: StatusCode::BAD_GATEWAY,
        code: view::Code::HubFailed.as_str().to_owned(),
        message: format!("The hub \"{}\" is not in step: {why}", hub.name),
    })
}

async fn retain(Posted { signed, .. }: Posted) -> Answer {
    let done: Result<view::Storage, _> = signed.api.send(Method::POST, "/admin/storage/retain", &()).await;
    let done = done.and_then(|storage| tidied(&signed.visitor, &storage));
    Ok(signed.went("/storage", done))
}

/// What can truly be said of the places, each of which may be over its budget all the same.
fn tidied(visitor: &Visitor, storage: &view::Storage) -> Result<String, Refused> {
    let refused = |code: &str, message| {
        let (status, code) = (StatusCode::INSUFFICIENT_STORAGE, code.to_owned());
        Err(Refused { status, code, message })
    };
    if let Some(problem) = &storage.problem {
        return refused(view::Code::StoreUnavailable.as_str(), problem.clone());
    }
    let file = visitor.t("the local file", "本地文件").to_owned();
    let hubs = storage.hubs.iter().map(|hub| match visitor.lang {
        Lang::En => (format!("the hub \"{}\"", hub.hub), &hub.space),
        Lang::Zh => (format!("中心库「{}」", hub.hub), &hub.space),
    });
    let (mut over, mut unmeasured) = (Vec::new(), Vec::new());
    for (at, (name, space)) in [(file, &storage.local)].into_iter().chain(hubs).enumerate() {
        // A hub that does not answer is told of as it was last seen, which says nothing of now.
        let is_of_now = at == 0 || space.measured_at.is_some_and(|at| at >= visitor.now);
        let Some(used) = space.used_bytes.filter(|_| is_of_now) else {
            unmeasured.push(name);
            continue;
        };
        if let Some(budget) = space.budget_bytes.filter(|budget| used > *budget) {
            let (used, budget) = (visitor.bytes(used), visitor.bytes(budget));
            over.push(match visitor.lang {
                Lang::En => format!("{name} ({used} of {budget})"),
                Lang::Zh => format!("{name}（{used}，预算 {budget}）"),
            });
        }
    }
    let listed = |names: Vec<String>| names.join(visitor.t(", ", "、"));
    match (over.is_empty(), unmeasured.is_empty(), storage.hubs.is_empty(), visitor.lang) {
        (false, .., Lang::En) => {
            refused("over_budget", format!("Over the budget all the same: {}.", listed(over)))
        }
        (false, .., Lang::Zh) => refused("over_budget", format!("整理之后仍超出预算：{}。", listed(over))),
        (_, false, _, Lang::En) => {
            refused("not_measured", format!("Could not be tidied up, nor measured: {}.", listed(unmeasured)))
        }
        (_, false, _, Lang::Zh) => {
            refused("not_measured", format!("未能整理和测量：{}。", listed(unmeasured)))
        }
        (_, _, true, _) => Ok(visitor
            .t(
                "The local file is not over its budget. There is no hub to tidy up.",
                "本地文件未超出预算；没有需要整理的中心库。",
            )
            .to_owned()),
        _ => Ok(visitor
            .t("File and hubs are not over their budgets.", "整理完成，本地文件与中心库均未超出预算。")
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri};

    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn a_place_that_is_over_its_budget_is_not_called_tidy() {
        let visitor = Visitor::of(&HeaderMap::new(), &Uri::from_static("/storage"), Timestamp(1000));
        let space = |used: Option<u64>, budget: Option<u64>, at: i64| Space {
            used_bytes: used,
            budget_bytes: budget,
            measured_at: Some(Timestamp(at)),
            ..Space::default()
        };
        let says = |local: Space, hub: Option<Space>| {
            let hub = hub.map(|space| view::HubSpace {
                hub: "default".to_owned(),
                transport: "rest".to_owned(),
                target: "https://hub.example".to_owned(),
                space,
            });
            let storage = view::Storage {
                file: "/data/keytide.redb".to_owned(),
                healthy: true,
                problem: None,
                file_bytes: None,
                journal_entries: None,
                tables: None,
                local,
                hubs: hub.into_iter().collect(),
            };
            tidied(&visitor, &storage).map_err(|refused| refused.message)
        };
        let well = || space(Some(1_000), Some(2_000), 0);
        assert_eq!(
            says(well(), None),
            Ok("The local file is not over its budget. There is no hub to tidy up.".to_owned())
        );
        assert_eq!(
            says(well(), Some(space(Some(5), None, 1000))),
            Ok("File and hubs are not over their budgets.".to_owned())
        );
        for (local, hub, why) in [
            (
                space(Some(2_001), Some(2_000), 0),
                None,
                "Over the budget all the same: the local file (2.0 kB of 2.0 kB).",
            ),
            (
                well(),
                Some(space(Some(9_000_000), Some(5_000_000), 1000)),
                "Over the budget all the same: the hub \"default\" (9.0 MB of 5.0 MB).",
            ),
            (
                well(),
                Some(space(Some(5), None, 999)),
                "Could not be tidied up, nor measured: the hub \"default\".",
            ),
            (space(None, None, 0), None, "Could not be tidied up, nor measured: the local file."),
        ] {
            assert_eq!(says(local, hub), Err(why.to_owned()));
        }
    }
}
