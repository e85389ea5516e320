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
use crate::model::Timestamp;

/// A page of a thousand ids, or a paste of some thousand keys; larger lists come as files, in pieces.
const MOST: usize = 2 << 20;

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
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
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
            let field = name.replace('_', " ");
            let message = match visitor.lang {
                Lang::En => format!("What stands in the field \"{field}\" cannot be read."),
                Lang::Zh => format!("字段「{field}」的内容无法识别。"),
            };
            Refused { status: StatusCode::BAD_REQUEST, code: "invalid_field".to_owned(), message }
        })
    }

    /// A day, if another one than before: a time within the day is not lost by saving something else.
    ///
    /// # Errors
    /// As those of [`Form::parsed`].
    pub(super) fn new_day(
        &self,
        visitor: &Visitor,
        name: &str,
    ) -> Result<Option<Option<Timestamp>>, Refused> {
        let day = self.parsed(visitor, name)?;
        Ok((self.get(name) != self.get(&format!("{name}_was"))).then_some(day))
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
