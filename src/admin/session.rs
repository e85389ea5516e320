//! Sessions: who has shown the admin token goes on with a cookie, as browsers do.
//!
//! Only the digest of a session's id is kept, so a look into the memory opens nothing. Sessions end with the process,
//! with the token that began them, after twelve hours without use, and after a week in any case. A request that
//! changes something has to repeat the session's second secret in a header, which no page of another origin can read,
//! and must not come from such a page.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json as Answer,
    extract::{Request, State as Extract},
    response::{IntoResponse, Response},
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tracing::info;

use super::{
    Shared, State, auth,
    error::ApiError,
    extract::{MAX_BODY, parse_json, read},
    view::{self, Code},
};
use crate::guard::Origin;

/// And the port, where the address has one.
const COOKIE: &str = "keytide_session";
const CSRF_HEADER: &str = "x-csrf-token";
/// On requests that a page makes by itself: they keep no session alive.
const BY_ITSELF: &str = "x-by-itself";
const IDLE: Duration = Duration::from_secs(12 * 3600);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const MOST: usize = 256;
const BYTES: usize = 32;

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Open>>);

struct Open {
    csrf: Arc<str>,
    begun: Instant,
    used: Instant,
}

impl Open {
    fn ends(&self) -> Instant {
        (self.used + IDLE).min(self.begun + LONGEST)
    }
}

/// The session that a request belongs to.
#[derive(Clone, Debug)]
pub(super) struct Found {
    id: [u8; 32],
    csrf: Arc<str>,
    left: Duration,
}

impl Sessions {
    /// Returns its id too, which nobody keeps but the browser.
    fn begin(&self, now: Instant) -> Result<(String, Found), getrandom::Error> {
        let (id, csrf) = (random()?, Arc::<str>::from(random()?));
        let (digest, open) = (auth::digest(&id), Open { csrf: csrf.clone(), begun: now, used: now });
        let mut sessions = self.lock();
        sessions.retain(|_, open| open.ends() > now);
        if sessions.len() >= MOST
            && let Some(oldest) = sessions.iter().min_by_key(|(_, open)| open.used).map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(digest, open);
        Ok((id, Found { id: digest, csrf, left: IDLE }))
    }

    /// What is looked up is a digest, so the time that takes tells nothing of the id.
    fn find(&self, id: &str, is_use: bool, now: Instant) -> Option<Found> {
        let digest = auth::digest(id);
        let mut sessions = self.lock();
        let open = sessions.get_mut(&digest).filter(|open| open.ends() > now)?;
        if is_use {
            open.used = now;
        }
        Some(Found { id: digest, csrf: open.csrf.clone(), left: open.ends() - now })
    }

    fn end(&self, id: &[u8; 32]) {
        self.lock().remove(id);
    }

    pub(super) fn end_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// The session of a request that shows no token; none where it has no cookie either.
pub(super) fn of(state: &State, method: &Method, headers: &HeaderMap) -> Result<Option<Found>, ApiError> {
    let Some(id) = cookie(headers) else { return Ok(None) };
    let found =
        state.sessions.find(id, !headers.contains_key(BY_ITSELF), Instant::now()).ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                Code::SessionEnded,
                "The session has ended: sign in again.",
            )
        })?;
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(Some(found));
    }
    let repeated = headers.get(CSRF_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
    if !bool::from(repeated.ct_eq(found.csrf.as_bytes())) || is_foreign(headers) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            Code::Csrf,
            "A change that goes with a cookie has to repeat the session's \"csrf\" in the header x-csrf-token, and to \
             come from a page of keytide's own.",
        ));
    }
    Ok(Some(found))
}

/// Browsers send cookies to every port of a host, so each has a name of its own.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(port) => format!("{COOKIE}_{port}"),
        None => COOKIE.to_owned(),
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let wanted = cookie_name(headers);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value)
}

/// Whether a browser says that a page of another origin made the request. `Sec-Fetch-Site` is believed first: proxies
/// that change the host leave it alone, but browsers send it over https and to this machine only.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text("origin") else { return false };
    let origin = origin.parse::<Uri>().ok();
    let authority = origin.as_ref().and_then(Uri::authority).map(http::uri::Authority::as_str);
    let own = [text("x-forwarded-host"), text("host")];
    authority.is_none_or(|authority| !own.contains(&Some(authority)))
}

fn view_of(state: &State, found: &Found) -> view::Session {
    let expires_at = state.clock.now().saturating_add(found.left);
    view::Session { csrf: found.csrf.to_string(), expires_at }
}

fn set_cookie(name: &str, value: &str, seconds: u64, is_https: bool) -> Result<HeaderValue, ApiError> {
    let secure = if is_https { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(text).map_err(|_| ApiError::internal())
}

/// Begins a session, whose cookie opens this API as the token does.
#[utoipa::path(post, path = "/admin/session", tag = "session", security(()), request_body = view::SignIn,
    responses((status = 200, body = view::Session), (status = 400, body = view::ErrorBody),
        (status = 401, body = view::ErrorBody), (status = 429, body = view::ErrorBody)))]
