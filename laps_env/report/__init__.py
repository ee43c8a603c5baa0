"""Results as pages that load nothing."""

from laps_env.report.live import LiveReport
from laps_env.report.page import report_page
from laps_env.report.sample import sample_latencies
from laps_env.report.write import steps_of, write_report

__all__ = ["LiveReport", "report_page", "sample_latencies", "steps_of", "write_report"]
