//! The web pages: what the control API says and does, for people.
//!
//! - `visitor` is who looks: language, theme, time zone; `signed` is one who may; `sign_in` makes one of the other;
//! - `api` asks the control API within the process, with the visitor's own cookie: a page can show and do nothing that
//!   the API would not;
//! - `kept` holds pages that are the same for many;
//! - `search` leads from what is looked for to where it is;
//! - `layout` is what all pages have in common, `chart` draws, `words` says what went wrong;
//! - every page has a file of its own, and `assets` holds what they load.
//!
//! Invariants: everything that matters works by links and forms alone, the modules only make it livelier; every text
//! that came from elsewhere is escaped by its type; nothing is loaded from another origin, and no script or style
//! stands in a page (`guarded`). Every sentence stands where it is said, in both languages side by side, so that
//! neither can be missing, and none is left over.

mod api;
mod assets;
mod chart;
mod events;
mod form;
mod kept;
mod keys;
mod layout;
mod limits;
mod models;
mod open;
mod overview;
mod playground;
mod search;
mod settings;
mod sign_in;
mod signed;
mod storage;
mod tokens;
mod users;
mod visitor;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tower::ServiceExt;

use self::{api::Refused, visitor::Visitor};
use crate::model::Clock;

/// What the pages go by.
#[derive(Clone)]
struct Console {
    /// The control API.
    api: Router,
    clock: Clock,
    kept: Arc<kept::Kept>,
}

/// The pages over that control API, which also answers where no page is asked for, or there is none.
pub fn router(api: Router, clock: Clock) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/login", get(sign_in::page).post(sign_in::begin))
        .route("/logout", post(sign_in::end))
        .route("/preferences", post(sign_in::prefer))
        .merge(keys::routes())
        .merge(tokens::routes())
        .merge(users::routes())
        .merge(events::routes())
        .merge(storage::routes())
        .merge(playground::routes())
        .merge(search::routes())
        .merge(settings::routes())
        .merge(open::routes())
        .fallback(elsewhere)
        .layer(middleware::map_response(guarded))
        .route("/assets/{name}", get(assets::serve))
        .with_state(Console { api, clock, kept: Arc::default() })
}

/// The overview for browsers, what is here for programs.
async fn index(State(console): State<Console>, request: Request) -> Response {
    if wants_page(request.headers()) {
        let (mut parts, _) = request.into_parts();
        return match signed::Signed::of(&mut parts, &console).await {
            Ok(signed) => overview::show(signed, visitor::Params::of(&parts.uri)).await.into_response(),
            Err(refused) => refused.into_response(),
        };
    }
    let Ok(answer) = console.api.oneshot(request).await;
    answer
}

/// A page that says that there is none, for browsers; what the control API says of it, for programs.
async fn elsewhere(State(console): State<Console>, visitor: Visitor, request: Request) -> Response {
    if !wants_page(request.headers()) {
        let Ok(answer) = console.api.oneshot(request).await;
        return answer;
    }
    let refused = Refused {
        status: StatusCode::NOT_FOUND,
        code: "unknown_page".to_owned(),
        message: visitor.t("There is no page at this address.", "这个地址没有页面。").to_owned(),
    };
    layout::refused(&visitor, None, &refused)
}

fn wants_page(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.any(|line| line.contains("text/html"))
}

/// `same-origin` rather than no referrer at all: with none, browsers hide the origin of a form's request too.
const GUARDS: [(header::HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
];

async fn guarded(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
