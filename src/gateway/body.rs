//! The bodies of requests and of answers.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::{io::Activity, relay::Relay};

pub type BodyError = Box<dyn StdError + Send + Sync>;

/// A request's body: as it arrives, or all of it.
pub enum RequestBody {
    Arriving(Incoming),
    /// Empty where it has been taken.
    Whole(Bytes),
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Arriving(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Arriving(body) => body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Arriving(body) => body.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// A whole answer, one that is relayed as it arrives, or one of the operator's side.
pub struct Body {
    inner: Inner,
    /// Tells the connection that this answer is still on its way.
    activity: Option<Arc<Activity>>,
    /// A part was taken, and the next is not asked for yet: see [`Activity::part_taken`].
    is_handed: bool,
}

enum Inner {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
    Operator(axum::body::Body),
}

impl Body {
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::from(Inner::Full(Some(bytes.into())))
    }

    pub fn empty() -> Self {
        Self::from(Inner::Full(None))
    }

    pub fn relay(relay: Relay) -> Self {
        Self::from(Inner::Relay(Box::new(relay)))
    }

    pub fn operator(body: axum::body::Body) -> Self {
        Self::from(Inner::Operator(body))
    }

    /// Keeps the connection marked as busy until this body is gone.
    pub(super) fn attach(&mut self, activity: Arc<Activity>) {
        self.activity = Some(activity);
    }
}

impl From<Inner> for Body {
    fn from(inner: Inner) -> Self {
        Self { inner, activity: None, is_handed: false }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            if self.is_handed {
                activity.part_done();
            }
            activity.request_ended();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if std::mem::take(&mut self.is_handed)
            && let Some(activity) = &self.activity
        {
            activity.part_done();
        }
        let poll = match &mut self.inner {
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Relay(relay) => relay.poll_frame(cx),
            Inner::Operator(body) => {
                Pin::new(body).poll_frame(cx).map_err(|error| Box::new(error) as BodyError)
            }
        };
        if matches!(poll, Poll::Ready(Some(Ok(_))))
            && let Some(activity) = self.activity.as_ref().filter(|activity| activity.is_multiplexed())
        {
            activity.part_taken();
            self.is_handed = true;
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Relay(_) => false,
            Inner::Operator(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Relay(relay) => relay.size_hint(),
            Inner::Operator(body) => body.size_hint(),
        }
    }
}
