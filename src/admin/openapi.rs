//! The description of all paths, for programs: made from the code once, served as it is.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use http::header;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document, RefOr,
        content::ContentBuilder,
        path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem},
        request_body::RequestBodyBuilder,
        response::ResponseBuilder,
        schema::{ObjectBuilder, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    counted, events, export, import, keys, playground, session, stats, storage, switch, sync, tokens, trend,
    users, view,
};

#[derive(OpenApi)]
#[openapi(
    version = "3.1.0",
    info(title = "keytide", description = "Pools API keys for LLM providers behind one endpoint."),
    paths(
        keys::list, keys::ids, keys::add, keys::delete_many, keys::show, keys::edit, keys::delete_one, keys::stats,
        import::import, export::export, switch::enable, switch::disable, switch::health_check,
        tokens::list, tokens::show, tokens::add, tokens::edit, tokens::delete_many, tokens::delete_one,
        users::list, users::add, users::show, users::edit, users::delete,
        stats::stats, stats::public, trend::trend, session::begin, session::show, session::end,
        playground::templates, playground::ask, playground::models, playground::configuration, storage::storage, storage::retain, storage::backup, storage::providers,
        counted::days, counted::shared_keys, counted::hours,
        events::list, events::verdicts, events::lift,
        sync::status, sync::now, sync::adopt,
    ),
    components(schemas(view::ErrorBody, view::CheckEnd, view::ImportKey, view::KeySort, view::UserSort, view::Order)),
    security(("admin_token" = []), ("admin_token_header" = []), ("admin_session" = [])),
    modifiers(&Clients, &Complete),
    tags(
        (name = "users", description = "People, whose tokens have limits and days in common"),
        (name = "security", description = "What was not usual, and who is kept out for it"),
        (name = "client", description = "The providers' own APIs, forwarded; each also under /{provider}"),
        (name = "operator", description = "Whether keytide lives and is well"),
    ),
)]
struct Described;

/// The document, as JSON.
pub fn document() -> &'static str {
    static JSON: OnceLock<String> = OnceLock::new();
    JSON.get_or_init(|| Described::openapi().to_json().unwrap_or_default())
}

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
}

/// Adds what other rooms answer.
struct Clients;

/// Method, path, summary.
const CLIENT_PATHS: [(HttpMethod, &str, &str); 13] = [
    (HttpMethod::Post, "/v1/chat/completions", "OpenAI's chat completions, also streamed"),
    (HttpMethod::Post, "/v1/completions", "OpenAI's completions, also streamed"),
    (HttpMethod::Post, "/v1/embeddings", "OpenAI's embeddings"),
    (HttpMethod::Post, "/v1/responses", "OpenAI's responses, also streamed"),
    (HttpMethod::Post, "/v1/messages", "Anthropic's messages, also streamed"),
    (HttpMethod::Get, "/v1/models", "The models there are, in OpenAI's shape"),
    (HttpMethod::Get, "/v1/models/{model}", "One model"),
    (HttpMethod::Post, "/api/chat", "Ollama's chat, streamed unless \"stream\" is false"),
    (HttpMethod::Post, "/api/generate", "Ollama's generate, streamed unless \"stream\" is false"),
    (HttpMethod::Post, "/api/embed", "Ollama's embeddings"),
    (HttpMethod::Post, "/api/embeddings", "Ollama's older embeddings"),
    (HttpMethod::Get, "/api/tags", "The models there are, in Ollama's shape"),
    (HttpMethod::Post, "/api/show", "What Ollama knows of a model"),
];

const OPERATOR_PATHS: [(&str, &str, &str); 5] = [
    ("/", "What is here", "application/json"),
    ("/health", "Answers as long as keytide lives", "application/json"),
    ("/ready", "200 when requests can be served, else 503 with the reasons", "application/json"),
    ("/metrics", "Figures for Prometheus", "application/openmetrics-text"),
    ("/openapi.json", "This document", "application/json"),
];

