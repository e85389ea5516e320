//! What callers read of their limits, in the headers that OpenAI's client libraries and their users know.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    guard::{Exceeded, Gauge, Gauges, Of},
    model::Timestamp,
};

static REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];

static TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Tells what is left, where there is a limit. What the provider said of its own limits was said of a key, and is
/// replaced as a whole: halves of two stories would make a third.
pub(super) fn tell(gauges: &Gauges, now: Timestamp, headers: &mut HeaderMap) {
    if gauges.is_empty() {
        return;
    }
    REQUESTS.iter().chain(&TOKENS).for_each(|name| drop(headers.remove(name)));
    for gauge in [gauges.requests, gauges.tokens].into_iter().flatten() {
        put(&gauge, now, headers);
    }
}

pub(super) fn refuse(exceeded: &Exceeded, now: Timestamp, headers: &mut HeaderMap) {
    put(&exceeded.0, now, headers);
    if exceeded.0.of != Of::Minute {
        // OpenAI's libraries would try again all the same, a few times within seconds.
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
}

fn put(gauge: &Gauge, now: Timestamp, headers: &mut HeaderMap) {
    let [limit, remaining, reset] = match gauge.of {
        Of::Minute | Of::DayRequests => &REQUESTS,
        Of::DayTokens => &TOKENS,
    };
    headers.insert(limit, HeaderValue::from(gauge.limit));
    headers.insert(remaining, HeaderValue::from(gauge.remaining));
    if let Ok(value) = HeaderValue::from_str(&span(gauge.reset, now)) {
        headers.insert(reset, value);
    }
}

/// As OpenAI writes it: `1h2m3s`. Rounded up, as `Retry-After` is.
fn span(reset: Timestamp, now: Timestamp) -> String {
    let seconds = reset.since(now).as_millis().div_ceil(1000).max(1);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Whose;

    #[test]
    fn spans() {
        for (ms, text) in
            [(0, "1s"), (1, "1s"), (59_001, "1m0s"), (3_599_999, "1h0m0s"), (90_061_000, "25h1m1s")]
        {
            assert_eq!(span(Timestamp(ms), Timestamp(0)), text);
        }
    }

    #[test]
    fn a_provider_s_words_on_its_limits_are_replaced_whole_or_not_at_all() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("9"));
        tell(&Gauges::default(), Timestamp(0), &mut headers);
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "9");
        let gauge = Gauge {
            of: Of::DayRequests,
            whose: Whose::Token,
            limit: 3,
            remaining: 2,
            reset: Timestamp(60_000),
        };
        tell(&Gauges { requests: Some(gauge), tokens: None }, Timestamp(0), &mut headers);
        assert!(!headers.contains_key("x-ratelimit-remaining-tokens"));
        assert_eq!(headers["x-ratelimit-reset-requests"], "1m0s");
    }
}
