//! Styles, modules and the icon: part of the program, each under a name that changes with it.

use std::{fmt::Write, io::Write as _, sync::LazyLock};

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    kind: &'static str,
    plain: &'static [u8],
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

impl Asset {
    fn new(name: &'static str, kind: &'static str, text: &'static str) -> Self {
        let plain = text.as_bytes();
        let mut path = format!("/assets/{name}?v=");
        for byte in &Sha256::digest(plain)[..6] {
            // Writing into a text cannot fail.
            let _infallible = write!(path, "{byte:02x}");
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let packed = encoder.write_all(plain).and_then(|()| encoder.finish()).ok().map(Bytes::from);
        Self { name, kind, plain, packed, path }
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
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let packed = asset.packed.as_ref().filter(|_| accepted.is_some_and(|text| text.contains("gzip")));
    let body = packed.cloned().unwrap_or(Bytes::from_static(asset.plain));
    let mut response = body.into_response();
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    set.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    set.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if packed.is_some() {
        set.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
