"""``laps-env list``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from laps_env import ENV_IDS, catalog
from laps_env.cli.command import Command


@dataclass(frozen=True)
class List(Command):
    """Show the scenarios, the policies and the environments.

    $ laps-env list
    """

    def run(self) -> int:
        """Print them."""
        print("scenarios (saturation in requests per second, on the test split):")
        for name, entry in catalog.scenario_entries().items():
            saturation = entry["saturation_rps"].get("test", math.nan)
            print(f"  {name:20} {saturation:8.3f}  {entry['description']}")
        print(
            "\npolicies (_tuned, _tuned_p99, _tuned_slo: parameters tuned on the validation split; "
            "+smartspec, +sglang, +rate, +vllm, +confidence, +topk: a rule for the draft length):"
        )
        known = catalog.list_policies()
        for name in catalog.list_rules():
            names = f"{name}[_tuned]" if f"{name}_tuned" in known else name
            print(f"  {names:24} {catalog.describe_rule(name)}")
        for name in catalog.list_learned():
            print(f"  {name:24} Learned, see docs/learned.md.")
        print("\nenvironments:")
        for env_id in ENV_IDS:
            print(f"  {env_id}")
        return 0
