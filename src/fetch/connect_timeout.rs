//! One timeout for name resolution, TCP and TLS together. The HTTP client keeps connecting in the background when
//! another connection becomes free first, and sets no limit on that.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tower_service::Service;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub(super) struct ConnectTimeout<C> {
    connector: C,
    within: Duration,
}

impl<C> ConnectTimeout<C> {
    pub(super) fn new(connector: C, within: Duration) -> Self {
        Self { connector, within }
    }
}

impl<C> Service<Uri> for ConnectTimeout<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<AnyError>,
{
    type Response = C::Response;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, AnyError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.within, self.connector.call(uri));
        Box::pin(async move { connecting.await?.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Never;

    impl Service<Uri> for Never {
        type Response = ();
        type Error = std::io::Error;
        type Future = std::future::Pending<std::io::Result<()>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_handshake_times_out() {
        let error =
            ConnectTimeout::new(Never, Duration::from_secs(3)).call(Uri::from_static("https://b")).await.unwrap_err();
        assert!(error.is::<tokio::time::error::Elapsed>(), "{error}");
    }
}
