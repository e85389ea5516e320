//! Who stands behind a request: a token, and its user if it has one. Whatever both allow is allowed.

use std::{net::IpAddr, sync::Arc};

use super::{
    gauge::{Exceeded, Gauges, Whose},
    meter::{Meter, Take, Taken},
    tokens::{Refusal, Token},
    users::User,
};
use crate::{
    model::{Limits, Timestamp, TokenId, UserId, Zone},
    monitor::Subject,
};

#[derive(Clone, Debug)]
pub struct Caller(Arc<Both>);

#[derive(Debug)]
struct Both {
    token: Arc<Token>,
    user: Option<Arc<User>>,
    zone: Zone,
}

/// A place within all limits. Dropped without [`Permit::keep`], it is given back.
#[derive(Debug)]
pub struct Permit<'a> {
    caller: &'a Caller,
    token: Taken,
    user: Option<Taken>,
    is_kept: bool,
    /// What is left.
    pub gauges: Gauges,
}

impl Caller {
    pub(super) fn new(token: Arc<Token>, user: Option<Arc<User>>, zone: Zone) -> Self {
        Self(Arc::new(Both { token, user, zone }))
    }

    pub fn token(&self) -> TokenId {
        self.0.token.id
    }

    /// What the caller shows at the door.
    pub(super) fn text(&self) -> &str {
        self.0.token.record.secret.expose()
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.0.token.record.is_expired(now)
    }

    /// Whose token it is.
    pub fn user(&self) -> Option<UserId> {
        self.0.user.as_ref().map(|user| user.id)
    }

    /// Whose habits its requests are measured against.
    pub fn subject(&self) -> Subject {
        self.user().map_or(Subject::Token(self.token()), Subject::of_user)
    }

    /// The tightest limit per minute, if there is any.
    pub fn requests_per_minute(&self) -> Option<u32> {
        self.limits().filter_map(|limits| limits.requests_per_minute).min()
    }

    /// The token's, then the user's.
    fn limits(&self) -> impl Iterator<Item = &Limits> {
        let of_user = self.0.user.as_ref().map(|user| &user.record.limits);
        std::iter::once(&self.0.token.record.limits).chain(of_user)
    }

    pub fn allows_model(&self, model: &str) -> bool {
        self.limits().all(|limits| limits.allows_model(model))
    }

    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.0.token.addresses.allow(address)
            && self.0.user.as_ref().is_none_or(|user| user.addresses.allow(address))
    }

    /// Whether the tokens of its answers have to be known.
    pub fn counts_tokens(&self) -> bool {
        self.limits().any(|limits| limits.tokens_per_day.is_some())
    }

    /// Takes a place within the limits of both, or none at all.
    ///
    /// # Errors
    /// The limit that leaves no room.
    pub fn admit(&self, take: Take, now: Timestamp) -> Result<Permit<'_>, Exceeded> {
        let zone = &self.0.zone;
        // Always in this order: tokens of one user wait for each other, and never in a circle.
        let mut token = self.0.token.meter.lock();
        let of_token = token.check(&self.0.token.record.limits, take, now, zone)?;
        let Some(user) = &self.0.user else {
            let taken = token.take(take, now, zone);
            return Ok(self.permit(taken, None, of_token));
        };
        let mut meter = user.meter.lock();
        let of_user = meter
            .check(&user.record.limits, take, now, zone)
            .map_err(|exceeded| exceeded.whose(Whose::User))?
            .whose(Whose::User);
        let (of_both, taken) = (of_token.with(of_user), token.take(take, now, zone));
        Ok(self.permit(taken, Some(meter.take(take, now, zone)), of_both))
    }

    fn permit(&self, token: Taken, user: Option<Taken>, gauges: Gauges) -> Permit<'_> {
        Permit { caller: self, token, user, is_kept: false, gauges }
    }

    /// Counts what an answer has used, on the day of its end.
    pub fn spend(&self, tokens: u64, now: Timestamp) {
        if tokens > 0 {
            self.meters().for_each(|meter| meter.spend(tokens, now, &self.0.zone));
        }
    }

    fn meters(&self) -> impl Iterator<Item = &Meter> {
        std::iter::once(&*self.0.token.meter).chain(self.0.user.as_ref().map(|user| &*user.meter))
    }

    /// Why an answer under way has to end: the token was revoked, or its user disabled or deleted. Cheap enough to be
    /// asked with every piece of an answer.
    pub fn revoked(&self) -> Option<Refusal> {
        if self.0.token.meter.is_gone() {
            return Some(Refusal::Unknown);
        }
        self.0.user.as_ref().filter(|user| user.meter.is_gone()).map(|user| Refusal::UserDisabled(user.id))
    }
}

impl Permit<'_> {
    /// The request is in the books from now on, however it ends.
    pub fn keep(mut self) -> Gauges {
        self.is_kept = true;
        self.gauges
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.caller.0.token.meter.give_back(self.token);
        if let (Some(user), Some(taken)) = (&self.caller.0.user, self.user) {
            user.meter.give_back(taken);
        }
    }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
