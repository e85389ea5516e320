//! Who looks at a page: their language, theme and time zone, and how they write numbers and times.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::{HeaderMap, StatusCode, Uri, header, request::Parts};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use maud::{Markup, html};

use super::{Console, api::Refused};
use crate::model::Timestamp;

pub(super) const LANG: &str = "keytide_lang";
pub(super) const THEME: &str = "keytide_theme";
const ZONE: &str = "keytide_zone";
/// What the page before has to say.
pub(super) const SAID: &str = "keytide_said";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lang {
    En,
    Zh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) lang: Lang,
    pub(super) theme: Theme,
    zone: TimeZone,
    pub(super) now: Timestamp,
    /// Path and query of the page; empty where it cannot be asked for again.
    pub(super) here: String,
    pub(super) said: Option<Said>,
}

/// What came of a form, told on the page that follows it.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Good(String),
    Bad {
        /// What was done before; mostly nothing.
        done: String,
        refused: Refused,
    },
}

impl Said {
    /// As it goes to that page.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Good(text) => format!("good|{text}"),
            Self::Bad { done, refused } => format!("bad|{done}|{}|{}", refused.code, refused.message),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (kind, text) = text.split_once('|')?;
        if kind == "good" {
            return Some(Self::Good(text.to_owned()));
        }
        let mut parts = text.splitn(3, '|').map(str::to_owned);
        let (done, code, message) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self::Bad { done, refused: Refused { status: StatusCode::BAD_REQUEST, code, message } })
    }
}

impl FromRequestParts<Console> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, &parts.uri, console.clock.now()))
    }
}

impl Visitor {
    pub(super) fn of(headers: &HeaderMap, uri: &Uri, now: Timestamp) -> Self {
        let lang = match cookie(headers, LANG) {
            Some("zh") => Lang::Zh,
            Some("en") => Lang::En,
            _ => accepted(headers),
        };
        let theme = match cookie(headers, THEME) {
            Some("light") => Theme::Light,
            Some("dark") => Theme::Dark,
            _ => Theme::Auto,
        };
        let zone = cookie(headers, ZONE).filter(|name| name.len() <= 64);
        let zone = zone.and_then(|name| TimeZoneDatabase::bundled().get(name).ok());
        let said = cookie(headers, SAID).and_then(|text| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
            Said::read(&text)
        });
        let here = uri.path_and_query().map_or("/", |here| here.as_str()).to_owned();
        let zone = zone.unwrap_or(TimeZone::UTC);
        Self { lang, theme, zone, now, here, said }
    }

    /// Where they are, without the query.
    pub(super) fn path(&self) -> &str {
        self.here.split('?').next().unwrap_or_default()
    }

    /// As one of many at that path, who is told nothing of their own.
    pub(super) fn of_many(self, here: String) -> Self {
        Self { here, said: None, ..self }
    }

    /// For a page that shows no time.
    pub(super) fn timeless(self) -> Self {
        Self { zone: TimeZone::UTC, ..self }
    }

    /// All of what a page for everybody differs by.
    pub(super) fn manner(&self) -> String {
        format!("{:?} {:?} {}", self.lang, self.theme, self.zone.iana_name().unwrap_or_default())
    }

    /// The text in their language.
    pub(super) fn t<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        match self.lang {
            Lang::En => en,
            Lang::Zh => zh,
        }
    }

    /// With separators, as both languages write them.
    pub(super) fn number(&self, number: u64) -> String {
        let digits = number.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }

    /// With at most four signs: thousands and millions, or ten thousands and hundred millions.
    pub(super) fn short(&self, number: u64) -> String {
        let steps: &[(f64, &str)] = match self.lang {
            Lang::En => &[(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")],
            Lang::Zh => &[(1e12, "万亿"), (1e8, "亿"), (1e4, "万")],
        };
        let value = number as f64;
        match steps.iter().find(|(step, _)| value >= *step) {
            None => self.number(number),
            Some((step, name)) if value / step >= 100.0 => format!("{:.0}{name}", (value / step).floor()),
            Some((step, name)) => {
                let tenths = (value / step * 10.0).floor() / 10.0;
                format!("{tenths}{name}")
            }
        }
    }

    pub(super) fn bytes(&self, bytes: u64) -> String {
        const STEPS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
        let value = bytes as f64;
        match STEPS.iter().find(|(step, _)| value >= *step) {
            None => format!("{bytes} B"),
            Some((step, name)) if value / step >= 100.0 => format!("{:.0} {name}", value / step),
            Some((step, name)) => format!("{:.1} {name}", value / step),
        }
    }

    /// Never more than it is: what is nearly all is not all.
    pub(super) fn percent(&self, percent: f64) -> String {
        let percent = (percent * 10.0).floor() / 10.0;
        if percent >= 100.0 || percent == 0.0 { format!("{percent:.0}%") } else { format!("{percent:.1}%") }
    }

    /// The instant in their zone, by a pattern of theirs.
    pub(super) fn format(&self, at: Timestamp, en: &str, zh: &str) -> String {
        let zoned = at.calendar().map(|at| at.to_zoned(self.zone.clone()));
        let text = zoned.and_then(|zoned| jiff::fmt::strtime::format(self.t(en, zh), &zoned).ok());
        text.unwrap_or_else(|| at.to_string())
    }

    /// The date of an instant at which a day begins, wherever they are.
    pub(super) fn date(&self, midnight: Timestamp, en: &str, zh: &str) -> String {
        Self { zone: TimeZone::UTC, ..self.clone() }.format(midnight, en, zh)
    }

    /// Day and minute.
    pub(super) fn time(&self, at: Timestamp) -> Markup {
        html! { time datetime=(at) { (self.format(at, "%-d %b %Y, %H:%M", "%Y年%-m月%-d日 %H:%M")) } }
    }

    /// How long ago, or how long until then; the instant itself is the title.
    pub(super) fn ago(&self, at: Timestamp) -> Markup {
        let exact = self.format(at, "%-d %b %Y, %H:%M:%S", "%Y年%-m月%-d日 %H:%M:%S");
        let (span, is_past) = match at.0 <= self.now.0 {
            true => (self.now.since(at), true),
            false => (at.since(self.now), false),
        };
        let (count, en, zh) = match span.as_secs() {
            seconds @ 0..60 => (seconds, "s", "秒"),
            seconds @ 60..3600 => (seconds / 60, "min", "分钟"),
            seconds @ 3600..172_800 => (seconds / 3600, "h", "小时"),
            seconds => (seconds / 86_400, "d", "天"),
        };
        let text = match (self.lang, is_past) {
            (Lang::En, true) if span.as_secs() < 2 => "just now".to_owned(),
            (Lang::Zh, true) if span.as_secs() < 2 => "刚刚".to_owned(),
            (Lang::En, true) => format!("{count} {en} ago"),
            (Lang::En, false) => format!("in {count} {en}"),
            (Lang::Zh, true) => format!("{count} {zh}前"),
            (Lang::Zh, false) => format!("{count} {zh}后"),
        };
        html! { time datetime=(at) title=(exact) { (text) } }
    }

    /// As [`Visitor::ago`], where there may have been nothing yet.
    pub(super) fn ago_or_never(&self, at: Option<Timestamp>) -> Markup {
        match at {
            Some(at) => self.ago(at),
            None => html! { span.faint { (self.t("never", "从未")) } },
        }
    }
}

pub(super) fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// The first of the languages they read that is spoken here.
fn accepted(headers: &HeaderMap) -> Lang {
    let text = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut wished: Vec<(f32, Lang)> = Vec::new();
    for part in text.split(',') {
        let (tag, rest) = part.split_once(';').unwrap_or((part, ""));
        let weight = rest.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse().ok());
        let primary = tag.trim().split('-').next().unwrap_or("").to_ascii_lowercase();
        let lang = match primary.as_str() {
            "zh" => Lang::Zh,
            "en" => Lang::En,
            _ => continue,
        };
        wished.push((weight.unwrap_or(0.0), lang));
    }
    let best = wished.iter().rev().max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(Lang::En, |(_, lang)| *lang)
}

