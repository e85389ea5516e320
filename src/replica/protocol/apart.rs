//! Whose pages are asked for together. One provider's tables can be in a state in which nothing of them can be read,
//! and a call reads all or nothing: where one fails, each stream is asked by itself until it shows which it is, and that
//! one from then on, last in every round.

use super::round::Round;
use crate::replica::wire::Ask;

#[derive(Clone, Debug, Default)]
pub struct Apart {
    /// The streams that could not be read by themselves either.
    troubled: Vec<usize>,
    /// Something failed, and it has not shown yet whose it is.
    each: bool,
    /// The stream that the last failure was of, if of one.
    culprit: Option<usize>,
}

impl Apart {
    /// Which streams to ask, in the order in which to try.
    pub fn groups(&self, round: &Round) -> Vec<Vec<usize>> {
        let wanted = (0..round.streams.len()).filter(|at| !round.streams[*at].lanes.is_empty());
        let (alone, together): (Vec<usize>, Vec<usize>) = wanted.partition(|at| self.troubled.contains(at));
        let mut groups: Vec<_> =
            if self.each { together.chunks(1).map(<[_]>::to_vec).collect() } else { vec![together] };
        groups.extend(alone.chunks(1).map(<[_]>::to_vec));
        groups
    }

    /// These could not be read. Returns the one that it was, where it was one.
    pub fn failed(&mut self, asks: &[(usize, Ask)]) -> Option<usize> {
        let first = asks.first().map(|(at, _)| *at);
        self.culprit = first.filter(|first| asks.iter().all(|(at, _)| at == first));
        self.each = self.culprit.is_none();
        if let Some(at) = self.culprit.filter(|at| !self.troubled.contains(at)) {
            self.troubled.push(at);
        }
        self.culprit
    }

    pub fn served(&mut self, at: usize) {
        self.troubled.retain(|troubled| *troubled != at);
    }

    /// Now and then it is tried whether all can be read together again.
    pub fn try_together(&mut self) {
        self.each = false;
    }

    pub fn culprit(&self) -> Option<usize> {
        self.culprit
    }

    pub fn is_troubled(&self, at: usize) -> bool {
        self.troubled.contains(&at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{protocol::Wishes, wire::Lane};

    fn asks(streams: &[usize]) -> Vec<(usize, Ask)> {
        let ask = |at: &usize| {
            let ask = Ask {
                stream: at.to_string(),
                provider: at.to_string(),
                lane: Lane::State,
                cursor: None,
                after: None,
                limit: 1,
            };
            [(*at, ask.clone()), (*at, Ask { lane: Lane::Stats, ..ask })]
        };
        streams.iter().flat_map(ask).collect()
    }

    #[test]
    fn the_one_that_fails_is_found_and_asked_last_until_it_is_well() {
        let round = Round::new(["a", "b", "c"].into_iter(), Wishes::default());
        let mut apart = Apart::default();
        assert_eq!(apart.groups(&round), [vec![0, 1, 2]]);
        assert_eq!(apart.failed(&asks(&[0, 1, 2])), None);
        assert_eq!(apart.groups(&round), [[0], [1], [2]]);
        assert_eq!(apart.failed(&asks(&[1])), Some(1));
        // Known now: one failure in a round is enough.
        assert_eq!(apart.groups(&round), [vec![0, 2], vec![1]]);
        assert!(apart.is_troubled(1) && !apart.is_troubled(0));
        apart.served(1);
        assert_eq!(apart.groups(&round), [vec![0, 1, 2]]);
    }

    #[test]
    fn what_was_read_in_this_round_is_not_asked_for_again() {
        let mut round = Round::new(["a", "b"].into_iter(), Wishes::default());
        round.streams[0].lanes.clear();
        assert_eq!(Apart::default().groups(&round), [[1]]);
    }
}
