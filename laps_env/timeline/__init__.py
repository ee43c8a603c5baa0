"""Timelines: what happened to each request of an episode, and pages that show it."""

from laps_env.timeline.chrome import chrome_trace
from laps_env.timeline.page import comparison_page
from laps_env.timeline.play import record_policy
from laps_env.timeline.recorder import Round, Timeline, TimelineRecorder, Turn

__all__ = [
    "Round",
    "Timeline",
    "TimelineRecorder",
    "Turn",
    "chrome_trace",
    "comparison_page",
    "record_policy",
]
