//! Any bytes to a whole bridge over a socket: no panic, the connection ends, nothing unsigned gets a
//! 2xx or reaches the bus; and what is signed gets a 2xx whatever its body is.

#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use terra_bridge::bus::{Bus, ConnectionState, Pending, Receipt, Refusal};
use terra_bridge::cli;
use terra_bridge::clock::Clock;
use terra_bridge::dedupe::Dedupe;
use terra_bridge::message::Message;
use terra_bridge::metrics::{Metrics, Readings};
use terra_bridge::payload::Budget;
use terra_bridge::relay::{Relay, Stages};
use terra_bridge::route::{RouteTable, Topic};
use terra_bridge::server::{self, ConnectionLog, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

static KEPT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Bus for Counting {
    fn publish(&self, _: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        KEPT.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(Receipt::Kept)))
    }

    fn topics(&self, _: Vec<Topic>) {}

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        watch::channel(ConnectionState::Up).1
    }

    fn close(&self) -> Pending<()> {
        Box::pin(std::future::ready(()))
    }
}

static BRIDGE: LazyLock<SocketAddr> = LazyLock::new(|| {
    let variables = [
        ("TERRA_SIGNING_SECRET".into(), "secret".into()),
        ("TERRA_BRIDGE_SERVER__HEADER_TIMEOUT".into(), "1s".into()),
        ("TERRA_BRIDGE_SERVER__IDLE_TIMEOUT".into(), "1s".into()),
    ];
    let config = cli::load(None, variables.into_iter(), false).unwrap_or_else(|_| panic!("a sound configuration"));
    let config = config.config;
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("bound")).expect("somebody waits");
            let routes = Arc::new(RouteTable::of(&config).expect("sound routes"));
            let metrics = Metrics::new(Readings::default());
            let log = ConnectionLog::new("server", &metrics, Arc::default());
            let stages = Stages {
                routes,
                fetcher: None,
                dedupe: Dedupe::new(Duration::from_secs(60), 1000, Clock::system()),
                bus: Arc::new(Counting),
                spool: None,
                budget: Budget::new(64 << 20),
                metrics,
                tracing: None,
            };
            let relay = Relay::new(&config, stages);
            let limits = Limits::from(&config.server);
            server::serve(listener, None, limits, relay, log, CancellationToken::new()).await;
        });
    });
    address.recv().expect("an address")
});

/// Everything that comes back until the other side closes; which it does at once where this one says that
/// it is done.
fn answers(request: &[u8], done: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(*BRIDGE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It may answer, and close, before it has read everything.
    let _ = stream.write_all(request);
    if done {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answers = Vec::new();
    let ended = stream.read_to_end(&mut answers);
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.as_ref().is_err_and(timed_out), "the connection does not end");
    answers
}

fn has_success(answers: &[u8]) -> bool {
    answers.windows(10).any(|window| window == b"HTTP/1.1 2")
}

fuzz_target!(|data: &[u8]| {
    let before = KEPT.load(Ordering::SeqCst);
    if let Some((0, body)) = data.split_first() {
        // Half of all inputs: a body that Terra signed.
        let t = jiff::Timestamp::now().as_second();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").expect("any key will do");
        mac.update(format!("{t}.").as_bytes());
        mac.update(body);
        let signature = HEXLOWER.encode(&mac.finalize().into_bytes());
        let mut request = format!(
            "POST /terra HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\
             terra-signature: t={t},v1={signature}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        assert!(has_success(&answers(&request, false)), "a signed body was refused");
        return;
    }
    let answers = answers(data, true);
    assert!(!has_success(&answers), "a 2xx for what nobody signed");
    assert_eq!(KEPT.load(Ordering::SeqCst), before, "the bus was given what nobody signed");
});
