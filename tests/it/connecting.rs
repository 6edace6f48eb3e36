//! NATS servers that are down, are something else, are full, or use plain text: what is reported, and what is not
//! sent to them.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::bridge::{Bridge, command, on_free_ports};
use crate::support::brokers::{Broker, free_port};
use crate::support::certificates::Authority;
use crate::support::consumers::Bus;
use crate::support::terra::Attempt;
use crate::support::{unique, until};

const WITHIN: Duration = Duration::from_secs(30);

/// The bridge must report why it has no connection within this time.
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// A listener on loopback that records what it receives on each connection.
struct Listener {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Listener {
    /// Sends the greeting, then reads until the other side is done.
    fn that_says(greeting: &'static [u8]) -> Self {
        Self::that(move |connection| listen(connection, greeting))
    }

    fn that(answers: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (takes, answers) = (heard.clone(), Arc::new(answers));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (takes, answers) = (takes.clone(), answers.clone());
                std::thread::spawn(move || {
                    let took = answers(connection);
                    takes.lock().expect("nobody panics with it").push(took);
                });
            }
        });
        Self { port, heard }
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("nobody panics with it").clone()
    }
}

fn listen(mut connection: TcpStream, greeting: &[u8]) -> Vec<u8> {
    let (mut took, mut buffer) = (Vec::new(), [0; 4096]);
    let _ = connection.write_all(greeting);
    while let Ok(read) = connection.read(&mut buffer) {
        took.extend_from_slice(&buffer[..read]);
        if read == 0 || took.len() > 1 << 20 {
            break;
        }
        // A client that has sent something waits for an answer; the timeout ends that soon.
        let _ = connection.set_read_timeout(Some(Duration::from_millis(200)));
    }
    took
}

/// A NATS server's greeting, in plain text.
const GREETING: &str = r#""server_id":"S","version":"2.15.0","proto":1,"headers":true,"max_payload":1048576"#;

/// A server that speaks TLS, announces another one, accepts anybody, and closes the connection.
fn that_names(other: u16, authority: &Authority) -> Listener {
    let (certificate, key) = authority.issue("server");
    let certificate = CertificateDer::from_pem_file(certificate).expect("just written");
    let key = PrivateKeyDer::from_pem_file(key).expect("just written");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key));
    let config = Arc::new(config.expect("a certificate and its key"));
    Listener::that(move |mut connection| {
        let greeting =
            format!("INFO {{{GREETING},\"tls_required\":true,\"connect_urls\":[\"127.0.0.1:{other}\"]}}\r\n");
        let _ = connection.write_all(greeting.as_bytes());
        let mut secured = StreamOwned::new(ServerConnection::new(config.clone()).expect("a server"), connection);
        let (mut took, mut buffer) = (Vec::new(), [0; 4096]);
        while !took.ends_with(b"PING\r\n") {
            match secured.read(&mut buffer) {
                Ok(read) if read > 0 => took.extend_from_slice(&buffer[..read]),
                _ => return took,
            }
        }
        let _ = secured.write_all(b"PONG\r\n");
        took
    })
}

#[test]
fn a_server_that_another_one_names_gets_no_credentials_in_the_clear() {
    let (authority, token) = (Authority::new(), unique());
    let plain = Listener::that(|connection| listen(connection, format!("INFO {{{GREETING}}}\r\n").as_bytes()));
    let secured = that_names(plain.port, &authority);
    let mut command = command();
    command.envs(on_free_ports()).envs([
        ("TERRA_BRIDGE_BUS", "nats"),
        ("TERRA_BRIDGE_NATS__SERVERS", &format!("tls://127.0.0.1:{}", secured.port)),
        ("TERRA_BRIDGE_NATS__TOKEN", "env:SECRET"),
        ("SECRET", token.as_str()),
        ("TERRA_BRIDGE_LOG__FILTER", "trace"),
    ]);
    // The machine's own authorities.
    command.env("SSL_CERT_FILE", authority.ca());
    let bridge = Bridge::run(command);
    until("the other one is tried", WITHIN, || (plain.heard().len() > 1).then_some(()));
    let said = |heard: &[u8]| String::from_utf8_lossy(heard).into_owned();
    assert!(secured.heard().iter().any(|heard| said(heard).contains(&token)), "over TLS it logs in");
    for heard in plain.heard() {
        assert!(!said(&heard).contains("CONNECT"), "in the clear: {}", said(&heard));
        assert_eq!(heard.first(), Some(&0x16), "a TLS handshake");
    }
    assert!(!bridge.log().contains(&token), "the secret is shown");
}

