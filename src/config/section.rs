//! A table of the file as a set of keys to be taken one by one. What nobody takes is an unknown key, so the list of
//! allowed keys is the code that reads them and cannot fall behind it.
//!
//! It must not know any key; `global`, `listener`, `pool` and `health` do.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::desk::{Desk, Located};
use super::measure::Refusal;
use super::near::nearest;

/// A longer string is cut in messages, so that a sentence stays one.
const SHOWN_MAX: usize = 80;

/// A value of the file with `${…}` replaced.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Located<Value>>),
    Table(Section),
    /// A float or a date, as written: no key takes one.
    Other(String),
}

impl Value {
    /// How a message shows it.
    pub fn shown(&self) -> String {
        match self {
            Value::Text(text) if text.chars().count() > SHOWN_MAX => {
                let beginning: String = text.chars().take(SHOWN_MAX).collect();
                format!("{beginning:?}…")
            }
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(written) => written.clone(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Section {
    /// Dotted, as in messages; empty for the file itself.
    path: String,
    at: usize,
    entries: BTreeMap<String, Located<(usize, Value)>>,
    known: Vec<&'static str>,
}

impl Section {
    /// The whole file.
    pub fn of_file(desk: &mut Desk<'_>, table: &Spanned<DeTable<'_>>) -> Section {
        Section::convert(desk, table.get_ref(), String::new(), 0)
    }

    /// A table that is not in the file: every key has its default.
    pub fn absent(path: &str, at: usize) -> Section {
        Section {
            path: path.to_owned(),
            at,
            entries: BTreeMap::new(),
            known: Vec::new(),
        }
    }

    fn convert(desk: &mut Desk<'_>, table: &DeTable<'_>, path: String, at: usize) -> Section {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let inner = join(&path, key.get_ref());
            let converted = convert_value(desk, value, &inner);
            let entry = Located {
                value: (value.span().start, converted),
                at: key.span().start,
            };
            entries.insert(key.get_ref().to_string(), entry);
        }
        Section {
            path,
            at,
            entries,
            known: Vec::new(),
        }
    }

    /// Where the table begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The full name of a key in this table.
    pub fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where the key's value stands, or else the table.
    pub fn place_of(&self, key: &str) -> usize {
        self.entries.get(key).map_or(self.at, |entry| entry.value.0)
    }

    /// The key's value, and where it stands.
    pub fn take(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.known.push(key);
        let entry = self.entries.remove(key)?;
        let (at, value) = entry.value;
        Some(Located { value, at })
    }

    /// The key's value as `parse` understands it; `None` if it is absent or at fault.
    pub fn read<T>(
        &mut self,
        desk: &mut Desk<'_>,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, Refusal>,
    ) -> Option<T> {
        self.read_located(desk, key, parse).map(|found| found.value)
    }

    pub fn read_located<T>(
        &mut self,
        desk: &mut Desk<'_>,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, Refusal>,
    ) -> Option<Located<T>> {
        let found = self.take(key)?;
        judge(desk, &self.key(key), &found, parse)
    }

    /// As `read`, where absence is a fault, too.
    pub fn require<T>(
        &mut self,
        desk: &mut Desk<'_>,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&Value) -> Result<T, Refusal>,
    ) -> Option<Located<T>> {
        if !self.has(key) {
            desk.fault(
                self.at,
                &self.key(key),
                format!("missing; allowed: {allowed}"),
            );
        }
        self.read_located(desk, key, parse)
    }

    /// A list, each item on its own line of the messages. With `or_single` one bare item is a list of one.
    pub fn read_list<T>(
        &mut self,
        desk: &mut Desk<'_>,
        key: &'static str,
        or_single: bool,
        allowed: &str,
        parse: impl Fn(&Value) -> Result<T, Refusal>,
    ) -> Option<Vec<Located<T>>> {
        let found = self.take(key)?;
        let name = self.key(key);
        let items = match found.value {
            Value::List(items) => items,
            other if or_single && !matches!(other, Value::Table(_)) => vec![Located {
                value: other,
                at: found.at,
            }],
            other => {
                let sentence = format!("found {}; allowed: a list of {allowed}", other.shown());
                desk.fault(found.at, &name, sentence);
                return None;
            }
        };
        let parsed = items.iter().map(|item| judge(desk, &name, item, &parse));
        let parsed: Vec<Option<Located<T>>> = parsed.collect();
        parsed.into_iter().collect()
    }

    /// The table of this name, or `None` if the file has none.
    pub fn table(&mut self, desk: &mut Desk<'_>, key: &'static str) -> Option<Section> {
        let found = self.take(key)?;
        match found.value {
            Value::Table(section) => Some(section),
            other => {
                let name = self.key(key);
                let sentence = format!("found {}; allowed: a table", other.shown());
                desk.fault(found.at, &name, sentence);
                None
            }
        }
    }

    /// The tables `[[key]]`, in the order of the file; `None` if the key is absent or something else.
    pub fn tables(&mut self, desk: &mut Desk<'_>, key: &'static str) -> Option<Vec<Section>> {
        let found = self.take(key)?;
        let name = self.key(key);
        let shown = found.value.shown();
        let mut sections = Vec::new();
        if let Value::List(items) = found.value {
            for item in items {
                let Value::Table(section) = item.value else {
                    let shown = item.value.shown();
                    let sentence =
                        format!("found {shown}; allowed: tables, each begun by [[{name}]]");
                    desk.fault(item.at, &name, sentence);
                    return None;
                };
                sections.push(section);
            }
            return Some(sections);
        }
        let sentence = format!("found {shown}; allowed: tables, each begun by [[{name}]]");
        desk.fault(found.at, &name, sentence);
        None
    }

    /// Whatever was not taken is unknown.
    pub fn finish(self, desk: &mut Desk<'_>) {
        for (key, entry) in &self.entries {
            let sentence = match nearest(key, &self.known) {
                Some(near) => format!("unknown key; did you mean {near:?}?"),
                None => format!("unknown key; allowed: {}", self.known.join(", ")),
            };
            desk.fault(entry.at, &join(&self.path, key), sentence);
        }
    }
}

fn judge<T>(
    desk: &mut Desk<'_>,
    key: &str,
    found: &Located<Value>,
    parse: impl Fn(&Value) -> Result<T, Refusal>,
) -> Option<Located<T>> {
    match parse(&found.value) {
        Ok(value) => Some(Located {
            value,
            at: found.at,
        }),
        Err(refusal) => {
            desk.fault(found.at, key, refusal.sentence(&found.value.shown()));
            None
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn convert_value(desk: &mut Desk<'_>, found: &Spanned<DeValue<'_>>, key: &str) -> Value {
    let at = found.span().start;
    match found.get_ref() {
        DeValue::String(text) => Value::Text(desk.expand(text, at, key)),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Other(number.to_string()),
        },
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Float(number) => Value::Other(number.to_string()),
        DeValue::Datetime(moment) => Value::Other(moment.to_string()),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| Located {
                value: convert_value(desk, item, key),
                at: item.span().start,
            });
            Value::List(items.collect())
        }
        DeValue::Table(table) => Value::Table(Section::convert(desk, table, key.to_owned(), at)),
    }
}
