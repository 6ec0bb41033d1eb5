//! YAML text → a tree whose every node knows its place in the file.
//!
//! The tree is deliberately poorer than YAML: keys are text, one document, no tags but the core ones,
//! no merge keys, aliases copied within a node budget. What a scalar looked like is kept, so that
//! `VERSION: 1.10` reaches a worker as `1.10` and not as `1.1`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// A place in the file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool {
        value: bool,
        text: String,
    },
    Int {
        value: i64,
        text: String,
    },
    /// Also integers beyond 64 bits. Whoever wants a number reads the text.
    Float {
        text: String,
    },
    Text(String),
    List(Vec<Item>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Its index in the file; others may have been removed before it.
    pub(crate) index: usize,
    pub(crate) node: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) node: Node,
}

/// One step from a node to a node inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// The key (or, in a list, the element) itself.
    pub(crate) key_at: Position,
    pub(crate) value_at: Position,
    /// `workers.browser.routes[1].host`, with the file's own indices.
    pub(crate) name: String,
    /// The path led all the way; if not, the rest names the deepest node that exists.
    pub(crate) complete: bool,
}

/// A mistake in the YAML itself.
#[derive(Debug, Clone)]
pub(crate) struct YamlProblem {
    pub(crate) at: Position,
    pub(crate) path: String,
    pub(crate) message: String,
}

const MAX_NODES: usize = 20_000;
const MAX_DEPTH: usize = 32;

/// The lines of `text` as the parser counts them (YAML 1.2.2, section 5.4: LF, CRLF and a lone CR).
pub(crate) fn lines(text: &str) -> Vec<&str> {
    text.split('\n')
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
        .collect()
}

/// Reads the one document of `text`. A tree may come with problems (duplicate keys, for example);
/// none comes after a mistake that leaves the rest of the text without meaning.
pub(crate) fn read(text: &str) -> (Option<Node>, Vec<YamlProblem>) {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => reader.take(event, span),
            Err(error) => Err(syntax_problem(text, *error.marker(), error.info())),
        };
        if let Err(problem) = step {
            reader.problems.push(problem);
            return (None, reader.problems);
        }
        if reader.finished {
            break;
        }
    }
    (reader.root, reader.problems)
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
    finished: bool,
    problems: Vec<YamlProblem>,
}

/// A list or map whose end has not come yet.
struct Open {
    at: Position,
    anchor: usize,
    shape: Shape,
}

enum Shape {
    List(Vec<Item>),
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<Key>,
    },
}

enum Key {
    Good {
        text: String,
        at: Position,
    },
    /// Already reported; its value is read and dropped.
    Dropped,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlProblem> {
        let at = position(span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.finished = true;
                    self.problem(
                        at,
                        "a second document starts here; keep one, and remove this `---`",
                    );
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(at, &text, style, tag.as_deref());
                self.place(Node { at, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(at, tag.as_deref(), "seq");
                self.open(at, anchor, Shape::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(at, tag.as_deref(), "map");
                self.open(
                    at,
                    anchor,
                    Shape::Map {
                        entries: Vec::new(),
                        seen: HashSet::new(),
                        key: None,
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.nodes += node.count();
                    self.place(node, 0)
                }
                None => Err(self.fatal(
                    at,
                    "an alias inside its own anchor never ends; write the value out",
                )),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, at: Position, anchor: usize, shape: Shape) -> Result<(), YamlProblem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fatal(
                at,
                &format!("nested more than {MAX_DEPTH} levels deep; flatten it"),
            ));
        }
        self.open.push(Open { at, anchor, shape });
        Ok(())
    }

    fn close(&mut self) -> Result<(), YamlProblem> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.shape {
            Shape::List(items) => Value::List(items),
            Shape::Map { entries, .. } => Value::Map(entries),
        };
        self.place(Node { at: open.at, value }, open.anchor)
    }

    /// Puts a finished node where it belongs: as a key, a value, an element or the root.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), YamlProblem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the file holds more than {MAX_NODES} values, aliases counted as copies");
            return Err(self.fatal(node.at, &message));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Open { shape, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match shape {
            Shape::List(items) => items.push(Item {
                index: items.len(),
                node,
            }),
            Shape::Map {
                entries,
                key: key @ Some(_),
                ..
            } => {
                if let Some(Key::Good { text, at }) = key.take() {
                    entries.push(Entry {
                        key: text,
                        key_at: at,
                        node,
                    });
                }
            }
            Shape::Map { entries, seen, key } => {
                let at = node.at;
                let Some(text) = node.scalar_text().map(str::to_owned) else {
                    *key = Some(Key::Dropped);
                    self.problem(at, "a key is text, not a list or a map; write `name: value`");
                    return Ok(());
                };
                if seen.insert(text.clone()) {
                    *key = Some(Key::Good { text, at });
                } else {
                    let first = entries.iter().find(|e| e.key == text).map_or(at, |e| e.key_at);
                    *key = Some(Key::Dropped);
                    let path = join(&self.path(), &text);
                    let message = format!(
                        "is written twice (first on line {}); keep one of the two",
                        first.line
                    );
                    self.problems.push(YamlProblem { at, path, message });
                }
            }
        }
        Ok(())
    }

    fn scalar(&mut self, at: Position, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
        match tag {
            None if style == ScalarStyle::Plain => resolve(text),
            None => Value::Text(text.to_owned()),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::Text(text.to_owned()),
            Some(tag) => {
                self.refuse_tag(at, Some(tag), "");
                Value::Text(text.to_owned())
            }
        }
    }

    fn refuse_tag(&mut self, at: Position, tag: Option<&Tag>, allowed: &str) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == allowed)
        {
            self.problem(at, &format!("the tag {tag} means nothing here; remove it"));
        }
    }

    fn problem(&mut self, at: Position, message: &str) {
        let path = self.path();
        self.problems.push(YamlProblem {
            at,
            path,
            message: message.to_owned(),
        });
    }

    fn fatal(&self, at: Position, message: &str) -> YamlProblem {
        YamlProblem {
            at,
            path: self.path(),
            message: message.to_owned(),
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.shape {
                Shape::List(items) => {
                    let _ = write!(path, "[{}]", items.len());
                }
                Shape::Map {
                    key: Some(Key::Good { text, .. }),
                    ..
                } => path = join(&path, text),
                Shape::Map { .. } => {}
            }
        }
        path
    }
}

