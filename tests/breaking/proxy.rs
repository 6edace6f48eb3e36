//! A small TCP proxy between bridge and broker, which cuts, delays or silences connections, or refuses batches in the
//! broker's name. Knows nothing else of its traffic. Exists as long as the program.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::refused::{Batch, HeldBack, Place, frame};

const PIECE: usize = 64 << 10;
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Closes open connections and new ones.
    Cut,
    /// Delays every piece in either direction by this much.
    Late(Duration),
    /// Forwards nothing and closes nothing.
    Silent,
    /// Kafka only, for connections opened from now on: the first batch for each partition is answered with "not the
    /// leader", and all later ones are forwarded. A broker answers like this if it becomes the leader between the
    /// two.
    Refusing,
}

/// How long the first batch for a partition waits for the second.
const SECOND_WITHIN: Duration = Duration::from_millis(700);

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    open: Vec<TcpStream>,
    /// Topics and partitions that had a batch refused since the mode began.
    refused: HashSet<Place>,
}

impl Proxy {
    /// Forwards to a local port, where a broker may listen later.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::new(State { mode: Mode::Open, open: Vec::new(), refused: HashSet::new() });
        let shared = Arc::new(Shared { to, state, changed: Condvar::new() });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.take(client);
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state();
        state.mode = mode;
        state.refused.clear();
        drop(state);
        if matches!(mode, Mode::Cut | Mode::Refusing) {
            self.close_all();
        }
        self.shared.changed.notify_all();
    }

    /// How many partitions had a batch refused since the mode began.
    pub fn refused(&self) -> usize {
        self.shared.state().refused.len()
    }

    pub fn close_all(&self) {
        for stream in self.shared.state().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn take(self: &Arc<Self>, client: TcpStream) {
        if self.state().mode == Mode::Cut {
            return;
        }
        let shared = self.clone();
        std::thread::spawn(move || {
            shared.carries();
            let to = ([127, 0, 0, 1], shared.to).into();
            let Ok(server) = TcpStream::connect_timeout(&to, CONNECTS_WITHIN) else { return };
            let both = |stream: &TcpStream| stream.try_clone().and_then(|twin| Ok((twin, stream.try_clone()?)));
            let (Ok((client_in, client_kept)), Ok((server_in, server_kept))) = (both(&client), both(&server)) else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let refuses = {
                let mut state = shared.state();
                // Closed ones stay in the list, which is short and cleared by the next cut.
                state.open.extend([client_kept, server_kept]);
                if state.mode == Mode::Cut {
                    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                }
                state.mode == Mode::Refusing
            };
            let back = shared.clone();
            if refuses {
                let (client, held) = (Arc::new(Mutex::new(client)), Arc::new(HeldBack::default()));
                let (answers, held_back) = (client.clone(), held.clone());
                std::thread::spawn(move || pump_answers(server_in, &answers, &held_back));
                shared.pump_requests(client_in, server, &client, &held);
            } else {
                std::thread::spawn(move || back.pump(server_in, client));
                shared.pump(client_in, server);
            }
        });
    }

    /// Waits while nothing is forwarded; then returns the delay.
    fn carries(&self) -> Duration {
        let state = self.state();
        match self.changed.wait_while(state, |state| state.mode == Mode::Silent).unwrap().mode {
            Mode::Late(by) => by,
            Mode::Open | Mode::Cut | Mode::Silent | Mode::Refusing => Duration::ZERO,
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let late = self.carries();
            if !late.is_zero() {
                // The fault itself, not a wait for an event.
                std::thread::park_timeout(late);
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        self.carries();
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// Forwards whole requests, except those held back.
    fn pump_requests(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        client: &Arc<Mutex<TcpStream>>,
        held: &Arc<HeldBack>,
    ) {
        while let Ok(request) = frame(&mut from) {
            if let Some(batch) = Batch::of(&request) {
                if self.refuses(&batch.place) {
                    let (place, client, held_back) = (batch.place.clone(), client.clone(), held.clone());
                    held.hold(batch);
                    std::thread::spawn(move || {
                        std::thread::park_timeout(SECOND_WITHIN);
                        // If the connection is closed, nobody waits for it any more.
                        let _ = held_back.alone(&place).map(|refusal| client.lock().unwrap().write_all(&refusal));
                    });
                    continue;
                }
                held.follows(&batch);
            }
            if to.write_all(&request).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// Whether this batch is the first for its partition since the mode began.
    fn refuses(&self, place: &Place) -> bool {
        let mut state = self.state();
        state.mode == Mode::Refusing && state.refused.insert(place.clone())
    }
}

/// Forwards whole responses, with refusals between them.
fn pump_answers(mut from: TcpStream, client: &Mutex<TcpStream>, held: &HeldBack) {
    while let Ok(answer) = frame(&mut from) {
        let both = [held.before(&answer).unwrap_or_default(), answer].concat();
        if client.lock().unwrap().write_all(&both).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), client.lock().unwrap().shutdown(Shutdown::Both));
}
