//! The list of keys: however many there are, a page holds fifty.

use maud::{Markup, html};

use super::{STATES, in_words, name, reason, state};
use crate::{
    admin::view,
    console::{
        layout::{self, Here},
        signed::{Answer, Signed},
        visitor::{Params, Visitor, link},
    },
};

/// Column, English, Chinese.
const SORTS: [(&str, &str, &str); 5] = [
    ("username", "Account", "账号"),
    ("status", "State", "状态"),
    ("total_requests", "Attempts", "调用"),
    ("success_rate", "Success", "成功率"),
    ("last_used", "Last used", "最近使用"),
];

pub(super) async fn show(signed: Signed, params: Params) -> Answer {
    let shown = Shown::of(&params);
    let path = shown.link("/admin/api-keys", &[("page", params.get("page"))]);
    let (page, providers) = tokio::join!(
        signed.get::<view::KeyPage>(&path),
        signed.get::<Vec<view::Provider>>("/admin/providers")
    );
    let (page, providers) = (page?, providers?);
    let at = |to: usize| shown.link("/keys", &[("page", &to.to_string())]);
    if let Some(last) = layout::last_page(page.page, page.pages, at) {
        return Ok(last);
    }
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let counts =
        providers.iter().find(|one| one.name == page.provider).map(|one| one.keys).unwrap_or_default();
    let body = html! {
        div.head {
            h1 { (t("Keys", "密钥")) }
            (layout::choose_provider(visitor, &providers, &page.provider, "/keys"))
            a.button.primary href=(link("/keys/add", &[("provider", shown.provider)])) { (t("Add keys", "添加密钥")) }
        }
        @if counts.total == 0 {
            section.card {
                p.empty {
                    (t("There is no key yet. Add one, or a whole list.", "还没有密钥。可以添加一个，或导入整个列表。")) " "
                    a href=(link("/keys/add", &[("provider", shown.provider)])) { (t("Add keys", "添加密钥")) }
                }
            }
        } @else {
            section.card aria-label=(t("Keys", "密钥")) {
                (filter(&signed, &shown, counts))
                div #keys data-live { (table(&signed, &shown, &page)) }
            }
            @if page.total > 0 { form method="post" action="/keys/export" .line data-download {
                (layout::csrf(&signed.session))
                @for (name, value) in shown.list() { input type="hidden" name=(name) value=(value); }
                div {
                    label for="format" { (t("Export this list, unmasked", "导出此列表（明文）")) ": " (visitor.number(page.total as u64)) }
                    select #format name="format" {
                        option value="csv" { "CSV" }
                        option value="ndjson" { "NDJSON" }
                        option value="text" { (t("Text, one key a line", "文本，每行一个")) }
                    }
                }
                button type="submit" { (t("Export", "导出")) }
            } }
        }
    };
    Ok(signed.page(Here::Keys, t("Keys", "密钥"), &body))
}

/// What of the list is looked at, and in which order.
struct Shown<'a> {
    provider: &'a str,
    status: &'a str,
    search: &'a str,
    sort: &'a str,
    order: &'a str,
}

impl<'a> Shown<'a> {
    fn of(params: &'a Params) -> Self {
        let get = |name| params.get(name);
        Self {
            provider: get("provider"),
            status: get("status"),
            search: get("search"),
            sort: get("sort"),
            order: get("order"),
        }
    }

    /// What is on it, in whatever order.
    fn list(&self) -> [(&'static str, &'a str); 3] {
        [("provider", self.provider), ("status", self.status), ("search", self.search)]
    }

    fn link(&self, path: &str, other: &[(&str, &str)]) -> String {
        let own = [
            ("provider", self.provider),
            ("status", self.status),
            ("search", self.search),
            ("sort", self.sort),
            ("order", self.order),
        ];
        let is_other = |name: &str| other.iter().any(|(known, _)| *known == name);
        let all: Vec<_> =
            own.into_iter().filter(|(name, _)| !is_other(name)).chain(other.iter().copied()).collect();
        link(path, &all)
    }
}

fn filter(signed: &Signed, shown: &Shown<'_>, counts: view::KeyCounts) -> Markup {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    let count = |name: &str| match name {
        "active" => counts.active,
        "failed" => counts.failed,
        "disabled" => counts.disabled,
        "expired" => counts.expired,
        _ => counts.total,
    };
    let all = std::iter::once(("", t("All", "全部")));
    let choices = all.chain(STATES.map(|status| (name(status), in_words(visitor, status))));
    let kept = [
        ("provider", shown.provider),
        ("status", shown.status),
        ("sort", shown.sort),
        ("order", shown.order),
    ];
    html! {
        div.head {
            nav.choice aria-label=(t("State", "状态")) {
                @for (name, words) in choices {
                    a href=(shown.link("/keys", &[("status", name)])) aria-current=[(name == shown.status).then_some("true")] {
                        (words) " " small { (visitor.number(count(name) as u64)) }
                    }
                }
            }
            (layout::search(visitor, &signed.session, "/keys", &kept, (shown.search, t("Account, note, id or whole key", "账号、备注、编号或完整密钥"))))
        }
    }
}

