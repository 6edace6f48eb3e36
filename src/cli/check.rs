//! `check`: shows what the configuration comes to, and with `--online` what the bus says to it.

use std::fmt::Write as _;
use std::path::Path;

use super::args::CheckArgs;
use super::failure::Failure;
use super::serve::Tls;
use super::setup;
use super::terminal::print;
use crate::bus::{self, Finding, Level};
use crate::config::{Advice, Bus, Config, Endpoint, Ignored, Loaded};
use crate::log::disk;
use crate::route::{Route, RouteTable};
use crate::server::descriptors::{self, Shares};
use crate::spool;
use crate::vocabulary::{KNOWN, is_link};

/// Prints the effective configuration, the ignored variables and the routing table; every mistake was
/// said before. Then the findings on the spool and on the bus, with `--online` what that says itself; fails where one
/// is a mistake.
pub(super) async fn run(args: &CheckArgs, loaded: &Loaded, table: &RouteTable) -> Result<(), Failure> {
    let mut text = format!("Configuration\n\n{}", indented(&loaded.effective.to_string()));
    text.push_str(&ignored(&loaded.effective.ignored));
    let _ = write!(text, "\nRoutes\n\n{}", routes(table));
    print(&text)?;
    if let Some(finding) = few_descriptors(descriptors::hard_limit(), loaded.config.server.max_connections) {
        print(&format!("\nConnections\n\n{}", described(&[finding])))?;
    }
    let of_endpoints = [shared(&loaded.config.endpoints), dropped_links(&loaded.config, table)].concat();
    if !of_endpoints.is_empty() {
        print(&format!("\nEndpoints\n\n{}", described(&of_endpoints)))?;
    }
    let advice: Vec<_> = loaded.inventory.advice().into_iter().map(finding).collect();
    if !advice.is_empty() {
        print(&format!("\nAdvice\n\n{}", described(&advice)))?;
    }
    certificates(&loaded.config)?;
    let failed = |error: bus::OpenError| Failure::Running(error.to_string());
    let mut findings = Vec::new();
    if let Some(config) = &loaded.config.spool {
        findings = spool::inspect(config).map_err(failed)?;
        print(&format!("\nSpool\n\n{}", described(&findings)))?;
    }
    let mut of_bus: Vec<Finding> = bus::adapters::exposed_login(&loaded.config.bus).into_iter().collect();
    let mut unasked = None;
    if let (Bus::Embedded(embedded), false) = (&loaded.config.bus, args.online) {
        of_bus.extend(open_to_others("embedded.dir", &embedded.dir));
    }
    if args.online {
        match bus::adapters::inspect(&loaded.config.bus, &setup(&loaded.config, table)).await {
            Ok(found) => of_bus.extend(found),
            Err(error) => unasked = Some(failed(error)),
        }
    }
    if !of_bus.is_empty() {
        print(&format!("\nBus\n\n{}", described(&of_bus)))?;
        findings.extend(of_bus);
    }
    if let Some(failure) = unasked {
        return Err(failure);
    }
    match findings.iter().filter(|finding| finding.level == Level::Mistake).count() {
        0 => print("\nNo mistakes.\n"),
        mistakes => Err(Failure::Running(format!("not all is as it must be: {mistakes} to mend, see above"))),
    }
}

fn finding(advice: Advice) -> Finding {
    let (about, Advice { says, remedy, .. }) = (advice.about(), advice);
    Finding { about, level: Level::Advice, says, remedy: Some(remedy) }
}

/// Where the limit of open files leaves fewer connections than are wanted. The bridge's own may be another.
fn few_descriptors(limit: Option<u64>, max_connections: usize) -> Option<Finding> {
    let connections = Shares::of(limit, descriptors::usually_open(), max_connections).deliveries;
    (connections < max_connections).then(|| Finding {
        about: "server.max_connections".into(),
        level: Level::Advice,
        says: format!(
            "is {max_connections}, but so few files may be open here ({}) that a bridge has room for {connections}",
            limit.unwrap_or(u64::MAX)
        ),
        remedy: Some("raise the hard limit where it runs (LimitNOFILE=, ulimit -Hn), or lower it".into()),
    })
}

fn open_to_others(about: &str, dir: &Path) -> Vec<Finding> {
    let open = disk::open_to_others(dir).into_iter();
    open.map(|(says, remedy)| Finding { about: about.into(), level: Level::Advice, says, remedy: Some(remedy) })
        .collect()
}

/// Endpoints that one secret opens, which is allowed.
fn shared(endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, one) in endpoints.iter().enumerate() {
        let opens = |other: &&Endpoint| other.secrets.iter().any(|secret| one.secrets.contains(secret));
        findings.extend(endpoints[at + 1..].iter().filter(opens).map(|other| Finding {
            about: format!("endpoints.{} and endpoints.{}", one.name, other.name),
            level: Level::Advice,
            says: "have a secret in common: what is captured on its way to one is taken at the other".into(),
            remedy: Some("give each its own: Terra has one for each environment and destination".into()),
        }));
    }
    findings
}

/// Links that would be fetched, were their own type not dropped.
fn dropped_links(config: &Config, table: &RouteTable) -> Vec<Finding> {
    let links = || KNOWN.iter().map(|known| known.name).filter(|name| is_link(name));
    let dropped = |endpoint: &Endpoint| {
        let of_it: Vec<_> = links().filter(|name| *table.resolve(&endpoint.name, name) == Route::Drop).collect();
        (!of_it.is_empty()).then(|| Finding {
            about: format!("endpoints.{}", endpoint.name),
            level: Level::Advice,
            says: format!("drops {}: what such links lead to is dropped with them", of_it.join(" and ")),
            remedy: Some("give them a topic, unless you want nothing of what Terra sends by link".into()),
        })
    };
    config.s3.iter().flat_map(|_| &config.endpoints).filter_map(dropped).collect()
}

/// Whether the listeners could prove themselves.
fn certificates(config: &Config) -> Result<(), Failure> {
    Tls::load(config).map(drop).map_err(|error| Failure::Mistake(error.to_string()))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// The variables that look like ours and are not; empty where there are none.
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
    fn a_finding_is_said_with_its_remedy() {
        let finding = Finding {
            about: "terra.daily".into(),
            level: Level::Mistake,
            says: "does not exist".into(),
            remedy: Some("make it".into()),
        };
        assert_eq!(described(&[finding]), "  mistake  terra.daily: does not exist\n           → make it\n");
    }
}
