//! An HTTPS server on loopback with the targets of Terra's links, which answers as badly as a test wants.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certificates::Authority;

/// A client that is silent for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(20);

/// The interval between two bytes of a slow answer.
const TRICKLE: Duration = Duration::from_millis(20);

/// The answer to a path: each attempt gets the next one, and the last one repeats.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These bytes, and the connection closes.
    Raw(Vec<u8>),
    /// These bytes, and then nothing, with the connection open.
    Stall(Vec<u8>),
    /// The same, a byte at a time.
    Trickle(Vec<u8>),
}

impl Answer {
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::with("content-type: application/json\r\n", body)
    }

    pub fn with(headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        Self::Raw([head.as_bytes(), body].concat())
    }

    /// Announces one length, and sends a body of another.
    pub fn lying(length: usize, body: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        Self::Raw([head.as_bytes(), body.as_ref()].concat())
    }

    pub fn status(status: &str, headers: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n").into_bytes())
    }

    /// Chunked, without an announced length.
    pub fn chunked(body: impl AsRef<[u8]>) -> Self {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.as_ref().chunks(50_000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        Self::Raw(bytes)
    }
}

#[derive(Default)]
struct Held {
    answers: HashMap<String, Vec<Answer>>,
    /// The heads of all requests.
    asked: Vec<String>,
}

pub struct Store {
    pub authority: Authority,
    port: u16,
    held: Arc<Mutex<Held>>,
}

impl Store {
    pub fn start() -> Self {
        Self::with_certificate_for(&["localhost", "127.0.0.1"])
    }

    /// With a certificate for these hosts, wherever it listens.
    pub fn with_certificate_for(hosts: &[&str]) -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue_to("store", hosts);
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("just written")];
        let key = PrivateKeyDer::from_pem_file(key).expect("just written");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring speaks them").with_no_client_auth().with_single_cert(chain, key);
        let config = Arc::new(config.expect("a pair"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("is bound").port();
        let held: Arc<Mutex<Held>> = Arc::default();
        let shared = held.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, held) = (config.clone(), shared.clone());
                std::thread::spawn(move || answer(stream, config, &held));
            }
        });
        Self { authority, port, held }
    }

    /// The environment with which a bridge fetches from here.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("HOSTS", self.hosts()),
            ("ALLOW_NETWORKS", "127.0.0.0/8,::1".to_owned()),
            ("CA", self.authority.ca().display().to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (format!("TERRA_BRIDGE_S3__{key}"), value))
        .collect()
    }

    /// In the format of `s3.hosts`.
    pub fn hosts(&self) -> String {
        format!("localhost:{0},127.0.0.1:{0}", self.port)
    }

    /// From now on the path returns these answers. Returns the link to it.
    pub fn hold(&self, path: &str, answers: impl Into<Vec<Answer>>) -> String {
        self.held.lock().unwrap().answers.insert(path.to_owned(), answers.into());
        self.link(path)
    }

    pub fn link(&self, path: &str) -> String {
        format!("https://localhost:{}{path}?X-Amz-Signature=canary-of-a-link", self.port)
    }

    /// The heads of requests to this path.
    pub fn asked(&self, path: &str) -> Vec<String> {
        let held = self.held.lock().unwrap();
        held.asked.iter().filter(|head| head.starts_with(&format!("GET {path}?"))).cloned().collect()
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>, held: &Mutex<Held>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let next = {
        let mut held = held.lock().unwrap();
        held.asked.push(head.clone());
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        held.answers.get_mut(path).map(|all| if all.len() > 1 { all.remove(0) } else { all[0].clone() })
    };
    let stream = stream.get_mut();
    match next.unwrap_or_else(|| Answer::status("404 Not Found", "")) {
        Answer::Raw(bytes) => {
            let _ = stream.write_all(&bytes);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        Answer::Stall(bytes) => {
            let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
            let _ = stream.read(&mut [0]);
        }
        Answer::Trickle(bytes) => {
            for byte in bytes {
                if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
                    return;
                }
                std::thread::park_timeout(TRICKLE);
            }
        }
    }
}
