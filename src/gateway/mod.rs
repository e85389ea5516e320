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
mod door;
mod error;
mod fields;
mod forward;
mod io;
pub mod metrics;
pub mod models;
pub mod options;
mod origin;
mod patience;
mod peek;
mod provider;
mod rates;
mod redact;
mod relay;
mod request;
pub mod route;
pub mod serve;
mod timer;
mod usage;
mod usual;
mod verdict;

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use http_body::Body as HttpBody;
use tower::ServiceExt;
use tracing::error;

pub use body::{Body, RequestBody};
pub use error::{ApiError, Code};
pub use options::{CacheOptions, Options, ProviderOptions};
pub use provider::{BadBase, Lasting, Provider, Providers};

use call::counted;
use cors::Cors;
use door::Door;
use forward::Forward;
use models::List;
use patience::Patience;
use request::{Asked, check_head, discard_body, read_body, token_of};
pub use route::RESERVED;
use route::{Endpoint, Route};
use timer::Spare;

use crate::{
    guard::{Acquaintance, Caller, Origin, Take, Users},
    ledger::{CommitWatch, Refusal},
    model::{Clock, Networks, UserId},
};

/// An answer as it goes through the hands of those who made it: each would copy its 200 bytes.
type Outgoing = Box<Response<Body>>;

/// A request, likewise.
pub struct Incoming {
    pub head: Parts,
    pub body: RequestBody,
}

impl From<Request<RequestBody>> for Box<Incoming> {
    fn from(request: Request<RequestBody>) -> Self {
        let (head, body) = request.into_parts();
        Box::new(Incoming { head, body })
    }
}

/// What the data plane's cores share.
pub struct Gateway {
    live: Arc<ArcSwap<InForce>>,
    users: Arc<Users>,
    operator: axum::Router,
    control: tokio::runtime::Handle,
    strict: Option<CommitWatch>,
    clock: Clock,
}

/// Who is at the other end of a connection, and what is remembered as long as it is there.
pub struct Peer {
    pub gateway: Arc<Gateway>,
    /// Where the connection is served.
    pub core: usize,
    pub address: IpAddr,
    pub known: Acquaintance,
    /// What a request waits by.
    pub timer: Spare,
}

/// What a reload of the configuration replaces.
#[repr(align(128))]
pub struct Live {
    pub providers: Providers,
    options: Options,
    cors: Cors,
    trusted_proxies: Networks,
}

/// The same for each core. Who holds on to it is counted in its memory, and cores that count in the same place wait for
/// each other.
pub struct InForce(Box<[Arc<Live>]>);

impl Live {
    pub fn new(providers: Providers, options: Options) -> Self {
        let cors = Cors::new(&options.cors_origins);
        let proxies: Vec<Box<str>> =
            options.trusted_proxies.iter().map(|text| text.as_str().into()).collect();
        let trusted_proxies = Networks::of(&proxies);
        Self { providers, options, cors, trusted_proxies }
    }

    /// For another core.
    fn twin(&self) -> Self {
        Self {
            providers: self.providers.twins(),
            options: self.options.clone(),
            cors: self.cors.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }
}

impl InForce {
    /// `cores` includes the one that does keytide's own calls, which is the last.
    pub fn new(live: Live, cores: usize) -> Self {
        let twins = (1..cores).map(|_| live.twin()).collect::<Vec<_>>();
        Self(std::iter::once(live).chain(twins).map(Arc::new).collect())
    }

    pub fn of(&self, core: usize) -> &Arc<Live> {
        &self.0[core % self.0.len()]
    }

    /// What keytide's own calls are made by.
    pub fn own(&self) -> &Arc<Live> {
        &self.0[self.0.len() - 1]
    }
}

/// The provider and the endpoint that a path names; `None` for the default provider, and where the path is
/// nothing that is served.
type Asking<'a> = (Option<&'a str>, Option<Endpoint<'a>>);

impl Gateway {
    /// `operator` answers everything that is not a provider's API, on the runtime behind `control`. With
    /// `strict` every answer ends only after the commit that counts it.
    pub fn new(
        live: Arc<ArcSwap<InForce>>,
        users: Arc<Users>,
        operator: axum::Router,
        control: tokio::runtime::Handle,
        strict: Option<CommitWatch>,
        clock: Clock,
    ) -> Self {
        Self { live, users, operator, control, strict, clock }
    }

