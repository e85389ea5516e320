//! What keeps a hub that answers from doing what is asked of it: said once when it begins, shown as long as it lasts.

use super::{Note, Outcome};
use crate::replica::wire::MissingRow;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Obstacles {
    /// By stream, in the order in which they were found.
    pub missing: Vec<MissingRow>,
    pub read_only: bool,
    /// The hub's functions are of another protocol: the numbers that it knows, if it told them.
    pub unsupported: Option<Vec<u32>>,
}

impl Obstacles {
    /// These streams' tables are not whole.
    pub fn lacks(&mut self, missing: Vec<MissingRow>, out: &mut Outcome) {
        let news: Vec<_> = missing.into_iter().filter(|row| !self.missing.contains(row)).collect();
        if news.is_empty() {
            return;
        }
        self.missing.retain(|known| news.iter().all(|row| row.stream != known.stream));
        self.missing.extend(news.iter().cloned());
        out.notes.push(Note::Missing { missing: news });
    }

    /// Nothing stands in this stream's way.
    pub fn serves(&mut self, stream: &str) {
        self.unsupported = None;
        self.missing.retain(|row| row.stream != stream);
    }

    /// Something is missing, and it was not said what.
    pub fn lack(&mut self, stream: &str, out: &mut Outcome) {
        if self.missing.iter().all(|row| row.stream != stream) {
            let what = vec!["tables or columns".to_owned()];
            self.lacks(vec![MissingRow { stream: stream.to_owned(), what }], out);
        }
    }
}
