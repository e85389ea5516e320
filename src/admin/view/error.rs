//! What can go wrong, by name: programs go by these, and people are told in words of their language.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::error_body::names;

names! {
    /// Of an answer that is an error.
    Code {
        BodyTimeout = "body_timeout",
        BodyTooLarge = "body_too_large",
        BodyTruncated = "body_truncated",
        Csrf = "csrf",
        EmptyBody = "empty_body",
        FileExists = "file_exists",
        HubFailed = "hub_failed",
        InternalError = "internal_error",
        InvalidAdminToken = "invalid_admin_token",
        InvalidBody = "invalid_body",
        InvalidCsv = "invalid_csv",
        InvalidId = "invalid_id",
        InvalidJson = "invalid_json",
        InvalidKey = "invalid_key",
        InvalidPath = "invalid_path",
        InvalidQuery = "invalid_query",
        InvalidSelection = "invalid_selection",
        InvalidSubject = "invalid_subject",
        InvalidTime = "invalid_time",
        InvalidTokenSettings = "invalid_token_settings",
        InvalidUserSettings = "invalid_user_settings",
        KeyExists = "key_exists",
        MethodNotAllowed = "method_not_allowed",
        NoAnswer = "no_answer",
        NoSession = "no_session",
        NoVerdict = "no_verdict",
        ProviderMismatch = "provider_mismatch",
        PublicStatsOff = "public_stats_off",
        SessionEnded = "session_ended",
        StoreUnavailable = "store_unavailable",
        SyncOff = "sync_off",
        TokenExists = "token_exists",
        TooManyAttempts = "too_many_attempts",
        TooManyUsers = "too_many_users",
        UnknownFormat = "unknown_format",
        UnknownHub = "unknown_hub",
        UnknownKey = "unknown_key",
        UnknownPath = "unknown_path",
        UnknownProvider = "unknown_provider",
        UnknownToken = "unknown_token",
        UnknownUser = "unknown_user",
        UserExists = "user_exists",
        WrongForm = "wrong_form",
        WrongProvider = "wrong_provider",
    }
}

names! {
    /// Why a line of an import is no key.
    #[derive(Serialize, Deserialize, ToSchema)]
    #[serde(rename_all = "snake_case")]
    Flaw {
        KeyEmpty = "key_empty",
        KeyTooLong = "key_too_long",
        KeyTooShort = "key_too_short",
        KeyWithSpace = "key_with_space",
        KeyWithStrangeLetter = "key_with_strange_letter",
        KeyWithDelimiter = "key_with_delimiter",
        TextTooLong = "text_too_long",
        TextWithControl = "text_with_control",
        InvalidWeight = "invalid_weight",
        InvalidExpiry = "invalid_expiry",
        InvalidOwner = "invalid_owner",
        UnknownOwner = "unknown_owner",
        OtherProvider = "other_provider",
        OtherForm = "other_form",
        NotUtf8 = "not_utf8",
        UnreadableLine = "unreadable_line",
        OpenQuote = "open_quote",
        TooManyCells = "too_many_cells",
    }
}
