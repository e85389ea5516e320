//! From a path to what is asked for.

use http::Method;

/// First segments that no provider may be named after.
pub const RESERVED: [&str; 13] = [
    "v1",
    "api",
    "admin",
    "health",
    "ready",
    "metrics",
    "stats",
    "openapi.json",
    "api-docs",
    "console",
    "assets",
    "login",
    "logout",
];

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// A provider's API: the default provider's where no name is given.
    Client { provider: Option<&'a str>, endpoint: Endpoint<'a> },
    /// Looks like a provider's API, and is nothing that is served.
    UnknownClientPath { provider: Option<&'a str> },
    /// Everything else.
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    Forward(Api),
    Models,
    /// Still percent-encoded.
    Model(&'a str),
    Tags,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Messages,
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaShow,
}

impl Api {
    pub const ALL: [Self; 10] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
        Self::OllamaShow,
    ];

    /// Behind the provider's base URL, as it is behind ours.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
            Self::OllamaShow => "/api/show",
        }
    }

    pub const fn is_native(self) -> bool {
        matches!(
            self,
            Self::OllamaChat
                | Self::OllamaGenerate
                | Self::OllamaEmbed
                | Self::OllamaEmbeddings
                | Self::OllamaShow
        )
    }

    /// Whether an answer streams when the request does not say.
    pub const fn streams_by_default(self) -> bool {
        matches!(self, Self::OllamaChat | Self::OllamaGenerate)
    }

    /// Whether something is to be generated.
    pub const fn converses(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Responses
                | Self::Messages
                | Self::OllamaChat
                | Self::OllamaGenerate
        )
    }

    fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.path() == path)
    }
}

impl Endpoint<'_> {
    pub fn is_native(self) -> bool {
        match self {
            Self::Forward(api) => api.is_native(),
            Self::Tags => true,
            Self::Models | Self::Model(_) => false,
        }
    }

    /// The methods to name in a 405, when `method` is not one of them.
    pub fn refuses(self, method: &Method) -> Option<&'static str> {
        let allowed: &[Method] = match self {
            Self::Forward(_) => &[Method::POST],
            Self::Models | Self::Model(_) | Self::Tags => &[Method::GET, Method::HEAD],
        };
        if allowed.contains(method) {
            return None;
        }
        Some(if allowed.len() == 1 { "POST" } else { "GET, HEAD" })
    }
}

impl<'a> Route<'a> {
    pub fn of(path: &'a str) -> Self {
        // Nearly all there is to serve.
        if let Some(api) = Api::of(path) {
            return Self::Client { provider: None, endpoint: Endpoint::Forward(api) };
        }
        let rest = path.strip_prefix('/').unwrap_or(path);
        let (first, behind) = rest.split_once('/').unwrap_or((rest, ""));
        if matches!(first, "v1" | "api") {
            return Self::client(None, path);
        }
        let second = behind.split('/').next().unwrap_or("");
        if !RESERVED.contains(&first) && !first.is_empty() && matches!(second, "v1" | "api") {
            return Self::client(Some(first), &path[1 + first.len()..]);
        }
        Self::Operator
    }

    /// `path` begins with `/v1` or `/api`.
    fn client(provider: Option<&'a str>, path: &'a str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let endpoint = match path {
            "/v1/models" => Endpoint::Models,
            "/api/tags" => Endpoint::Tags,
            _ => match path.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => Endpoint::Model(id),
                _ => match Api::of(path) {
                    Some(api) => Endpoint::Forward(api),
                    // Ours, though it stands below /api.
                    None if provider.is_none() && path == "/api/test-templates" => return Self::Operator,
                    None => return Self::UnknownClientPath { provider },
                },
            },
        };
        Self::Client { provider, endpoint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_path_for_every_provider() {
        for api in Api::ALL {
            let endpoint = Endpoint::Forward(api);
            assert_eq!(Route::of(api.path()), Route::Client { provider: None, endpoint });
            let named = format!("/openrouter{}", api.path());
            assert_eq!(Route::of(&named), Route::Client { provider: Some("openrouter"), endpoint });
            let slash = format!("{}/", api.path());
            assert_eq!(Route::of(&slash), Route::Client { provider: None, endpoint });
        }
        assert_eq!(
            Route::of("/x/v1/models/meta%2Fllama/70b"),
            Route::Client { provider: Some("x"), endpoint: Endpoint::Model("meta%2Fllama/70b") }
        );
    }

    #[test]
    fn the_rest_is_the_operator_s_or_nobody_s() {
        for path in
            ["/", "/admin/stats", "/health", "/metrics", "/openapi.json", "/x", "/x/y", "*", "", "//v1"]
        {
            assert_eq!(Route::of(path), Route::Operator, "{path}");
        }
        for path in ["/v1", "/v1/", "/v1/nothing", "/api/pull", "/v1/models/"] {
            let seen = Route::of(path);
            assert!(
                matches!(seen, Route::UnknownClientPath { provider: None })
                    || seen == Route::Client { provider: None, endpoint: Endpoint::Models },
                "{path}: {seen:?}"
            );
        }
        assert_eq!(Route::of("/admin/v1/x"), Route::Operator);
    }

    #[test]
    fn methods() {
        assert_eq!(Endpoint::Models.refuses(&Method::GET), None);
        assert_eq!(Endpoint::Models.refuses(&Method::POST), Some("GET, HEAD"));
        assert_eq!(Endpoint::Forward(Api::Messages).refuses(&Method::GET), Some("POST"));
    }
}
