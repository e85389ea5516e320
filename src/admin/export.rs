//! Keys of a provider, spelled out: the one answer besides a new token that shows secrets.

use std::{convert::Infallible, fmt::Write, sync::Arc};

use axum::{
    body::Body,
    extract::State as Extract,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::header;
use tracing::warn;

use super::{
    ProviderEntry, Shared, State,
    error::ApiError,
    extract::Query,
    listing::Wanted,
    switch::{NDJSON, line},
    view::{Code, ExportQuery, Format, KeyRow},
};
use crate::model::KeyRecord;

/// Keys in one piece of the answer.
const PART: usize = 256;

/// Writes out all keys, or those of a list, in a form that an import reads.
#[utoipa::path(post, path = "/admin/api-keys/export", tag = "keys", params(ExportQuery),
    responses((status = 200, description = "Whole keys", content((String = "text/csv"),
        (KeyRow = "application/x-ndjson"), (String = "text/plain"))),
        (status = 400, body = super::view::ErrorBody)))]
pub(super) async fn export(
    Extract(state): Extract<Shared>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let format = query.format.unwrap_or(Format::Csv);
    let kind = match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Ndjson => NDJSON,
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => {
            let why = "An export is csv, ndjson or text.";
            return Err(ApiError::bad_request(Code::UnknownFormat, why).param("format"));
        }
    };
    let is_all =
        query.status.is_none() && query.search.as_deref().is_none_or(|search| search.trim().is_empty());
    warn!(audit = true, provider = &*provider.name, format = ?format, is_all, "keys are being exported");
    let wanted = Wanted::new(query.status, query.search.as_deref(), &provider);
    let body = Body::from_stream(pieces(state, provider, wanted, format));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

fn pieces(
    state: Shared,
    provider: ProviderEntry,
    wanted: Wanted,
    format: Format,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let of = Arc::new((state, provider, wanted));
    stream::unfold(Some(0), move |from| {
        let of = of.clone();
        async move {
            let (state, provider, wanted) = &*of;
            let mut from = from?;
            loop {
                let (text, next) = piece(state, provider, wanted, (format, from));
                match next {
                    // Nothing of that is wanted: others get their turn before more is looked through.
                    Some(next) if text.is_empty() => from = next,
                    next => return Some((Ok(text), next)),
                }
                tokio::task::yield_now().await;
            }
        }
    })
}

fn piece(
    state: &State,
    provider: &ProviderEntry,
    wanted: &Wanted,
    (format, from): (Format, usize),
) -> (Bytes, Option<usize>) {
    let (keys, next) = provider.pool.scan(from, PART, state.clock.now());
    let mut text = Vec::new();
    if from == 0 && format == Format::Csv {
        text.extend_from_slice(b"key,username,expires_at,note,weight,owner\n");
    }
    for record in keys.iter().filter(|key| wanted.finds(key)).filter_map(|key| provider.pool.record(key.id)) {
        match format {
            Format::Csv => text.extend_from_slice(csv_line(&record).as_bytes()),
            Format::Ndjson | Format::Json => text.extend_from_slice(&line(&row(record))),
            Format::Text => {
                text.extend_from_slice(record.secret.expose().as_bytes());
                text.push(b'\n');
            }
        }
    }
    (text.into(), next)
}

fn row(record: KeyRecord) -> KeyRow {
    KeyRow {
        key: record.secret.expose().to_owned(),
        username: record.username.map(Into::into),
        expires_at: record.expires_at,
        note: record.note.map(Into::into),
        weight: Some(record.weight),
        owner: record.owner,
    }
}

pub(super) fn csv_line(record: &KeyRecord) -> String {
    let expires_at = record.expires_at.map(|at| at.to_string()).unwrap_or_default();
    let mut line = String::new();
    for cell in [
        record.secret.expose(),
        record.username.as_deref().unwrap_or_default(),
        &expires_at,
        record.note.as_deref().unwrap_or_default(),
    ] {
        // The texts hold no line breaks: see `form`.
        if cell.contains([',', '"', '#']) {
            let _ = write!(line, "\"{}\",", cell.replace('"', "\"\""));
        } else {
            line.push_str(cell);
            line.push(',');
        }
    }
    let owner = record.owner.map(|owner| owner.to_string()).unwrap_or_default();
    let _ = writeln!(line, "{},{owner}", record.weight);
    line
}
