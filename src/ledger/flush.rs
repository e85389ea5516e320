//! From memory to the store, every interval, or at once when somebody waits for it.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tracing::{error, info};

use super::{Ledger, record::Progress};
use crate::{breather, model::Delta};

/// Where deltas go. The store implements it; tests put a failing one in its place.
pub trait Sink: Send + Sync + 'static {
    /// Makes the delta durable.
    ///
    /// # Errors
    /// The delta, untouched, and a sentence for the log.
    fn append(&self, delta: Delta) -> impl Future<Output = Result<(), (Delta, String)>> + Send;
}

/// First and longest pause after a failed append.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A stop tries this often, this far apart: a store that has just failed pauses for some seconds itself.
const LAST_TRIES: u32 = 8;
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Writes the ledger's deltas to a sink.
pub struct Flusher<S> {
    ledger: Arc<Ledger>,
    sink: S,
    interval: Duration,
    /// One flush at a time, so that a ticket's commit is the commit of everything before it.
    busy: tokio::sync::Mutex<()>,
    stop: Notify,
}

impl<S: Sink> Flusher<S> {
    pub fn new(ledger: Arc<Ledger>, sink: S, interval: Duration) -> Self {
        Self { ledger, sink, interval, busy: tokio::sync::Mutex::new(()), stop: Notify::new() }
    }

    /// Flushes until [`Flusher::stop`], then once more.
    pub async fn run(&self) {
        let mut pause = RETRY.0;
        let mut next = Instant::now() + self.interval;
        loop {
            let stopping = tokio::select! {
                () = self.stop.notified() => true,
                () = self.ledger.shared.wanted.notified() => false,
                () = tokio::time::sleep_until(next) => false,
            };
            match self.write().await {
                Ok(()) => pause = RETRY.0,
                Err(_) if stopping => return self.last_tries().await,
                Err(_) => {
                    // Callers are not made to wait meanwhile: `failing` releases them.
                    tokio::select! {
                        () = self.stop.notified() => return self.last_tries().await,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                    }
                }
            }
            if stopping {
                return;
            }
            next = Instant::now() + self.interval;
        }
    }

    /// What the store does not take now is lost.
    async fn last_tries(&self) {
        for _ in 1..LAST_TRIES {
            if self.write().await.is_ok() {
                return;
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
        let _reported = self.write().await;
    }

    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Writes everything recorded so far.
    ///
    /// # Errors
    /// A sentence that says what the store said. Nothing is lost: the delta is tried again later.
    pub async fn flush(self: &Arc<Self>) -> Result<(), String> {
        // In a task of its own: a caller that stops waiting must not part a delta from its append.
        let this = self.clone();
        tokio::spawn(async move { this.write().await })
            .await
            .unwrap_or_else(|failed| Err(format!("the flush failed: {failed}")))
    }

    /// Writes everything recorded so far, and nothing more until the guard is dropped. Callers who wait for their
    /// commit wait for that, too.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    pub async fn pause(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, String> {
        let alone = self.busy.lock().await;
        self.write_alone().await?;
        Ok(alone)
    }

    async fn write(&self) -> Result<(), String> {
        let _one_at_a_time = self.busy.lock().await;
        self.write_alone().await
    }

    async fn write_alone(&self) -> Result<(), String> {
        let (number, delta) = {
            // Who only reads the books collects at one go.
            let _rests = breather::begin();
            let mut state = self.ledger.lock();
            let number = self.ledger.collect_into(&mut state);
            (number, std::mem::take(&mut state.pending))
        };
        if !delta.is_empty()
            && let Err((delta, why)) = self.sink.append(delta).await
        {
            let mut state = self.ledger.lock();
            let later = std::mem::replace(&mut state.pending, delta);
            state.pending.add(later);
            drop(state);
            let before = *self.ledger.shared.progress.borrow();
            self.ledger.shared.progress.send_replace(Progress { failing: true, ..before });
            if !before.failing {
                error!("the store took no statistics, they stay in memory until it does: {why}");
            }
            return Err(why);
        }
        let before = self.ledger.shared.progress.send_replace(Progress { committed: number, failing: false });
        if before.failing {
            info!("the store takes statistics again, nothing was lost");
        }
        Ok(())
    }

    /// Whether the last append failed.
    pub fn failing(&self) -> bool {
        self.ledger.shared.progress.borrow().failing
    }
}

#[cfg(test)]
mod tests;
