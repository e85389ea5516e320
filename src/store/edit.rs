//! Somebody's work on the shelf, on its way to the writer and back.

use tokio::sync::oneshot;

use super::{error::Error, shelf::Shelf};

/// What the writer knows of it.
pub(super) trait Edit: Send {
    /// Does the work; returns whether what it wrote is to be kept.
    fn work(&mut self, shelf: &mut dyn Shelf) -> bool;
    /// Tells whoever asked; `stored` is what the store has to say.
    fn done(self: Box<Self>, stored: Result<(), Error>);
}

pub(super) struct Asked<W, T, E> {
    work: Option<W>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<W, T, E> Asked<W, T, E> {
    pub(super) fn new(work: W, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self { work: Some(work), result: None, reply }
    }
}

impl<W, T, E> Edit for Asked<W, T, E>
where
    W: FnOnce(&mut dyn Shelf) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn work(&mut self, shelf: &mut dyn Shelf) -> bool {
        self.result = self.work.take().map(|work| work(shelf));
        matches!(self.result, Some(Ok(_)))
    }

    fn done(self: Box<Self>, stored: Result<(), Error>) {
        let result = match (stored, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(error), _) => Err(error.into()),
            // Never asked to work, and without an error either.
            (Ok(()), None) => Err(Error::Closed.into()),
        };
        let _ = self.reply.send(result);
    }
}
