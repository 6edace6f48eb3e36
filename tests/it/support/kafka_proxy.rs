//! A proxy in front of a Kafka broker that causes one fault for one topic. It understands just enough of the
//! protocol: frames, Produce requests and their responses, and the broker's advertised address.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

const PRODUCE: [u8; 2] = 0_i16.to_be_bytes();
const ACCEPTED: [u8; 2] = 0_i16.to_be_bytes();
const NOT_LEADER: [u8; 2] = 6_i16.to_be_bytes();
const NO_OFFSET: [u8; 8] = (-1_i64).to_be_bytes();

/// Bytes of a frame's length field, and where a request's fields begin, including the length.
const LENGTH: usize = 4;
const KEY: usize = 4;
const VERSION: usize = 6;
const CORRELATION: usize = 8;
/// The same for a response.
const ANSWERS: usize = 4;

/// Where a batch of records has its attributes, whose last bits tell the codec.
const ATTRIBUTES: usize = 21;

/// From this version of Produce on, short arrays have a length of one byte instead of four.
const COMPACT: i16 = 9;

/// The fault for the next Produce requests to the topic. Happens once, unless noted otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The first never reaches the broker. Once the second was accepted, the first is answered "not the leader".
    Overtaken,
    /// The first is accepted, but its response has no offset.
    WithoutOffset,
    /// Each reaches the broker but is never answered, until [`KafkaProxy::mend`].
    Unanswered,
}

pub struct KafkaProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    broker: String,
    /// Address and port as the broker advertises them, and as the client should see them.
    address: [Vec<u8>; 2],
    topic: String,
    state: Mutex<State>,
}

struct State {
    fault: Option<Fault>,
    holds: bool,
    codecs: Vec<u8>,
}

/// One connection: where its requests go, and the pending edits of responses, by correlation id.
struct Link {
    broker: Mutex<TcpStream>,
    edits: Mutex<HashMap<[u8; 4], Edit>>,
}

/// With the version of the request.
enum Edit {
    /// Inserts another response before it, which refuses the request with correlation id `first`. If the broker does
    /// not accept this one yet, as on a partition without a leader, it is sent again.
    RefuseBefore {
        first: [u8; 4],
        version: i16,
        request: Vec<u8>,
    },
    DropOffset {
        version: i16,
    },
    Drop,
}

impl KafkaProxy {
    /// In front of `broker` (`host:port`, as it advertises itself).
    pub fn start(broker: &str, topic: &str, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (host, of_broker) = broker.rsplit_once(':').expect("host:port");
        let of_broker: u16 = of_broker.parse().expect("a port");
        let address = [of_broker, port].map(|port| [host.as_bytes(), &i32::from(port).to_be_bytes()].concat());
        let state = Mutex::new(State { fault: Some(fault), holds: false, codecs: Vec::new() });
        let shared = Arc::new(Shared { broker: broker.to_owned(), address, topic: topic.to_owned(), state });
        let accepting = shared.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| accepting.take(client)));
        Self { port, shared }
    }

    /// Where clients connect. Only the IPv4 loopback address, which the broker has to advertise, too.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops the fault from now on.
    pub fn mend(&self) {
        self.shared.state().fault = None;
    }

    /// The codec of each batch for the topic, by Kafka's numbers.
    pub fn codecs(&self) -> Vec<u8> {
        self.shared.state().codecs.clone()
    }

    /// Whether the fault has hit a request, or holds one back.
    pub fn has_struck(&self) -> bool {
        let state = self.shared.state();
        state.holds || state.fault.is_none()
    }
}

