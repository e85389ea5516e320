//! Browsers ask before they call; this answers.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::body::Body;

/// Origins that pages may call from.
#[derive(Clone, Debug)]
pub struct Cors {
    any: bool,
    origins: Vec<HeaderValue>,
}

const PREFLIGHT_AGE_S: &str = "600";

impl Cors {
    pub fn new(origins: &[String]) -> Self {
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            origins: origins.iter().filter_map(|origin| origin.parse().ok()).collect(),
        }
    }

    /// The answer to a preflight; `None` for any other request.
    pub fn preflight(&self, request: &Parts) -> Option<Response<Body>> {
        let headers = &request.headers;
        if request.method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        self.allow(headers.get(header::ORIGIN), response.headers_mut());
        let answer = response.headers_mut();
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, HEAD, POST, OPTIONS"),
        );
        // Client libraries send headers of their own, and tokens come in headers: all of them may pass.
        if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE_S));
        Some(response)
    }

    /// Lets the page that asked read the answer.
    pub fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let Some(origin) = origin else { return };
        if self.any {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if self.origins.contains(origin) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.append(header::VARY, HeaderValue::from_static("origin"));
        } else {
            return;
        }
        answer.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "x-request-id, retry-after, x-keytide-cache, x-ratelimit-limit-requests, \
                 x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
                 x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_origins_may_read() {
        let cors = Cors::new(&["https://a.example".to_owned()]);
        let ask = |origin: &'static str| {
            http::Request::builder()
                .method("OPTIONS")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization, x-stainless-os")
                .body(())
                .unwrap()
                .into_parts()
                .0
        };
        let answer = cors.preflight(&ask("https://a.example")).unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://a.example");
        assert_eq!(answer.headers()["access-control-allow-headers"], "authorization, x-stainless-os");
        let answer = cors.preflight(&ask("https://b.example")).unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        let mut headers = HeaderMap::new();
        Cors::new(&["*".to_owned()])
            .allow(Some(&HeaderValue::from_static("https://b.example")), &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "*");
    }
}
