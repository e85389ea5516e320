//! What the monitor is told at the door and at a request's end, and whom its verdicts keep out.

use std::net::IpAddr;

use super::{ApiError, call::Closing};
use crate::{
    guard::{Caller, Refusal, Watch},
    ledger::Kind,
    model::{KeyId, Timestamp},
    monitor::{AuthFailure, End, Observation, Subject, What, fingerprint},
};

/// Where one request knocks.
pub(super) struct Door<'a> {
    pub(super) watch: &'a Watch,
    pub(super) core: usize,
    pub(super) address: IpAddr,
    pub(super) provider: &'a str,
    pub(super) now: Timestamp,
}

impl Door<'_> {
    /// Before anything is looked up: guessing is not answered.
    pub(super) fn check_address(&self) -> Result<(), ApiError> {
        let barred = self.watch.check(Subject::at(self.address), None, self.now);
        barred.map_err(|barred| ApiError::barred(barred, self.now))
    }

    pub(super) fn check(&self, caller: &Caller) -> Result<(), ApiError> {
        // What a verdict refuses is not told: the monitor would take its own doing for more abuse.
        let barred = self.watch.check(caller.subject(), caller.requests_per_minute(), self.now);
        barred.map_err(|barred| ApiError::barred(barred, self.now).of(caller.user()))
    }

    /// Nobody came in with `text`.
    pub(super) fn turned_away(&self, refusal: Refusal, text: &str) {
        let (subject, why) = match refusal {
            Refusal::Unknown => (Subject::at(self.address), AuthFailure::Unknown),
            Refusal::Expired(_, Some(user)) | Refusal::UserDisabled(user) => {
                (Subject::of_user(user), AuthFailure::Expired)
            }
            Refusal::Expired(token, None) => (Subject::Token(token), AuthFailure::Expired),
        };
        self.tell(subject, What::AuthFailed { why, token: Some(fingerprint(text)) });
    }

    pub(super) fn wrong_address(&self, caller: &Caller) {
        self.tell(caller.subject(), What::AuthFailed { why: AuthFailure::AddressNotAllowed, token: None });
    }

    pub(super) fn limited(&self, caller: &Caller) {
        self.tell(caller.subject(), What::Limited);
    }

    fn tell(&self, subject: Subject, what: What) {
        let seen = Observation {
            at: self.now,
            subject,
            address: Some(self.address),
            key: None,
            provider: fingerprint(self.provider),
            model: None,
            what,
        };
        self.watch.tell(self.core, seen);
    }
}

/// A request's end. Of its status only matters whether it speaks against the caller, and that its closing says.
fn ended(closing: Closing) -> What {
    let end = match closing.attempt {
        Kind::Success => End::Success,
        Kind::Failure => End::Failure,
        Kind::Other => End::Other,
    };
    let status = match (end, closing.request) {
        (End::Success, _) => 200,
        (End::Failure, _) => 502,
        (End::Other, Kind::Other) => 499,
        (End::Other, _) => 400,
    };
    What::Ended { end, status }
}

/// What of a request is the same at its end as at its beginning.
#[derive(Clone, Copy)]
pub struct Seen {
    address: IpAddr,
    provider: u32,
    model: u32,
}

impl Seen {
    pub(super) fn of(address: IpAddr, provider: &str, model: &str) -> Self {
        Self { address, provider: fingerprint(provider), model: fingerprint(model) }
    }

    pub(super) fn at_end(
        self,
        caller: &Caller,
        key: Option<KeyId>,
        closing: Closing,
        at: Timestamp,
    ) -> Observation {
        self.observed(caller, key, ended(closing), at)
    }

    /// Before the end: another key may serve it.
    pub(super) fn key_failed(self, caller: &Caller, key: KeyId, at: Timestamp) -> Observation {
        self.observed(caller, Some(key), What::KeyFailed, at)
    }

    fn observed(self, caller: &Caller, key: Option<KeyId>, what: What, at: Timestamp) -> Observation {
        Observation {
            at,
            subject: caller.subject(),
            address: Some(self.address),
            key,
            provider: self.provider,
            model: Some(self.model),
            what,
        }
    }
}
