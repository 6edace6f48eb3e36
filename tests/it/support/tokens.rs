//! An OIDC server of one test's own: gives signed tokens for client credentials, and shows the key that brokers check
//! them with. The key is made at run time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::brokers::free_port;
use super::certificates::Authority;
use super::terra::now;

pub const ISSUER: &str = "https://tokens.test";
pub const AUDIENCE: &str = "kafka";
pub const CLIENT: &str = "bridge";
/// With characters that a form has to encode.
pub const SCOPE: &str = "events:write a&b";

/// A client that is silent for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server goes by.
pub struct Rules {
    /// The client's.
    pub secret: String,
    pub audience: String,
    /// Seconds.
    pub lifetime: i64,
    /// Whether the token says nothing to who reads it.
    pub opaque: bool,
    /// How many tokens were given out.
    pub given: usize,
}

impl Rules {
    /// Tokens of an hour for who knows the secret.
    pub fn of(secret: &str) -> Self {
        let (secret, audience) = (secret.to_owned(), AUDIENCE.to_owned());
        Self { secret, audience, lifetime: 3600, opaque: false, given: 0 }
    }
}

struct Shared {
    key: EcdsaKeyPair,
    rules: Mutex<Rules>,
}

pub struct TokenServer {
    shared: Arc<Shared>,
    keys: Listening,
    /// Where tokens are given out; `None` while it is down.
    plain: Option<Listening>,
    plain_port: u16,
}

/// A port that closes when this is dropped.
pub struct Listening {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl TokenServer {
    pub fn start(secret: &str) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).expect("just made");
        let shared = Arc::new(Shared { key, rules: Mutex::new(Rules::of(secret)) });
        let keys = Listening::on(free_port(), None, &shared);
        let mut server = Self { shared, keys, plain: None, plain_port: free_port() };
        server.up();
        server
    }

    pub fn up(&mut self) {
        self.plain = Some(Listening::on(self.plain_port, None, &self.shared));
    }

    /// Nobody listens any more where tokens were given out. The keys are still shown.
    pub fn down(&mut self) {
        self.plain = None;
    }

    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.rules.lock().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.plain_port)
    }

    pub fn keys_url(&self) -> String {
        format!("http://127.0.0.1:{}/keys", self.keys.port)
    }

    /// The same over TLS, as long as the port is kept; and its URL.
    pub fn over_tls(&self, authority: &Authority) -> (Listening, String) {
        let (certificate, key) = authority.issue("tokens");
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("just written")];
        let key = PrivateKeyDer::from_pem_file(key).expect("just written");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring speaks them").with_no_client_auth().with_single_cert(chain, key);
        let listening = Listening::on(free_port(), Some(Arc::new(config.expect("a pair"))), &self.shared);
        let url = format!("https://localhost:{}/token", listening.port);
        (listening, url)
    }
}

impl Listening {
    fn on(port: u16, tls: Option<Arc<ServerConfig>>, shared: &Arc<Shared>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port of ours");
        let (closed, shared) = (Arc::new(AtomicBool::new(false)), shared.clone());
        let is_closed = closed.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let (tls, shared) = (tls.clone(), shared.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    match tls.map(ServerConnection::new) {
                        None => shared.answer(stream),
                        Some(connection) => shared.answer(StreamOwned::new(connection.expect("a connection"), stream)),
                    }
                });
            }
        });
        Self { port, closed }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn answer(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let (status, answer) = match head.split(' ').nth(1) {
            Some("/keys") => ("200 OK", self.keys()),
            Some("/token") => self.token(header("authorization").as_deref(), &form(&body)),
            _ => ("404 Not Found", json!({})),
        };
        let answer = answer.to_string();
        let length = answer.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
        let _ = write!(stream.get_mut(), "{head}connection: close\r\n\r\n{answer}");
        let _ = stream.get_mut().flush();
    }

    fn keys(&self) -> Value {
        // A byte for the form of the point, then its coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| BASE64URL_NOPAD.encode(coordinate));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "tests", "x": x, "y": y}]})
    }

    fn token(&self, authorization: Option<&str>, form: &HashMap<String, String>) -> (&'static str, Value) {
        let mut rules = self.rules.lock().unwrap();
        let right = format!("Basic {}", BASE64.encode(format!("{CLIENT}:{}", rules.secret).as_bytes()));
        if authorization != Some(&right) {
            return ("401 Unauthorized", json!({"error": "invalid_client"}));
        }
        let has = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
        if !has("grant_type", "client_credentials") || !has("scope", SCOPE) {
            return ("400 Bad Request", json!({"error": "invalid_scope"}));
        }
        rules.given += 1;
        let expires = now() + rules.lifetime;
        let claims = json!({"iss": ISSUER, "sub": CLIENT, "aud": rules.audience, "iat": now(), "exp": expires});
        let token = if rules.opaque { "opaque".to_owned() } else { self.signed(&claims) };
        ("200 OK", json!({"access_token": token, "token_type": "Bearer", "expires_in": rules.lifetime}))
    }

    fn signed(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "typ": "JWT", "kid": "tests"})), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("it has its key");
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

fn form(body: &[u8]) -> HashMap<String, String> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let body = String::from_utf8_lossy(body);
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}
