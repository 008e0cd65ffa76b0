//! One line of the access log from one session's record, as text or JSON with the same keys. Pure formatting into a
//! buffer that is used again; it must not open, write or look at a clock.

use std::fmt::Write as _;
use std::time::SystemTime;

use crate::handoff::{Milestone, SessionRecord};
use crate::ids::{Clock, Refusal};
use crate::office::board::Names;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Writes `key=value` fields or a JSON object; a missing value is `-` or `null`.
struct Fields<'a> {
    out: &'a mut String,
    format: Format,
    any: bool,
}

impl<'a> Fields<'a> {
    fn open(out: &'a mut String, format: Format) -> Fields<'a> {
        if format == Format::Json {
            out.push('{');
        }
        Fields {
            out,
            format,
            any: false,
        }
    }

    fn key(&mut self, key: &str) {
        let separator = match (self.any, self.format) {
            (false, _) => "",
            (true, Format::Text) => " ",
            (true, Format::Json) => ",",
        };
        self.any = true;
        self.out.push_str(separator);
        let _ = match self.format {
            Format::Text => write!(self.out, "{key}="),
            Format::Json => write!(self.out, "\"{key}\":"),
        };
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match (self.format, value) {
            (Format::Text, None) => self.out.push('-'),
            (Format::Json, None) => self.out.push_str("null"),
            (Format::Text, Some(value)) if is_plain(value) => self.out.push_str(value),
            (_, Some(value)) => push_quoted(self.out, value),
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    /// Nanoseconds, written as milliseconds with three decimals.
    fn milliseconds(&mut self, key: &str, nanoseconds: u64) {
        self.key(key);
        let microseconds = nanoseconds / 1_000;
        let (whole, thousandths) = (microseconds / 1_000, microseconds % 1_000);
        let _ = write!(self.out, "{whole}.{thousandths:03}");
    }

    fn time(&mut self, moment: SystemTime) {
        self.key("time");
        let quote = if self.format == Format::Json {
            "\""
        } else {
            ""
        };
        let stamp = humantime::format_rfc3339_millis(moment);
        let _ = write!(self.out, "{quote}{stamp}{quote}");
    }

    fn close(self) {
        self.out.push_str(match self.format {
            Format::Text => "\n",
            Format::Json => "}\n",
        });
    }
}

/// Whether a value needs no quotes in a `key=value` line.
fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !value.is_empty() && value != "-" && value.bytes().all(plain)
}

/// A JSON string; text lines use the same quoting.
fn push_quoted(out: &mut String, value: &str) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A session's id as shown to users: worker and running number. A string, since 64 bits do not fit a JSON number
/// everywhere.
#[must_use]
pub fn session_id(id: u64) -> String {
    format!("{}-{}", id >> 48, id & 0xffff_ffff_ffff)
}

/// The other way round; `None` if nobody would be shown so.
#[must_use]
pub fn session_number(shown: &str) -> Option<u64> {
    let (worker, number) = shown.split_once('-')?;
    let (worker, number): (u64, u64) = (worker.parse().ok()?, number.parse().ok()?);
    let id = worker.checked_shl(48)? | number;
    (session_id(id) == shown).then_some(id)
}

/// Appends the line of a finished session.
pub fn push_session(
    out: &mut String,
    format: Format,
    record: &SessionRecord,
    names: &Names,
    clock: &Clock,
) {
    let client = record.client.map(|client| client.to_string());
    let backend = record.backend.and_then(|id| names.backend(id));
    let mut fields = Fields::open(out, format);
    fields.time(clock.wall(record.ended));
    fields.text("id", Some(&session_id(record.id)));
    if let Some(milestone) = record.milestone {
        fields.text("event", Some(milestone.word()));
    }
    fields.text("listener", names.listener(record.listener));
    fields.text("client", Some(client.as_deref().unwrap_or("unix")));
    fields.text("pool", names.pool(record.pool));
    fields.text("backend", backend);
    fields.number("attempts", u64::from(record.attempts));
    fields.milliseconds("wait_ms", record.wait_ns);
    fields.milliseconds("connect_ms", record.connect_ns);
    fields.milliseconds("duration_ms", record.ended.since(record.opened));
    fields.number("bytes_in", record.bytes_in);
    fields.number("bytes_out", record.bytes_out);
    if let Some([datagrams_in, datagrams_out]) = record.datagrams {
        fields.number("datagrams_in", datagrams_in);
        fields.number("datagrams_out", datagrams_out);
    }
    let has_ended = record.milestone.is_none_or(|it| it == Milestone::End);
    fields.text("end", has_ended.then(|| record.end.word()));
    fields.number("rtt_us", u64::from(record.rtt_us));
    fields.number("retrans", u64::from(record.retrans));
    fields.close();
}

/// Appends the summary of one second's refusals at one listener for one reason.
pub fn push_refusals(
    out: &mut String,
    format: Format,
    moment: SystemTime,
    listener: &str,
    reason: Refusal,
    count: u64,
) {
    let mut fields = Fields::open(out, format);
    fields.time(moment);
    fields.text("listener", Some(listener));
    fields.text("refused", Some(reason.word()));
    fields.number("count", count);
    fields.close();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BackendId, End, ListenerId, Nanos, PoolId};

    fn record() -> SessionRecord {
        SessionRecord {
            id: 1 << 48 | 42,
            milestone: None,
            listener: ListenerId(0),
            pool: PoolId(0),
            backend: Some(BackendId(1)),
            client: Some("192.0.2.7:50123".parse().unwrap()),
            opened: Nanos(1_000_000_000),
            ended: Nanos(1_012_345_678),
            attempts: 2,
            wait_ns: 0,
            connect_ns: 1_234_567,
            bytes_in: 100,
            bytes_out: 20_000,
            datagrams: None,
            end: End::ClientFin,
            rtt_us: 61,
            retrans: 3,
        }
    }

    fn names() -> Names {
        let named = |name: &str| Some(Arc::from(name));
        Names {
            listeners: vec![named("postgres")],
            pools: vec![named("pg")],
            backends: vec![None, named("a \"b\"")],
        }
    }

    use std::sync::Arc;

    const KEYS: &str = "time id listener client pool backend attempts wait_ms connect_ms duration_ms bytes_in bytes_out \
                        end rtt_us retrans";

    fn line(format: Format, record: &SessionRecord) -> String {
        let mut out = String::new();
        push_session(&mut out, format, record, &names(), &Clock::start());
        assert!(out.ends_with('\n'));
        out.trim_end().to_owned()
    }

    #[test]
    fn text_has_the_fields_in_order_and_three_decimals() {
        let line = line(Format::Text, &record());
        let rest = line.split_once(' ').unwrap().1;
        assert_eq!(
            rest,
            "id=1-42 listener=postgres client=192.0.2.7:50123 pool=pg backend=\"a \\\"b\\\"\" attempts=2 wait_ms=0.000 \
             connect_ms=1.234 duration_ms=12.345 bytes_in=100 bytes_out=20000 end=client-fin rtt_us=61 retrans=3"
        );
        assert!(
            line.starts_with("time=20") && line.contains("Z id="),
            "{line}"
        );
    }

    #[test]
    fn json_has_the_same_keys() {
        let line = line(Format::Json, &record());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let object = value.as_object().unwrap();
        let mut wanted: Vec<&str> = KEYS.split_whitespace().collect();
        wanted.sort_unstable();
        let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, wanted);
        assert_eq!(object["backend"], "a \"b\"");
        assert_eq!(object["connect_ms"].as_f64(), Some(1.234));
    }

    #[test]
    fn a_session_that_still_runs_has_an_event_and_no_end() {
        let mut record = record();
        record.milestone = Some(Milestone::Progress);
        let text = line(Format::Text, &record);
        assert!(text.contains(" id=1-42 event=progress listener="), "{text}");
        assert!(text.contains(" end=- "), "{text}");
        record.milestone = Some(Milestone::End);
        let text = line(Format::Text, &record);
        assert!(text.contains(" event=end ") && text.contains(" end=client-fin "));
    }

    #[test]
    fn what_is_missing_is_a_dash_or_null() {
        let mut record = record();
        record.backend = None;
        record.client = None;
        assert!(line(Format::Text, &record).contains(" client=unix pool=pg backend=- "));
        assert!(line(Format::Json, &record).contains("\"backend\":null"));
    }
}
