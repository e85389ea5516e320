//! How a key fares, and what a request with it therefore gets.

use std::time::Duration;

use http::StatusCode;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// A proper answer.
    #[default]
    Good,
    /// Always this status.
    Status(StatusReply),
    /// 429 on every request.
    RateLimited(Reset),
    /// `n` answers a minute by the clock; then 429 with `Retry-After` until the minute that began with the
    /// first of them is over.
    RateLimitedAfter { n: u32 },
    /// 401 on every request.
    Dead,
    /// 403 on every request.
    Forbidden,
    /// 402 on every request, with the reset in `X-RateLimit-Reset`.
    QuotaUsed { resets_in: Duration },
    /// Fails this share of requests with 500, 502, 503 or 504, at moments that follow from the seed.
    Flaky { percent: u8 },
    /// Closes the connection (h2: resets the stream) without an answer.
    Refuse,
    /// Takes the request and never answers.
    Hang,
    /// A 200 that carries an error object; in streams as the first event.
    ErrorIn200 { code: u16 },
    /// A stream whose event number `after` (from 0) is an error, and its last one. Other answers: [`Self::ErrorIn200`].
    ErrorMidStream { after: usize, code: u16 },
    /// A chunked body that is broken off after this many events; other answers break off half-way.
    BrokenStream { after: usize },
    /// Declares the length of the whole answer, sends half of it and closes.
    BrokenLength,
    /// Stops in mid-answer after this many events (other answers: half-way) and keeps the connection open.
    Stall { after: usize },
    /// Answers in gzip, although nobody asked for it.
    Gzip,
    /// A proper answer whose first byte takes this long.
    Slow { first_byte: Duration },
    /// A proper answer with a text of this many bytes, made as it is sent.
    Huge { bytes: u64 },
    /// One after the other, request by request, from the start again at the end.
    Cycle(Vec<Behaviour>),
}

/// How a 429 says when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It does not.
    Unsaid,
    /// `Retry-After: 30`
    Seconds(u64),
    /// `Retry-After: Sun, 06 Nov 1994 08:49:37 GMT`
    HttpDate(Duration),
    /// `X-RateLimit-Reset: 1741305600000`, milliseconds since the Unix epoch.
    EpochMillis(Duration),
}

/// A status and what comes with it. Without a body of its own it gets the dialect's error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReply {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
}

impl StatusReply {
    pub fn new(code: u16) -> Self {
        Self { code, headers: Vec::new(), body: None }
    }

    pub fn retry_after(self, value: impl Into<String>) -> Self {
        self.header("retry-after", value)
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sent as JSON unless a header says otherwise.
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Codes that cannot be a final answer become 500.
    pub(super) fn status(&self) -> StatusCode {
        match StatusCode::from_u16(self.code) {
            Ok(status) if !status.is_informational() => status,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StatusReply> for Behaviour {
    fn from(reply: StatusReply) -> Self {
        Self::Status(reply)
    }
}

impl Behaviour {
    pub fn status(code: u16) -> Self {
        StatusReply::new(code).into()
    }

    /// What a key's own text asks for.
    pub(super) fn of_prefix(key: &str) -> Option<Self> {
        Some(match key.split_once('-')?.0 {
            "good" => Self::Good,
            "limited" => Self::RateLimitedAfter { n: 5 },
            "dead" => Self::Dead,
            "flaky" => Self::Flaky { percent: 30 },
            "quota" => Self::QuotaUsed { resets_in: Duration::from_secs(3600) },
            _ => return None,
        })
    }

    /// The behaviour for the request number `nth` (from 0) of a key: what a cycle has in turn.
    pub(super) fn in_turn(&self, nth: u64) -> &Self {
        let (mut now, mut nth) = (self, nth);
        while let Self::Cycle(steps) = now {
            let count = steps.len() as u64;
            let Some(step) = nth.checked_rem(count).and_then(|at| steps.get(usize::try_from(at).ok()?))
            else {
                return &Self::Good;
            };
            // A cycle inside a cycle takes its own steps, one per round of the outer one.
            (now, nth) = (step, nth / count);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_go_round_and_nest() {
        let inner = Behaviour::Cycle(vec![Behaviour::Dead, Behaviour::Hang]);
        let cycle = Behaviour::Cycle(vec![Behaviour::Good, inner]);
        let turns: Vec<_> = (0..6).map(|nth| cycle.in_turn(nth).clone()).collect();
        let (good, dead, hang) = (Behaviour::Good, Behaviour::Dead, Behaviour::Hang);
        assert_eq!(turns, [good.clone(), dead.clone(), good.clone(), hang, good, dead]);
        assert_eq!(Behaviour::Cycle(Vec::new()).in_turn(3), &Behaviour::Good);
    }

    #[test]
    fn only_known_prefixes_choose() {
        assert_eq!(Behaviour::of_prefix("dead-1"), Some(Behaviour::Dead));
        assert_eq!(Behaviour::of_prefix("deadly-1"), None);
        assert_eq!(Behaviour::of_prefix("dead"), None);
    }

    #[test]
    fn impossible_statuses_become_500() {
        assert_eq!(
            [99, 101, 1000, 418].map(|code| StatusReply::new(code).status().as_u16()),
            [500, 500, 500, 418]
        );
    }
}
