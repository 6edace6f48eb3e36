//! A delivery that outlives its client. The connection's task polls it while the client waits, which spares each
//! delivery a task and two wake-ups; when the client disconnects, a task of its own takes over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;

pub(super) struct Outliving<D, R>
where
    D: Future + Send + 'static,
    R: FnOnce(D::Output) + Unpin + Send + 'static,
{
    /// `None` once it has ended.
    delivery: Option<(Pin<Box<D>>, R)>,
}

impl<D, R> Outliving<D, R>
where
    D: Future + Send + 'static,
    R: FnOnce(D::Output) + Unpin + Send + 'static,
{
    /// `report` gets its end only if nobody waits for it any more.
    pub(super) fn new(delivery: D, report: R) -> Self {
        Self { delivery: Some((Box::pin(delivery), report)) }
    }
}

impl<D, R> Future for Outliving<D, R>
where
    D: Future + Send + 'static,
    R: FnOnce(D::Output) + Unpin + Send + 'static,
{
    type Output = D::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<D::Output> {
        let (delivery, _) = self.delivery.as_mut().expect("it is not polled after its end");
        let ended = ready!(delivery.as_mut().poll(cx));
        self.delivery = None;
        Poll::Ready(ended)
    }
}

impl<D, R> Drop for Outliving<D, R>
where
    D: Future + Send + 'static,
    R: FnOnce(D::Output) + Unpin + Send + 'static,
{
    fn drop(&mut self) {
        // At the end of the runtime, when nothing can be polled any more, there is none.
        if let (Some((delivery, report)), Ok(runtime)) = (self.delivery.take(), Handle::try_current()) {
            runtime.spawn(async move { report(delivery.await) });
        }
    }
}
