//! YAML with places: the part of YAML 1.2 that a deployment file needs, as a tree in which every value knows its line.
//!
//! Anchors, aliases, merge keys and tags are refused, not expanded: what stands in the file is what runs. So are duplicate
//! keys, which most readers resolve silently.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{
    limits,
    refusal::{Place, Refusal},
};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text; `plain` when it was written without quotes, so that `true`, `12` and `~` may mean more than their letters.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file, each key once.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// Whether nothing stands here: `key:`, `key: ~` or `key: null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads a file of one document. The first thing wrong ends it: after a syntax error, places mean little.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node, Refusal> {
    let text = decode(bytes)?;
    refuse_tabs(text)?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        builder.accept(event, span)?;
    }
    builder.root.ok_or_else(|| {
        refusal(Place::START, "the file is empty", "write a Compose file: `services:` with at least one service")
    })
}

fn decode(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() > limits::FILE_BYTES_MAX {
        let why = format!("the file has {} bytes, at most {} are read", bytes.len(), limits::FILE_BYTES_MAX);
        return Err(refusal(Place::START, why, "is it a Compose file? put data into the image, not into the file"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
        refusal(Place { line, column }, "the file is not UTF-8 text", "save it as UTF-8")
    })
}

/// The parser's own message for this most common of mistakes is hard to understand.
fn refuse_tabs(text: &str) -> Result<(), Refusal> {
    for (index, line) in text.lines().enumerate() {
        let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
        let rest = &line[indentation..];
        if let Some(column) = line[..indentation].find('\t')
            && !rest.is_empty()
            && !rest.starts_with('#')
        {
            let place = Place { line: index + 1, column: column + 1 };
            return Err(refusal(
                place,
                "a tab in the indentation, where YAML allows only spaces",
                "replace it by spaces",
            ));
        }
    }
    Ok(())
}

fn syntax(error: &ScanError) -> Refusal {
    let why = format!("not valid YAML: {}", error.info());
    refusal(place(*error.marker()), why, "correct the indentation or quotes here or just above")
}

fn refusal(place: Place, why: impl Into<String>, cure: impl Into<String>) -> Refusal {
    Refusal { place, key: String::new(), why: why.into(), cure: cure.into() }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A collection that is not closed yet.
enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<Entry>, Option<(String, Place)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        let at = place(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(refusal(at, "a second document (`---`)", "put each deployment into a file of its own"));
                }
                Ok(())
            }
            Event::Alias(_) => Err(refusal(at, "aliases (`*name`) are not supported", "write the value out")),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_extras(at, anchor, tag.is_some())?;
                let plain = matches!(style, ScalarStyle::Plain);
                self.add(Node { place: at, value: Value::Scalar { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_extras(at, anchor, tag.is_some())?;
                self.enter(at, Open::List(at, Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_extras(at, anchor, tag.is_some())?;
                self.enter(at, Open::Map(at, Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, nodes)) => self.add(Node { place, value: Value::List(nodes) }),
                Some(Open::Map(place, entries, _)) => self.add(Node { place, value: Value::Map(entries) }),
                None => Ok(()),
            },
        }
    }

    fn enter(&mut self, at: Place, open: Open) -> Result<(), Refusal> {
        if let Some(Open::Map(_, _, None)) = self.open.last() {
            return Err(refusal(at, "a list or mapping as a key", "use a plain word as the key"));
        }
        if self.open.len() >= limits::DEPTH_MAX {
            let why = format!("more than {} lists and mappings within each other", limits::DEPTH_MAX);
            return Err(refusal(at, why, "is it a Compose file?"));
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), Refusal> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, nodes)) => nodes.push(node),
            Some(Open::Map(_, entries, pending)) => match pending.take() {
                Some((key, place)) => entries.push(Entry { key, place, value: node }),
                None => *pending = Some(key(entries, node)?),
            },
        }
        Ok(())
    }
}

fn key(entries: &[Entry], node: Node) -> Result<(String, Place), Refusal> {
    let Value::Scalar { text, plain } = node.value else {
        return Err(refusal(node.place, "a list or mapping as a key", "use a plain word as the key"));
    };
    if plain && text == "<<" {
        return Err(refusal(node.place, "merge keys (`<<`) are not supported", "write the keys out"));
    }
    if let Some(first) = entries.iter().find(|entry| entry.key == text) {
        let why = format!("the key '{text}' stands here twice, first in line {}", first.place.line);
        return Err(refusal(node.place, why, "keep one of them"));
    }
    Ok((text, node.place))
}

fn refuse_extras(at: Place, anchor: usize, tagged: bool) -> Result<(), Refusal> {
    if anchor != 0 {
        return Err(refusal(at, "anchors (`&name`) are not supported", "write the value out where it is used"));
    }
    if tagged {
        return Err(refusal(at, "tags (`!name`) are not supported", "write the value without the tag"));
    }
    Ok(())
}
