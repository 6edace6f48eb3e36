//! Random bodies from the shapes in `shapes.txt`, such as Terra could send: parts missing or null, unknown members,
//! duplicates, out of order.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::json::{Json, utf16};

/// About how many values a body has: beyond it, optional members are omitted.
const VALUES: usize = 250;

/// Levels of the deepest nesting, two at a time.
const DEEP: usize = 5_000;

#[derive(Debug)]
enum Kind {
    Text,
    Number,
    Integer,
    Flag,
    Null,
    Is(&'static str),
    List(Vec<Kind>),
    Map(Vec<Kind>),
    Shape(&'static str),
}

#[derive(Debug)]
struct Member {
    name: &'static str,
    optional: bool,
    kinds: Vec<Kind>,
}

#[derive(Debug)]
pub struct Shapes(BTreeMap<&'static str, Vec<Member>>);

impl Shapes {
    pub fn read() -> Self {
        let mut shapes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut last = "";
        for line in include_str!("shapes.txt").lines().filter(|line| !line.starts_with('#')) {
            let members = match line.split_once(" = ") {
                Some((name, members)) => {
                    last = name;
                    members
                }
                None => line,
            };
            shapes.entry(last).or_default().extend(members.split_whitespace().map(member));
        }
        shapes.retain(|name, _| !name.is_empty());
        Self(shapes)
    }

    /// Shapes that are events, with the event's type; sorted by shape.
    pub fn events(&self) -> Vec<(&'static str, &'static str)> {
        let event_type = |members: &[Member]| {
            let named = members.iter().filter(|member| ["type", "event_type"].contains(&member.name));
            named.filter_map(|member| if let [Kind::Is(word)] = member.kinds[..] { Some(word) } else { None }).next()
        };
        self.0.iter().filter_map(|(name, members)| Some((*name, event_type(members)?))).collect()
    }

    pub fn body(&self, shape: &str, rng: &mut Rng) -> Json {
        Maker { shapes: self, rng, left: VALUES }.object(&self.0[shape], 0)
    }
}

fn member(text: &'static str) -> Member {
    let (name, kind) = text.split_once(':').unwrap_or_else(|| panic!("no kind: {text}"));
    let optional = name.ends_with('?');
    Member { name: name.trim_end_matches('?'), optional, kinds: kinds(kind) }
}

fn kinds(text: &'static str) -> Vec<Kind> {
    let (text, null) = text.strip_suffix('~').map_or((text, false), |text| (text, true));
    let mut depth = 0;
    let alternatives = text.split(|character| {
        depth += i32::from("[{".contains(character)) - i32::from("]}".contains(character));
        depth == 0 && character == '|'
    });
    let mut kinds: Vec<_> = alternatives.map(kind).collect();
    kinds.extend(null.then_some(Kind::Null));
    kinds
}

fn kind(text: &'static str) -> Kind {
    let inside = |close| text[1..].strip_suffix(close).map(kinds).expect("a closing bracket");
    match text {
        "text" => Kind::Text,
        "number" => Kind::Number,
        "integer" => Kind::Integer,
        "flag" => Kind::Flag,
        _ if text.starts_with('=') => Kind::Is(&text[1..]),
        _ if text.starts_with('[') => Kind::List(inside(']')),
        _ if text.starts_with('{') => Kind::Map(inside('}')),
        _ => Kind::Shape(text),
    }
}

struct Maker<'m> {
    shapes: &'m Shapes,
    rng: &'m mut Rng,
    left: usize,
}

impl Maker<'_> {
    /// True in `percent` of all cases.
    fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())]
    }

    fn object(&mut self, shape: &[Member], depth: usize) -> Json {
        let mut members = Vec::new();
        for member in shape {
            let absent = if !member.optional {
                2
            } else if self.left == 0 {
                100
            } else {
                35
            };
            if !self.chance(absent) {
                members.push((utf16(member.name), self.value(&member.kinds, depth + 1)));
            }
        }
        if self.chance(if depth == 0 { 20 } else { 4 }) {
            let again = shape[self.rng.usize(..shape.len())].name;
            let value = if self.chance(50) { self.anything(depth + 1) } else { self.again(again, shape, depth) };
            members.insert(self.rng.usize(..=members.len()), (utf16(again), value));
        }
        while depth < 2 && self.chance(25) {
            // The user is read from several shapes: only a mixture shows which field takes precedence.
            let shapes = self.shapes;
            let shape = self.one(match depth {
                0 => &["AuthErrorEvent", "UserReauthEvent", "LabReportFailedEvent", "OrderStatusChangedEvent"],
                _ => &["TerraUser", "LabReportFailureData", "OrderStatusChangedEvent.data"],
            });
            let Member { name, kinds, .. } = &shapes.0[shape][self.rng.usize(..shapes.0[shape].len())];
            let value = self.value(kinds, depth + 1);
            members.insert(self.rng.usize(..=members.len()), (utf16(name), value));
        }
        while self.chance(if depth == 0 { 30 } else { 4 }) {
            let unknown = [
                "Type",
                "type ",
                "types",
                "EVENT_TYPE",
                "user_Id",
                "users",
                "userid",
                "reference",
                "ordering",
                "",
                "données",
                "\u{0}",
                "𝕦ser",
                "a/b\\c\"d",
                "constructor",
                "__proto__",
                "$ref",
                "event_id\u{0}",
                "_id",
            ];
            let mut name = utf16(self.one(&unknown));
            if self.chance(5) {
                name.push(0xd83d);
            }
            members.insert(self.rng.usize(..=members.len()), (name, self.anything(depth + 1)));
        }
        if self.chance(40) {
            self.rng.shuffle(&mut members);
        }
        Json::Object(members)
    }

    /// Another value for a duplicate member.
    fn again(&mut self, name: &str, shape: &[Member], depth: usize) -> Json {
        match shape.iter().find(|member| member.name == name) {
            Some(member) if member.kinds.iter().any(|kind| matches!(kind, Kind::Is(_))) => {
                Json::text(self.one(&["daily", "sleep", "auth", "order.status_changed", "brand.new", "Daily"]))
            }
            Some(member) => self.value(&member.kinds, depth + 1),
            None => self.anything(depth + 1),
        }
    }

    fn value(&mut self, kinds: &[Kind], depth: usize) -> Json {
        self.left = self.left.saturating_sub(1);
        match self.rng.u8(..100) {
            0..2 => return self.anything(depth),
            2..6 => return Json::Raw("null".into()),
            _ => {}
        }
        match &kinds[self.rng.usize(..kinds.len())] {
            Kind::Text => Json::Text(self.text()),
            Kind::Number => self.number(),
            Kind::Integer => Json::Raw(self.integer()),
            Kind::Flag => Json::Raw(self.rng.bool().to_string()),
            Kind::Null => Json::Raw("null".into()),
            Kind::Is(word) => Json::text(word),
            Kind::List(of) => Json::List((0..self.many()).map(|_| self.value(of, depth + 1)).collect()),
            Kind::Map(of) => Json::Object((0..self.many()).map(|_| (self.text(), self.value(of, depth + 1))).collect()),
            Kind::Shape(name) => {
                let shapes = self.shapes;
                self.object(shapes.0.get(name).unwrap_or_else(|| panic!("no shape {name}")), depth)
            }
        }
    }

    fn many(&mut self) -> usize {
        match self.rng.u8(..10) {
            _ if self.left == 0 => 0,
            0..3 => 0,
            3..9 => self.rng.usize(1..4),
            _ => self.rng.usize(4..30),
        }
    }

    /// A value that no schema foresees.
    fn anything(&mut self, depth: usize) -> Json {
        self.left = self.left.saturating_sub(1);
        match self.rng.u8(..if depth > 6 { 6 } else { 10 }) {
            0 => Json::Raw(self.one(&["null", "true", "false", "[]", "{}", "\"\""]).into()),
            1 => self.number(),
            2 => Json::Raw(self.integer()),
            3 if self.chance(10) => {
                let depth = self.rng.usize(1..DEEP);
                Json::Raw(format!("{}1{}", r#"[{"a":"#.repeat(depth), "}]".repeat(depth)))
            }
            3..6 => Json::Text(self.text()),
            6..8 => Json::List((0..self.many()).map(|_| self.anything(depth + 1)).collect()),
            _ => {
                let names = ["type", "user", "user_id", "provider", "order_id", "reference_id", "event_id", "x"];
                let members = (0..self.many()).map(|_| (utf16(self.one(&names)), self.anything(depth + 1)));
                Json::Object(members.collect())
            }
        }
    }

    fn text(&mut self) -> Vec<u16> {
        let mark = self.rng.u64(..);
        match self.rng.u8(..100) {
            0..60 => utf16(&format!("5a0c1d7e-{mark:016x}")),
            60..80 => utf16(&format!("2026-07-{:02}T05:00:{:02}.{:06}+02:00", mark % 28, mark % 60, mark % 1_000_000)),
            80..83 => utf16(&mark.to_string()),
            83..94 => {
                let parts = [
                    "Größe",
                    "日本",
                    "😀",
                    "e\u{301}",
                    "\u{202e}",
                    "\u{feff}",
                    "\u{2028}",
                    "\u{7f}",
                    "\u{0}",
                    "\n\t",
                    "\"",
                    "\\",
                    "/",
                    "%41",
                    " ",
                    "\\u0041",
                    "\u{10ffff}",
                    "</script>",
                    "'; --",
                    "{\"type\":\"sleep\"}",
                ];
                let mut text = format!("{mark:x}");
                (0..self.rng.usize(1..8)).for_each(|_| text.push_str(self.one(&parts)));
                utf16(&text)
            }
            94..97 => Vec::new(),
            97 => {
                let mut text = utf16(&format!("{mark:x}"));
                text.insert(self.rng.usize(..=text.len()), self.one(&[0xd83d, 0xde00, 0xdfff]));
                text
            }
            _ => utf16(&format!("{mark:x}").repeat(self.rng.usize(50..200))),
        }
    }

    fn integer(&mut self) -> String {
        match self.rng.u8(..10) {
            0..5 => self.rng.u32(..100_000).to_string(),
            5..8 => self.rng.u64(..).to_string(),
            8 => format!("-{}", self.rng.u32(..)),
            _ => format!("9{}", self.rng.u64(..)).repeat(self.rng.usize(1..80)),
        }
    }

    fn number(&mut self) -> Json {
        let odd = ["0", "-0", "-0.0", "1e400", "-1E-400", "1E+2", "0.1e1", "2.2250738585072011e-308", "1e0"];
        Json::Raw(match self.rng.u8(..10) {
            0..6 => format!("{:.3}", self.rng.f64() * 1000.0),
            6 => format!("{}.{}{}", self.rng.u8(..), self.rng.u64(..), self.rng.u64(..)),
            7 => format!("{:e}", self.rng.f64()),
            8 => self.one(&odd).into(),
            _ => self.integer(),
        })
    }
}
