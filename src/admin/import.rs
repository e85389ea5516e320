//! Many keys at once.

mod parse;

use std::collections::HashSet;

use axum::{
    Json as Answer,
    extract::{Request, State as Extract},
};
use http::{HeaderMap, StatusCode, header};
use tracing::info;

use super::{
    ProviderEntry, Providers, Shared, blocking,
    error::ApiError,
    extract::{MAX_IMPORT, Query, read},
    form, keys,
    view::{Code, ExistingLine, Flaw, Format, ImportQuery, ImportReport, InvalidLine, KeyRow},
};
use crate::{
    guard::Users,
    model::{KeyId, KeyRecord, Timestamp, UserId, secret::mask},
};
use parse::{Content, Parsed};

/// Of each kind.
const MAX_LINES: usize = 1000;

/// Adds many keys, from JSON, CSV, NDJSON or plain lines.
#[utoipa::path(post, path = "/admin/api-keys/import", tag = "keys", params(ImportQuery),
    request_body(description = "One of the formats; ?format= goes before the Content-Type. CSV columns: \
        key, username, expires_at, note, weight, owner.", content((super::view::ImportKeys = "application/json"),
        (String = "text/plain"), (String = "text/csv"), (String = "application/x-ndjson"))),
    responses((status = 200, body = ImportReport), (status = 400, body = super::view::ErrorBody),
        (status = 413, body = super::view::ErrorBody), (status = 415, body = super::view::ErrorBody)))]
pub(super) async fn import(
    Extract(state): Extract<Shared>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<Answer<ImportReport>, ApiError> {
    let format = query.format.map_or_else(|| format_of(request.headers()), Ok)?;
    // Before the upload where the query already names it.
    if let Some(name) = &query.provider {
        state.provider(Some(name))?;
    }
    let body = read(request.into_body(), MAX_IMPORT).await?;
    let columns = query.columns.clone();
    let parsed = blocking(move || parse::parse(format, &body, columns.as_deref())).await??;
    let provider = state.provider_of(query.provider.as_deref(), parsed.provider.as_deref())?;
    let imported = state.change(move |state| async move {
        let (providers, users) = (state.providers.load_full(), state.users.clone());
        if let Some(owner) = query.owner {
            super::users::known(&state, owner, "owner", "Nothing was imported")?;
        }
        let (of, now) = (provider.clone(), state.clock.now());
        let (records, mut report) =
            blocking(move || sort_out(&providers, &users, &of, parsed, (query.owner, now))).await?;
        report.dry_run = query.dry_run;
        if !query.dry_run && !records.is_empty() {
            keys::insert(&state, &provider, &records).await?;
        }
        info!(
            provider = report.provider,
            added = report.added,
            existing = report.existing,
            invalid = report.invalid,
            dry_run = report.dry_run,
            "keys imported"
        );
        Ok(report)
    });
    imported.await.map(Answer)
}

fn format_of(headers: &HeaderMap) -> Result<Format, ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(Format::Json),
        "text/plain" => Ok(Format::Text),
        "text/csv" => Ok(Format::Csv),
        "application/x-ndjson" | "application/jsonl" | "application/ndjson" => Ok(Format::Ndjson),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::UnknownFormat,
            "Say what the body is: add ?format=json, text, csv or ndjson, or a Content-Type of \
             application/json, text/plain, text/csv or application/x-ndjson.",
        )
        .param("format")),
    }
}

/// What is new, and what is to be said of the rest.
fn sort_out(
    providers: &Providers,
    users: &Users,
    provider: &ProviderEntry,
    parsed: Parsed,
    (owner, now): (Option<UserId>, Timestamp),
) -> (Vec<KeyRecord>, ImportReport) {
    let columns = parsed.columns.map(|names| names.into_iter().map(str::to_owned).collect());
    let mut report = ImportReport { provider: provider.name.to_string(), columns, ..ImportReport::default() };
    let mut records = Vec::new();
    let mut seen: HashSet<KeyId> = HashSet::new();
    for row in parsed.rows {
        report.total += 1;
        let key = match row.content {
            Content::Key(key) => key,
            Content::Blank => {
                report.blank += 1;
                continue;
            }
            Content::Header => {
                report.total -= 1;
                continue;
            }
            Content::Invalid { flaw, reason, key } => {
                refuse(&mut report, row.line, (flaw, reason), &key);
                continue;
            }
        };
        let text = key.key.clone();
        let key = KeyRow { owner: key.owner.or(owner), ..key };
        let checked = form::record(key, now)
            .map_err(|(flaw, fault)| (flaw, fault.why))
            .and_then(|record| form::belongs(providers, provider, record.secret.expose()).map(|()| record))
            .and_then(|record| match record.owner {
                Some(owner) if users.get(owner).is_none() => {
                    Err((Flaw::UnknownOwner, format!("its owner {owner} {}", form::says(Flaw::UnknownOwner))))
                }
                _ => Ok(record),
            });
        match checked {
            Err(why) => refuse(&mut report, row.line, why, &text),
            Ok(record) => {
                let id = record.id(&provider.name);
                if seen.insert(id) && !provider.pool.contains(id) {
                    report.added += 1;
                    records.push(record);
                } else {
                    report.existing += 1;
                    if report.existing_lines.len() < MAX_LINES {
                        report.existing_lines.push(ExistingLine { line: row.line, key: mask(&text) });
                    } else {
                        report.truncated = true;
                    }
                }
            }
        }
    }
    (records, report)
}

fn refuse(report: &mut ImportReport, line: usize, (code, reason): (Flaw, String), key: &str) {
    report.invalid += 1;
    if report.invalid_lines.len() < MAX_LINES {
        report.invalid_lines.push(InvalidLine { line, code, reason, key: mask(key) });
    } else {
        report.truncated = true;
    }
}