/// The bridge reports this before any delivery arrives and within five seconds, `check --online` reports it too, and
/// a delivery that arrives then is refused with it.
fn cannot_connect(server: &str, words: &[&str]) {
    let bus = Bus::nats_at(server.to_owned());
    let begun = Instant::now();
    let bridge = Bridge::start(&bus.environment());
    let says = |of: &str| {
        until(&format!("{of}: {words:?}"), WITHIN, || {
            let log = bridge.log();
            log.lines().any(|line| line.contains(of) && words.iter().all(|word| line.contains(word))).then_some(())
        });
    };
    says("WARN");
    assert!(begun.elapsed() < SAID_WITHIN + SLACK, "{server}: {:?}", begun.elapsed());
    assert_eq!(bridge.readiness().0, 503, "never reached");
    assert_eq!(Attempt::of(r#"{"type":"daily"}"#).post(bridge.deliveries).status, 503);
    says("not kept, answered 503");
    let check = command()
        .envs(bus.environment().iter().map(|(name, value)| (name, value)))
        .args(["check", "--online"])
        .output()
        .expect("the binary runs");
    let report = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && words.iter().all(|word| report.contains(word)), "{report}");
}

#[test]
fn a_bad_name_a_refused_port_and_something_else_at_the_port_are_told_apart() {
    let http = Listener::that_says(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    let silent = Listener::that_says(b"");
    let nobody = free_port();
    std::thread::scope(|scope| {
        scope.spawn(|| cannot_connect("nats://nats.invalid:4222", &["name is not found", "DNS"]));
        scope.spawn(|| cannot_connect(&format!("nats://127.0.0.1:{nobody}"), &["connection refused", "nats.servers"]));
        scope.spawn(|| cannot_connect(&format!("nats://127.0.0.1:{}", http.port), &["no NATS server", "4222"]));
        scope.spawn(|| cannot_connect(&format!("nats://127.0.0.1:{}", silent.port), &["no answer in time"]));
    });
}

/// A NATS client that is accepted.
fn occupy(address: &str) -> std::io::Result<TcpStream> {
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while !answer.contains("PONG") {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(client)
}

#[test]
fn a_server_that_is_full_is_quoted_and_let_in_by_as_soon_as_it_has_room() {
    let Some(broker) = Broker::nats_with("max_connections: 1\n") else { return };
    let address = format!("127.0.0.1:{}", broker.port());
    // The probe that found the broker up may occupy the only slot for a moment.
    let first = until("the only place is taken", WITHIN, || occupy(&address).ok());
    let full = format!("nats://{address}");
    cannot_connect(&full, &["maximum connections exceeded", "max_connections"]);
    broker.reload("");
    drop(first);
    Bridge::ready(&Bus::nats_at(full).environment());
}

#[test]
fn one_server_of_several_that_is_not_there_is_advised_about() {
    let Some(bus) = Bus::nats() else { return };
    let Bus::Nats { server, .. } = &bus else { unreachable!("this test is NATS's") };
    let both = format!("{server},nats://nats.invalid:4222");
    let environment = bus.environment_with(&[("NATS__SERVERS", &both)]);
    let check = command().envs(environment).args(["check", "--online"]).output().expect("the binary runs");
    let report = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{report}");
    assert!(report.contains("nats.invalid") && report.contains("name is not found; others answer"), "{report}");
}

#[test]
fn a_password_in_plain_text_to_another_host_is_advised_about_and_warned_of_once() {
    let check = |server: &str, more: &[(&str, &str)]| {
        let bus = Bus::nats_at(server.to_owned());
        let mut environment = bus.environment_with(more);
        environment.push(("SECRET".into(), "hunter2".into()));
        let output = command().envs(environment.clone()).arg("check").output().expect("the binary runs");
        assert!(output.status.success());
        (environment, String::from_utf8_lossy(&output.stdout).contains("in plain text"))
    };
    let token = ("NATS__TOKEN", "env:SECRET");
    let login = [("NATS__USER", "u"), ("NATS__PASSWORD", "env:SECRET")];
    let (environment, exposed) = check("nats://nats.invalid:4222", &[token]);
    assert!(exposed && check("nats.invalid:4222", &login).1);
    assert!(!check("nats://nats.invalid:4222", &[]).1, "nothing to read");
    assert!(!check("nats://localhost:4222,nats://[::1]:4222", &[token]).1, "this machine");
    assert!(!check("tls://nats.invalid:4222,nats://nats.invalid", &[token]).1, "TLS");
    assert!(!check("nats://nats.invalid:4222", &[token, ("NATS__TLS__CA", "system")]).1, "TLS");

    let bridge = Bridge::start(&environment);
    let lines = |log: &str| log.lines().filter(|line| line.contains("in plain text") && line.contains("WARN")).count();
    assert_eq!(lines(&bridge.log()), 1, "said before it has started");
    assert!(!bridge.log().contains("hunter2"), "the secret is shown");
}
