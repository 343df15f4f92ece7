//! What the loop counts, as programs see it.

use plait_reactor::figures::Histogram;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::core::LoopCore;
use super::turn::seconds;

impl LoopCore {
    /// All that is counted here.
    pub(super) fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (figures, ready, scheduled) = self.reactor(py, |reactor| {
            (reactor.figures(), reactor.waiting().0, reactor.scheduled())
        });
        let dict = PyDict::new(py);
        dict.set_item("turns", figures.turns)?;
        dict.set_item("callbacks", figures.callbacks)?;
        dict.set_item("timers", figures.timers)?;
        dict.set_item("ready", ready)?;
        dict.set_item("scheduled", scheduled)?;
        dict.set_item("lag", lags(py, &figures.lag)?)?;
        dict.set_item("timer_lag", lags(py, &figures.timer_lag)?)?;
        dict.set_item("awake", seconds(figures.awake_ns))?;
        dict.set_item("asleep", seconds(figures.asleep_ns))?;
        dict.set_item("held_up", seconds(figures.held_up_ns))?;
        for (name, count) in [
            ("connections", &self.traffic.streams),
            ("endpoints", &self.traffic.datagrams),
            ("opened", &self.traffic.opened),
            ("accepted", &self.traffic.accepted),
            ("bytes_read", &self.traffic.bytes_read),
            ("bytes_written", &self.traffic.bytes_written),
        ] {
            dict.set_item(name, count.get())?;
        }
        Ok(dict)
    }
}

fn lags<'py>(py: Python<'py>, lags: &Histogram) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("count", lags.count())?;
    dict.set_item("sum", seconds(lags.sum_ns()))?;
    for (name, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        dict.set_item(name, seconds(lags.quantile_ns(part)))?;
    }
    dict.set_item("max", seconds(lags.max_ns()))?;
    let filled: Vec<_> = lags.filled().map(|(ns, count)| (seconds(ns), count)).collect();
    dict.set_item("histogram", filled)?;
    Ok(dict)
}
