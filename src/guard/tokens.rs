//! One provider's client tokens, and the limits that come with them.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};

use super::{
    meter::{Meter, Used},
    meters::Meters,
};
use crate::model::{DaySpan, Networks, Timestamp, TokenId, TokenRecord, UserId, Zone};

/// A token in force, with what was used of its limits.
#[derive(Debug)]
pub struct Token {
    pub id: TokenId,
    pub record: TokenRecord,
    pub(super) addresses: Networks,
    pub(super) meter: Arc<Meter>,
}

/// Why a token does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    /// Which it was, and whose.
    Expired(TokenId, Option<UserId>),
    UserDisabled(UserId),
}

/// Looked up by the digest of what the caller sent, so that the time a lookup takes tells nothing about the
/// tokens there are.
#[derive(Debug, Default)]
pub struct Tokens {
    in_force: RwLock<InForce>,
    /// How often they have changed: raised before the change is over.
    changes: AtomicU64,
    meters: Arc<Meters>,
}

#[derive(Debug, Default)]
struct InForce {
    by_digest: HashMap<[u8; 32], Arc<Token>>,
    digests: HashMap<TokenId, [u8; 32]>,
}

impl Tokens {
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { meters, ..Self::default() }
    }

    /// Puts a token in force; one of the same text is replaced, and what was used stays used, of one that was removed
    /// as well.
    pub fn insert(&self, provider: &str, record: TokenRecord) -> TokenId {
        let id = record.id(provider);
        let digest = digest(record.secret.expose());
        let meter = self.meters.of(id.0);
        let mut tokens = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        meter.set_gone(false);
        let addresses = Networks::of(&record.limits.allowed_addresses);
        tokens.by_digest.insert(digest, Arc::new(Token { id, record, addresses, meter }));
        tokens.digests.insert(id, digest);
        self.changes.fetch_add(1, Ordering::Release);
        id
    }

    /// Takes a token out of force. Its streams end within a second.
    pub fn remove(&self, id: TokenId, now: Timestamp) -> Option<TokenRecord> {
        let mut tokens = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let digest = tokens.digests.remove(&id)?;
        let removed = tokens.by_digest.remove(&digest)?;
        removed.meter.set_gone(true);
        self.changes.fetch_add(1, Ordering::Release);
        drop(tokens);
        self.meters.tidy(now);
        Some(removed.record.clone())
    }

    pub fn get(&self, id: TokenId) -> Option<Arc<Token>> {
        let tokens = self.read();
        tokens.by_digest.get(tokens.digests.get(&id)?).cloned()
    }

    /// All tokens, oldest first.
    pub fn list(&self) -> Vec<Arc<Token>> {
        let mut list: Vec<_> = self.read().by_digest.values().cloned().collect();
        list.sort_by_key(|token| (token.record.created_at, token.id));
        list
    }

    pub fn have_daily_limits(&self) -> bool {
        self.read().by_digest.values().any(|token| token.record.limits.are_daily())
    }

    pub fn len(&self) -> usize {
        self.read().by_digest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Errors
    /// When nothing in force goes by `text`.
    pub fn find(&self, text: &str, now: Timestamp) -> Result<Arc<Token>, Refusal> {
        let digest = digest(text);
        let tokens = self.read();
        let token = tokens.by_digest.get(&digest).ok_or(Refusal::Unknown)?;
        if token.record.is_expired(now) {
            return Err(Refusal::Expired(token.id, token.record.user));
        }
        Ok(token.clone())
    }

    /// The same number twice: nothing has changed between.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// The day that `now` is in, and what was used on it.
    pub fn used(&self, now: Timestamp, zone: &Zone) -> (DaySpan, Used) {
        self.meter.used(now, zone)
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, Secret};

    fn record(text: &str) -> TokenRecord {
        TokenRecord {
            secret: Secret::new(text),
            name: "test".into(),
            created_at: Timestamp(0),
            expires_at: None,
            user: None,
            limits: Limits::default(),
        }
    }

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn only_tokens_in_force_open() {
        let tokens = Tokens::default();
        let id = tokens.insert("p", record("sk-a"));
        assert_eq!(tokens.find("sk-a", NOW).unwrap().id, id);
        assert_eq!(tokens.find("sk-b", NOW).unwrap_err(), Refusal::Unknown);
        let expired = tokens.insert("p", TokenRecord { expires_at: Some(NOW), ..record("sk-b") });
        assert_eq!(tokens.find("sk-b", NOW).unwrap_err(), Refusal::Expired(expired, None));
        assert!(tokens.remove(id, NOW).is_some() && tokens.remove(id, NOW).is_none());
        assert_eq!(tokens.find("sk-a", NOW).unwrap_err(), Refusal::Unknown);
    }
}
