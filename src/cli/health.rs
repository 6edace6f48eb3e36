//! `health`: asks the admin listener of the bridge on this machine whether it is alive, for a container's health check.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;

use super::cause::root_cause;
use super::failure::Failure;
use crate::config;
use crate::server::{Trust, client, reachable};

const DEADLINE: Duration = Duration::from_secs(2);

/// `Ok` means that `/livez` answered 200 in time.
pub(super) async fn run(config: &config::Admin) -> Result<(), Failure> {
    let failed = |url: &str, why: String| Failure::Running(format!("{url}, from admin.listen: {why}"));
    // A loopback address is also a valid loopback `Host`, which the listener requires if it is on loopback.
    let url = format!("http://{}/livez", reachable(config.listen));
    let uri = url.parse().map_err(|error| Failure::Mistake(format!("{url}: {error}")))?;
    let client = client::<Empty<Bytes>>(Trust::Pair(None)).map_err(Failure::Running)?;
    let status = match tokio::time::timeout(DEADLINE, client.get(uri)).await {
        Ok(Ok(reply)) => reply.status(),
        Ok(Err(error)) => return Err(failed(&url, root_cause(&error))),
        Err(_) => return Err(failed(&url, format!("no answer within {} s", DEADLINE.as_secs()))),
    };
    match status {
        http::StatusCode::OK => Ok(()),
        other => Err(failed(&url, format!("answered {other}; is it the bridge that listens there?"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn asked(reply: &'static str) -> (Result<(), Failure>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let listen = listener.local_addr().expect("bound");
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(reply.as_bytes()).await.expect("takes a reply");
            String::from_utf8(head).expect("text")
        });
        let verdict = run(&config::Admin { listen, ready_needs_bus: false }).await;
        (verdict, answering.await.expect("answered"))
    }

    #[tokio::test]
    async fn only_200_is_alive() {
        let (verdict, head) = asked("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(verdict.is_ok(), "{verdict:?}");
        assert!(head.starts_with("GET /livez HTTP/1.1\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("\r\nhost: 127.0.0.1"), "{head}");

        let (verdict, _) = asked("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(verdict, Err(Failure::Running(says)) if says.contains("503")));
    }
}