impl Node {
    /// The scalar as it was written; `None` for lists and maps.
    pub(crate) fn scalar_text(&self) -> Option<&str> {
        match &self.value {
            Value::Null => Some("null"),
            Value::Bool { text, .. } | Value::Int { text, .. } | Value::Float { text } => Some(text),
            Value::Text(text) => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Follows `path` as far as it leads.
    pub(crate) fn locate(&self, path: &[Step]) -> Located {
        let mut node = self;
        let mut found = Located {
            key_at: self.at,
            value_at: self.at,
            name: String::new(),
            complete: true,
        };
        for step in path {
            match (step, &node.value) {
                (Step::Key(key), Value::Map(entries)) => {
                    if let Some(entry) = entries.iter().find(|e| e.key == *key) {
                        found.key_at = entry.key_at;
                        found.name = join(&found.name, key);
                        node = &entry.node;
                        // Nothing stands where an empty value would be.
                        let is_empty = matches!(node.value, Value::Null);
                        found.value_at = if is_empty { entry.key_at } else { node.at };
                        continue;
                    }
                }
                (Step::Index(index), Value::List(items)) => {
                    if let Some(item) = items.get(*index) {
                        let _ = write!(found.name, "[{}]", item.index);
                        node = &item.node;
                        found.key_at = node.at;
                        found.value_at = node.at;
                        continue;
                    }
                }
                _ => {}
            }
            found.complete = false;
            break;
        }
        found
    }

    /// The keys of the map that this key holds; none if it holds no map.
    pub(crate) fn keys_in(&self, key: &str) -> Vec<&str> {
        fn entries(node: &Node) -> &[Entry] {
            match &node.value {
                Value::Map(entries) => entries,
                _ => &[],
            }
        }
        let held = entries(self).iter().find(|entry| entry.key == key);
        let inner = held.map_or_else(Default::default, |entry| entries(&entry.node));
        inner.iter().map(|entry| entry.key.as_str()).collect()
    }

    /// Takes out what `path` leads to; `false` if it leads nowhere.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((step, rest)) = path.split_first() else {
            return false;
        };
        match (step, &mut self.value) {
            (Step::Key(key), Value::Map(entries)) => {
                let Some(at) = entries.iter().position(|e| e.key == *key) else {
                    return false;
                };
                if rest.is_empty() {
                    entries.remove(at);
                    return true;
                }
                entries[at].node.remove(rest)
            }
            (Step::Index(index), Value::List(items)) => {
                if rest.is_empty() && *index < items.len() {
                    items.remove(*index);
                    return true;
                }
                items.get_mut(*index).is_some_and(|item| item.node.remove(rest))
            }
            _ => false,
        }
    }

    /// Nodes of this tree, itself included.
    fn count(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(|i| i.node.count()).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|e| e.node.count()).sum::<usize>(),
            _ => 1,
        }
    }
}

/// How people write a path.
pub(crate) fn written(path: &[Step]) -> String {
    path.iter().fold(String::new(), |written, step| match step {
        Step::Key(key) => join(&written, key),
        Step::Index(index) => format!("{written}[{index}]"),
    })
}

pub(crate) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

/// What a plain scalar means in the core schema (YAML 1.2.2, section 10.3.2).
fn resolve(text: &str) -> Value {
    let text_of = || text.to_owned();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => {
            return Value::Bool {
                value: true,
                text: text_of(),
            };
        }
        "false" | "False" | "FALSE" => {
            return Value::Bool {
                value: false,
                text: text_of(),
            };
        }
        _ => {}
    }
    let radix = |prefix: &str, radix| {
        text.strip_prefix(prefix)
            .and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    if let Some(value) = text
        .parse()
        .ok()
        .or_else(|| radix("0x", 16))
        .or_else(|| radix("0o", 8))
    {
        return Value::Int {
            value,
            text: text_of(),
        };
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.contains(|c: char| c.is_ascii_digit());
    if numeric && text.parse::<f64>().is_ok() {
        return Value::Float { text: text_of() };
    }
    Value::Text(text_of())
}

fn position(marker: saphyr_parser::Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

fn syntax_problem(text: &str, marker: saphyr_parser::Marker, info: &str) -> YamlProblem {
    let mut at = position(marker);
    let tab_in_indentation = |line: &str| {
        let indentation = line.len() - line.trim_start().len();
        line[..indentation].find('\t')
    };
    // The scanner notices a tab up to a few tokens late; the line it names or the one before has it.
    for line in [at.line, at.line.saturating_sub(1)] {
        let Some(content) = line.checked_sub(1).and_then(|n| lines(text).get(n).copied()) else {
            continue;
        };
        if let Some(column) = tab_in_indentation(content) {
            at = Position {
                line,
                column: column + 1,
            };
            let message = "a tab indents this line, which YAML does not allow; use spaces".to_owned();
            return YamlProblem {
                at,
                path: String::new(),
                message,
            };
        }
    }
    let message = format!("this is not YAML: {info}; check indentation, quotes and brackets");
    YamlProblem {
        at,
        path: String::new(),
        message,
    }
}
