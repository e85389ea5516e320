//! Which database the hub is, against which one it was.

use super::{
    Note, Result,
    document::{Stop, Why},
    position::Position,
    stream::Stream,
};
use crate::replica::wire::Greeting;

impl Stream<'_> {
    /// To be asked of every answer before anything in it is believed.
    pub fn meet(&mut self, greeting: &Greeting) -> Result<Position> {
        let there = &greeting.hub;
        let Some(known) = self.note.hub.clone() else {
            self.note.hub = Some(there.clone());
            return Ok(Position::Good);
        };
        if known == *there {
            if matches!(self.note.stopped, Some(Stop::OtherHub(_))) {
                self.note.stopped = None;
                self.say(|provider| Note::Resumed { provider });
            }
            return Ok(Position::Good);
        }
        let same = (&known.id, &known.system) == (&there.id, &there.system) || broken!(BelievesAnyHub);
        if !same && !greeting.was.contains(&known) {
            return Ok(self.stop(Stop::OtherHub(there.clone())));
        }
        self.note.stopped = None;
        self.note.hub = Some(there.clone());
        self.say(|provider| Note::Moved { provider, to: there.clone() });
        self.begin_resync(Why::Moved)?;
        Ok(Position::Changed)
    }
}
