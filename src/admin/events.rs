//! What was abnormal, who is kept out for it, and letting them in again.

use std::net::IpAddr;

use axum::{
    Json as Answer,
    extract::{Path, State as Extract},
};
use futures_util::future::BoxFuture;
use tracing::info;
use uuid::Uuid;

use super::{Shared, blocking, error::ApiError, extract::Query, listing::Cut, view};
use crate::{
    guard::Sentence,
    model::{Event, Timestamp, TokenId, budget::Step, error_body::shorten},
    monitor::{EventType, Subject},
    store::Error,
};

/// Undoes what the monitor has decided.
pub trait Watching: Send + Sync {
    /// Lets a subject in again, for as long as it would have been kept out; false where it is not.
    fn lift(&self, subject: Subject) -> BoxFuture<'_, Result<bool, Error>>;
}

/// Lists security events, the latest first.
#[utoipa::path(get, path = "/admin/events", tag = "security", params(view::EventsQuery),
    responses((status = 200, body = view::EventPage), (status = 400, body = view::ErrorBody)))]
pub(super) async fn list(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::EventsQuery>,
) -> Result<Answer<view::EventPage>, ApiError> {
    let cut = Cut::of(query.page, query.page_size)?;
    let refuse =
        |param, why: &str| Err(ApiError::bad_request(view::Code::InvalidQuery, why.to_owned()).param(param));
    let types: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).chain([Step::KIND]).collect();
    if let Some(kind) = query.kind.as_deref().filter(|kind| !types.contains(kind)) {
        let why = format!("\"{}\" is no type of event: there are {}.", shorten(kind), types.join(", "));
        return refuse("type", &why);
    }
    if query.severity.is_some_and(|severity| !(1..=5).contains(&severity)) {
        return refuse("severity", "Severities are from 1 to 5.");
    }
    let (from, to) = (query.from.unwrap_or(Timestamp(i64::MIN)), query.to.unwrap_or(Timestamp::MAX));
    if from > to {
        return refuse("from", "\"from\" is after \"to\".");
    }
    let found = state.store.events().await.map_err(|error| ApiError::store(&error))?;
    blocking(move || {
        let skip = (cut.page - 1).saturating_mul(cut.page_size);
        let wanted = |event: &Event| is_wanted(event, &query);
        let (total, events) = found.list((from, to), wanted, skip, cut.page_size)?;
        let events = events.into_iter().map(view::Event::from).collect();
        let pages = total.div_ceil(cut.page_size);
        Ok(view::EventPage { page: cut.page, page_size: cut.page_size, total, pages, events })
    })
    .await?
    .map(Answer)
    .map_err(|error: Error| ApiError::store(&error))
}

fn is_wanted(event: &Event, query: &view::EventsQuery) -> bool {
    let named = query.subject.as_deref().map(|text| text.trim().to_lowercase());
    query.severity.is_none_or(|least| event.severity >= least)
        && query.kind.as_deref().is_none_or(|kind| *event.kind == *kind)
        && named.is_none_or(|text| is_about(event, &text))
}

/// By the beginning of an id, or by what the details call it: of an address, the network that it is in.
fn is_about(event: &Event, text: &str) -> bool {
    let ids = [event.user.map(|id| id.to_string()), event.key.map(|id| id.to_string())];
    let called = event.details.get("subject").and_then(|value| value.as_str()).unwrap_or_default();
    let bare = called.split_once(' ').map_or(called, |(_, id)| id);
    // "user:…", as verdicts name them.
    let text = text.split_once(':').filter(|(kind, _)| KINDS.contains(kind)).map_or(text, |(_, rest)| rest);
    let network = text.parse::<IpAddr>().ok().map(|address| Subject::at(address).to_string());
    if let Some(network) = network {
        return called == network;
    }
    ids.into_iter().flatten().any(|id| id.starts_with(text))
        || called.starts_with(text)
        || !bare.is_empty() && (bare.starts_with(text) || text.starts_with(bare))
}

/// Lists whom the monitor keeps out or slows down; those first for whom it lasts longest.
#[utoipa::path(get, path = "/admin/verdicts", tag = "security",
    responses((status = 200, body = view::Verdicts)))]
pub(super) async fn verdicts(Extract(state): Extract<Shared>) -> Answer<view::Verdicts> {
    let sentences = state.watch.verdicts.list(state.clock.now());
    Answer(view::Verdicts {
        in_force: state.watch.is_on(),
        verdicts: sentences.iter().flat_map(shown).collect(),
    })
}

fn shown(sentence: &Sentence) -> impl Iterator<Item = view::Verdict> {
    let subject = name(sentence.subject);
    let block = sentence.block.map(|term| ("block", None, term.until));
    let throttle = sentence.throttle.map(|(factor, term)| ("throttle", Some(factor), term.until));
    [block, throttle].into_iter().flatten().map(move |(action, factor, until)| view::Verdict {
        subject: subject.clone(),
        action: action.to_owned(),
        factor,
        until,
    })
}

/// Lets somebody in again: until the verdict would have ended, the monitor decides nothing new of them.
#[utoipa::path(delete, path = "/admin/verdicts/{subject}", tag = "security",
    params(("subject" = String, Path, description = "As the list names it: user:…, token:… or address:…")),
    responses((status = 200, body = view::Lifted), (status = 400, body = view::ErrorBody),
        (status = 404, body = view::ErrorBody)))]
pub(super) async fn lift(
    Extract(state): Extract<Shared>,
    Path(text): Path<String>,
) -> Result<Answer<view::Lifted>, ApiError> {
    let subject = subject(&text).ok_or_else(|| {
        let why = "A subject is user:ID, token:ID or address:IP, as GET /admin/verdicts names it.";
        ApiError::bad_request(view::Code::InvalidSubject, why).param("subject")
    })?;
    let is_lifted = state
        .change(move |state| async move {
            state.watching.lift(subject).await.map_err(|error| ApiError::store(&error))
        })
        .await?;
    if !is_lifted {
        let why = format!("No verdict holds for \"{}\".", shorten(&text));
        return Err(ApiError::not_found(view::Code::NoVerdict, why).param("subject"));
    }
    info!(%subject, "an operator has lifted what the monitor had decided");
    Ok(Answer(view::Lifted { subject: name(subject) }))
}

const KINDS: [&str; 3] = ["user", "token", "address"];

/// In full, unlike in events: an operator has to be able to name it.
fn name(subject: Subject) -> String {
    match subject {
        Subject::User(id) => format!("user:{id}"),
        Subject::Token(id) => format!("token:{id}"),
        Subject::Address(address) => format!("address:{address}"),
        Subject::Key(_) | Subject::Everyone => subject.to_string(),
    }
}

fn subject(text: &str) -> Option<Subject> {
    let (kind, id) = text.trim().split_once(':')?;
    match kind {
        "user" => id.parse::<Uuid>().ok().map(Subject::User),
        "token" => id.parse::<TokenId>().ok().map(Subject::Token),
        "address" => id.parse::<IpAddr>().ok().map(Subject::at),
        _ => None,
    }
}
