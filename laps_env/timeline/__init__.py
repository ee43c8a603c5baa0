"""Timelines: what happened to each request of an episode, and pages that show it."""

from laps_env.timeline.chrome import chrome_trace
from laps_env.timeline.page import comparison_page
from laps_env.timeline.recorder import Round, Timeline, TimelineRecorder, Turn
from laps_env.timeline.write import check_timelines, write_timelines

__all__ = [
    "Round",
    "Timeline",
    "TimelineRecorder",
    "Turn",
    "check_timelines",
    "chrome_trace",
    "comparison_page",
    "write_timelines",
]
