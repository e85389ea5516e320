//! Styles, modules and the icon: part of the program, each under a name that changes with it.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::kept::{accepts_packed, packed};

struct Asset {
    name: &'static str,
    kind: &'static str,
    plain: Bytes,
    packed: Option<Bytes>,
    /// Where pages find it.
    path: String,
}

macro_rules! assets {
    ($($name:literal: $kind:literal),* $(,)?) => {
        [$(Asset::new($name, $kind, include_str!(concat!("assets/", $name)))),*]
    };
}

static ASSETS: LazyLock<[Asset; 5]> = LazyLock::new(|| {
    assets![
        "style.css": "text/css; charset=utf-8",
        "base.js": "text/javascript; charset=utf-8",
        "import.js": "text/javascript; charset=utf-8",
        "playground.js": "text/javascript; charset=utf-8",
        "icon.svg": "image/svg+xml",
    ]
});

/// As modules name the one that every page has.
const BASE: &str = "./base.js";

fn versioned(name: &str, text: &[u8]) -> String {
    let mut path = format!("/assets/{name}?v=");
    for byte in &Sha256::digest(text)[..6] {
        // Writing into a text cannot fail.
        let _infallible = write!(path, "{byte:02x}");
    }
    path
}

impl Asset {
    fn new(name: &'static str, kind: &'static str, text: &'static str) -> Self {
        // Under its full address: under another one it would be a second module, and an old one in caches.
        let plain = if text.contains(BASE) {
            Bytes::from(text.replace(BASE, &versioned("base.js", include_bytes!("assets/base.js"))))
        } else {
            Bytes::from_static(text.as_bytes())
        };
        let path = versioned(name, &plain);
        Self { name, kind, packed: packed(&plain), plain, path }
    }
}

/// The address of an asset, for pages to name.
pub(super) fn path(name: &str) -> &'static str {
    ASSETS.iter().find(|asset| asset.name == name).map_or("", |asset| &asset.path)
}

pub(super) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let packed = asset.packed.as_ref().filter(|_| accepts_packed(&headers));
    let body = packed.cloned().unwrap_or_else(|| asset.plain.clone());
    let mut response = body.into_response();
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    set.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if packed.is_some() {
        set.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
