//! Where a round is. Only memory: forgotten at any error, and after the last call.

use std::collections::VecDeque;

use super::{
    Wishes,
    adopt::{Adopting, Asked},
    document::Mark,
    page::Turn,
    seal::Lap,
};
use crate::{
    replica::wire::{Ask, Lane},
    store::shelf::CORE,
};

pub struct Round {
    pub adopting: Option<Adopting>,
    pub hello: bool,
    pub streams: Vec<StreamRound>,
}

pub struct StreamRound {
    pub pushing: bool,
    /// Batches sealed in this round.
    pub sealed: u32,
    /// As far as they go: what is counted meanwhile must not keep the round going.
    pub lap: Option<Lap>,
    pub pushed: u32,
    /// The lanes still to be pulled, in order.
    pub lanes: VecDeque<Lane>,
    pub pages: u32,
}

impl Round {
    /// Of these providers' streams.
    pub fn new<'a>(providers: impl Iterator<Item = &'a str>, wishes: Wishes) -> Self {
        let lanes = |provider: &str| {
            let lanes = [
                (Lane::State, true),
                (Lane::Limits, wishes.limits && provider == CORE),
                (Lane::Stats, wishes.stats),
            ];
            let wanted = |(lane, is_wanted)| (is_wanted && !wishes.only_push).then_some(lane);
            lanes.into_iter().filter_map(wanted).collect()
        };
        let stream = |provider| StreamRound {
            pushing: true,
            sealed: 0,
            lap: None,
            pushed: 0,
            lanes: lanes(provider),
            pages: 0,
        };
        Self { adopting: None, hello: wishes.hello, streams: providers.map(stream).collect() }
    }
}

impl StreamRound {
    /// Nothing more of this stream until the next round.
    pub fn end(&mut self) {
        self.pushing = false;
        self.lanes.clear();
    }

    pub fn turned(&mut self, lane: Lane, turn: Turn, most: u32) {
        self.pages += 1;
        if turn == Turn::Done || self.pages >= most {
            self.lanes.retain(|other| *other != lane);
        }
    }
}

/// A call whose answer is awaited.
pub struct Awaited {
    pub id: u64,
    pub what: What,
}

pub enum What {
    Hello,
    Adopt(Box<Asked>),
    Push { stream: usize, sent: Mark },
    Pull { asks: Vec<(usize, Ask)> },
}
