//! Models by how much they are asked.

use maud::{Markup, html};

use super::{layout, visitor::Visitor};
use crate::admin::view;

/// One model's figures, as far as whoever looks may see them.
pub(super) struct Row<'a> {
    name: &'a str,
    requests: u64,
    success_rate: f64,
    tokens: Option<u64>,
}

impl<'a> From<&'a view::ModelStats> for Row<'a> {
    fn from(model: &'a view::ModelStats) -> Self {
        Self {
            name: &model.model,
            requests: model.total_requests,
            success_rate: model.success_rate,
            tokens: Some(model.prompt_tokens + model.completion_tokens),
        }
    }
}

impl<'a> From<&'a view::PublicModel> for Row<'a> {
    fn from(model: &'a view::PublicModel) -> Self {
        let view::PublicModel { model: name, total_requests, success_rate, .. } = model;
        Self { name, requests: *total_requests, success_rate: *success_rate, tokens: None }
    }
}

/// So many are shown before the others have to be asked for.
const ROWS: usize = 8;

pub(super) fn card<'a, T>(visitor: &Visitor, title: &str, note: &str, models: &'a [T]) -> Markup
where
    Row<'a>: From<&'a T>,
{
    let t = |en, zh| visitor.t(en, zh);
    let rows: Vec<Row<'a>> = models.iter().map(Row::from).collect();
    let most = rows.iter().map(|row| row.requests).max().unwrap_or(0).max(1);
    let (first, others) = rows.split_at(rows.len().min(ROWS));
    html! {
        section.card {
            h2 { (title) }
            @if rows.is_empty() {
                p.empty { (t("No model has been asked yet.", "还没有模型被调用。")) }
            } @else {
                p.faint { (note) }
                (table(visitor, title, first, most))
                @if !others.is_empty() {
                    details {
                        summary { (t("Other models", "其他模型")) " (" (others.len()) ")" }
                        (table(visitor, t("Other models", "其他模型"), others, most))
                    }
                }
            }
        }
    }
}

fn table(visitor: &Visitor, label: &str, rows: &[Row<'_>], most: u64) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let with_tokens = rows.iter().any(|row| row.tokens.is_some());
    html! {
        (layout::region(label, &html! {
            table {
                thead { tr {
                    th scope="col" { (t("Model", "模型")) }
                    th.number scope="col" { (t("Requests", "请求")) }
                    th.number scope="col" { (t("Success", "成功率")) }
                    @if with_tokens { th.number scope="col" { (t("Tokens", "Token")) } }
                } }
                tbody { @for row in rows {
                    tr {
                        th.name scope="row" {
                            bdi { (row.name) }
                            progress max=(most) value=(row.requests) aria-hidden="true" {}
                        }
                        td.number { (visitor.number(row.requests)) }
                        td.number { (visitor.percent(row.success_rate)) }
                        @if let Some(tokens) = row.tokens { td.number { (visitor.short(tokens)) } }
                    }
                } }
            }
        }))
    }
}
