//! Reads the keys of `[pool.health]` that belong to one kind of check: what it says, and what it wants to hear.
//!
//! Which key belongs to which kind is the table in `health`; a misplaced key has been refused before this is called.

use regex::bytes::RegexBuilder;

use super::check_plan::{CheckKind, DnsPlan, Expect, HttpPlan, Pattern, Said, StepPlan, UdpPlan};
use super::desk::{Desk, Located};
use super::login::read_login;
use super::measure::{Refusal, word};
use super::section::{Section, Value};

/// Of one text to be sent or expected.
const SAID_BYTES_MAX: usize = 4096;
const STEPS_MAX: usize = 32;
/// What a compiled expression may take; a larger one is a mistake or an attack on the checker's time.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// What the kind of this word says; `None` for a word that is none, which has been noted.
pub(super) fn read_kind_keys(
    desk: &mut Desk<'_>,
    table: &mut Section,
    kind: &str,
) -> Option<CheckKind> {
    match kind {
        "tcp" => Some(CheckKind::Tcp),
        "send-expect" => Some(CheckKind::SendExpect(read_steps(desk, table))),
        "http" => Some(CheckKind::Http(read_http(desk, table))),
        "postgres" => Some(CheckKind::Postgres(read_login(desk, table, "postgres"))),
        "mysql" => Some(CheckKind::Mysql(read_login(desk, table, "mysql"))),
        "redis" => Some(CheckKind::Redis(read_login(desk, table, "redis"))),
        "dns" => Some(CheckKind::Dns(read_dns(desk, table))),
        "udp" => Some(CheckKind::Udp(UdpPlan {
            send: table.read(desk, "send", said).unwrap_or_default(),
            expect: table.read(desk, "expect", expected),
        })),
        _ => None,
    }
}

const SAID_ALLOWED: &str =
    "text of at most 4096 bytes, or \"hex:\" and pairs of hexadecimal digits, like \"hex:0d 0a\"";

/// Text as it stands, or bytes as hexadecimal digits.
fn said(value: &Value) -> Result<Said, Refusal> {
    let bytes = match value {
        Value::Text(text) => match text.strip_prefix("hex:") {
            Some(digits) => hexadecimal(digits),
            None => Some(text.clone().into_bytes()),
        },
        _ => None,
    };
    match bytes {
        Some(bytes) if bytes.len() <= SAID_BYTES_MAX => Ok(Said(bytes)),
        _ => Refusal::allowed(SAID_ALLOWED),
    }
}

fn expected(value: &Value) -> Result<Said, Refusal> {
    match said(value)? {
        Said(bytes) if bytes.is_empty() => Refusal::allowed(format!("{SAID_ALLOWED}; not nothing")),
        said => Ok(said),
    }
}

/// Pairs of digits, with spaces between them or without.
fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = digits
        .chars()
        .filter(|c| *c != ' ')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    pairs.collect()
}

fn pattern(value: &Value) -> Result<Pattern, Refusal> {
    const ALLOWED: &str =
        "a regular expression of the crate regex, over bytes, small when compiled";
    let Value::Text(text) = value else {
        return Refusal::allowed(ALLOWED);
    };
    let built = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(PATTERN_BYTES_MAX)
        .build();
    match built {
        Ok(regex) => Ok(Pattern(regex)),
        Err(error) => {
            // Its last line says what is wrong; those before it draw where.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            Refusal::allowed(format!(
                "{ALLOWED} ({})",
                reason.trim_start_matches("error: ")
            ))
        }
    }
}

fn read_steps(desk: &mut Desk<'_>, table: &mut Section) -> Vec<StepPlan> {
    const ALLOWED: &str = "at least one step like { send = \"PING\\r\\n\", expect = \"+PONG\" }";
    let at = table.place_of("step");
    let key = table.key("step");
    if !table.has("step") {
        table.take("step");
        desk.fault(at, &key, format!("missing; allowed: {ALLOWED}"));
        return Vec::new();
    }
    let Some(steps) = table.tables(desk, "step") else {
        return Vec::new();
    };
    if steps.is_empty() || steps.len() > STEPS_MAX {
        let count = steps.len();
        desk.fault(
            at,
            &key,
            format!("found {count} steps; allowed: {ALLOWED}, at most {STEPS_MAX}"),
        );
    }
    steps
        .into_iter()
        .map(|step| read_step(desk, step))
        .collect()
}

fn read_step(desk: &mut Desk<'_>, mut step: Section) -> StepPlan {
    let (at, path) = (step.at(), step.key("expect"));
    let nothing = ["send", "expect", "expect_regex"]
        .iter()
        .all(|key| !step.has(key));
    let both = step.has("expect") && step.has("expect_regex");
    let send = step.read(desk, "send", said).unwrap_or_default();
    let bytes = step.read(desk, "expect", expected).map(Expect::Bytes);
    let pattern = step
        .read(desk, "expect_regex", pattern)
        .map(Expect::Pattern);
    if both {
        desk.fault(
            at,
            &path,
            "found beside expect_regex; allowed: one of them in a step",
        );
    } else if nothing {
        desk.fault(
            at,
            &path,
            "missing; allowed: a step that sends, expects, or both",
        );
    }
    step.finish(desk);
    StepPlan {
        send,
        expect: bytes.or(pattern),
    }
}

