//! What the provider says: made from the prompt and the seed, the same every time.

use bytes::Bytes;

use super::{
    answer::Frames,
    ask::{Ask, Tool, words},
    tally::Tokens,
};

const VOCABULARY: [&str; 32] = [
    "the", "tide", "turns", "and", "every", "key", "returns", "to", "its", "ring", "while", "harbour",
    "lights", "count", "ships", "by", "night", "so", "that", "no", "wave", "is", "lost", "between", "two",
    "shores", "of", "slow", "water", "under", "one", "moon",
];

/// Stands in a huge answer's JSON where its text goes.
pub(super) const HUGE_MARK: &str = "@here-comes-the-text@";
const HUGE_WORD: &str = "tide ";
/// Bytes; a multiple of the word, so that no word is cut between two pieces.
const HUGE_PIECE: u64 = 16_000;

pub(super) struct Said {
    /// The whole text; of a huge one, its mark.
    pub(super) text: String,
    /// What a stream sends, one by one: the text, or the arguments of the tool call.
    pub(super) pieces: Box<dyn Iterator<Item = String> + Send>,
    pub(super) tool: Option<Tool>,
    /// `max_tokens` ended it.
    pub(super) cut: bool,
    pub(super) tokens: Tokens,
    /// Distinguishes this answer; the same for the same request in the same place.
    pub(super) id: String,
}

impl Said {
    pub(super) fn new(ask: &Ask, seed: u64, nth: u64, chunks: usize, huge: Option<u64>) -> Self {
        let chunks = chunks.max(1);
        let hash = hash(seed, &[ask.model.as_bytes(), ask.prompt.as_bytes()]);
        let prompt = ask.prompt_tokens();
        let mut said = Self {
            text: String::new(),
            pieces: Box::new(std::iter::empty()),
            tool: None,
            cut: false,
            tokens: Tokens { prompt, completion: 0 },
            id: format!("{:016x}{nth:08x}", hash),
        };
        if let Some(bytes) = huge {
            said.text = HUGE_MARK.to_owned();
            said.tokens.completion = bytes.div_ceil(HUGE_WORD.len() as u64);
            said.pieces = Box::new(huge_pieces(bytes));
        } else if let Some(tool) = ask.tool.clone() {
            let arguments = tool.arguments.to_string();
            said.tokens.completion = 1 + words(&arguments);
            said.pieces = Box::new(split_chars(&arguments, chunks).into_iter());
            said.tool = Some(tool);
        } else {
            let mut all = sentence(ask, hash, chunks);
            if let Some(most) = ask.max_tokens.and_then(|most| usize::try_from(most).ok())
                && most < all.len()
            {
                all.truncate(most);
                said.cut = true;
            }
            said.tokens.completion = all.len() as u64;
            said.text = all.join(" ");
            said.pieces = Box::new(split_words(&all, chunks).into_iter());
        }
        said
    }
}

fn sentence(ask: &Ask, hash: u64, at_least: usize) -> Vec<String> {
    let mut all: Vec<String> = ask.last.split_whitespace().take(6).map(str::to_owned).collect();
    let count = (all.len() + 8 + usize::from(hash as u8 % 16)).max(at_least);
    let mut state = hash;
    while all.len() < count {
        state = mix(state);
        all.push(VOCABULARY[(state % VOCABULARY.len() as u64) as usize].to_owned());
    }
    all
}

/// At most `count` pieces of about the same size that join to the text.
fn split_words(all: &[String], count: usize) -> Vec<String> {
    let count = count.min(all.len());
    (0..count)
        .map(|at| {
            let piece = all[at * all.len() / count..(at + 1) * all.len() / count].join(" ");
            if at == 0 { piece } else { format!(" {piece}") }
        })
        .collect()
}

fn split_chars(text: &str, count: usize) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let count = count.min(chars.len());
    (0..count)
        .map(|at| chars[at * chars.len() / count..(at + 1) * chars.len() / count].iter().collect())
        .collect()
}