    /// What keytide's own calls are made by.
    pub fn live(&self) -> Arc<Live> {
        self.live.load().own().clone()
    }

    /// Puts a new configuration in force; requests under way end under the old one.
    pub fn replace(&self, live: InForce) {
        self.live.store(Arc::new(live));
    }

    /// Answers one request.
    pub async fn handle(&self, peer: &Peer, mut request: Box<Incoming>) -> Outgoing {
        let Incoming { head, body } = &mut *request;
        let is_bare_head = head.method == Method::HEAD && head.version == Version::HTTP_2;
        let mut response = match Route::of(head.uri.path()) {
            Route::Operator => Box::new(self.operate(peer.address, *request).await),
            Route::Client { provider, endpoint } => {
                self.serve_browser(peer, (provider, Some(endpoint)), head, body).await
            }
            Route::UnknownClientPath { provider } => {
                self.serve_browser(peer, (provider, None), head, body).await
            }
        };
        response.headers_mut().insert(REQUEST_ID, request_id());
        if is_bare_head {
            // hyper leaves the body out of HTTP/1 alone.
            response = Box::new(without_body(*response));
        }
        response
    }

    /// A provider's API, which pages of other origins may call.
    async fn serve_browser(
        &self,
        peer: &Peer,
        asked: Asking<'_>,
        parts: &Parts,
        body: &mut RequestBody,
    ) -> Outgoing {
        let live = self.live.load().of(peer.core).clone();
        if let Some(response) = live.cors.preflight(parts) {
            return Box::new(response);
        }
        let mut response = match self.serve_client(peer, &live, asked, parts, body).await {
            Ok(response) => response,
            Err(error) => {
                // After a 408 nothing more comes.
                if error.status != StatusCode::REQUEST_TIMEOUT {
                    discard_body(parts, body).await;
                }
                Box::new(error.response())
            }
        };
        live.cors.allow(parts.headers.get(header::ORIGIN), response.headers_mut());
        response
    }

    async fn serve_client(
        &self,
        peer: &Peer,
        live: &Live,
        (name, endpoint): Asking<'_>,
        parts: &Parts,
        body: &mut RequestBody,
    ) -> Result<Outgoing, ApiError> {
        let provider = live
            .providers
            .get(name)
            .ok_or_else(|| ApiError::unknown_provider(name.unwrap_or("(default)")))?;
        let endpoint = endpoint.ok_or_else(ApiError::unknown_path)?;
        let (core, now) = (peer.core, self.clock.now());
        let refused = |error: ApiError| {
            provider.metrics.refused(error.code.as_str());
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
        let take = match endpoint {
            Endpoint::Forward(_) => Take::Request,
            _ => Take::List,
        };
        let address = origin::address(peer.address, &parts.headers, &live.trusted_proxies);
        let door = Door { watch: &provider.watch, core, address, provider: provider.name(), now };
        door.check_address().map_err(refused)?;
        let caller = match self.caller(provider, peer, &parts.headers, &door) {
            Ok(caller) => caller,
            Err(error)
                if take == Take::List && live.options.public_models && error.code == Code::MissingToken =>
            {
                return list(provider, core, endpoint, None).await.map(Box::new);
            }
            Err(error) => return Err(refused(error)),
        };
        let user = caller.user();
        door.check(&caller).map_err(refused)?;
        if !caller.allows_address(address) {
            door.wrong_address(&caller);
            return Err(refused(ApiError::address_not_allowed(address).of(user)));
        }
        let permit = caller.admit(take, now).map_err(|exceeded| {
            door.limited(&caller);
            refused(ApiError::too_many_requests(exceeded, now).of(user))
        })?;
        let Endpoint::Forward(api) = endpoint else {
            let gauges = permit.keep();
            provider.ledger.note_listing(core, counted(&caller), now);
            let answer = list(provider, core, endpoint, Some(&caller)).await;
            let status = answer.as_ref().map_or_else(|error| error.status, Response::status);
            self.note_status(core, provider, user, status);
            let mut answer = answer?;
            rates::tell(&gauges, now, answer.headers_mut());
            return Ok(Box::new(answer));
        };
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(refused(ApiError::encoded_body()));
        }
        let body =
            read_body(body, live.options.max_body, live.options.body_timeout).await.map_err(refused)?;
        // By the name that the caller uses, alias or not.
        let mut forbidden = None;
        let asked = Asked::read(api, body, caller.counts_tokens(), |model| {
            forbidden = (!caller.allows_model(model)).then(|| ApiError::model_not_allowed(model).of(user));
            provider.resolve(model)
        })
        .map_err(refused)?;
        if let Some(error) = forbidden {
            return Err(refused(error));
        }
        // A body may have taken its time.
        if let Some(refusal) = caller.revoked() {
            return Err(refused(ApiError::refused(refusal)));
        }
        // From here on the request is in the books, however it ends.
        let gauges = permit.keep();
        let patience = Patience::new(provider.upstream.first_byte_timeout);
        let forward = Forward {
            core,
            provider,
            caller: &caller,
            address,
            api,
            query: parts.uri.query(),
            headers: &parts.headers,
            asked,
            strict: self.strict.clone(),
            patience: &patience,
            now,
        };
        let mut answer = patience.while_welcome(&caller, &peer.timer, pin!(forward.run())).await?;
        self.note_status(core, provider, user, answer.status());
        rates::tell(&gauges, now, answer.headers_mut());
        Ok(answer)
    }

