//! A pretend OpenTelemetry collector: takes OTLP over HTTP, and decodes it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::until;

/// The exporter sends what it has every five seconds.
const EXPORTED_WITHIN: Duration = Duration::from_secs(30);

/// One request: its head in lower case, and its body.
pub type Received = (String, Vec<u8>);

pub struct Collector {
    pub at: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    /// `status`: of every answer.
    pub fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let received = Arc::<Mutex<Vec<_>>>::default();
        let into = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let into = into.clone();
                std::thread::spawn(move || answer(stream, status, &into));
            }
        });
        Self { at, received }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let decoded = |(_, body): &Received| ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        self.received.lock().unwrap().iter().map(decoded).collect()
    }

    /// What is said of the service itself.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.requests();
        let resource = requests[0].resource_spans[0].resource.as_ref().expect("a resource");
        attributes(&resource.attributes)
    }

    pub fn spans(&self) -> Vec<Span> {
        let scopes = self.requests().into_iter().flat_map(|request| request.resource_spans);
        scopes.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Waits for so many.
    pub fn expect_spans(&self, count: usize) -> Vec<Span> {
        let spans = until("the spans are exported", EXPORTED_WITHIN, || {
            let spans = self.spans();
            (spans.len() >= count).then_some(spans)
        });
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

fn answer(stream: TcpStream, status: &str, into: &Mutex<Vec<Received>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).ok()?;
        into.lock().unwrap().push((head, body));
        write!(stream.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

pub fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    of.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}
