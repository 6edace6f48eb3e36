//! The READMEs in parts: headings, fences, tables, links and code spans.

pub struct Page {
    /// Relative to the repository.
    pub path: &'static str,
    pub text: &'static str,
}

pub const PAGES: [Page; 4] = [
    Page { path: "README.md", text: include_str!("../../../README.md") },
    Page { path: "config/README.md", text: include_str!("../../../config/README.md") },
    Page { path: "deploy/README.md", text: include_str!("../../../deploy/README.md") },
    Page { path: "tests/README.md", text: include_str!("../../../tests/README.md") },
];

/// A block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The page, the heading's anchor, and the number below that heading: `README.md#install 1`.
    pub name: String,
    pub language: &'static str,
    pub text: String,
}

pub fn page(path: &str) -> &'static Page {
    PAGES.iter().find(|page| page.path == path).unwrap_or_else(|| panic!("no page {path}"))
}

/// The fence with this name.
pub fn fence(name: &str) -> Fence {
    let all = PAGES.iter().flat_map(Page::fences);
    all.into_iter().find(|fence| fence.name == name).unwrap_or_else(|| panic!("no fence {name}"))
}

impl Page {
    pub fn fences(&self) -> Vec<Fence> {
        let (mut fences, mut anchor, mut number, mut open) = (Vec::new(), String::new(), 0, None::<Fence>);
        for line in self.text.lines() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    number += 1;
                    let name = format!("{}#{anchor} {number}", self.path);
                    open = Some(Fence { name, language, text: String::new() });
                }
                (Some(_), Some(_)) => fences.extend(open.take()),
                (Some(fence), None) => fence.text.extend([line, "\n"]),
                (None, None) if line.starts_with('#') => (anchor, number) = (slug(line), 0),
                (None, None) => {}
            }
        }
        assert_eq!(open, None, "{}", self.path);
        fences
    }

    /// The lines outside of fences.
    fn prose(&self) -> impl Iterator<Item = &'static str> {
        let mut within = false;
        self.text.lines().filter(move |line| {
            let edge = line.starts_with("```");
            within ^= edge;
            !within && !edge
        })
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        self.prose().filter(|line| line.starts_with('#')).map(slug).collect()
    }

    /// What its links lead to.
    pub fn links(&self) -> Vec<&'static str> {
        let parts = self.prose().flat_map(|line| line.split("](").skip(1));
        parts.map(|rest| rest.split_once(')').expect("the end of a link").0).collect()
    }

    /// The code between backquotes; each is within one line.
    pub fn code_spans(&self) -> Vec<&'static str> {
        self.prose().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
    }

    /// The rows below this line of column names, without the line under it. Each cell is trimmed.
    pub fn table(&self, columns: &str) -> Vec<Vec<&'static str>> {
        let mut lines = self.text.lines().skip_while(|line| *line != columns);
        assert!(lines.next().is_some(), "{}: no table {columns}", self.path);
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }
}

fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}
