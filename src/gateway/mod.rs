//! The data plane: callers in, answers out.
//!
//! A request is routed, its token checked, its body read and looked at; then keys are tried until one serves
//! it, and the answer is passed on as it arrives. Nothing on this path touches the disk, or the network other
//! than the provider itself. What is not a provider's API goes to the operator's router, on another runtime.

mod body;
mod cache;
mod call;
mod class;
mod cors;
mod error;
mod forward;
mod io;
pub mod metrics;
pub mod models;
pub mod options;
mod peek;
mod provider;
mod redact;
mod relay;
mod request;
pub mod route;
pub mod serve;
mod verdict;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use tower::ServiceExt;
use tracing::error;

pub use body::Body;
pub use error::ApiError;
pub use options::{CacheOptions, Options, ProviderOptions};
pub use provider::{BadBase, Lasting, Provider, Providers};

use cors::Cors;
use forward::{Forward, caller_of};
use models::List;
use request::{Asked, check_head, discard_body, read_body, token_of};
pub use route::RESERVED;
use route::{Endpoint, Route};

use crate::{
    guard::{Admission, Refusal, Token},
    ledger::{CommitWatch, Refusal as LedgerRefusal},
    model::{Clock, Timestamp, UserId},
};

/// What the data plane's cores share.
pub struct Gateway {
    live: Arc<ArcSwap<Live>>,
    operator: axum::Router,
    control: tokio::runtime::Handle,
    strict: Option<CommitWatch>,
    clock: Clock,
}

/// What a reload of the configuration replaces.
pub struct Live {
    pub providers: Providers,
    options: Options,
    cors: Cors,
}

impl Live {
    pub fn new(providers: Providers, options: Options) -> Self {
        let cors = Cors::new(&options.cors_origins);
        Self { providers, options, cors }
    }
}

/// The provider and the endpoint that a path names; `None` for the default provider, and where the path is
/// nothing that is served.
type Asking<'a> = (Option<&'a str>, Option<Endpoint<'a>>);

impl Gateway {
    /// `operator` answers everything that is not a provider's API, on the runtime behind `control`. With
    /// `strict` every answer ends only after the commit that counts it.
    pub fn new(
        live: Arc<ArcSwap<Live>>,
        operator: axum::Router,
        control: tokio::runtime::Handle,
        strict: Option<CommitWatch>,
        clock: Clock,
    ) -> Self {
        Self { live, operator, control, strict, clock }
    }

    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts a new configuration in force; requests under way end under the old one.
    pub fn replace(&self, live: Live) {
        self.live.store(Arc::new(live));
    }

    /// Answers one request that came in on `core`.
    pub async fn handle(&self, core: usize, request: Request<Incoming>) -> Response<Body> {
        let is_bare_head = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        let (parts, body) = request.into_parts();
        let mut response = match Route::of(parts.uri.path()) {
            Route::Operator => self.operate(Request::from_parts(parts, body)).await,
            Route::Client { provider, endpoint } => {
                self.serve_browser(core, (provider, Some(endpoint)), &parts, body).await
            }
            Route::UnknownClientPath { provider } => {
                self.serve_browser(core, (provider, None), &parts, body).await
            }
        };
        response.headers_mut().insert("x-request-id", request_id());
        if is_bare_head {
            // hyper leaves the body out of HTTP/1 alone.
            response = without_body(response);
        }
        response
    }

    /// A provider's API, which pages of other origins may call.
    async fn serve_browser(
        &self,
        core: usize,
        asked: Asking<'_>,
        parts: &Parts,
        mut body: Incoming,
    ) -> Response<Body> {
        let live = self.live.load_full();
        if let Some(response) = live.cors.preflight(parts) {
            return response;
        }
        let mut response = match self.serve_client(core, &live, asked, parts, &mut body).await {
            Ok(response) => response,
            Err(error) => {
                // After a 408 nothing more comes.
                if error.status != StatusCode::REQUEST_TIMEOUT {
                    discard_body(parts, &mut body).await;
                }
                error.response()
            }
        };
        live.cors.allow(parts.headers.get(header::ORIGIN), response.headers_mut());
        response
    }

