//! The one table from what went wrong to what the operator reads, in the shape of all of keytide's errors.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::view::Code;
use crate::{
    model::error_body::{ErrorBody, shorten},
    store,
};

/// An answer that says what is wrong and what to do. It never carries a key, a token or a piece of a body.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: Code,
    pub message: Cow<'static, str>,
    pub param: Option<Cow<'static, str>>,
    /// Whole seconds for `Retry-After`.
    pub retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after: None }
    }

    pub fn bad_request(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn not_found(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn conflict(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::InternalError,
            "This request could not be answered: the log says why.",
        )
    }

    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::StoreUnavailable, message);
        Self { retry_after: Some(5), ..error }
    }

    /// A change that was not made. The store's sentences are written for operators.
    pub fn store(error: &store::Error) -> Self {
        Self::unavailable(format!("Nothing was changed: {error}."))
    }

    pub fn param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    pub fn unknown_provider(name: &str) -> Self {
        Self::not_found(
            Code::UnknownProvider,
            format!(
                "There is no provider \"{}\": GET /admin/providers lists those there are.",
                shorten(name)
            ),
        )
        .param("provider")
    }

    pub fn unknown_path() -> Self {
        Self::not_found(
            Code::UnknownPath,
            "There is nothing at this path: GET /openapi.json lists the paths there are.",
        )
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::MethodNotAllowed,
            "This path does not take this method: the header Allow names those it takes.",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body =
            ErrorBody::new(self.status.as_u16(), self.code.as_str(), &self.message, self.param.as_deref());
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
