"""The report of a live server, whose episodes happen once."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from laps_env.report.page import Links
from laps_env.report.sample import Sample, sample_of
from laps_env.report.timeline import Timeline
from laps_env.report.timeline_files import write_timelines
from laps_env.report.write import write_pages


class LiveReport:
    """Timelines are written when a workload has been played, the other pages at the end.

    Args:
        folder: made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "timelines").mkdir(parents=True, exist_ok=True)
        self._links: Links = defaultdict(dict)
        self._samples: dict[tuple[str, float, str], Sample] = {}  # of the first seed alone

    def add(self, place: tuple[str, float, int], timelines: list[Timeline]) -> None:
        """Page and Chrome traces of a workload, as `laps_env.live.evaluation.LiveGrid` tells it.

        Args:
            place: scenario, load and seed.
            timelines: of all policies.
        """
        scenario, load, seed = place
        name = f"live {scenario}"
        address = f"timelines/{scenario}-{load}-seed{seed}.html"
        requests = len(timelines[0].requests)
        title = f"{name}, load {load}, {requests} requests, seed {seed}"
        write_timelines(timelines, self._folder / address, title)
        self._links[name][f"timelines, load {load}, seed {seed}"] = address
        for timeline in timelines:
            sample = sample_of(timeline.requests, timeline.categories)
            self._samples.setdefault((name, load, timeline.title), sample)

    def write(self, results: dict[str, Any]) -> Path:
        """Write ``results.md`` and ``index.html``, whose path is returned."""
        places = [(row["scenario"], row["load"], row["policy"]) for row in results["rows"]]
        samples = [self._samples[place] for place in places]
        return write_pages(results, self._folder, samples, self._links)
