//! What single values may be: words, whole numbers in a range, durations, rates, names. Each parser says what is
//! allowed when it refuses.
//!
//! Addresses are the work of `place`. Nothing here knows a key or a file.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Value;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What would have been right.
    Allowed(String),
    /// Right, but this version cannot do it.
    Later,
    /// Right elsewhere, but it has no meaning beside what stands here.
    Misplaced { here: String, only: String },
}

impl Refusal {
    pub fn allowed<T>(what: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::Allowed(what.into()))
    }

    pub fn sentence(&self, found: &str) -> String {
        match self {
            Refusal::Allowed(what) => format!("found {found}; allowed: {what}"),
            Refusal::Later => format!("{found} is not supported by this version yet"),
            Refusal::Misplaced { here, only } => {
                format!("found {found} beside {here}; allowed: only beside {only}")
            }
        }
    }
}

pub(super) fn switch(value: &Value) -> Result<bool, Refusal> {
    match value {
        Value::Boolean(truth) => Ok(*truth),
        _ => Refusal::allowed("true | false"),
    }
}

/// One of some words; a word without a meaning is one that a later version will understand.
pub(super) fn word<T: Copy>(
    words: &[(&'static str, Option<T>)],
) -> impl Fn(&Value) -> Result<T, Refusal> {
    move |value| {
        if let Value::Text(text) = value
            && let Some((_, meaning)) = words.iter().find(|(word, _)| word == text)
        {
            return meaning.ok_or(Refusal::Later);
        }
        let current = words.iter().filter(|(_, meaning)| meaning.is_some());
        let mut offered: Vec<&str> = current.map(|(word, _)| *word).collect();
        if offered.is_empty() {
            offered = words.iter().map(|(word, _)| *word).collect();
        }
        Refusal::allowed(offered.join(" | "))
    }
}

/// A whole number. The range must fit `T`.
pub(super) fn whole<T: TryFrom<i128>>(
    range: RangeInclusive<i128>,
) -> impl Fn(&Value) -> Result<T, Refusal> {
    move |value| {
        if let Value::Integer(number) = value
            && range.contains(number)
            && let Ok(fits) = T::try_from(*number)
        {
            return Ok(fits);
        }
        let (low, high) = (range.start(), range.end());
        Refusal::allowed(format!("a whole number from {low} to {high}"))
    }
}

/// A whole number where 0 means that there is no limit.
pub(super) fn limit(value: &Value) -> Result<Option<u32>, Refusal> {
    match whole::<u32>(0..=1_000_000_000)(value) {
        Ok(0) => Ok(None),
        Ok(limit) => Ok(Some(limit)),
        Err(_) => Refusal::allowed("a whole number from 1 to 1000000000, or 0 for no limit"),
    }
}

pub(super) fn any_text(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        _ => Refusal::allowed("a string"),
    }
}

/// What listeners, pools and backends are called. Names stand in paths (`POOL/BACKEND`), in `key=value` lines and in
/// labels, so they hold nothing that would need quoting there.
pub(super) fn name(value: &Value) -> Result<String, Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    match value {
        Value::Text(text)
            if (1..=64).contains(&text.len())
                && text.chars().all(fits)
                && text.starts_with(|c: char| c.is_ascii_alphanumeric()) =>
        {
            Ok(text.clone())
        }
        _ => Refusal::allowed(
            "a name of 1 to 64 letters, digits and . _ : -, beginning with a letter or digit",
        ),
    }
}

pub(super) fn duration(
    low: Duration,
    high: Duration,
) -> impl Fn(&Value) -> Result<Duration, Refusal> {
    move |value| match parse_duration(value) {
        Some(found) if (low..=high).contains(&found) => Ok(found),
        _ => {
            let (low, high) = (shown(low), shown(high));
            Refusal::allowed(format!("a duration from \"{low}\" to \"{high}\""))
        }
    }
}

/// A duration, or `None` for zero.
pub(super) fn duration_or_off(
    low: Duration,
    high: Duration,
) -> impl Fn(&Value) -> Result<Option<Duration>, Refusal> {
    move |value| match parse_duration(value) {
        Some(Duration::ZERO) => Ok(None),
        Some(found) if (low..=high).contains(&found) => Ok(Some(found)),
        _ => {
            let (low, high) = (shown(low), shown(high));
            Refusal::allowed(format!(
                "a duration from \"{low}\" to \"{high}\", or \"0s\" for off"
            ))
        }
    }
}

/// Only text is a duration: a bare number would leave its unit to guesswork.
pub(super) fn parse_duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Text(text) => duration_of(text),
        _ => None,
    }
}

/// Reads a duration as the file writes it, like `250ms` or `1h 30m`; a number needs its unit.
#[must_use]
pub fn duration_of(text: &str) -> Option<Duration> {
    // Without a unit only "0" passes there, and "0" alone would read like a number.
    text.ends_with(|c: char| c.is_ascii_alphabetic())
        .then(|| humantime::parse_duration(text).ok())
        .flatten()
}

/// A duration as the file would have it: one number, the largest unit that divides it.
#[must_use]
pub fn shown(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let units: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let divides = |unit: u128| nanoseconds >= unit && nanoseconds.is_multiple_of(unit);
    match units.iter().find(|(_, unit)| divides(*unit)) {
        Some((name, unit)) => format!("{}{name}", nanoseconds / unit),
        None => "0s".to_owned(),
    }
}

/// So many a second, and how many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// As in the file; the burst is left out where it is what a bare rate has.
impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", self.per_second)?;
        if self.burst == self.per_second {
            return Ok(());
        }
        write!(out, " burst {}", self.burst)
    }
}

const RATE_MAX: u32 = 1_000_000_000;

/// `1000/s` or `1000/s burst 2000`; without a burst, one second's worth may come at once.
#[must_use]
pub fn rate_of(text: &str) -> Option<Rate> {
    let mut words = text.split_ascii_whitespace();
    let per_second = count_of(words.next()?.strip_suffix("/s")?)?;
    let burst = match words.next() {
        None => per_second,
        Some("burst") => count_of(words.next()?)?,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Rate { per_second, burst })
}

fn count_of(digits: &str) -> Option<u32> {
    let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
    let count = digits_only.then(|| digits.parse().ok()).flatten()?;
    (1..=RATE_MAX).contains(&count).then_some(count)
}

/// A rate, or `None` for "".
pub(super) fn rate(value: &Value) -> Result<Option<Rate>, Refusal> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if rate_of(text).is_some() => Ok(rate_of(text)),
        _ => Refusal::allowed(
            "a rate like \"1000/s\" or \"1000/s burst 2000\", numbers from 1 to 1000000000, or \"\" for no limit",
        ),
    }
}
