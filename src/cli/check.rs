//! `check`: shows the effective configuration and its routes, with advice, and with `--online` the state of the bus.

use std::fmt::Write as _;
use std::path::Path;

use super::args::CheckArgs;
use super::failure::Failure;
use super::load::Loaded;
use super::memory::{self, Bound};
use super::serve::{Tls, setup};
use super::terminal::print;
use crate::bus::{self, Finding, Level};
use crate::config::{Bus, Config, Endpoint, Ignored};
use crate::log::disk;
use crate::route::{Route, RouteTable};
use crate::server::descriptors::{self, Shares};
use crate::spool;
use crate::vocabulary::{KNOWN, is_link};

/// Prints the effective configuration, the ignored variables and the routing table; mistakes in them were printed
/// before. Then come the most memory that this takes, the findings on the spool, and with `--online` those on the bus.
/// Fails if one of them is a mistake. With `--memory` it prints only that number.
pub(super) async fn run(args: &CheckArgs, loaded: &Loaded) -> Result<(), Failure> {
    let (config, table) = (&loaded.config, &loaded.routes);
    let bound = Bound::of(config);
    if args.memory {
        return print(&format!("{}\n", bound.bytes()));
    }
    let (effective, ignored) = (indented(&loaded.effective.to_string()), ignored(&loaded.effective.ignored));
    print(&format!("Configuration\n\n{effective}{ignored}\nRoutes\n\n{}", routes(table)))?;
    print(&format!("\nMemory\n\n{}", indented(&bound.to_string())))?;
    if let Some(advice) = bound.above(memory::limit()) {
        print(&format!("\n{}", described(&[advice])))?;
    }
    let connections = few_descriptors(descriptors::hard_limit(), config.server.max_connections);
    section("Connections", connections.as_slice())?;
    section("Endpoints", &[shared_secrets(&config.endpoints), dropped_links(config, table)].concat())?;
    let probably_wrong =
        loaded.resolved.advice().into_iter().map(|advice| Finding::advice(advice.about(), advice.says, advice.remedy));
    section("Advice", &probably_wrong.collect::<Vec<_>>())?;
    // The certificates must load.
    Tls::load(config).map_err(|error| Failure::Mistake(error.to_string()))?;
    let failed = |error: bus::OpenError| Failure::Running(error.to_string());
    let of_spool = config.spool.as_ref().map(spool::inspect).transpose().map_err(failed)?.unwrap_or_default();
    section("Spool", &of_spool)?;
    let mut of_bus: Vec<Finding> = bus::adapters::exposed_login(&config.bus).into_iter().collect();
    of_bus.extend(bus::adapters::needed_packages(&config.bus));
    let asked = match &config.bus {
        _ if args.online => bus::adapters::inspect(&config.bus, &setup(config, table)).await,
        Bus::Embedded(embedded) => Ok(open_to_others("embedded.dir", &embedded.dir)),
        _ => Ok(Vec::new()),
    };
    let unasked = asked.map(|found| of_bus.extend(found)).err();
    section("Bus", &of_bus)?;
    if let Some(error) = unasked {
        return Err(failed(error));
    }
    match of_spool.iter().chain(&of_bus).filter(|finding| finding.level == Level::Mistake).count() {
        0 => print("\nNo mistakes.\n"),
        1 => Err(Failure::Running("1 mistake to fix, see above".to_owned())),
        mistakes => Err(Failure::Running(format!("{mistakes} mistakes to fix, see above"))),
    }
}

fn section(title: &str, findings: &[Finding]) -> Result<(), Failure> {
    if findings.is_empty() { Ok(()) } else { print(&format!("\n{title}\n\n{}", described(findings))) }
}

/// Warns if the limit of open files allows fewer connections than configured. The bridge may run with another limit.
fn few_descriptors(limit: Option<u64>, max_connections: usize) -> Option<Finding> {
    let connections = Shares::of(limit, descriptors::usually_open(), max_connections).deliveries;
    (connections < max_connections).then(|| {
        let limit = limit.unwrap_or(u64::MAX);
        Finding::advice(
            "server.max_connections",
            format!("is {max_connections}, but the limit of open files here ({limit}) leaves room for {connections}"),
            "raise the hard limit where it runs (LimitNOFILE=, ulimit -Hn), or lower it",
        )
    })
}

fn open_to_others(about: &str, dir: &Path) -> Vec<Finding> {
    disk::open_to_others(dir).into_iter().map(|(says, remedy)| Finding::advice(about, says, remedy)).collect()
}

/// Endpoints that share a secret, which is allowed.
fn shared_secrets(endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, one) in endpoints.iter().enumerate() {
        let opens = |other: &&Endpoint| other.secrets.iter().any(|secret| one.secrets.contains(secret));
        findings.extend(endpoints[at + 1..].iter().filter(opens).map(|other| {
            Finding::advice(
                format!("endpoints.{} and endpoints.{}", one.name, other.name),
                "have a secret in common: a delivery captured on its way to one is accepted by the other",
                "give each its own: Terra has one for each environment and destination",
            )
        }));
    }
    findings
}

/// Links that would be fetched if their own type were not dropped.
fn dropped_links(config: &Config, table: &RouteTable) -> Vec<Finding> {
    let dropped = |endpoint: &Endpoint| {
        let is_dropped = |name: &&str| is_link(name) && *table.resolve(&endpoint.name, name) == Route::Drop;
        let names: Vec<_> = KNOWN.iter().map(|known| known.name).filter(is_dropped).collect();
        (!names.is_empty()).then(|| {
            Finding::advice(
                format!("endpoints.{}", endpoint.name),
                format!("drops {}: what such links lead to is dropped with them", names.join(" and ")),
                "give them a topic, unless you want nothing of what Terra sends by link",
            )
        })
    };
    config.s3.iter().flat_map(|_| &config.endpoints).filter_map(dropped).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Variables that look like ours but are not; empty if there are none.
pub(super) fn ignored(variables: &[Ignored]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let mut text = "\nIgnored variables: ours are TERRA_BRIDGE_BUS, TERRA_BRIDGE_CONFIG, whole tables such as \
                    TERRA_BRIDGE_ROUTES, and those with `__`\n\n"
        .to_owned();
    for variable in variables {
        let _ = writeln!(text, "  {variable}");
    }
    text
}

fn routes(table: &RouteTable) -> String {
    let rows = table.rows();
    let width = |of: fn(&(String, String, Route)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (endpoint, kind) = (width(|row| row.0.len()), width(|row| row.1.len()));
    let mut text = String::new();
    for (of, name, route) in &rows {
        let route = match route {
            Route::To(topic) => topic,
            Route::Drop => "(dropped)",
        };
        let _ = writeln!(text, "  {of:endpoint$}  {name:kind$}  {route}");
    }
    text
}

fn described(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Fine => "fine   ",
            Level::Advice => "advice ",
            Level::Mistake => "mistake",
        };
        let _ = writeln!(text, "  {level}  {}: {}", finding.about, finding.says);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "           → {remedy}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_printed_with_its_remedy() {
        let finding = Finding::mistake("terra.daily", "does not exist", "make it");
        assert_eq!(described(&[finding]), "  mistake  terra.daily: does not exist\n           → make it\n");
    }
}
