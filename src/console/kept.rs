//! Pages that are the same for many, made once and packed: anybody may ask for them, as often as they like.
//!
//! Only such pages come packed. Those of a session carry a secret beside what a visitor has typed, and the length of
//! both packed together would tell of the secret.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};

use super::visitor::Visitor;
use crate::model::Timestamp;

/// Languages, themes and time zones are many; who asks for more has them made anew.
const MOST: usize = 64;

struct Page {
    until: Timestamp,
    plain: Bytes,
    /// For the first who accepts it.
    packed: OnceLock<Option<Bytes>>,
}

#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<String, Arc<Page>>>);

impl Kept {
    /// The page as this visitor sees it, if it was made a moment ago.
    pub(super) fn find(&self, visitor: &Visitor, headers: &HeaderMap) -> Option<Response> {
        let found = self.lock().get(&name(visitor)).filter(|page| page.until > visitor.now).cloned();
        found.map(|page| answer(&page, headers))
    }

    /// Keeps the page for whoever asks the same before `until`.
    pub(super) fn keep(
        &self,
        visitor: &Visitor,
        text: String,
        until: Timestamp,
        headers: &HeaderMap,
    ) -> Response {
        let page = Arc::new(Page { until, plain: text.into(), packed: OnceLock::new() });
        let mut pages = self.lock();
        pages.retain(|_, page| page.until > visitor.now);
        if pages.len() < MOST {
            pages.insert(name(visitor), page.clone());
        }
        drop(pages);
        answer(&page, headers)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Page>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(visitor: &Visitor) -> String {
    format!("{} {}", visitor.here, visitor.manner())
}

pub(super) fn packed(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).and_then(|()| encoder.finish()).ok().map(Bytes::from)
}

pub(super) fn accepts_packed(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|text| text.contains("gzip"))
}

fn answer(page: &Page, headers: &HeaderMap) -> Response {
    let packed = accepts_packed(headers).then(|| page.packed.get_or_init(|| packed(&page.plain)).clone());
    match packed.flatten() {
        None => Html(page.plain.clone()).into_response(),
        Some(packed) => {
            let gzip = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (gzip, Html(packed)).into_response()
        }
    }
}
