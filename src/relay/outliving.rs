//! A delivery that outlives its client. The connection's task polls it while the client waits, which spares each
//! delivery a task and two wake-ups; when the client disconnects, a task of its own takes over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;

use crate::reply::Outcome;

pub(super) struct Outliving<D, R>
where
    D: Future<Output = Outcome> + Send + 'static,
    R: FnOnce(Outcome) + Unpin + Send + 'static,
{
    /// `None` once it has ended.
    delivery: Option<(Pin<Box<D>>, R)>,
}

impl<D, R> Outliving<D, R>
where
    D: Future<Output = Outcome> + Send + 'static,
    R: FnOnce(Outcome) + Unpin + Send + 'static,
{
    /// `report` gets the outcome only if nobody waits for it any more.
    pub(super) fn new(delivery: D, report: R) -> Self {
        Self { delivery: Some((Box::pin(delivery), report)) }
    }
}

impl<D, R> Future for Outliving<D, R>
where
    D: Future<Output = Outcome> + Send + 'static,
    R: FnOnce(Outcome) + Unpin + Send + 'static,
{
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let (delivery, _) = self.delivery.as_mut().expect("it is not polled after its end");
        let outcome = ready!(delivery.as_mut().poll(cx));
        self.delivery = None;
        Poll::Ready(outcome)
    }
}

impl<D, R> Drop for Outliving<D, R>
where
    D: Future<Output = Outcome> + Send + 'static,
    R: FnOnce(Outcome) + Unpin + Send + 'static,
{
    fn drop(&mut self) {
        // At the end of the runtime, when nothing can be polled any more, there is none.
        if let (Some((delivery, report)), Ok(runtime)) = (self.delivery.take(), Handle::try_current()) {
            runtime.spawn(async move { report(delivery.await) });
        }
    }
}