impl Shared {
    /// How the batch in a Produce request is compressed. Between the topic's name and the batch are the number of
    /// partitions, which is one, the partition and the batch's length.
    fn codec(&self, request: &[u8], version: i16) -> u8 {
        let topic = find(request, self.topic.as_bytes()).expect("the request names the topic");
        let partition = topic + self.topic.len() + if version >= COMPACT { 1 } else { 4 };
        let length = &request[partition + 4..];
        let bytes = if version >= COMPACT { 1 + length.iter().take_while(|byte| **byte >= 0x80).count() } else { 4 };
        length[bytes + ATTRIBUTES + 1] & 7
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn take(self: &Arc<Self>, client: TcpStream) {
        let Ok(broker) = TcpStream::connect(&self.broker) else { return };
        let _ = (client.set_nodelay(true), broker.set_nodelay(true));
        let (Ok(from_broker), Ok(to_client)) = (broker.try_clone(), client.try_clone()) else { return };
        let link = Arc::new(Link { broker: Mutex::new(broker), edits: Mutex::default() });
        let (back, forth, answered) = (self.clone(), self.clone(), link.clone());
        std::thread::spawn(move || {
            let (mut from, mut to) = (from_broker, to_client);
            while let Some(answer) = frame(&mut from) {
                if back.answers(answer, &answered).iter().any(|frame| to.write_all(frame).is_err()) {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
        std::thread::spawn(move || {
            let (mut from, mut held) = (client, None);
            while let Some(request) = frame(&mut from) {
                let request = forth.request(request, &mut held, &link);
                if request.is_some_and(|request| !link.send(&request)) {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), link.broker.lock().unwrap().shutdown(Shutdown::Both));
        });
    }

    /// The request to forward, if any. `held`: the correlation id of the request held back on this connection.
    fn request(&self, request: Vec<u8>, held: &mut Option<[u8; 4]>, link: &Link) -> Option<Vec<u8>> {
        if request[KEY..VERSION] != PRODUCE || find(&request, self.topic.as_bytes()).is_none() {
            return Some(request);
        }
        let version = i16::from_be_bytes(request[VERSION..CORRELATION].try_into().expect("two bytes"));
        let correlation = request[CORRELATION..CORRELATION + 4].try_into().expect("four bytes");
        let codec = self.codec(&request, version);
        let mut state = self.state();
        state.codecs.push(codec);
        let edit = match (state.fault, held.take()) {
            (Some(Fault::Overtaken), None) => {
                (*held, state.holds) = (Some(correlation), true);
                return None;
            }
            (Some(Fault::Overtaken), Some(first)) => Edit::RefuseBefore { first, version, request: request.clone() },
            (Some(Fault::WithoutOffset), _) => Edit::DropOffset { version },
            (Some(Fault::Unanswered), _) => {
                link.edits.lock().unwrap().insert(correlation, Edit::Drop);
                return Some(request);
            }
            (None, _) => return Some(request),
        };
        link.edits.lock().unwrap().insert(correlation, edit);
        (state.fault, state.holds) = (None, false);
        Some(request)
    }

    /// The responses for the client, given one from the broker.
    fn answers(&self, mut answer: Vec<u8>, link: &Link) -> Vec<Vec<u8>> {
        let [of_broker, ours] = &self.address;
        while let Some(at) = find(&answer, of_broker) {
            answer[at..at + ours.len()].copy_from_slice(ours);
        }
        let correlation: [u8; 4] = answer[ANSWERS..ANSWERS + 4].try_into().expect("four bytes");
        let edit = link.edits.lock().unwrap().remove(&correlation);
        match edit {
            None => vec![answer],
            Some(Edit::Drop) => Vec::new(),
            Some(Edit::DropOffset { version }) => {
                let error = self.error_code(&answer, version);
                answer[error + 2..error + 10].copy_from_slice(&NO_OFFSET);
                vec![answer]
            }
            Some(Edit::RefuseBefore { first, version, request }) => {
                let mut refusal = answer.clone();
                let error = self.error_code(&refusal, version);
                if refusal[error..error + 2] != ACCEPTED {
                    link.send(&request);
                    link.edits.lock().unwrap().insert(correlation, Edit::RefuseBefore { first, version, request });
                    return Vec::new();
                }
                refusal[ANSWERS..ANSWERS + 4].copy_from_slice(&first);
                refusal[error..error + 2].copy_from_slice(&NOT_LEADER);
                refusal[error + 2..error + 10].copy_from_slice(&NO_OFFSET);
                vec![refusal, answer]
            }
        }
    }

    /// The position of the error code in a Produce response; the offset follows it. Between the topic's name and the
    /// error code are the number of partitions, which is one, and the partition.
    fn error_code(&self, answer: &[u8], version: i16) -> usize {
        let topic = find(answer, self.topic.as_bytes()).expect("the answer names the topic");
        topic + self.topic.len() + if version >= COMPACT { 1 } else { 4 } + 4
    }
}

impl Link {
    /// Sends the whole request to the broker; `false` if the connection is broken.
    fn send(&self, request: &[u8]) -> bool {
        self.broker.lock().unwrap().write_all(request).is_ok()
    }
}

fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; LENGTH];
    from.read_exact(&mut frame).ok()?;
    let length = u32::from_be_bytes(frame[..].try_into().expect("four bytes"));
    frame.resize(LENGTH + length as usize, 0);
    from.read_exact(&mut frame[LENGTH..]).ok()?;
    Some(frame)
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}
