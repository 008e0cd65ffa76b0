//! `ringway explain`: asks a running instance which backend a client would get now, and prints the answer for people, or
//! as it came.

use std::fmt::Write as _;

use serde_json::Value;

use super::client::Instance;
use super::{Ending, out};

#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// The listener that the client would come to
    #[arg(long, value_name = "NAME")]
    listener: String,
    /// The client's address
    #[arg(long, value_name = "IP[:PORT]")]
    client: String,
    /// The server name that it would ask for, where names choose the pool
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

pub(super) fn explain(question: &Question) -> Result<(), Ending> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("listener", &question.listener)
        .append_pair("client", &question.client);
    if let Some(name) = &question.sni {
        query.append_pair("sni", name);
    }
    let path = format!("/v1/explain?{}", query.finish());
    let answer = question.instance.get(&path)?.checked()?;
    let text = match question.json {
        true => answer.text(),
        false => in_words(&answer.value()),
    };
    out::say(&text);
    Ok(())
}

fn in_words(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    let gets = match (
        answer["backend"].as_str(),
        answer["deterministic"].as_bool(),
    ) {
        (Some(backend), _) => format!("gets {backend}"),
        (None, Some(false)) => "gets one by chance".to_owned(),
        (None, _) => "gets none now".to_owned(),
    };
    let _ = writeln!(
        out,
        "client {} at listener {} (pool {}) {gets}: {}",
        text(&answer["client"]),
        text(&answer["listener"]),
        text(&answer["pool"]),
        text(&answer["reason"])
    );
    let candidates = answer["candidates"].as_array();
    let candidates = candidates.map(Vec::as_slice).unwrap_or_default();
    let names = candidates.iter().map(|one| text(&one["backend"]).len());
    let width = names.max().unwrap_or(0).max("backend".len());
    let _ = writeln!(out, "  {:width$}  probability  why", "backend");
    for one in candidates {
        let odds = match one["eligible"].as_bool() {
            Some(true) => format!("{:.4}", one["probability"].as_f64().unwrap_or(0.0)),
            _ => "-".to_owned(),
        };
        let (name, why) = (text(&one["backend"]), text(&one["why"]));
        let _ = writeln!(out, "  {name:width$}  {odds:<11}  {why}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_reads_well() {
        let answer = json!({
            "listener": "main", "client": "10.0.0.7", "pool": "pg", "backend": "pg1", "deterministic": true,
            "reason": "maglev: 3 sessions, weight 100",
            "candidates": [
                { "backend": "pg1", "eligible": true, "probability": 1.0, "why": "3 sessions, weight 100" },
                { "backend": "standby", "eligible": false, "probability": 0.0, "why": "health down: check refused" },
            ],
        });
        assert_eq!(
            in_words(&answer),
            "client 10.0.0.7 at listener main (pool pg) gets pg1: maglev: 3 sessions, weight 100\n  \
             backend  probability  why\n  pg1      1.0000       3 sessions, weight 100\n  \
             standby  -            health down: check refused\n"
        );
    }
}
