//! A Unix socket in the directory of the spool or of the embedded log, by which commands ask the process that has the
//! directory open: two processes never share one. Only the owner of the directory can connect. `api` is what it answers,
//! `publish` what it publishes; HTTP with JSON, and nothing of it is a promise to other programs.

mod api;
mod publish;

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use api::{Api, Line};
pub(crate) use publish::{Published, Publisher};

const NAME: &str = "admin.sock";

/// Commands at once; further ones wait.
const CONNECTIONS: usize = 8;

/// How long a connection may take to send a request's head.
const HEAD: Duration = Duration::from_secs(5);

/// How long to wait after an accept error, which comes from a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest path that fits into a socket's address.
const LONGEST_PATH: usize = 107;

/// A listening socket. Dropping it removes its file.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens in a directory that this process has locked: what an earlier process left there is replaced.
pub(crate) fn bind(dir: &Path) -> io::Result<Socket> {
    let path = dir.join(NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let address = Address::new(dir)?;
    let listener = UnixListener::bind(&address.path)?;
    let socket = Socket { listener, path };
    std::fs::set_permissions(&socket.path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Connects to the process that has the directory open; `None` if none listens there.
pub(crate) async fn connect(dir: &Path) -> io::Result<Option<UnixStream>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let connecting = async { UnixStream::connect(&Address::new(dir)?.path).await };
    match connecting.await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The socket's path, short enough for an address.
struct Address {
    path: PathBuf,
    /// What the path leads through.
    _dir: Option<File>,
}

impl Address {
    fn new(dir: &Path) -> io::Result<Self> {
        let path = dir.join(NAME);
        if path.as_os_str().len() <= LONGEST_PATH {
            return Ok(Self { path, _dir: None });
        }
        let dir = File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(NAME);
        Ok(Self { path, _dir: Some(dir) })
    }
}

/// Serves until `stop`, which cuts off whoever is still connected.
pub(crate) async fn serve(socket: Socket, api: Api, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < CONNECTIONS;
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = socket.listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, api.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Answers the requests of one connection.
pub(crate) async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, api: Api) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, std::convert::Infallible>(api.call(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    // Whoever hangs up has no use for the rest.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_and_replaces_one_that_was_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        for depth in [1, 20] {
            let dir = dir.path().join(["a-long-name"; 20][..depth].join("/"));
            std::fs::create_dir_all(&dir).unwrap();
            assert!(connect(&dir).await.unwrap().is_none(), "nobody listens");
            let left = bind(&dir).unwrap();
            std::mem::forget(left);
            let socket = bind(&dir).unwrap();
            let mode = std::fs::metadata(&socket.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(connect(&dir).await.unwrap().is_some());
            drop(socket);
            assert!(connect(&dir).await.unwrap().is_none() && !dir.join(NAME).exists());
        }
    }
}