/// The parameters of a page's address; what is not there is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or("").as_bytes();
        Self(form_urlencoded::parse(query).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.uri))
    }
}

/// A path with those of the parameters that say something.
pub(super) fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters.iter().filter(|(_, value)| !value.is_empty()));
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(lang: &str) -> Visitor {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, lang.parse().unwrap());
        Visitor::of(&headers, &Uri::from_static("/keys?page=2"), Timestamp(0))
    }

    #[test]
    fn languages_are_those_that_are_asked_for() {
        for (text, lang) in [
            ("", Lang::En),
            ("de-DE,de;q=0.9", Lang::En),
            ("zh-CN,zh;q=0.9,en;q=0.8", Lang::Zh),
            ("en-GB,en;q=0.9,zh;q=0.8", Lang::En),
            ("de, zh-Hant;q=0.5, en;q=0.7", Lang::En),
            ("zh;q=nonsense", Lang::Zh),
        ] {
            assert_eq!(visitor(text).lang, lang, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        let (en, zh) = (visitor("en"), visitor("zh"));
        assert_eq!((en.number(0), en.number(1_234_567)), ("0".to_owned(), "1,234,567".to_owned()));
        for (number, in_en, in_zh) in [
            (999, "999", "999"),
            (1000, "1k", "1,000"),
            (9_999, "9.9k", "9,999"),
            (123_456, "123k", "12.3万"),
            (999_999, "999k", "99.9万"),
            (1_250_000_000, "1.2B", "12.5亿"),
        ] {
            assert_eq!((&*en.short(number), &*zh.short(number)), (in_en, in_zh));
        }
        assert_eq!((en.bytes(999), en.bytes(1_500_000)), ("999 B".to_owned(), "1.5 MB".to_owned()));
        assert_eq!((en.percent(100.0), en.percent(99.97)), ("100%".to_owned(), "99.9%".to_owned()));
    }

    #[test]
    fn links_carry_what_says_something() {
        assert_eq!(link("/keys", &[("status", ""), ("page", "")]), "/keys");
        assert_eq!(link("/keys", &[("search", "a b&c"), ("page", "")]), "/keys?search=a+b%26c");
    }
}
