//! Answers to repeat for equal requests, where the operator asked for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use super::{options::CacheOptions, route::Api};
use crate::model::Timestamp;

/// A whole, successful, non-streaming answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
    at: Timestamp,
}

pub struct AnswerCache {
    ttl: Duration,
    answers: Cache<[u8; 32], Arc<Answer>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

/// What an entry takes besides its body, about.
const OVERHEAD: u64 = 512;

impl Weighter<[u8; 32], Arc<Answer>> for ByBytes {
    fn weight(&self, _: &[u8; 32], answer: &Arc<Answer>) -> u64 {
        answer.body.len() as u64 + OVERHEAD
    }
}

impl AnswerCache {
    pub fn new(options: CacheOptions) -> Self {
        // A guess for the table's first size; the bound is in bytes.
        let entries = usize::try_from(options.max_bytes / 4096).unwrap_or(usize::MAX).clamp(16, 100_000);
        Self { ttl: options.ttl, answers: Cache::with_weighter(entries, options.max_bytes, ByBytes) }
    }

    /// Equal requests: the same API, query and body, byte for byte. Who asks does not matter, since every
    /// caller of a provider may ask anything of it that its token allows, which is checked before.
    pub fn key(api: Api, query: Option<&str>, body: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(api.path());
        hash.update([0]);
        hash.update(query.unwrap_or_default());
        hash.update([0]);
        hash.update(body);
        hash.finalize().into()
    }

    pub fn get(&self, key: &[u8; 32], now: Timestamp) -> Option<Arc<Answer>> {
        let answer = self.answers.get(key)?;
        if now.since(answer.at) >= self.ttl {
            self.answers.remove(key);
            return None;
        }
        Some(answer)
    }

    pub fn put(&self, key: [u8; 32], headers: HeaderMap, body: Bytes, now: Timestamp) {
        self.answers.insert(key, Arc::new(Answer { headers, body, at: now }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_with_their_time_and_the_bytes_are_bounded() {
        let options = CacheOptions { ttl: Duration::from_secs(10), max_bytes: 100_000 };
        let cache = AnswerCache::new(options);
        let key = AnswerCache::key(Api::ChatCompletions, None, b"{}");
        cache.put(key, HeaderMap::new(), Bytes::from_static(b"answer"), Timestamp(0));
        assert_eq!(cache.get(&key, Timestamp(9_999)).unwrap().body, "answer");
        assert!(cache.get(&key, Timestamp(10_000)).is_none());
        for n in 0..1000u32 {
            let key = AnswerCache::key(Api::ChatCompletions, None, &n.to_le_bytes());
            cache.put(key, HeaderMap::new(), vec![0; 1000].into(), Timestamp(0));
        }
        assert!(cache.answers.weight() <= 100_000);
        assert_ne!(key, AnswerCache::key(Api::Completions, None, b"{}"));
        assert_ne!(key, AnswerCache::key(Api::ChatCompletions, Some("a"), b"{}"));
    }
}
