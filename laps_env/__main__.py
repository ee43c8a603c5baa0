"""``python -m laps_env``: ``list`` what there is, ``evaluate`` the policies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from laps_env import ENV_IDS
from laps_env.cli.evaluate import run_command
from laps_env.cli.options import add_options
from laps_env.policies import list_policies
from laps_env.policies.base.registry import LEARNED, RULES, get_rule
from laps_env.workloads.scenarios import get_scenario, list_scenarios


def list_everything() -> None:
    """Print the scenarios, the policies and the environments."""
    print("scenarios (saturation in requests per second):")
    for name in list_scenarios():
        scenario = get_scenario(name)
        print(f"  {name:18} {scenario.saturation_rps:8.3f}  {scenario.description}")
    print("\npolicies (_tuned: parameters tuned on the tune set; +smartspec: its draft lengths):")
    known = list_policies()
    for name, spec in ((n, get_rule(n)) for n in RULES):
        names = f"{name}[_tuned]" if f"{name}_tuned" in known else name
        print(f"  {names:26} {spec.title}")
    for name in LEARNED:
        print(f"  {name:26} learned, see docs/learned.md")
    print("\nenvironments:")
    for env_id in ENV_IDS:
        print(f"  {env_id}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="laps_env", description="Scheduling of speculation.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="scenarios, policies and environments")
    evaluate = commands.add_parser(
        "evaluate", help="compare policies: table, results file, picture", allow_abbrev=False
    )
    add_options(evaluate)
    parsed = parser.parse_args(arguments)
    if parsed.command == "list":
        list_everything()
    else:
        run_command(evaluate, parsed)


if __name__ == "__main__":
    main()