fn huge_pieces(bytes: u64) -> impl Iterator<Item = String> + Send + use<> {
    let piece = HUGE_WORD.repeat((HUGE_PIECE / HUGE_WORD.len() as u64) as usize);
    let mut left = bytes;
    std::iter::from_fn(move || {
        let size = left.min(HUGE_PIECE);
        left -= size;
        piece.get(..usize::try_from(size).ok()?).filter(|text| !text.is_empty()).map(str::to_owned)
    })
}

/// A JSON answer with the huge text where its mark stands, and the length of it all.
pub(super) fn with_huge_text(json: &str, bytes: u64) -> Option<(Frames, u64)> {
    let (head, tail) = json.split_once(HUGE_MARK)?;
    let length = head.len() as u64 + bytes + tail.len() as u64;
    let (head, tail) = (Bytes::copy_from_slice(head.as_bytes()), Bytes::copy_from_slice(tail.as_bytes()));
    let middle = huge_pieces(bytes).map(Bytes::from);
    Some((Box::new(std::iter::once(head).chain(middle).chain(std::iter::once(tail))), length))
}

/// A stream whose last events repeat the text, with the huge text in them.
pub(super) fn with_huge_texts(frames: Frames, bytes: u64) -> Frames {
    Box::new(frames.flat_map(move |frame| {
        let huge = std::str::from_utf8(&frame).ok().and_then(|text| with_huge_text(text, bytes));
        huge.map_or_else(|| Box::new(std::iter::once(frame)) as Frames, |(frames, _)| frames)
    }))
}

/// A unit vector that belongs to the text.
pub(super) fn embedding(seed: u64, text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = hash(seed, &[text.trim().as_bytes()]);
    let raw: Vec<f32> = (0..dimensions)
        .map(|_| {
            state = mix(state);
            f32::from((state >> 48) as u16) / f32::from(u16::MAX) - 0.5
        })
        .collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|x| x / norm).collect()
}

/// FNV-1a over the parts, mixed: fixed for all time, which the standard library's hasher does not promise.
pub(super) fn hash(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ seed;
    for part in parts {
        // A byte that no text contains keeps the parts apart.
        for byte in part.iter().chain(&[0xff]) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(state)
}

/// One step of SplitMix64.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(prompt: &str) -> Ask {
        Ask { prompt: prompt.to_owned(), last: prompt.to_owned(), ..Ask::default() }
    }

    #[test]
    fn pieces_join_to_the_text_and_words_are_tokens() {
        for chunks in [1, 3, 8, 100] {
            let said = Said::new(&ask("How high is the tide?"), 7, 0, chunks, None);
            let pieces: Vec<String> = said.pieces.collect();
            assert_eq!((pieces.len(), pieces.concat()), (chunks, said.text.clone()));
            assert_eq!((said.tokens.prompt, said.tokens.completion), (5, words(&said.text)));
        }
    }

    #[test]
    fn the_same_prompt_gets_the_same_answer() {
        let text = |seed, prompt| Said::new(&ask(prompt), seed, 0, 8, None).text;
        assert_eq!(text(1, "a"), text(1, "a"));
        assert_ne!(text(1, "a"), text(2, "a"));
        assert_ne!(text(1, "a"), text(1, "b"));
    }

    #[test]
    fn huge_texts_have_the_size_that_was_asked_for() {
        for bytes in [0, 1, 15_999, 16_000, 100_001] {
            let said = Said::new(&ask("x"), 0, 0, 8, Some(bytes));
            let text: String = said.pieces.collect();
            assert_eq!((text.len() as u64, words(&text)), (bytes, said.tokens.completion));
            let (frames, length) = with_huge_text(&format!("<{HUGE_MARK}>"), bytes).unwrap();
            assert_eq!((frames.map(|piece| piece.len() as u64).sum::<u64>(), length), (bytes + 2, bytes + 2));
        }
    }
}
