//! The configuration in force, and calls to try things out.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::model::TokenId;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The file that was read, if there was one.
    pub file: Option<String>,
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Dotted, like `server.listen`.
    pub name: String,
    /// Of a secret only that it is set.
    pub value: String,
    /// Where the value comes from: a file and line, a variable, a flag, or the default.
    pub source: String,
    /// Another value is in force until the next start.
    #[serde(default)]
    pub at_next_start: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Templates {
    pub templates: Vec<Template>,
}

/// A prompt to begin with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    pub id: String,
    pub label: String,
    pub description: String,
    pub system_prompt: String,
    pub user_message: String,
    pub temperature: f32,
}

/// A conversation of one question, made with one of the tokens there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    #[schema(value_type = String, format = "uuid")]
    pub token: TokenId,
    pub model: String,
    pub message: String,
    #[serde(default)]
    pub system: Option<String>,
    #[serde(default)]
    pub temperature: Option<f32>,
    #[serde(default)]
    pub stream: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TrialModelsQuery {
    /// The default provider when absent.
    #[serde(default)]
    pub provider: Option<String>,
    /// The id of a token.
    #[param(value_type = String)]
    pub token: TokenId,
}
