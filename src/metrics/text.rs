//! Writes metrics whose values are taken at the scrape.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::registry::Unit;

/// A series' labels: names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

pub(super) struct Text<'e>(pub(super) DescriptorEncoder<'e>);

impl Text<'_> {
    /// A metric of one series. The unit ends the name.
    pub(super) fn one(&mut self, name: &str, unit: Option<Unit>, help: &str, metric: impl EncodeMetric) -> fmt::Result {
        let help = format!("{help}.");
        metric.encode(self.0.encode_descriptor(name, &help, unit.as_ref(), metric.metric_type())?)
    }

    /// A metric with its series; nothing if there are none.
    pub(super) fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        let Some((_, first)) = series.peek() else { return Ok(()) };
        let (help, metric_type) = (format!("{help}."), first.metric_type());
        let mut encoder = self.0.encode_descriptor(name, &help, unit.as_ref(), metric_type)?;
        series.try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(&labels)?))
    }
}