impl Modify for Clients {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let bearer = |what: &str| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(what));
            SecurityScheme::Http(scheme.build())
        };
        let header = |name: &str, what: &str| {
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, what)))
        };
        components.add_security_scheme("admin_token", bearer("The admin token"));
        components.add_security_scheme("admin_token_header", header("x-admin-token", "The admin token"));
        let cookie = "Of a session that POST /admin/session has begun; what changes something repeats its \"csrf\" in \
             the header x-csrf-token. Where the address has a port, the name ends with it: keytide_session_8787";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description("keytide_session", cookie));
        components.add_security_scheme("admin_session", SecurityScheme::ApiKey(cookie));
        components.add_security_scheme("client_token", bearer("A client token of the provider"));
        components.add_security_scheme(
            "client_token_header",
            header("x-api-key", "A client token of the provider"),
        );
        for (method, path, summary) in CLIENT_PATHS {
            let mut operation = OperationBuilder::new()
                .tag("client")
                .summary(Some(summary))
                .security(SecurityRequirement::new("client_token", [""; 0]))
                .security(SecurityRequirement::new("client_token_header", [""; 0]))
                .response("200", answer("The provider's answer, as it came", "application/json"))
                .response("default", failure("An error in OpenAI's shape"));
            if method == HttpMethod::Post {
                let content = ContentBuilder::new().schema(Some(object())).build();
                let body = RequestBodyBuilder::new().content("application/json", content).build();
                operation = operation.request_body(Some(body));
            }
            if path.ends_with("{model}") {
                let text = ObjectBuilder::new().schema_type(Type::String);
                let model = ParameterBuilder::new()
                    .name("model")
                    .parameter_in(ParameterIn::Path)
                    .required(utoipa::openapi::Required::True)
                    .schema(Some(text));
                operation = operation.parameter(model);
            }
            document.paths.paths.insert(path.to_owned(), PathItem::new(method, operation));
        }
        for (path, summary, kind) in OPERATOR_PATHS {
            let mut operation = OperationBuilder::new()
                .tag("operator")
                .summary(Some(summary))
                .securities(Some([SecurityRequirement::default()]))
                .response("200", answer(summary, kind));
            if path == "/ready" {
                operation = operation.response("503", answer("What is missing", kind));
            }
            document.paths.paths.insert(path.to_owned(), PathItem::new(HttpMethod::Get, operation));
        }
    }
}

/// Adds what the format demands of every operation: a name of its own, and words for each answer.
struct Complete;

impl Modify for Complete {
    fn modify(&self, document: &mut Document) {
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                operation.operation_id = Some(operation_id(method, path));
                // What does not say otherwise is for the operator.
                if operation.security.is_none() {
                    let refused = failure(meaning("401"));
                    operation.responses.responses.insert("401".to_owned(), refused.into());
                }
                for (status, response) in &mut operation.responses.responses {
                    if let RefOr::T(response) = response
                        && response.description.is_empty()
                    {
                        meaning(status).clone_into(&mut response.description);
                    }
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("get", &mut item.get),
        ("post", &mut item.post),
        ("patch", &mut item.patch),
        ("delete", &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `GET /v1/models/{model}` is `get_v1_models_model`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "Done",
        "201" => "Made",
        "400" => "The request cannot be read, or asks for what cannot be",
        "401" => "The admin token is missing or wrong",
        "404" => "There is no such thing",
        "409" => "It is there already",
        "413" => "The body is too large",
        "415" => "It is not said what the body is",
        _ => "An error in OpenAI's shape",
    }
}

fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

fn answer(what: &str, kind: &str) -> ResponseBuilder {
    ResponseBuilder::new()
        .description(what)
        .content(kind, ContentBuilder::new().schema(Some(object())).build())
}

fn failure(what: &str) -> ResponseBuilder {
    let schema = utoipa::openapi::Ref::from_schema_name("ErrorBody");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(what).content("application/json", content)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_answers_have_words() {
        let document: Value = serde_json::from_str(document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = HashSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let at = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no name"));
                assert!(ids.insert(id.to_owned()), "{at}: {id} is another's name too");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let words = response["description"].as_str().unwrap_or_default();
                    assert!(!words.is_empty(), "{at} says nothing of {status}");
                }
                let admin = path.starts_with("/admin/") && path != "/admin/public-stats";
                assert_eq!(operation["responses"].get("401").is_some(), admin, "{at}");
            }
        }
        assert!(ids.contains("get_v1_models_model") && ids.contains("post_admin_tokens"));
    }
}
