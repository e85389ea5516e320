//! Forms as browsers send them.

use std::str::FromStr;

use axum::{
    extract::{FromRequest, Request},
    response::Response,
};
use http::StatusCode;

use super::{
    Console,
    api::Refused,
    layout,
    visitor::{Lang, Visitor},
};
/// A page of a thousand ids, or a paste of some thousand keys; larger lists come as files, in pieces.
const MOST: usize = 2 << 20;

/// What the fields that are parsed are called where they stand: name, English, Chinese.
const LABELS: [(&str, &str, &str); 5] = [
    ("expires_at", "Expires on (0:00 UTC)", "有效期至（UTC 零点）"),
    ("hours", "For how long", "停用时长"),
    ("owner", "Shared by", "共享者"),
    ("user", "User", "用户"),
    ("weight", "Weight", "权重"),
];

/// Names and values in the order in which they stand in the form.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// What a form holds before somebody has written in it.
    pub(super) fn of<'a>(fields: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Self {
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self(fields.collect())
    }

    /// Trimmed; empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.whole(name).trim()
    }

    /// With the empty lines around it.
    pub(super) fn whole(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Nothing where it was left empty.
    pub(super) fn given(&self, name: &str) -> Option<String> {
        Some(self.get(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// Nothing where it was left empty.
    ///
    /// # Errors
    /// When something stands there that cannot be read.
    pub(super) fn parsed<T: FromStr>(&self, visitor: &Visitor, name: &str) -> Result<Option<T>, Refused> {
        let Some(text) = self.given(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let label = LABELS.iter().find(|(known, ..)| *known == name);
            let field = label.map_or(name, |(_, en, zh)| visitor.t(en, zh));
            let message = match visitor.lang {
                Lang::En => format!("What stands in the field \"{field}\" cannot be read."),
                Lang::Zh => format!("字段「{field}」的内容无法识别。"),
            };
            Refused { status: StatusCode::BAD_REQUEST, code: "invalid_field".to_owned(), message }
        })
    }

    /// If it is another one than before: saving something else neither loses a time within a day, nor fails of a user
    /// who is gone.
    ///
    /// # Errors
    /// As those of [`Form::parsed`].
    pub(super) fn changed<T: FromStr>(
        &self,
        visitor: &Visitor,
        name: &str,
    ) -> Result<Option<Option<T>>, Refused> {
        let value = self.parsed(visitor, name)?;
        Ok((self.get(name) != self.get(&format!("{name}_was"))).then_some(value))
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl FromRequest<Console> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Response> {
        let visitor = Visitor::of(request.headers(), request.uri(), console.clock.now());
        let body = axum::body::to_bytes(request.into_body(), MOST).await.map_err(|_| {
            let message = visitor
                .t(
                    "The form is larger than 2 MB, or did not arrive whole: use a file for long lists.",
                    "表单超过 2 MB 或未完整送达：较长的列表请使用文件。",
                )
                .to_owned();
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            layout::refused(&visitor, None, &Refused { status, code: "form_too_large".to_owned(), message })
        })?;
        Ok(Self(form_urlencoded::parse(&body).into_owned().collect()))
    }
}
