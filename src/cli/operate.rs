//! `ringway ready`, `drain`, `maintain` and `weight`: the operator's word on a backend; `sessions` and `kill`: what it
//! still carries; `reload` and `confirm`: the configuration; `upgrade`: the program. Each asks the running instance and prints what came of it.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::client::Instance;
use super::columns::{Columns, age, bytes};
use super::status::{items, number, text};
use super::{Ending, out};
use crate::config::duration_of;

/// How often a drain that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Whom to ask, and how to print what it answers.
#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

impl Asked {
    /// Has something done, and prints what came of it.
    fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        in_words: impl Fn(&Value) -> String,
    ) -> Result<Value, Ending> {
        let answer = self.instance.send(method, path, body)?.checked()?;
        let value = answer.value();
        let said = match self.json {
            true => answer.text(),
            false => in_words(&value),
        };
        out::say(&said);
        Ok(value)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The backend
    #[arg(value_name = "POOL/BACKEND")]
    backend: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    one: One,
    /// Return when its last session has ended; status 4 if that takes longer
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    /// The backend
    #[arg(value_name = "POOL/BACKEND")]
    backend: String,
    /// From 1 to 1000; 0 drains
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = whole)]
    weight: u32,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, clap::Args)]
pub(super) struct Sessions {
    /// Only sessions of this backend
    #[arg(long, value_name = "POOL/BACKEND")]
    backend: Option<String>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// The session, as the log and `ringway sessions` show it
    #[arg(value_name = "SESSION")]
    session: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    /// Go back to the configuration before unless `ringway confirm` comes within this time, or if it does clearly worse
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    confirm: Option<Duration>,
    #[command(flatten)]
    asked: Asked,
}

fn whole(text: &str) -> Result<u32, String> {
    let number = text.parse();
    number.map_err(|_| "allowed: a whole number from 0 to 1000".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    duration_of(text).ok_or_else(|| "allowed: a duration like 30s or 5m".to_owned())
}

/// The path of `POOL/BACKEND`. A backend's name may hold a slash, a pool's may not.
fn path_of(backend: &str) -> Result<String, Ending> {
    let Some((pool, name)) = backend.split_once('/') else {
        return Err(Ending {
            status: 2,
            sentence: format!("{backend:?} names no backend; allowed: POOL/BACKEND, like pg/pg1"),
        });
    };
    let part = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    Ok(format!("/v1/pools/{}/backends/{}", part(pool), part(name)))
}

/// Sets the operator's state.
pub(super) fn admin(one: &One, word: &str) -> Result<(), Ending> {
    alter(&one.asked, &one.backend, &json!({ "admin": word })).map(|_| ())
}

pub(super) fn weight(arguments: &Weight) -> Result<(), Ending> {
    let body = json!({ "weight": arguments.weight });
    alter(&arguments.asked, &arguments.backend, &body).map(|_| ())
}

/// Prints what was changed; gives back what the backend carries.
fn alter(asked: &Asked, backend: &str, body: &Value) -> Result<f64, Ending> {
    let in_words = |value: &Value| {
        let now = &value["backend"];
        let changes = items(&value["changes"]).iter();
        let mut said: String = changes
            .map(|change| format!("{}\n", text(change)))
            .collect();
        said.push_str(&format!(
            "{backend}: {}, weight {}, health {}, {}\n",
            text(&now["admin"]),
            text(&now["weight"]),
            text(&now["health"]),
            sessions_of(number(&now["sessions"]))
        ));
        if value["kept_over_restarts"] == false {
            said.push_str("not kept over a restart: there is no place to write it (see the log)\n");
        }
        said
    };
    let value = asked.send("PUT", &path_of(backend)?, body, in_words)?;
    Ok(number(&value["backend"]["sessions"]))
}

fn sessions_of(count: f64) -> String {
    format!("{count} session{}", if count == 1.0 { "" } else { "s" })
}

pub(super) fn drain(arguments: &Drain) -> Result<(), Ending> {
    let One { backend, asked } = &arguments.one;
    let began = Instant::now();
    let mut sessions = alter(asked, backend, &json!({ "admin": "draining" }))?;
    let Some(wait) = arguments.wait else {
        return Ok(());
    };
    let path = path_of(backend)?;
    while sessions > 0.0 {
        if began.elapsed() >= wait {
            return Err(Ending {
                status: 4,
                sentence: format!(
                    "{backend} still has {} after {}: it goes on draining; `ringway sessions --backend {backend}` shows \
                     them, `ringway maintain {backend}` closes them",
                    sessions_of(sessions),
                    age(wait.as_secs_f64())
                ),
            });
        }
        std::thread::sleep(LOOK.min(wait.saturating_sub(began.elapsed())));
        sessions = number(&asked.instance.get(&path)?.checked()?.value()["sessions"]);
    }
    if !asked.json {
        let took = age(began.elapsed().as_secs_f64());
        out::say(&format!("{backend}: drained after {took}\n"));
    }
    Ok(())
}

pub(super) fn sessions(arguments: &Sessions) -> Result<(), Ending> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &arguments.limit.to_string());
    if let Some(backend) = &arguments.backend {
        query.append_pair("backend", backend);
    }
    let path = format!("/v1/sessions?{}", query.finish());
    let answer = arguments.instance.get(&path)?.checked()?;
    let said = match arguments.json {
        true => answer.text(),
        false => sessions_in_words(&answer.value()),
    };
    out::say(&said);
    Ok(())
}

