"""What the numbers of a generated page come from, as a digest that the page carries.

A test compares it, so that a page that is older than the simulator, the scenarios that it names or
the tuned parameters is noticed.
"""

from __future__ import annotations

import re

from laps_env.catalog import scenario_entries, tuning_results
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.code_digest import code_digest

_LINE = re.compile(r"<!-- made from (\w+) -->")


def made_from(page: str) -> str:
    """Line for a page: digest of the simulator's version, its scenarios and the settings."""
    named = {
        name: entry
        for name, entry in scenario_entries().items()
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page)
    }
    digest = code_digest(SIMULATOR_VERSION, named, tuning_results()["settings"])
    return f"<!-- made from {digest} -->"


def is_current(page: str) -> bool:
    """Whether a page was made from what there is now of the scenarios that it names."""
    found = _LINE.search(page)
    return found is not None and found[0] == made_from(page)
