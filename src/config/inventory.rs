//! Every key with its value, to be compared with those of the next load. Comes in: the values that
//! count. Goes out: which keys differ, what follows for the bridge that runs, and secrets that changed
//! on disk. Names keys and endpoints only, never a value.

use std::collections::BTreeSet;

use super::mistake::Mistake;
use super::values::{BUSES, Held, Values};
use super::watched::{News, Watched};
use super::{Advice, Config, advice, resolve, rules};

/// What counts at the moment.
#[derive(Debug, Clone)]
pub struct Inventory(Values);

/// How a load differs from what counts, in the names of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Taken over at once.
    pub changed: Vec<String>,
    /// Endpoints, by their names; taken over at once.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Takes effect at the next start.
    pub left: Vec<String>,
}

/// What a look at the files of secrets found, in the names of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    pub rotated: Vec<String>,
    /// A file is empty or cannot be read, and why: its last secret still counts.
    pub gone: Vec<(String, String)>,
    /// Looking at a file has no end: its last secret still counts.
    pub hanging: Vec<String>,
}

impl Inventory {
    pub(super) fn of(values: Values) -> Self {
        Self(values)
    }

    /// What counts at the moment.
    pub fn config(&self) -> Config {
        resolve::config(&self.0).expect("sound values were resolved before")
    }

    /// Takes over from `new` what can change while the bridge runs, and says what that was.
    ///
    /// # Errors
    /// The mistakes that this makes together with what cannot change; nothing is taken over then.
    pub fn take_over(&mut self, new: Self) -> Result<Difference, Vec<Mistake>> {
        let difference = self.compare(&new);
        let mixed = self.mixed(new);
        let mistakes = rules::judge(&mixed);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        self.0 = mixed;
        Ok(difference)
    }

    /// What can change as in `new`, the rest as it is.
    fn mixed(&self, new: Self) -> Values {
        let other_bus = self.bus_differs(&new);
        let stays = |name: &str, held: &Held| !held.key.is_live() || (other_bus && of_a_bus(name));
        let mut mixed = new.0;
        mixed.held.retain(|name, held| !stays(name, held));
        let ours = self.0.held.iter().filter(|(name, held)| stays(name, held));
        mixed.held.extend(ours.map(|(name, held)| (name.clone(), held.clone())));
        mixed
    }

    fn compare(&self, new: &Self) -> Difference {
        let names = |from: &BTreeSet<String>, less: &BTreeSet<String>| from.difference(less).cloned().collect();
        let (before, after) = (&self.0.endpoints, &new.0.endpoints);
        let mut difference =
            Difference { added: names(after, before), removed: names(before, after), ..Difference::default() };
        let other_bus = self.bus_differs(new);
        for name in self.0.held.keys().chain(new.0.held.keys()).collect::<BTreeSet<_>>() {
            let (ours, theirs) = (self.0.held.get(name), new.0.held.get(name));
            if ours.map(|held| &held.parsed) == theirs.map(|held| &held.parsed) || (other_bus && of_a_bus(name)) {
                continue;
            }
            if !ours.or(theirs).is_some_and(|held| held.key.is_live()) {
                difference.left.push(name.clone());
            } else if endpoint(name).is_none_or(|endpoint| before.contains(endpoint) && after.contains(endpoint)) {
                difference.changed.push(name.clone());
            }
        }
        difference
    }

    fn bus_differs(&self, new: &Self) -> bool {
        self.0.bus() != new.0.bus()
    }

    /// What in it is no mistake and yet hardly what anybody meant.
    pub fn advice(&self) -> Vec<Advice> {
        advice::of(&self.0)
    }

    /// Reads the files of all secrets that can change while the bridge runs. Blocks on the disk, but not on one
    /// that does not answer.
    pub fn look(&mut self) -> Looked {
        let mut looked = Looked::default();
        for (name, held) in &mut self.0.held {
            let mut rotated = false;
            for (secret, file) in held.parsed.secrets_mut().iter_mut().zip(&mut held.files) {
                match file.as_mut().map_or(News::Nothing, Watched::look) {
                    News::Nothing => {}
                    News::Changed(now) => {
                        *secret = now;
                        rotated = true;
                    }
                    News::Gone(why) => looked.gone.push((name.clone(), why)),
                    News::Hangs => looked.hanging.push(name.clone()),
                }
            }
            if rotated {
                looked.rotated.push(name.clone());
            }
        }
        looked
    }
}

