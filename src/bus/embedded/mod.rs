//! The embedded log: a bus without a broker, for one bridge and one disk. Messages are kept by a
//! writer thread (`writer` on `store`), read over HTTP (`api`), also by `tail`.

mod api;
mod codec;
mod inspect;
mod store;
mod tail;
mod writer;

pub use api::Api;
pub(super) use inspect::inspect;
pub(super) use tail::tail;

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Bus, Link, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use store::{Keep, Store, StoreError};
use writer::{Job, Writer};

/// What the writer and the readers share.
struct Shared {
    /// `None` while the log is being opened anew.
    store: RwLock<Option<Arc<Store>>>,
    topics: Vec<Topic>,
    changed: watch::Sender<()>,
}

impl Shared {
    fn store(&self) -> Option<Arc<Store>> {
        self.store.read().expect("no holder of this lock can panic").clone()
    }

    fn set(&self, store: Option<Arc<Store>>) {
        *self.store.write().expect("no holder of this lock can panic") = store;
        self.committed();
    }

    /// Wakes whoever waits for more.
    fn committed(&self) {
        self.changed.send_replace(());
    }

    fn configured(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|topic| &**topic)
    }
}

struct Embedded {
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    link: watch::Receiver<Link>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the log in `embedded.dir`, which is made where it is missing. Needs a tokio runtime.
///
/// # Errors
/// Where the directory cannot be used, or another process uses it.
pub(super) fn open(config: &config::Embedded, setup: Setup) -> Result<(Arc<dyn Bus>, Api), OpenError> {
    let keep = Keep { age: config.retention, bytes: config.max_bytes };
    make_dir(&config.dir)
        .map_err(|error| at(config, &error.to_string(), "name a directory that this user may write"))?;
    let store = Store::open(&config.dir, keep).map_err(|error| {
        let remedy = match error {
            StoreError::Locked => "stop that one, or give this one a directory of its own",
            StoreError::Damaged(_) => "restore it from a copy, or move it away and start with an empty one",
            StoreError::Failed(_) => "see that this user may write there and that the disk has space",
        };
        at(config, &error.to_string(), remedy)
    })?;
    let (jobs, waiting) = mpsc::channel(writer::WAITING);
    let (link_sender, link) = watch::channel(Link::Up);
    let shared = Arc::new(Shared { store: RwLock::default(), topics: setup.topics, changed: watch::Sender::new(()) });
    store.know(shared.configured());
    shared.set(Some(Arc::new(store)));
    let (dir, reserve) = (config.dir.clone(), config.reserve);
    let (shared_too, doubtful) = (shared.clone(), Default::default());
    let writer = Writer { dir, keep, reserve, shared: shared_too, link: link_sender, jobs: waiting, doubtful };
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("embedded-log".into()).spawn(move || writer.run(&runtime));
    let thread = thread.map_err(|error| OpenError(format!("no thread for the embedded log: {error}")))?;
    let embedded = Embedded { jobs: Mutex::new(Some(jobs)), link, writer: Mutex::new(Some(thread)) };
    Ok((Arc::new(embedded), Api::new(shared, config)))
}

fn at(config: &config::Embedded, problem: &str, remedy: &str) -> OpenError {
    OpenError(format!("`embedded.dir` {}: {problem}; {remedy}", config.dir.display()))
}

/// Readable by its owner alone: it is full of health data.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Bus for Embedded {
    fn publish(&self, message: Message) -> Pending<Result<Receipt, Refusal>> {
        let refused = |reason: &'static str| Err(Refusal::Transient { reason: reason.into() });
        let (receipt, answer) = oneshot::channel();
        let sent = match &*self.jobs.lock().expect("no holder of this lock can panic") {
            Some(jobs) => jobs.try_send(Job { message, receipt }).is_ok(),
            None => false,
        };
        Box::pin(async move {
            if !sent {
                return refused("the embedded log has too much to write, or is closing");
            }
            answer.await.unwrap_or_else(|_| refused("the embedded log ended before it could write"))
        })
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn close(&self) -> Pending<()> {
        drop(self.jobs.lock().expect("no holder of this lock can panic").take());
        let writer = self.writer.lock().expect("no holder of this lock can panic").take();
        Box::pin(async move {
            if let Some(writer) = writer {
                // A panic in the writer has refused what it held; there is nothing left to do.
                let _ = tokio::task::spawn_blocking(move || writer.join()).await;
            }
        })
    }
}