    /// An answer of the server's side that is an error is noted in the log of its user's day.
    fn note_status(&self, core: usize, provider: &Provider, user: Option<UserId>, status: StatusCode) {
        if let (Some(user), true) = (user, status.is_server_error()) {
            provider.ledger.note_refusal(core, user, Refusal::Server, self.clock.now());
        }
    }

    /// Who is it?
    fn caller(
        &self,
        provider: &Provider,
        peer: &Peer,
        headers: &HeaderMap,
        door: &Door<'_>,
    ) -> Result<Caller, ApiError> {
        let text = token_of(headers).ok_or_else(ApiError::no_token)?;
        let found = peer.known.caller(&provider.tokens, &self.users, text, door.now);
        found.map_err(|refusal| {
            door.turned_away(refusal, text);
            ApiError::refused(refusal)
        })
    }

    /// On the operator's runtime, so that a long list or import never holds up a core.
    async fn operate(&self, peer: IpAddr, Incoming { head, body }: Incoming) -> Response<Body> {
        let request = Request::from_parts(head, body);
        let router = self.operator.clone();
        let origin = {
            let (live, headers) = (self.live(), request.headers());
            Origin {
                address: origin::address(peer, headers, &live.trusted_proxies),
                is_https: origin::is_https(peer, headers, &live.trusted_proxies),
            }
        };
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(origin);
        let answered = self.control.spawn(async move { router.oneshot(request).await }).await;
        match answered {
            Ok(Ok(response)) => response.map(Body::operator),
            Ok(Err(never)) => match never {},
            Err(failed) => {
                error!("the operator's side failed: {failed}");
                ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Code::InternalError,
                    "This request could not be answered: the log says why.",
                )
                .response()
            }
        }
    }
}

/// How often whoever waits for an answer, or gets one, is looked up: the answers of those who are revoked end as soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The models that a caller may use; without a caller, all.
async fn list(
    provider: &Provider,
    core: usize,
    endpoint: Endpoint<'_>,
    caller: Option<&Caller>,
) -> Result<Response<Body>, ApiError> {
    match endpoint {
        Endpoint::Models => models::answer(provider, core, List::OpenAi, caller).await,
        Endpoint::Tags => models::answer(provider, core, List::Tags, caller).await,
        Endpoint::Model(id) => models::answer_one(provider, core, id, caller).await,
        Endpoint::Forward(_) => Err(ApiError::unknown_path()),
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

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names a request in answers. Only has to be unique, so it need not be unguessable.
fn request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