fn read_http(desk: &mut Desk<'_>, table: &mut Section) -> HttpPlan {
    let methods = &[("HEAD", Some("HEAD")), ("GET", Some("GET"))];
    HttpPlan {
        method: table.read(desk, "method", word(methods)).unwrap_or("HEAD"),
        path: table
            .read(desk, "path", http_path)
            .unwrap_or_else(|| "/health".to_owned()),
        host: table.read(desk, "host", http_host).flatten(),
        status: table
            .read(desk, "status", status_ranges)
            .unwrap_or_else(|| vec![(200, 399)]),
    }
}

fn http_path(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::Text(text)
            if text.starts_with('/')
                && text.len() <= 2048
                && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(text.clone())
        }
        _ => Refusal::allowed("a path that begins with / and has no spaces, at most 2048 bytes"),
    }
}

fn http_host(value: &Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text)
            if text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(text.clone()))
        }
        _ => Refusal::allowed(
            "a host name as the Host header has it, or \"\" for the backend's address",
        ),
    }
}

/// `200-399`, or several with commas.
fn status_ranges(value: &Value) -> Result<Vec<(u16, u16)>, Refusal> {
    let code = |text: &str| -> Option<u16> {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = digits.then(|| text.parse().ok()).flatten()?;
        (200..=599).contains(&code).then_some(code)
    };
    let range = |text: &str| match text.trim().split_once('-') {
        None => code(text.trim()).map(|code| (code, code)),
        Some((first, last)) => {
            let range = (code(first)?, code(last)?);
            (range.0 <= range.1).then_some(range)
        }
    };
    let ranges = match value {
        Value::Text(text) => text.split(',').map(range).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    ranges.ok_or_else(|| {
        Refusal::Allowed(
            "status codes from 200 to 599, like \"200\", \"200-399\" or \"200,204,300-399\""
                .to_owned(),
        )
    })
}

/// The types that a name server may be asked for by word (IANA's "DNS parameters").
const RECORDS: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];

/// The word of a type that a plan asks for.
pub(super) fn record_word(record: u16) -> &'static str {
    let found = RECORDS.iter().find(|(_, number)| *number == record);
    found.map_or("A", |(word, _)| word)
}

fn read_dns(desk: &mut Desk<'_>, table: &mut Section) -> DnsPlan {
    const ALLOWED: &str = "a name and a type, like \"example.com A\"";
    let query: Option<Located<DnsPlan>> = table.require(desk, "query", ALLOWED, dns_query);
    query.map_or_else(
        || DnsPlan {
            name: String::new(),
            record: 1,
        },
        |query| query.value,
    )
}

fn dns_query(value: &Value) -> Result<DnsPlan, Refusal> {
    let plan = match value {
        Value::Text(text) => text.split_once(' ').and_then(|(name, record)| {
            let record = RECORDS.iter().find(|(word, _)| *word == record.trim())?.1;
            let name = name.strip_suffix('.').unwrap_or(name);
            is_dns_name(name).then(|| DnsPlan {
                name: name.to_owned(),
                record,
            })
        }),
        _ => None,
    };
    plan.ok_or_else(|| {
        let words: Vec<&str> = RECORDS.iter().map(|(word, _)| *word).collect();
        let words = words.join(" | ");
        Refusal::Allowed(format!(
            "a name and a type, like \"example.com A\"; types: {words}"
        ))
    })
}

/// Labels of 63 bytes at most, all of it 253 at most (RFC 1035); the root is empty.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.is_empty() || name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(said(&text("hex:0d0A ff")), Ok(Said(vec![0x0d, 0x0a, 0xff])));
        assert_eq!(said(&text("hex:")), Ok(Said(Vec::new())));
        assert_eq!(said(&text("PING\r\n")), Ok(Said(b"PING\r\n".to_vec())));
        for wrong in ["hex:0", "hex:0g", "hex:é0", "hex:0 d a"] {
            assert!(said(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(expected(&text("")).is_err() && expected(&text("hex:")).is_err());
        assert!(said(&text(&"x".repeat(SAID_BYTES_MAX + 1))).is_err());
    }

    #[test]
    fn status_codes_and_ranges() {
        assert_eq!(status_ranges(&text("200-399")), Ok(vec![(200, 399)]));
        assert_eq!(
            status_ranges(&text("200, 204,500-599")),
            Ok(vec![(200, 200), (204, 204), (500, 599)])
        );
        for wrong in [
            "", "2xx", "100", "600", "399-200", "200-", "+20", "200,,300", "0200",
        ] {
            assert!(status_ranges(&text(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn questions_to_name_servers() {
        let plan = |name: &str, record| {
            let name = name.to_owned();
            Ok(DnsPlan { name, record })
        };
        assert_eq!(dns_query(&text("example.com A")), plan("example.com", 1));
        assert_eq!(
            dns_query(&text("_sip._udp.x.  SRV")),
            plan("_sip._udp.x", 33)
        );
        assert_eq!(dns_query(&text(". NS")), plan("", 2));
        let long = format!("{} A", "a".repeat(64));
        for wrong in [
            "example.com",
            "a..b A",
            " A",
            "example.com a",
            "ü.de A",
            "a b A",
            &long,
        ] {
            let read = dns_query(&text(wrong));
            assert!(read.is_err() || wrong == " A", "{wrong}: {read:?}");
        }
    }
}
