//! `/metrics`: every number of the process, summed over the workers at the moment of the scrape, in OpenMetrics or in the
//! older Prometheus text. Names and labels are part of the contract with users.
//!
//! Nothing is kept between scrapes: the numbers live on the identities, this file only writes them down.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::handoff::HistogramSum;
use crate::office::board::Board;

use super::families;

/// One series' labels.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// The whole exposition; `open` is OpenMetrics.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn text(board: &Arc<Board>, open: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ringway");
    registry.register_collector(Box::new(Scene(Arc::clone(board))));
    let mut out = String::with_capacity(64 * 1024);
    encode(&mut out, &registry)?;
    Ok(if open { out } else { older(&out) })
}

/// OpenMetrics as Prometheus text 0.0.4: there a counter's type and help carry the name of its samples, and comments of
/// the newer format have no meaning.
fn older(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, sentence)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {sentence}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[derive(Debug)]
struct Scene(Arc<Board>);

impl Collector for Scene {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.0.view();
        let mut page = Page(encoder);
        families::process(&mut page, &self.0, &view)?;
        families::events(&mut page, &self.0)?;
        families::workers(&mut page, &self.0)?;
        families::listeners(&mut page, &view)?;
        families::flows(&mut page, &view)?;
        families::pools(&mut page, &view)?;
        families::conflicts(&mut page, &self.0, &view)?;
        families::backends(&mut page, &view)?;
        families::backend_states(&mut page, &view)?;
        families::checks(&mut page, &self.0)
    }
}

/// What families are written on.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    pub(super) fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            let none = None::<&Exemplar<NoLabelSet, f64>>;
            match labels.is_empty() {
                true => family.encode_counter(&value, none)?,
                false => family
                    .encode_family(&labels)?
                    .encode_counter(&value, none)?,
            }
        }
        Ok(())
    }

    pub(super) fn gauge<'l>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    pub(super) fn histogram<'l>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l>, HistogramSum)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum) in rows {
            let counts = sum.counts.iter().enumerate();
            let buckets: Vec<(f64, u64)> = counts
                .map(|(i, &count)| (HistogramSum::bound_seconds(i), count))
                .collect();
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    sum.sum_ns as f64 / 1e9,
                    sum.counts.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_names_counters_by_their_samples() {
        let open = "# HELP ringway_bytes Bytes carried\n# TYPE ringway_bytes counter\nringway_bytes_total{a=\"b\"} 1\n\
                    # HELP ringway_x An x\n# TYPE ringway_x gauge\nringway_x 2.0\n# EOF\n";
        assert_eq!(
            older(open),
            "# HELP ringway_bytes_total Bytes carried\n# TYPE ringway_bytes_total counter\n\
             ringway_bytes_total{a=\"b\"} 1\n# HELP ringway_x An x\n# TYPE ringway_x gauge\nringway_x 2.0\n"
        );
    }
}
