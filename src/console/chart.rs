//! Bars over time, drawn as SVG.
//!
//! The colours here are only marks: the style sheet gives each the colour that the theme has for it. For those who do
//! not see a chart, its figures stand in a table behind it.

use maud::{Markup, PreEscaped, html};
use plotters::prelude::{
    ChartBuilder, Color, DrawingAreaErrorKind, IntoDrawingArea, IntoFont, RGBColor, Rectangle, SVGBackend,
};

use super::{layout, visitor::Visitor};

const GOOD: RGBColor = RGBColor(0, 0, 1);
const BAD: RGBColor = RGBColor(0, 0, 2);
const OTHER: RGBColor = RGBColor(0, 0, 3);
const TEXT: RGBColor = RGBColor(0, 0, 4);
const LINE: RGBColor = RGBColor(0, 0, 5);
/// The part of its place that a bar leaves free on each side.
const GAP: f64 = 0.18;

/// One span of time.
pub(super) struct Bar {
    /// As the axis shows it.
    pub(super) label: String,
    /// As the table shows it.
    pub(super) name: String,
    pub(super) good: u64,
    pub(super) bad: u64,
    pub(super) other: u64,
}

impl Bar {
    fn total(&self) -> u64 {
        self.good + self.bad + self.other
    }
}

/// A chart of requests by how they ended.
pub(super) fn requests(visitor: &Visitor, title: &str, unit: &str, bars: &[Bar]) -> Markup {
    let t = |en, zh| visitor.t(en, zh);
    let total: u64 = bars.iter().map(Bar::total).sum();
    html! {
        figure.chart {
            figcaption {
                h2 { (title) }
                ul.legend {
                    li.good { (t("succeeded", "成功")) }
                    li.bad { (t("failed", "失败")) }
                    @if bars.iter().any(|bar| bar.other > 0) { li.other { (t("other", "其他")) } }
                }
            }
            @if total == 0 {
                p.empty { (t("Nothing was counted in this time.", "这段时间没有请求。")) }
            } @else {
                @for (class, size) in [("wide", (900, 230)), ("narrow", (400, 190))] {
                    @if let Ok(svg) = draw(visitor, bars, size) {
                        div class=(class) {
                            svg role="img" aria-label=(title) viewBox=(format!("0 0 {} {}", size.0, size.1)) { (PreEscaped(svg)) }
                        }
                    }
                }
                details {
                    summary { (t("As a table", "以表格显示")) }
                    (layout::region(title, &html! {
                        table {
                            thead { tr {
                                th scope="col" { (unit) }
                                th.number scope="col" { (t("Requests", "请求")) }
                                th.number scope="col" { (t("Succeeded", "成功")) }
                                th.number scope="col" { (t("Failed", "失败")) }
                                th.number scope="col" { (t("Other", "其他")) }
                            } }
                            tbody {
                                @for bar in bars.iter().rev() {
                                    tr {
                                        th scope="row" { (bar.name) }
                                        td.number { (visitor.number(bar.total())) }
                                        td.number { (visitor.number(bar.good)) }
                                        td.number { (visitor.number(bar.bad)) }
                                        td.number { (visitor.number(bar.other)) }
                                    }
                                }
                            }
                        }
                    }))
                }
            }
        }
    }
}

type Broken = DrawingAreaErrorKind<std::io::Error>;

/// What stands within the `svg` element.
fn draw(visitor: &Visitor, bars: &[Bar], size: (u32, u32)) -> Result<String, Broken> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let highest = bars.iter().map(Bar::total).max().unwrap_or(0).max(4) as f64;
        let last = bars.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(8)
            .margin_right(4)
            .x_label_area_size(22)
            .y_label_area_size(44)
            .build_cartesian_2d(-0.5..last, 0.0..highest * 1.05)?;
        let style = ("sans-serif", 12).into_font().color(&TEXT);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(LINE.mix(0.0))
            .bold_line_style(LINE)
            .axis_style(LINE)
            .x_labels((size.0 / 70) as usize)
            .y_labels(4)
            .label_style(style)
            .x_label_formatter(&|at| {
                let at = at.round().max(0.0) as usize;
                bars.get(at).map(|bar| bar.label.clone()).unwrap_or_default()
            })
            .y_label_formatter(&|count| {
                if count.fract() == 0.0 { visitor.short(*count as u64) } else { String::new() }
            })
            .draw()?;
        for (at, bar) in bars.iter().enumerate() {
            let (left, right) = (at as f64 - 0.5 + GAP, at as f64 + 0.5 - GAP);
            let mut from = 0.0;
            for (count, colour) in [(bar.good, GOOD), (bar.other, OTHER), (bar.bad, BAD)] {
                if count > 0 {
                    let to = from + count as f64;
                    let part = Rectangle::new([(left, from), (right, to)], colour.filled());
                    chart.draw_series(std::iter::once(part))?;
                    from = to;
                }
            }
        }
        area.present()?;
    }
    // The element itself is written with its label by the caller.
    let inner = text.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>")).map(|(inner, _)| inner);
    Ok(inner.unwrap_or_default().to_owned())
}