    async fn serve_client(
        &self,
        core: usize,
        live: &Live,
        (name, endpoint): Asking<'_>,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Response<Body>, ApiError> {
        let provider = live
            .providers
            .get(name)
            .ok_or_else(|| ApiError::unknown_provider(name.unwrap_or("(default)")))?;
        let endpoint = endpoint.ok_or_else(ApiError::unknown_path)?;
        let now = self.clock.now();
        let refused = |error: ApiError| {
            provider.metrics.refused(error.code);
            if let (Some(user), Some(what)) = (error.user.as_deref(), error.refusal()) {
                provider.ledger.note_refusal(core, *user, what, now);
            }
            error
        };
        check_head(parts).map_err(refused)?;
        if let Some(allow) = endpoint.refuses(&parts.method) {
            return Err(refused(ApiError::method_not_allowed(allow)));
        }
        if !provider.options.enabled {
            return Err(refused(ApiError::provider_disabled(provider.name())));
        }
        if endpoint.is_native() && !provider.options.ollama_native {
            return Err(refused(ApiError::not_native(provider.name())));
        }
        let is_list = !matches!(endpoint, Endpoint::Forward(_));
        let token = match self.admit(provider, &parts.headers, now) {
            Ok(token) => Some(token),
            Err(error) if is_list && live.options.public_models && error.code == "missing_token" => None,
            Err(error) => return Err(refused(error)),
        };
        if let (true, Some(token)) = (is_list, &token) {
            provider.ledger.note_listing(core, caller_of(token), now);
        }
        let user = token.as_ref().and_then(|token| token.record.user);
        let asker = token.as_deref();
        let Endpoint::Forward(api) = endpoint else {
            let answer = match endpoint {
                Endpoint::Tags => models::answer(provider, core, List::Tags, asker).await,
                Endpoint::Model(id) => models::answer_one(provider, core, id, asker).await,
                Endpoint::Models | Endpoint::Forward(_) => {
                    models::answer(provider, core, List::OpenAi, asker).await
                }
            };
            let status = answer.as_ref().map_or_else(|error| error.status, Response::status);
            self.note_status(core, provider, user, status);
            return answer;
        };
        let token = token.ok_or_else(ApiError::no_token)?;
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(refused(ApiError::encoded_body()));
        }
        let body =
            read_body(body, live.options.max_body, live.options.body_timeout).await.map_err(refused)?;
        // By the name that the caller uses, alias or not.
        let mut forbidden = None;
        let asked = Asked::read(api, body, |model| {
            forbidden = (!token.record.limits.allows_model(model))
                .then(|| ApiError::model_not_allowed(model).of(user));
            provider.resolve(model)
        })
        .map_err(refused)?;
        if let Some(error) = forbidden {
            return Err(refused(error));
        }
        let forward = Forward {
            core,
            provider,
            token: &token,
            api,
            query: parts.uri.query(),
            headers: &parts.headers,
            asked,
            strict: self.strict.clone(),
            now,
        };
        let response = forward.run().await;
        self.note_status(core, provider, user, response.status());
        Ok(response)
    }

    /// An answer of the server's side that is an error is noted in the log of its user's day.
    fn note_status(&self, core: usize, provider: &Provider, user: Option<UserId>, status: StatusCode) {
        if let (Some(user), true) = (user, status.is_server_error()) {
            provider.ledger.note_refusal(core, user, LedgerRefusal::Server, self.clock.now());
        }
    }

    /// Who is it, and may they send one more?
    fn admit(
        &self,
        provider: &Provider,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Arc<Token>, ApiError> {
        let text = token_of(headers).ok_or_else(ApiError::no_token)?;
        let token = provider.tokens.find(text, now).map_err(|refusal| match refusal {
            Refusal::Unknown => ApiError::bad_token(),
            Refusal::Expired(user) => ApiError::expired_token().of(user),
        })?;
        match token.admit(now) {
            Admission::Granted => Ok(token),
            Admission::Exceeded { limit, reset } => {
                Err(ApiError::too_many_requests(limit, reset, now).of(token.record.user))
            }
        }
    }

    /// On the operator's runtime, so that a long list or import never holds up a core.
    async fn operate(&self, request: Request<Incoming>) -> Response<Body> {
        let router = self.operator.clone();
        let request = request.map(axum::body::Body::new);
        let answered = self.control.spawn(async move { router.oneshot(request).await }).await;
        match answered {
            Ok(Ok(response)) => response.map(Body::operator),
            Ok(Err(never)) => match never {},
            Err(failed) => {
                error!("the operator's side failed: {failed}");
                ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "This request could not be answered: the log says why.",
                )
                .response()
            }
        }
    }
}

/// An answer to HEAD: what GET would have, without its body.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

/// Names a request in answers. Only has to be unique, so it need not be unguessable.
fn request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
