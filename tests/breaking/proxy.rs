//! A small TCP proxy between bridge and broker, which cuts, delays, or lets connections go silent.
//! Knows nothing of what it carries. Lives as long as the program.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

const PIECE: usize = 64 << 10;
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Closes what is open and what comes.
    Cut,
    /// Every piece of either direction comes so much later.
    Late(Duration),
    /// Carries nothing and closes nothing.
    Silent,
}

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
}

impl Proxy {
    /// To a port of this machine, where somebody may listen later.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::new(State { mode: Mode::Open, open: Vec::new() });
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
        self.shared.state().mode = mode;
        if mode == Mode::Cut {
            self.close_all();
        }
        self.shared.changed.notify_all();
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
            {
                let mut state = shared.state();
                // Closed ones stay in the list; it is short and ends with the next cut.
                state.open.extend([client_kept, server_kept]);
                if state.mode == Mode::Cut {
                    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                }
            }
            let back = shared.clone();
            std::thread::spawn(move || back.pump(server_in, client));
            shared.pump(client_in, server);
        });
    }

    /// Waits as long as nothing is carried; then how late it is.
    fn carries(&self) -> Duration {
        let state = self.state();
        match self.changed.wait_while(state, |state| state.mode == Mode::Silent).unwrap().mode {
            Mode::Late(by) => by,
            Mode::Open | Mode::Cut | Mode::Silent => Duration::ZERO,
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let late = self.carries();
            if !late.is_zero() {
                // The fault itself, not a wait for something.
                std::thread::park_timeout(late);
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        self.carries();
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