fn table(signed: &Signed, shown: &Shown<'_>, page: &view::KeyPage) -> Markup {
    let visitor = &signed.visitor;
    let t = |en, zh| visitor.t(en, zh);
    html! {
        @if page.keys.is_empty() {
            @let all = link("/keys", &[("provider", shown.provider)]);
            (layout::nothing_like_that(visitor, t("No key is like that.", "没有符合条件的密钥。"), &all))
        } @else {
            form method="post" action="/keys/change" {
                (layout::csrf(&signed.session))
                input type="hidden" name="back" value=(visitor.here);
                @for (name, value) in shown.list() { input type="hidden" name=(name) value=(value); }
                div.bulk {
                    button.small name="do" value="enable" { (t("Enable", "启用")) }
                    button.small name="do" value="disable" { (t("Switch off", "停用")) }
                    button.small name="do" value="test" { (t("Test", "测试")) }
                    button.small.danger name="do" value="delete" { (t("Delete…", "删除…")) }
                    label.check {
                        input type="checkbox" name="all" value="1";
                        (all_of(visitor, page.total))
                    }
                }
                table.cards {
                    caption.hidden { (t("Keys; choose some to change them", "密钥列表，可勾选后批量操作")) }
                    thead { tr {
                        th.box scope="col" { input type="checkbox" data-all="id" aria-label=(t("Choose all on this page", "全选本页")); }
                        th scope="col" { (t("Key", "密钥")) }
                        @for (column, en, zh) in SORTS { (heading(visitor, shown, column, t(en, zh))) }
                    } }
                    tbody { @for key in &page.keys { (row(visitor, shown, key)) } }
                }
            }
            (layout::pager(visitor, page.page, page.pages, |to| shown.link("/keys", &[("page", &to.to_string())])))
        }
    }
}

fn all_of(visitor: &Visitor, total: usize) -> String {
    let total = visitor.number(total as u64);
    match visitor.lang {
        crate::console::visitor::Lang::En => format!("all {total} of this list, not only those chosen"),
        crate::console::visitor::Lang::Zh => format!("作用于列表中的全部 {total} 个，而不只是选中的"),
    }
}

fn heading(visitor: &Visitor, shown: &Shown<'_>, column: &str, words: &str) -> Markup {
    let is_sorted = shown.sort == column;
    let is_descending = is_sorted && shown.order == "desc";
    let order = if is_sorted && !is_descending { "desc" } else { "asc" };
    let sorted = match (is_sorted, is_descending) {
        (false, _) => None,
        (true, false) => Some("ascending"),
        (true, true) => Some("descending"),
    };
    let is_number = matches!(column, "total_requests" | "success_rate");
    html! {
        th.number[is_number] scope="col" aria-sort=[sorted] {
            a href=(shown.link("/keys", &[("sort", column), ("order", order)])) title=(visitor.t("Sort", "排序")) { (words) }
        }
    }
}

fn row(visitor: &Visitor, shown: &Shown<'_>, key: &view::Key) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let own = link(&format!("/keys/{}", key.id), &[("provider", shown.provider)]);
    html! {
        tr {
            td.box { input type="checkbox" name="id" value=(key.id) aria-label={ (t("Choose", "选择")) " " (key.key) }; }
            th.name scope="row" {
                span {
                    a.mono href=(own) { bdi { (key.key) } }
                    @if let Some(note) = &key.note { br; small.faint.clip { bdi { (note) } } }
                }
            }
            td.name.blank[key.username.is_none()] data-label=(t("Account", "账号")) {
                @if let Some(name) = &key.username { bdi.clip { (name) } } @else { span.faint { "–" } }
            }
            td data-label=(t("State", "状态")) {
                span {
                    (state(visitor, key.status))
                    @if key.reason.is_some() { br; small.faint { (reason(visitor, key)) } }
                }
            }
            td.number data-label=(t("Attempts", "调用")) { (visitor.number(key.stats.total_requests)) }
            td.number data-label=(t("Success", "成功率")) {
                @if key.stats.total_requests == 0 { span.faint { "–" } } @else { (visitor.percent(key.stats.success_rate)) }
            }
            td.nowrap data-label=(t("Last used", "最近使用")) { (visitor.ago_or_never(key.stats.last_used)) }
        }
    }
}
