//! Loads the configuration for a command, and has each module check its own section.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::bus::adapters;
use crate::config::{self, Bus, Config, Draft, Effective, Mistakes, Purpose, Resolved};
use crate::route::{RouteError, RouteTable};

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// For display; contains no secret.
    pub effective: Effective,
    /// For comparison with the next one.
    pub resolved: Resolved,
    pub routes: RouteTable,
}

/// Like [`config::read`], with the checks of all modules.
///
/// # Errors
/// Every mistake at once; none contains a secret.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    is_terminal: bool,
) -> Result<Loaded, Mistakes> {
    load_without(adapters::LEFT_OUT, file, environment, is_terminal)
}

/// The same for a program that is built without these buses.
pub(crate) fn load_without(
    left_out: &[&str],
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    is_terminal: bool,
) -> Result<Loaded, Mistakes> {
    let draft = config::read(Purpose::Serve, file, environment, is_terminal)?;
    let (resolved, routes) = checked(draft, left_out)?;
    let effective = effective(&resolved);
    Ok(Loaded { config: resolved.config().clone(), effective, resolved, routes })
}

/// Every key with its value and its source; of a secret, only that it is set.
pub(super) fn effective(resolved: &Resolved) -> Effective {
    resolved.effective(adapters::is_printable)
}

/// The same for [`Purpose::ReadBus`]: only the bus, and what is stored there.
///
/// # Errors
/// As [`load`].
pub fn load_for_reader(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Bus, RouteTable), Mistakes> {
    load_for_reader_without(adapters::LEFT_OUT, file, environment)
}

/// The same for a program that is built without these buses.
pub(crate) fn load_for_reader_without(
    left_out: &[&str],
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Bus, RouteTable), Mistakes> {
    let (resolved, routes) = checked(config::read(Purpose::ReadBus, file, environment, false)?, left_out)?;
    Ok((resolved.config().bus.clone(), routes))
}

/// The same with everything else that [`Purpose::ReadBus`] reads: the spool, and how to publish.
///
/// # Errors
/// As for [`load`].
pub(super) fn load_for_operator(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Config, RouteTable), Mistakes> {
    let draft = config::read(Purpose::ReadBus, file, environment, false)?;
    let (resolved, routes) = checked(draft, adapters::LEFT_OUT)?;
    Ok((resolved.config().clone(), routes))
}

fn checked(mut draft: Draft, left_out: &[&str]) -> Result<(Resolved, RouteTable), Mistakes> {
    let bus = draft.config().bus.name();
    if left_out.contains(&bus) {
        let wrong = format!("is {bus}, but this terra-bridge is built without {bus}");
        draft.report("bus", wrong, "choose another bus, or build it with every bus: cargo install --locked --path .");
    }
    check(&mut draft);
    let routes = routes(&mut draft);
    let resolved = draft.finish()?;
    Ok((resolved, routes.expect("a table without mistakes, of a configuration without any")))
}

/// Reports the mistakes that modules find, except those in routes. Routes can change while the bridge runs, and never
/// conflict with what cannot.
pub(super) fn check(draft: &mut Draft) {
    let config = draft.config();
    // A bound that is itself a mistake is not compared with other values.
    let bus_timeout = if draft.is_sound("server.publish_timeout") { config.bus_timeout() } else { Duration::MAX };
    let max_body = if draft.is_sound("server.max_body") { config.server.max_body } else { 0 };
    for (property, wrong, remedy) in adapters::check_properties(&config.bus, bus_timeout, max_body) {
        draft.report(&format!("kafka.properties.{property}"), wrong, remedy);
    }
}

/// The routing table; `None` if the routes have mistakes, which are reported.
fn routes(draft: &mut Draft) -> Option<RouteTable> {
    // Only the complete table shows topics that collide across all known types.
    let wrongs = match RouteTable::of(draft.config()) {
        Ok(table) => return Some(table),
        Err(wrongs) => wrongs,
    };
    for wrong in wrongs {
        match wrong {
            RouteError::Illegal { key, topic, problem } => {
                let wrong = format!("makes the topic `{topic}`, which is no name for one: it {problem}");
                draft.report(&key, wrong, "change it");
            }
            RouteError::Confusable { others_key, .. } if !draft.is_sound(&others_key) => {}
            RouteError::Confusable { key, topic, other, others_key } => {
                let source = draft.source(&others_key);
                let wrong = format!(
                    "makes the topic `{topic}`, which differs only in `.` and `_` from `{other}` of {others_key} ({source}), \
                     and Kafka refuses that"
                );
                draft.report(&key, wrong, "rename one of them");
            }
        }
    }
    None
}
