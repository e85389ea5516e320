//! Forms as browsers send them.

use axum::{
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::StatusCode;

/// A page of a thousand ids, or a paste of some thousand keys; larger lists come as files, in pieces.
const MOST: usize = 2 << 20;

/// Names and values in the order in which they stand in the form.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Trimmed; empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
    }

    /// Nothing where it was left empty.
    pub(super) fn given(&self, name: &str) -> Option<String> {
        Some(self.get(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let body = axum::body::to_bytes(request.into_body(), MOST).await.map_err(|_| {
            let text = "The form is larger than 2 MB, or did not arrive whole: use a file for long lists.";
            (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
        })?;
        Ok(Self(form_urlencoded::parse(&body).into_owned().collect()))
    }
}
