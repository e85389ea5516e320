//! Documents of a stream that cannot say anything: pieces of the answer's text, which are nearly all there is.
//!
//! All that a document can say stands under a few names, or is one of a few words. Where none of them is in it, wherever and
//! in whatever context, there is no need to read it: one search takes a tenth of the instructions. A name may be
//! written with escapes, so what has an escaped ASCII letter is read as well.

use std::sync::LazyLock;

use aho_corasick::packed::{Config, MatchKind, Searcher};

/// Those of [`Node::child`](super::meaning::Node::child) and of [`Kind`](super::meaning::Kind), with what may follow all
/// the same, because it says that there is nothing.
const WORDS: [(&str, &str); 6] = [
    ("usage\"", ":null"),
    ("\"done\"", ":false"),
    ("error", ""),
    ("eval_count", ""),
    // Of an event that says by itself what it is.
    ("\"type\"", ""),
    ("\\u00", ""),
];

/// `None` on machines that have nothing faster than reading.
static SEARCHER: LazyLock<Option<Searcher>> = LazyLock::new(|| {
    let mut builder = Config::new().match_kind(MatchKind::LeftmostFirst).builder();
    builder.extend(WORDS.map(|(word, _)| word)).build()
});

/// Whether a document in a stream, whole, says nothing that [`Reader`](super::Reader) would gather.
pub(super) fn is_silent(document: &[u8]) -> bool {
    let Some(searcher) = &*SEARCHER else { return false };
    if document.first() != Some(&b'{') {
        return false;
    }
    searcher.find_iter(document).all(|found| {
        let (_, nothing) = WORDS[found.pattern().as_usize()];
        !nothing.is_empty() && document[found.end()..].starts_with(nothing.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_nothing_is_passed_over() {
        for silent in [
            r#"{"id":"1","choices":[{"index":0,"delta":{"content":"a \"b\" \n \u4f60"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"usage, and done"}}],"usage":null}"#,
            r#"{"model":"m","message":{"content":"x"},"done":false}"#,
            // What is broken says nothing either.
            r#"{"choices":["#,
        ] {
            assert_eq!(is_silent(silent.as_bytes()), SEARCHER.is_some(), "{silent}");
        }
        for said in [
            r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"usage" :null}"#,
            r#"{"choices":[],"us\u0061ge":{"prompt_tokens":1}}"#,
            r#"{"error":{"code":429}}"#,
            r#"{"type":"message_stop"}"#,
            r#"{"model":"m","done":true}"#,
            r#"{"model":"m","done":false,"eval_count":3}"#,
            "[DONE]",
            "",
            " {}",
        ] {
            assert!(!is_silent(said.as_bytes()), "{said}");
        }
    }
}
