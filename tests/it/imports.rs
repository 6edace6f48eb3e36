//! Checks the imports in the bridge's source: files import each other one way, so that each can be understood without
//! those above it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// `["bus", "kafka"]` for `crate::bus::kafka`.
type Module = Vec<String>;

#[test]
fn files_import_each_other_one_way() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let imports = imports(&sources);
    let known = imports.values().map(BTreeSet::len).sum::<usize>();
    assert!(known > 200, "only {known} imports were found: is the source read right?");
    let circles: Vec<_> = circles(&imports).iter().map(|circle| drawn(circle, &imports)).collect();
    assert!(circles.is_empty(), "these files import each other:\n{}", circles.join("\n\n"));
}

#[test]
fn a_circle_is_seen_through_every_way_to_write_an_import() {
    let sources = |parts: &[(&str, &str)]| {
        let source = |(module, text): &(&str, &str)| {
            let module = module.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            (module, syn::parse_file(text).expect("Rust"))
        };
        parts.iter().map(source).collect()
    };
    let ring = sources(&[
        ("", "mod a; mod b;"),
        ("a", "mod c; use crate::b::{self as other, deep::Thing}; fn f() { other::g() }"),
        ("a::c", "fn f(_: super::super::b::Thing) { super::h() }"),
        ("b", "#[cfg(test)] mod tests; use super::a; fn g() { a::c::f() }"),
        ("b::tests", "use super::*; use crate::d::X;"),
        ("d", "use crate::b::g;"),
    ]);
    let circle = ["a", "a::c", "b"].map(|name| name.split("::").map(str::to_owned).collect::<Module>());
    assert_eq!(circles(&imports(&ring)), [BTreeSet::from(circle)]);
}

fn sources(root: &Path) -> BTreeMap<Module, syn::File> {
    let (mut sources, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("main.rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                sources.insert(module(root, &path), syn::parse_file(&text).expect("Rust"));
            }
        }
    }
    sources
}

/// The module of `src/a/b.rs`, `src/a/mod.rs` or `src/lib.rs`.
fn module(root: &Path, file: &Path) -> Module {
    let path: PathBuf = file.strip_prefix(root).expect("below the source").with_extension("");
    let mut module: Module = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

/// The modules that each one imports, without tests.
fn imports(sources: &BTreeMap<Module, syn::File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut tests = BTreeSet::new();
    let mut imports = BTreeMap::new();
    for (module, file) in sources {
        let mut names =
            Names { module, sources, aliases: BTreeMap::new(), imports: BTreeSet::new(), tests: &mut tests };
        // Aliases first: they may be used before the line that defines them.
        names.visit_file(file);
        names.visit_file(file);
        names.imports.remove(module);
        imports.insert(module.clone(), names.imports);
    }
    imports.retain(|module, _| !tests.iter().any(|test: &Module| module.starts_with(test)));
    imports
}

struct Names<'s> {
    module: &'s Module,
    sources: &'s BTreeMap<Module, syn::File>,
    /// Names that stand for modules here.
    aliases: BTreeMap<String, Module>,
    imports: BTreeSet<Module>,
    tests: &'s mut BTreeSet<Module>,
}

impl Names<'_> {
    /// The file that defines the item at this path.
    fn named(&self, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let (mut module, mut rest) = match first.as_str() {
            "crate" => (Module::new(), rest),
            "self" => (self.module.clone(), rest),
            "super" => (self.module[..self.module.len().checked_sub(1)?].to_vec(), rest),
            name => match self.aliases.get(name) {
                Some(module) => (module.clone(), rest),
                None => (self.module.clone(), path),
            },
        };
        let from = rest.len();
        while let Some((next, after)) = rest.split_first() {
            match next.as_str() {
                "super" => drop(module.pop()),
                name => {
                    module.push(name.to_owned());
                    if !self.sources.contains_key(&module) {
                        module.pop();
                        break;
                    }
                }
            }
            rest = after;
        }
        // A name in this module, or of another crate.
        (rest.len() < from || matches!(first.as_str(), "crate" | "super") || self.aliases.contains_key(first))
            .then_some(module)
    }

    fn import(&mut self, path: &[String]) {
        self.imports.extend(self.named(path));
    }

    fn import_tree(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.import_tree(&step.tree, path);
                path.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import_tree(tree, path)),
            UseTree::Name(name) => self.import_name(&name.ident.to_string(), None, path),
            UseTree::Rename(name) => self.import_name(&name.ident.to_string(), Some(name.rename.to_string()), path),
            UseTree::Glob(_) => self.import(path),
        }
    }

    fn import_name(&mut self, name: &str, alias: Option<String>, path: &[String]) {
        let mut path = path.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        let Some(module) = self.named(&path) else { return };
        let last = path.last().expect("a name");
        if module.last() == Some(last) {
            // A module itself: the items used through it tell which file is needed.
            self.aliases.insert(alias.unwrap_or_else(|| last.clone()), module);
        } else {
            self.imports.insert(module);
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !attributes.iter().any(is_test) {
            syn::visit::visit_item(self, item);
        } else if let syn::Item::Mod(ItemMod { ident, .. }) = item {
            let mut test = self.module.clone();
            test.push(ident.to_string());
            self.tests.insert(test);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import_tree(&item.tree, &mut Vec::new());
    }

    /// `pub(in …)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.import(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        }
        syn::visit::visit_path(self, path);
    }
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

/// Two or more modules that reach each other.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (module, reached(module, imports))).collect();
    let circle = |module: &Module| -> BTreeSet<Module> {
        let others =
            reached[module].iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(module)));
        others.cloned().collect()
    };
    let circles: BTreeSet<_> = imports.keys().map(circle).filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

fn reached(from: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for imported in imports.get(module).into_iter().flatten() {
            if reached.insert(imported.clone()) {
                next.push(imported);
            }
        }
    }
    reached
}

fn drawn(circle: &BTreeSet<Module>, imports: &BTreeMap<Module, BTreeSet<Module>>) -> String {
    let arrows = circle.iter().flat_map(|module| {
        let inside = imports[module].iter().filter(|imported| circle.contains(*imported));
        inside.map(move |imported| format!("{} imports {}", module.join("::"), imported.join("::")))
    });
    arrows.collect::<Vec<_>>().join("\n")
}
