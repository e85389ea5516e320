//! The control API, asked within the process as this visitor.

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tower::ServiceExt;

use crate::guard::Origin;

/// What of a visitor's request tells the API who asks, and from where.
const PASSED_ON: [HeaderName; 4] =
    [header::COOKIE, header::ORIGIN, header::HOST, HeaderName::from_static("x-forwarded-host")];
const ALSO_PASSED_ON: [&str; 2] = ["sec-fetch-site", "x-by-itself"];

#[derive(Clone)]
pub(super) struct Api {
    router: Router,
    headers: HeaderMap,
    origin: Option<Origin>,
}

/// An answer that is no success.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refused {
    /// In the shape of errors; of providers' some have no code, or a number for one, or no message, or are nothing but
    /// a sentence.
    pub(super) fn said(status: StatusCode, error: &Value) -> Option<Self> {
        if matches!(error, Value::Null | Value::Bool(false)) {
            return None;
        }
        let message = error["message"].as_str().or(error.as_str());
        let message = message.map_or_else(|| beginning(&error.to_string()), str::to_owned);
        let code = error["code"].as_str().unwrap_or_default().to_owned();
        Some(Self { status, code, message })
    }

    /// In whatever shape it came: a provider's answer is passed on by the playground.
    fn of_body(status: StatusCode, body: &[u8]) -> Self {
        let value: Option<Value> = serde_json::from_slice(body).ok();
        let said = value.and_then(|value| Self::said(status, &value["error"]));
        let told = || {
            let text = String::from_utf8_lossy(body);
            let message = format!("{status}: {}", beginning(text.trim()));
            (!text.trim().is_empty()).then(|| Self { status, code: "refused".to_owned(), message })
        };
        said.or_else(told).unwrap_or_else(|| Self::unreadable(status))
    }

    fn unreadable(status: StatusCode) -> Self {
        let message = "The control API gave an answer that this page cannot read.".to_owned();
        Self { status, code: "unreadable".to_owned(), message }
    }
}

impl Api {
    pub(super) fn of(router: &Router, parts: &Parts) -> Self {
        let mut headers = HeaderMap::new();
        for name in PASSED_ON.into_iter().chain(ALSO_PASSED_ON.map(HeaderName::from_static)) {
            for value in parts.headers.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        Self { router: router.clone(), headers, origin: parts.extensions.get().copied() }
    }

    /// What goes with every change from now on.
    pub(super) fn repeat(&mut self, csrf: &str) {
        if let Ok(value) = HeaderValue::from_str(csrf) {
            self.headers.insert("x-csrf-token", value);
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refused> {
        self.read(self.raw(Method::GET, path, Body::empty()).await?).await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Refused> {
        let body = serde_json::to_vec(body).map_err(|_| Refused::unreadable(StatusCode::BAD_REQUEST))?;
        self.read(self.raw(method, path, Body::from(body)).await?).await
    }

    /// A list of keys in one of the forms that an import takes.
    pub(super) async fn import<T: DeserializeOwned>(&self, path: &str, list: String) -> Result<T, Refused> {
        self.read(self.raw(Method::POST, path, Body::from(list)).await?).await
    }

    /// The answer as it comes, if it is a success.
    pub(super) async fn raw(&self, method: Method, path: &str, body: Body) -> Result<Response, Refused> {
        let mut request = Request::builder().method(method).uri(path).body(body).map_err(|_| Refused {
            status: StatusCode::BAD_REQUEST,
            code: "invalid_query".to_owned(),
            message: "The address of this page cannot be read.".to_owned(),
        })?;
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Alone: the others belong to the router that the page was found by.
        if let Some(origin) = self.origin {
            request.extensions_mut().insert(origin);
        }
        let Ok(answer) = self.router.clone().oneshot(request).await;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = collected(answer).await.ok_or_else(|| Refused::unreadable(status))?;
        Err(Refused::of_body(status, &body))
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T, Refused> {
        let status = answer.status();
        let body = collected(answer).await.ok_or_else(|| Refused::unreadable(status))?;
        serde_json::from_slice(&body).map_err(|error| {
            tracing::error!("a page cannot read what the control API says: {error}");
            Refused::unreadable(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

/// Enough to see what it is.
fn beginning(text: &str) -> String {
    const LETTERS: usize = 300;
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

async fn collected(answer: Response) -> Option<Bytes> {
    Some(answer.into_body().collect().await.ok()?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_whatever_shape_it_came() {
        let long = format!("<h1>{}</h1>", "x".repeat(1000));
        for (body, code, message) in [
            (r#"{"error":{"code":"x","message":"no key is left"}}"#, "x", "no key is left"),
            (r#"{"error":"nothing but a sentence"}"#, "", "nothing but a sentence"),
            (r#"{"error":{"type":"overloaded_error"}}"#, "", r#"{"type":"overloaded_error"}"#),
            (r#"{"detail":"Not Found"}"#, "refused", r#"503 Service Unavailable: {"detail":"Not Found"}"#),
            (r#"["nothing"]"#, "refused", r#"503 Service Unavailable: ["nothing"]"#),
            (&*long, "refused", &*format!("503 Service Unavailable: <h1>{}…", "x".repeat(296))),
            ("", "unreadable", "The control API gave an answer that this page cannot read."),
        ] {
            let refused = Refused::of_body(StatusCode::SERVICE_UNAVAILABLE, body.as_bytes());
            assert_eq!((&*refused.code, &*refused.message), (code, message), "{body}");
        }
    }
}
