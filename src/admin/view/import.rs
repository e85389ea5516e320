//! Keys as files carry them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::Flaw;
use crate::model::{Status, Timestamp, UserId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Text,
    Csv,
    Ndjson,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
    /// Says what would happen and changes nothing.
    pub dry_run: bool,
    /// Instead of the Content-Type.
    #[param(inline)]
    pub format: Option<Format>,
    /// Of CSV without a header of its own, as the later pieces of a file: the names of its columns, as the report on
    /// the first piece tells them.
    pub columns: Option<String>,
    /// The id of the user who shares the keys that name nobody.
    #[param(value_type = Option<String>)]
    pub owner: Option<UserId>,
}

/// The JSON form of an import; the fields beside `keys` hold for keys that do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportKeys {
    pub keys: Vec<ImportKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ImportKey {
    Key(String),
    Record(KeyRow),
}

/// A key as files carry it: what an export writes and an import reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a key, or an object with \"key\"")]
pub struct KeyRow {
    pub key: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    pub weight: Option<u16>,
    /// The id of the user who shares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub owner: Option<UserId>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    pub provider: String,
    pub added: usize,
    pub existing: usize,
    pub invalid: usize,
    /// Empty lines and comments.
    pub blank: usize,
    pub total: usize,
    pub dry_run: bool,
    /// Of CSV: how its columns were read.
    pub columns: Option<Vec<String>>,
    /// The first 1000.
    pub existing_lines: Vec<ExistingLine>,
    /// The first 1000.
    pub invalid_lines: Vec<InvalidLine>,
    /// Whether one of the two lists leaves something out.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExistingLine {
    /// From 1; in JSON the place in `keys`.
    pub line: usize,
    /// Masked.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InvalidLine {
    /// From 1; in JSON the place in `keys`.
    pub line: usize,
    pub code: Flaw,
    pub reason: String,
    /// Masked.
    pub key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
    /// csv (when absent), ndjson or text.
    #[param(inline)]
    pub format: Option<Format>,
    /// Only keys of this status.
    pub status: Option<Status>,
    /// Only what the list of keys finds by it.
    pub search: Option<String>,
}
