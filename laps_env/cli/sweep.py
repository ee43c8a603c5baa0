"""``laps-env sweep``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from laps_env.cli.command import Command, Text
from laps_env.utils.checks import check_count


@dataclass(frozen=True, kw_only=True)
class Sweep(Command):
    """Train and evaluate many schedulers: a grid as Ray tasks, here or on a cluster.

    What a file asks for is documented by `laps_env.agents.sweep.read_sweep`. The same command goes
    on where a sweep was cut off.

    $ laps-env sweep sweeps/learned.toml --out runs/learned
    $ laps-env sweep sweeps/learned.toml --out runs/learned --address ray://head:10001
    """

    sweep: tyro.conf.Positional[Path]
    """TOML file."""
    out: Path
    """Folder of the results."""
    address: Text = None
    """Address of a Ray cluster; by default this machine."""
    attempts: int = 3
    """Attempts at a task that fails or is lost."""
    cores: int = 1
    """Cores that a task reserves."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        """Do what the folder does not hold; status 1 where tasks failed."""
        check_count("attempts", self.attempts)
        check_count("cores", self.cores)
        import ray

        from laps_env.agents.sweep import read_sweep
        from laps_env.agents.sweep_run import Finished, Tasks, run
        from laps_env.sim import SIMULATOR_VERSION
        from laps_env.utils.journal import Journal

        sweep = read_sweep(self.sweep)
        self.out.mkdir(parents=True, exist_ok=True)
        with Journal(
            self.out / "rows.journal", {"job": "sweep", "simulator": SIMULATOR_VERSION}, Finished
        ) as rows:
            ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            failed = run(sweep, self.out, rows, Tasks(self.attempts, self.cores))
        if failed:
            print(f"{failed} tasks failed; the same command tries them again", file=sys.stderr)
        return 1 if failed else 0