/// The endpoint that a key belongs to.
fn endpoint(name: &str) -> Option<&str> {
    name.strip_prefix("endpoints.")?.split('.').next()
}

fn of_a_bus(name: &str) -> bool {
    name.split('.').next().is_some_and(|section| section != name && BUSES.contains(&section))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::super::{Bus, Loaded, Secret, load};
    use super::*;

    fn loaded(dir: &Path, toml: &str) -> Loaded {
        let path = dir.join("t.toml");
        std::fs::write(&path, toml).unwrap();
        let variables: Vec<(OsString, OsString)> = vec![("S".into(), "hunter2".into()), ("P".into(), "hunter3".into())];
        load(Some(&path), variables.into_iter(), false).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    const SIGNED: &str = "[endpoints.terra]\nsecrets = [\"env:S\"]\n";

    /// Between two files, of which only the second half differs.
    fn difference(same: &str, before: &str, after: &str) -> Difference {
        let dir = tempfile::tempdir().unwrap();
        let mut running = loaded(dir.path(), &format!("{same}{before}")).inventory;
        let new = loaded(dir.path(), &format!("{same}{after}")).inventory;
        let difference = running.take_over(new.clone()).unwrap();
        let again = running.compare(&new);
        assert_eq!(again, Difference { left: difference.left.clone(), ..Difference::default() }, "the rest is taken");
        difference
    }

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_the_same_in_other_words_is_no_difference() {
        let difference = difference(SIGNED, "", "max_age = \"1560m\"\n[server]\nmax_body = \"12288 KiB\"");
        assert_eq!(difference, Difference::default());
    }

    #[test]
    fn endpoints_routes_and_the_filter_are_taken_over_and_the_rest_is_named_and_left() {
        let after = "max_age = \"1h\"\nrejected_status = 503\n[routes]\nunknown = false\n[routes.types]\ndaily = \"d\"\n\
                     \"lab.*\" = \"l\"\n[log]\nfilter = \"debug\"\nformat = \"text\"\n[server]\nlisten = \"0.0.0.0:1\"\n\
                     [embedded]\ndir = \"/elsewhere\"";
        let difference = difference(SIGNED, "", after);
        let changed = [
            "endpoints.terra.max_age",
            "endpoints.terra.rejected_status",
            "log.filter",
            "routes.types.daily",
            "routes.types.lab.*",
            "routes.unknown",
        ];
        assert_eq!(difference.changed, keys(&changed));
        assert_eq!(difference.left, keys(&["embedded.dir", "log.format", "server.listen"]));
        assert!(difference.added.is_empty() && difference.removed.is_empty());
    }

    #[test]
    fn endpoints_that_come_and_go_are_named_as_a_whole() {
        let before = "[endpoints.gone]\npath = \"/gone\"\nsecrets = [\"env:S\"]";
        let after = "[endpoints.new]\npath = \"/gone\"\nsecrets = [\"env:S\"]";
        let difference = difference(SIGNED, before, after);
        let expected = Difference { added: keys(&["new"]), removed: keys(&["gone"]), ..Difference::default() };
        assert_eq!(difference, expected);
    }

    #[test]
    fn a_secret_of_the_broker_that_changed_is_named_and_never_shown() {
        let same = format!("{SIGNED}[nats]\nservers = [\"a:1\"]\nuser = \"u\"\n");
        let same = format!("bus = \"nats\"\n{same}");
        let difference = difference(&same, "password = \"env:S\"", "password = \"env:P\"");
        assert_eq!(difference.left, keys(&["nats.password"]));
        assert!(!format!("{difference:?}").contains("hunter"));
    }

    #[test]
    fn another_bus_is_one_name() {
        let after = "[kafka]\nbrokers = [\"a:1\"]";
        let dir = tempfile::tempdir().unwrap();
        let mut running = loaded(dir.path(), SIGNED).inventory;
        let new = loaded(dir.path(), &format!("bus = \"kafka\"\n{SIGNED}{after}")).inventory;
        let expected = Difference { left: keys(&["bus"]), ..Difference::default() };
        assert_eq!(running.take_over(new).unwrap(), expected);
        assert!(matches!(running.config().bus, Bus::Embedded(_)));
    }

    #[test]
    fn what_does_not_go_with_what_cannot_change_is_refused_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let open = "[embedded]\nlisten = \"0.0.0.0:1\"\ntoken = \"env:P\"";
        for (before, after, mistaken) in [
            (open, "[embedded]\nlisten = \"127.0.0.1:1\"\n[log]\nfilter = \"debug\"", "embedded.listen"),
            ("", "max_age = \"30h\"\n[log]\nfilter = \"debug\"\n[dedupe]\nwindow = \"31h\"", "dedupe.window"),
        ] {
            let mut running = loaded(dir.path(), &format!("{SIGNED}{before}")).inventory;
            let new = loaded(dir.path(), &format!("{SIGNED}{after}")).inventory;
            let mistakes = running.take_over(new).unwrap_err();
            assert_eq!(mistakes.iter().map(|mistake| &*mistake.key).collect::<Vec<_>>(), [mistaken]);
            assert_eq!(running.config().log.filter, "info");
        }
    }

    #[test]
    fn what_counts_is_the_old_with_what_can_change_of_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let mut running = loaded(dir.path(), &format!("{SIGNED}[embedded]\ntoken = \"env:S\"")).inventory;
        let after = "[server]\nmax_body = \"1 KiB\"\n[embedded]\ntoken = \"env:P\"\nretention = \"1h\"\n\
                     [endpoints.two]\npath = \"/two\"\nsecrets = [\"env:P\"]";
        let difference = running.take_over(loaded(dir.path(), &format!("{SIGNED}{after}")).inventory).unwrap();
        assert_eq!(difference.changed, keys(&["embedded.token"]));
        assert_eq!(difference.left, keys(&["embedded.retention", "server.max_body"]));
        let config = running.config();
        let Bus::Embedded(embedded) = config.bus else { panic!("another bus") };
        assert_eq!(embedded.token, Some(Secret::new("hunter3")));
        assert_eq!((embedded.retention.as_secs(), config.server.max_body), (7 * 24 * 3600, 12 << 20));
        assert_eq!(config.endpoints.len(), 2);
    }

    #[test]
    fn only_the_secret_whose_file_changed_is_new_and_brokers_secrets_are_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b", "p"] {
            std::fs::write(at(name), name).unwrap();
        }
        let toml = format!(
            "bus = \"nats\"\n[endpoints.terra]\nsecrets = [\"file:{}\", \"env:S\", \"file:{}\"]\n\
             [nats]\nservers = [\"a:1\"]\nuser = \"u\"\npassword = \"file:{}\"",
            at("a").display(),
            at("b").display(),
            at("p").display()
        );
        let mut running = loaded(dir.path(), &toml).inventory;
        std::fs::write(at("b"), "c").unwrap();
        std::fs::write(at("p"), "q").unwrap();
        std::fs::write(at("a"), "").unwrap();
        assert_eq!(running.look(), Looked::default());
        let key = keys(&["endpoints.terra.secrets"]);
        let gone = vec![(key[0].clone(), "it is empty".to_owned())];
        assert_eq!(running.look(), Looked { rotated: key, gone, ..Looked::default() });
        assert_eq!(running.config().endpoints[0].secrets, ["a", "hunter2", "c"].map(Secret::new));
        assert_eq!(running.look(), Looked::default());
        std::fs::write(at("a"), "a").unwrap();
        let new = loaded(dir.path(), &toml).inventory;
        let difference = running.take_over(new).unwrap();
        assert_eq!((difference.left, difference.changed), (keys(&["nats.password"]), vec![]), "rotated is no news");
    }
}
