//! One provider's client tokens, and the limits that come with them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use sha2::{Digest, Sha256};

use crate::model::{Timestamp, TokenId, TokenRecord, UserId, Window};

/// A token in force, with what it has used of its limits.
#[derive(Debug)]
pub struct Token {
    pub id: TokenId,
    pub record: TokenRecord,
    minute: Mutex<Window>,
}

/// Why a token does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    /// With whose it was.
    Expired(Option<UserId>),
}

/// What a token's limit says of one more request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Granted,
    Exceeded { limit: u32, reset: Timestamp },
}

/// Looked up by the digest of what the caller sent, so that the time a lookup takes tells nothing about the
/// tokens there are.
#[derive(Debug, Default)]
pub struct Tokens {
    by_digest: RwLock<HashMap<[u8; 32], Arc<Token>>>,
}

impl Tokens {
    /// Puts a token in force; one of the same text is replaced and keeps its window.
    pub fn insert(&self, provider: &str, record: TokenRecord) -> TokenId {
        let id = record.id(provider);
        let digest = digest(record.secret.expose());
        let mut tokens = self.by_digest.write().unwrap_or_else(PoisonError::into_inner);
        let minute = tokens
            .get(&digest)
            .map(|token| *token.minute.lock().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_default();
        tokens.insert(digest, Arc::new(Token { id, record, minute: Mutex::new(minute) }));
        id
    }

    /// Takes a token out of force.
    pub fn remove(&self, id: TokenId) -> Option<TokenRecord> {
        let mut tokens = self.by_digest.write().unwrap_or_else(PoisonError::into_inner);
        let digest = *tokens.iter().find(|(_, token)| token.id == id)?.0;
        tokens.remove(&digest).map(|token| token.record.clone())
    }

    /// All tokens, oldest first.
    pub fn list(&self) -> Vec<Arc<Token>> {
        let tokens = self.by_digest.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = tokens.values().cloned().collect();
        list.sort_by_key(|token| (token.record.created_at, token.id));
        list
    }

    pub fn len(&self) -> usize {
        self.by_digest.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Errors
    /// When nothing in force goes by `text`.
    pub fn find(&self, text: &str, now: Timestamp) -> Result<Arc<Token>, Refusal> {
        let digest = digest(text);
        let tokens = self.by_digest.read().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(&digest).ok_or(Refusal::Unknown)?;
        if token.record.is_expired(now) {
            return Err(Refusal::Expired(token.record.user));
        }
        Ok(token.clone())
    }
}

impl Token {
    /// Takes one place of the token's limit per minute.
    pub fn admit(&self, now: Timestamp) -> Admission {
        let Some(limit) = self.record.limits.requests_per_minute else {
            return Admission::Granted;
        };
        match self.minute.lock().unwrap_or_else(PoisonError::into_inner).take(limit, now) {
            Ok(_) => Admission::Granted,
            Err(reset) => Admission::Exceeded { limit, reset },
        }
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

    fn limited(per_minute: u32) -> TokenRecord {
        let limits = Limits { requests_per_minute: Some(per_minute), ..Limits::default() };
        TokenRecord { limits, ..record("sk-a") }
    }

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn only_tokens_in_force_open() {
        let tokens = Tokens::default();
        let id = tokens.insert("p", record("sk-a"));
        assert_eq!(tokens.find("sk-a", NOW).unwrap().id, id);
        assert_eq!(tokens.find("sk-b", NOW).unwrap_err(), Refusal::Unknown);
        tokens.insert("p", TokenRecord { expires_at: Some(NOW), ..record("sk-b") });
        assert_eq!(tokens.find("sk-b", NOW).unwrap_err(), Refusal::Expired(None));
        assert!(tokens.remove(id).is_some() && tokens.remove(id).is_none());
        assert_eq!(tokens.find("sk-a", NOW).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn never_one_request_too_many() {
        let tokens = Tokens::default();
        tokens.insert("p", limited(100));
        let token = tokens.find("sk-a", NOW).unwrap();
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).filter(|_| token.admit(NOW) == Admission::Granted).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(granted, 100);
        assert_eq!(token.admit(NOW), Admission::Exceeded { limit: 100, reset: Timestamp(61_000) });
        // A change of the token does not hand out the minute anew.
        tokens.insert("p", limited(100));
        assert_ne!(tokens.find("sk-a", NOW).unwrap().admit(NOW), Admission::Granted);
    }
}
