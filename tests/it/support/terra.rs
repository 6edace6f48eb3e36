//! A pretend Terra: signs as the vendor documents, or wrongly if told to.

use std::io::{Read, Write};
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::http::{Connection, Response};

pub const SECRET: &str = "a signing secret of the tests";

/// A request being built.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub path: String,
    pub method: &'static str,
    pub t: String,
    pub secret: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    signature: Option<String>,
}

impl Attempt {
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Self {
            path: "/terra".into(),
            method: "POST",
            t: now().to_string(),
            secret: SECRET.into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.into(),
            signature: None,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn t(mut self, t: impl ToString) -> Self {
        self.t = t.to_string();
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = secret.into();
        self
    }

    /// Sets the signature header; an empty value omits it.
    pub fn signature(mut self, value: &str) -> Self {
        self.signature = Some(value.into());
        self
    }

    pub fn v1(&self) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("any key will do");
        mac.update(self.t.as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The head as sent, with this `Content-Length`.
    pub fn head(&self, length: usize) -> String {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: bridge\r\ncontent-length: {length}\r\n", self.method, self.path);
        let signature = self.signature.clone().unwrap_or_else(|| format!("t={},v1={}", self.t, self.v1()));
        if !signature.is_empty() {
            head.push_str(&format!("terra-signature: {signature}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    pub fn post(&self, to: SocketAddr) -> Response {
        self.try_post(to).expect("an answer")
    }

    pub fn try_post(&self, to: SocketAddr) -> std::io::Result<Response> {
        self.post_on(&mut Connection::open(to)?)
    }

    pub fn post_on<S: Read + Write>(&self, connection: &mut Connection<S>) -> std::io::Result<Response> {
        connection.request(&self.head(self.body.len()), &self.body)
    }
}

/// Unix seconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
