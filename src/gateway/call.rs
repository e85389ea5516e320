//! One client request on its way through the books.

use std::sync::Arc;

use http::StatusCode;

use super::{door::Seen, metrics::AttemptEnd, provider::Provider};
use crate::{
    guard::{self, Caller},
    ledger::{self, Attempt, Class, Ending, Entry, Kind, ModelRef, Ticket},
    model::{Effect, KeyId, Timestamp},
    pool::Lease,
    upstream::scan::Tokens,
};

/// How an answer that reached its end is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    pub effect: Effect,
    /// The attempt's kind: the key's share.
    pub attempt: Kind,
    /// The request's kind.
    pub request: Kind,
}

impl Closing {
    pub const SUCCESS: Self =
        Self { effect: Effect::Success, attempt: Kind::Success, request: Kind::Success };

    /// The request was at fault: the key has worked.
    pub const REQUEST_FAULT: Self =
        Self { effect: Effect::None, attempt: Kind::Other, request: Kind::Failure };

    /// The caller went away, or was sent away: nothing is known of the key.
    pub const LEFT: Self = Self { effect: Effect::None, attempt: Kind::Other, request: Kind::Other };

    pub const fn failure(effect: Effect) -> Self {
        Self { effect, attempt: Kind::Failure, request: Kind::Failure }
    }
}

/// Holds the key of the attempt under way, and makes sure that the request is counted exactly once: by
/// [`Call::close`], or, when it is dropped before that because the caller went away, as `other`.
pub struct Call {
    provider: Arc<Provider>,
    core: usize,
    caller: Caller,
    class: Class,
    model: ModelRef,
    /// A name that has no row yet: it gets one if the provider answers for it.
    new_model: Option<Box<str>>,
    seen: Seen,
    lease: Option<Lease>,
    /// When the attempt under way, or the last one, began.
    attempted: Option<Timestamp>,
    started: Timestamp,
    /// The last key that was tried, and what the caller is answered.
    key: Option<KeyId>,
    status: StatusCode,
    /// What the answer has told so far of its tokens, and in how many events.
    told: (Tokens, u64),
    closed: bool,
}

/// Of a caller that left before there was an answer, in logs only: as nginx writes it.
const LEFT: u16 = 499;

impl Call {
    pub fn open(
        provider: Arc<Provider>,
        core: usize,
        caller: Caller,
        class: Class,
        model: &str,
        seen: Seen,
        started: Timestamp,
    ) -> Box<Self> {
        let known = provider.ledger.models.find(model);
        let new_model = (known == ModelRef::OTHER).then(|| model.into());
        provider.metrics.request_started(core);
        Box::new(Self {
            provider,
            core,
            caller,
            class,
            model: known,
            new_model,
            seen,
            lease: None,
            attempted: None,
            started,
            key: None,
            status: StatusCode::from_u16(LEFT).unwrap_or(StatusCode::BAD_REQUEST),
            told: Default::default(),
            closed: false,
        })
    }

    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// See [`Caller::revoked`].
    pub fn revoked(&self) -> Option<guard::Refusal> {
        self.caller.revoked()
    }

    /// What the caller is told, before that is closed.
    pub fn answers(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub fn begin_attempt(&mut self, lease: Lease, now: Timestamp) {
        self.key = Some(lease.key_id());
        self.lease = Some(lease);
        self.attempted = Some(now);
    }

    /// The attempt failed and the request goes on, or ends by [`Call::close_unserved`].
    pub fn attempt_failed(&mut self, effect: Effect) {
        let now = self.provider.clock.now();
        if let Some(lease) = self.lease.take() {
            let key = lease.key_id();
            lease.finish(effect, now);
            self.provider.metrics.attempt_ended(self.core, AttemptEnd::of(effect, Kind::Failure));
            self.provider.watch.tell(self.core, self.seen.key_failed(&self.caller, key, now));
            let attempt = Attempt { key, kind: Kind::Failure, millis: None };
            let entry = Entry { caller: counted(&self.caller), attempt: Some(attempt), request: None };
            self.provider.ledger.record(self.core, &entry, now);
        }
    }

    /// The answer reached its end.
    pub fn close(&mut self, closing: Closing, tokens: Option<Tokens>) -> Ticket {
        let now = self.provider.clock.now();
        self.record(closing, tokens.unwrap_or_default(), now)
    }

    /// For the case that the caller leaves before the end.
    pub fn heard(&mut self, tokens: Option<Tokens>, events: u64) {
        self.told = (tokens.unwrap_or_default(), events);
    }

    /// As [`Call::close`], for a caller who left or was sent away. What was used is told at the end of streams, and whoever leaves just before it
    /// must not have it for nothing: where tokens are limited, each event counts as one at least.
    pub fn close_left(&mut self) -> Ticket {
        let (mut tokens, events) = self.told;
        if self.caller.counts_tokens() {
            tokens.completion = tokens.completion.max(events);
        }
        self.record(Closing::LEFT, tokens, self.provider.clock.now())
    }

    /// The provider stopped in the middle of its answer.
    pub fn close_broken(&mut self, tokens: Option<Tokens>) -> Ticket {
        if let Some(user) = self.caller.user() {
            let now = self.provider.clock.now();
            self.provider.ledger.note_refusal(self.core, user, ledger::Refusal::Server, now);
        }
        self.close(Closing::failure(Effect::Server { cooldown: None }), tokens)
    }

    /// No attempt served the request.
    pub fn close_unserved(&mut self) -> Ticket {
        self.close(Closing::failure(Effect::None), None)
    }

    /// Answered without the provider: no attempt is counted.
    pub fn close_from_cache(&mut self) -> Ticket {
        self.close(Closing::SUCCESS, None)
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn record(&mut self, closing: Closing, tokens: Tokens, now: Timestamp) -> Ticket {
        self.closed = true;
        let attempt = self.lease.take().map(|lease| {
            let key = lease.key_id();
            lease.finish(closing.effect, now);
            self.provider.metrics.attempt_ended(self.core, AttemptEnd::of(closing.effect, closing.request));
            // Only of answers that were there from their beginning to their end.
            let answered = self.attempted.filter(|_| closing.attempt == Kind::Success);
            let millis = answered.map(|since| now.since(since).as_millis() as u64);
            Attempt { key, kind: closing.attempt, millis }
        });
        let ledger = &self.provider.ledger;
        if closing.request == Kind::Success
            && let Some(name) = self.new_model.take()
        {
            self.model = ledger.models.learn(&name);
        }
        self.provider.metrics.request_ended(self.core, closing.request, now.since(self.started));
        self.caller.spend(tokens.prompt.saturating_add(tokens.completion), now);
        let ending = Ending {
            model: self.model,
            kind: closing.request,
            class: self.class,
            used_keys: self.attempted.is_some(),
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
            key: self.key,
            status: self.status.as_u16(),
        };
        let key = attempt.map(|attempt| attempt.key);
        self.provider.watch.tell(self.core, self.seen.at_end(&self.caller, key, closing, now));
        let entry = Entry { caller: counted(&self.caller), attempt, request: Some(ending) };
        ledger.record(self.core, &entry, now)
    }
}

/// Who a caller's requests are counted for.
pub(super) fn counted(caller: &Caller) -> ledger::Caller {
    ledger::Caller { token: caller.token(), user: caller.user() }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.closed {
            self.close_left();
        }
    }
}