fn sessions_in_words(value: &Value) -> String {
    let rows = items(&value["sessions"]);
    let headings = [
        "SESSION", "AGE", "CLIENT", "LISTENER", "BACKEND", "STAGE", "IN", "OUT",
    ];
    let mut columns = Columns::new(&headings);
    for row in rows {
        let backend = match row["backend"].as_str() {
            Some(backend) => format!("{}/{backend}", text(&row["pool"])),
            None => "-".to_owned(),
        };
        columns.row(vec![
            text(&row["id"]),
            age(number(&row["age_seconds"])),
            text(&row["client"]),
            text(&row["listener"]),
            backend,
            text(&row["stage"]),
            bytes(number(&row["bytes_in"])),
            bytes(number(&row["bytes_out"])),
        ]);
    }
    let matched = number(&value["matched"]);
    match rows.len() {
        0 => "no sessions\n".to_owned(),
        shown if (shown as f64) < matched => {
            format!("{}the {shown} oldest of {matched}\n", columns.text())
        }
        _ => columns.text(),
    }
}

pub(super) fn kill(arguments: &Kill) -> Result<(), Ending> {
    let session = utf8_percent_encode(&arguments.session, NON_ALPHANUMERIC);
    let path = format!("/v1/sessions/{session}");
    let in_words = |_: &Value| format!("session {} is ended\n", arguments.session);
    let asked = &arguments.asked;
    asked
        .send("DELETE", &path, &Value::Null, in_words)
        .map(|_| ())
}

pub(super) fn reload(arguments: &Reload) -> Result<(), Ending> {
    let body = match arguments.confirm {
        Some(patience) => json!({ "confirm": crate::config::duration_text(patience) }),
        None => Value::Null,
    };
    let asked = &arguments.asked;
    asked
        .send("POST", "/v1/reload", &body, reload_in_words)
        .map(|_| ())
}

fn reload_in_words(value: &Value) -> String {
    let changes = items(&value["changes"]);
    let mut said: String = changes
        .iter()
        .map(|change| format!("{}\n", text(change)))
        .collect();
    if changes.is_empty() {
        said.push_str("nothing changed\n");
    }
    if let Some(until) = value["confirm_until"].as_str() {
        said.push_str(&format!(
            "not confirmed: the configuration before comes back at {until} unless `ringway confirm` comes\n"
        ));
    }
    said
}

pub(super) fn upgrade(asked: &Asked) -> Result<(), Ending> {
    let in_words = |value: &Value| {
        format!(
            "upgraded: generation {}, process {}\n",
            text(&value["generation"]),
            text(&value["pid"])
        )
    };
    asked
        .send("POST", "/v1/upgrade", &Value::Null, in_words)
        .map(|_| ())
}

pub(super) fn confirm(asked: &Asked) -> Result<(), Ending> {
    let in_words = |_: &Value| "confirmed\n".to_owned();
    asked
        .send("POST", "/v1/reload/confirm", &Value::Null, in_words)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_by_its_pool_and_its_own_name() {
        assert_eq!(path_of("pg/pg1").unwrap(), "/v1/pools/pg/backends/pg1");
        let path = path_of("pg/unix:/run/x").unwrap();
        assert_eq!(path, "/v1/pools/pg/backends/unix%3A%2Frun%2Fx");
        assert_eq!(path_of("pg1").unwrap_err().status, 2);
    }

    #[test]
    fn sessions_read_well() {
        let value = json!({
            "matched": 3,
            "sessions": [{
                "id": "0-42", "age_seconds": 4000.0, "client": "10.0.0.7:51034", "listener": "postgres", "pool": "pg",
                "backend": "pg1", "stage": "relaying", "bytes_in": 100, "bytes_out": 5000,
            }],
        });
        let said = sessions_in_words(&value);
        let said: Vec<&str> = said.lines().collect();
        assert_eq!(
            said,
            [
                "  SESSION    AGE  CLIENT          LISTENER  BACKEND  STAGE       IN     OUT",
                "  0-42     1h 6m  10.0.0.7:51034  postgres  pg/pg1   relaying  100B  4.9KiB",
                "the 1 oldest of 3",
            ]
        );
        assert_eq!(
            sessions_in_words(&json!({ "sessions": [] })),
            "no sessions\n"
        );
    }
}
