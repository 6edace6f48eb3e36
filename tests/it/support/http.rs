//! An HTTP/1.1 client that does only what it is told, so that a test can also misuse HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer may take; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body.escape_ascii()))
    }
}

/// One connection with consecutive requests.
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

impl Connection {
    pub fn open(to: SocketAddr) -> std::io::Result<Self> {
        connect_within(to, PATIENCE).map(Self::over)
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    pub fn request(&mut self, head: &str, body: &[u8]) -> std::io::Result<Response> {
        self.write(head.as_bytes())?;
        // A server that answers early may close before the body is sent; the answer counts.
        let _ = self.write(body);
        self.response()
    }

    pub fn response(&mut self) -> std::io::Result<Response> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = match status {
            Some(status) => status,
            // Cut off in the middle of a line.
            None if !line.ends_with('\n') => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            None => panic!("no status line: {line:?}"),
        };
        let mut headers = Vec::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding").is_some() {
            self.chunks(&mut response.body)?;
        } else if let Some(length) = response.header("content-length").and_then(|length| length.parse().ok()) {
            response.body = vec![0; length];
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let length = usize::from_str_radix(line.trim(), 16).expect("a chunk has a length");
            let from = body.len();
            body.resize(from + length + 2, 0);
            self.stream.read_exact(&mut body[from..])?;
            body.truncate(from + length);
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Waits for the other side; whether it has closed.
    pub fn closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

/// `patience` bounds each single wait.
pub fn connect_within(to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub fn get(to: SocketAddr, target: &str) -> Response {
    try_get(to, target).expect("an answer")
}

pub fn try_get(to: SocketAddr, target: &str) -> std::io::Result<Response> {
    let head = format!("GET {target} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    Connection::open(to)?.request(&head, b"")
}