pub(super) async fn begin(Extract(state): Extract<Shared>, request: Request) -> Result<Response, ApiError> {
    let origin = request.extensions().get::<Origin>().copied();
    if is_foreign(request.headers()) {
        let why = "Only a page of keytide's own begins a session.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, Code::Csrf, why));
    }
    // A browser's own word is enough here: it can only make the cookie stricter.
    let says_https =
        request.headers().get("origin").is_some_and(|value| value.as_bytes().starts_with(b"https://"));
    let is_https = says_https || origin.is_some_and(|origin| origin.is_https);
    let before = cookie(request.headers()).map(auth::digest);
    let name = cookie_name(request.headers());
    let body = read(request.into_body(), MAX_BODY).await?;
    let sign_in: view::SignIn = parse_json(&body)?;
    let shown = auth::digest(sign_in.token.trim());
    if let Err(refused) = auth::check(&state, origin, &[shown]).await {
        return Ok(refused);
    }
    let (id, found) = state.sessions.begin(Instant::now()).map_err(|error| {
        tracing::error!("a session cannot be begun: the system gives no random numbers: {error}");
        ApiError::internal()
    })?;
    // The token may have been changed in this very moment, which ends all sessions.
    if !auth::is_right(&state, &shown) {
        state.sessions.end(&found.id);
        return Ok(auth::wrong(&state, origin));
    }
    if let Some(before) = before {
        state.sessions.end(&before);
    }
    info!("somebody has signed in");
    let cookie = set_cookie(&name, &id, LONGEST.as_secs(), is_https)?;
    let headers =
        [(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Answer(view_of(&state, &found))).into_response())
}

/// The session that the cookie belongs to.
#[utoipa::path(get, path = "/admin/session", tag = "session",
    responses((status = 200, body = view::Session), (status = 404, body = view::ErrorBody)))]
pub(super) async fn show(
    Extract(state): Extract<Shared>,
    found: Option<Extension<Found>>,
) -> Result<Answer<view::Session>, ApiError> {
    let Extension(found) = found.ok_or_else(no_session)?;
    Ok(Answer(view_of(&state, &found)))
}

/// Ends the session that the cookie belongs to.
#[utoipa::path(delete, path = "/admin/session", tag = "session",
    responses((status = 204), (status = 404, body = view::ErrorBody)))]
pub(super) async fn end(
    Extract(state): Extract<Shared>,
    headers: HeaderMap,
    found: Option<Extension<Found>>,
) -> Result<Response, ApiError> {
    let Extension(found) = found.ok_or_else(no_session)?;
    state.sessions.end(&found.id);
    let gone = set_cookie(&cookie_name(&headers), "", 0, false)?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

fn no_session() -> ApiError {
    ApiError::not_found(Code::NoSession, "This request came with the admin token, and with no session.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_when_they_are_not_used_and_in_the_end_in_any_case() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let (id, _) = sessions.begin(start).unwrap();
        let at = |hours: u64| start + Duration::from_secs(hours * 3600);
        assert!(sessions.find(&id, true, at(11)).is_some());
        assert!(sessions.find(&id, false, at(22)).is_some(), "it was used at 11");
        assert!(sessions.find(&id, true, at(23)).is_none(), "a look at 22 was no use");
        let (id, _) = sessions.begin(start).unwrap();
        assert!((1..=16).all(|n| sessions.find(&id, true, at(n * 10)).is_some()));
        assert!(sessions.find(&id, true, at(167)).is_some());
        assert!(sessions.find(&id, true, at(168)).is_none(), "a week is the end");
        assert!(sessions.find("", true, start).is_none() && sessions.find("x", true, start).is_none());
    }

    #[test]
    fn there_are_only_so_many() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let ids: Vec<_> =
            (0..MOST as u64 + 1).map(|n| sessions.begin(start + Duration::from_secs(n)).unwrap().0).collect();
        let now = start + Duration::from_secs(300);
        assert!(sessions.find(&ids[0], true, now).is_none(), "the one unused for longest gave way");
        assert!(ids[1..].iter().all(|id| sessions.find(id, true, now).is_some()));
        sessions.end_all();
        assert!(sessions.find(&ids[1], true, now).is_none());
    }

    #[test]
    fn keytides_on_one_host_have_cookies_of_their_own() {
        for (host, name) in [
            ("k.example", "keytide_session"),
            ("k.example:8787", "keytide_session_8787"),
            ("[::1]:9000", "keytide_session_9000"),
            ("[::1]", "keytide_session"),
        ] {
            let headers = [(header::HOST, HeaderValue::from_static(host))].into_iter().collect();
            assert_eq!(cookie_name(&headers), name);
        }
    }

    #[test]
    fn pages_of_other_origins_are_told_apart() {
        for (lines, foreign) in [
            (&[][..], false),
            (&[("host", "k:8787"), ("origin", "http://k:8787")], false),
            (&[("host", "inner"), ("x-forwarded-host", "k.example"), ("origin", "https://k.example")], false),
            (&[("host", "k:8787"), ("origin", "http://k:8788")], true),
            (&[("host", "k:8787"), ("origin", "null")], true),
            (&[("host", "inner"), ("origin", "https://k.example"), ("sec-fetch-site", "same-origin")], false),
            (&[("host", "k"), ("origin", "http://k"), ("sec-fetch-site", "same-site")], true),
            (&[("host", "k"), ("sec-fetch-site", "cross-site")], true),
        ] {
            let headers = lines.iter().map(|(name, value)| {
                (name.parse::<http::HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
            });
            assert_eq!(is_foreign(&headers.collect()), foreign, "{lines:?}");
        }
    }
}
