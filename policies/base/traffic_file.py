"""What a server's policies may know of its traffic in advance, and the file that says it.

``laps-env fit-traffic`` makes the file of a server's own recordings, and ``policies.make(name,
traffic=read_traffic(path))`` a policy that knows no other traffic.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from laps_env.policies.base.length_law import HEAVINESSES
from laps_env.policies.base.traffic_model import TrafficModel, model_of, training_workload
from laps_env.sim.costs import Work, verification_ns, work_ns
from laps_env.sim.server_model import ServerModel
from laps_env.utils.checks import MAX_COUNT
from laps_env.utils.documents import read_document, write_document
from laps_env.workloads.predictors import RECORDED, PredictorError
from laps_env.workloads.scenarios import Scenario

FORMAT = "laps-env traffic"
VERSION = 3


@dataclass(frozen=True)
class Traffic:
    """A server's traffic as its policies know it.

    Attributes:
        categories: Names of the C task categories, in the order of their laws.
        laws: Lengths and speed by category.
        saturation_rps: Completed requests per second of first come first served with all requests
            present at time 0: what a load estimate is relative to.
        draft_share: Share of the draft steps in a round of the full batch, 0 .. 1.
        source: Origin of the numbers, with what had to be assumed.
    """

    categories: tuple[str, ...]
    laws: TrafficModel
    saturation_rps: float
    draft_share: float
    source: str


def fit_traffic(scenario: Scenario, predictor_error: PredictorError = None) -> Traffic:
    """Fit on the *train* split of a scenario whose saturation is known.

    Args:
        scenario: Scenario of the server.
        predictor_error: Error of the predictions (`Scenario.error_in_force`).

    Raises:
        ValueError: No saturation, or recorded predictions are asked for where there are none.
    """
    workload, server = training_workload(scenario, predictor_error), scenario.server
    context = float(workload.prompt_tokens.mean() + workload.output_tokens.mean() / 2)
    error = scenario.error_in_force(predictor_error)
    predictions = "recorded" if error == RECORDED else f"assumed, error {error}"
    return Traffic(
        categories=workload.categories,
        laws=model_of(workload, server),
        saturation_rps=scenario.saturation("train"),
        draft_share=draft_share(server, context),
        source=f"{scenario.requests.name}; predictions {predictions}; batch size "
        f"{server.batch_size}, draft length {server.draft_length}; costs {server.cost.source}",
    )


def draft_share(server: ServerModel, context: float) -> float:
    """Share of the draft steps in a round of the full batch that computes no prompt.

    Args:
        server: Server at its reference draft length.
        context: Tokens of context of each request.
    """
    batch, n = server.batch_size, server.reference_draft_length
    kv = round(batch * context)
    work = Work(batch * (n + 1), 0, kv, n, batch * n, n * kv, 0, 0, 0)
    constants = server.constants()
    return float(1.0 - verification_ns(constants, work) / work_ns(constants, work))


def write_traffic(path: Path, traffic: Traffic) -> None:
    """Write the file in one move.

    Raises:
        ValueError: Numbers that JSON cannot hold.
        OSError: The file cannot be written.
    """
    laws = {name: np.asarray(value).tolist() for name, value in asdict(traffic.laws).items()}
    write_document(path, FORMAT, VERSION, {**vars(traffic), "laws": laws})


def read_traffic(path: Path) -> Traffic:
    """Read the file.

    Raises:
        ValueError: A file that is no such document; the message names the file, the member, what
            was expected and what came.
        OSError: The file cannot be read.
    """
    told = read_document(path, _Document, FORMAT, VERSION)
    laws: dict[str, Any] = {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in msgspec.structs.asdict(told.laws).items()
    }
    return Traffic(
        categories=tuple(told.categories),
        laws=TrafficModel(**laws),
        saturation_rps=told.saturation_rps,
        draft_share=told.draft_share,
        source=told.source,
    )


_Text = Annotated[str, Meta(min_length=1)]
_Size = Annotated[float, Meta(ge=0, le=100)]
_Seconds = Annotated[float, Meta(ge=0, le=1e3)]


class _Laws(msgspec.Struct, forbid_unknown_fields=True):
    """Members of a `TrafficModel`, in ranges that any traffic is well inside."""

    weight: list[_Size]
    offset: list[Annotated[float, Meta(ge=-100, le=100)]]
    variance: list[_Size]
    misfit: list[_Size]
    heaviness: list[float]
    scale: list[_Size]
    longest_tokens: Annotated[float, Meta(ge=1, le=MAX_COUNT)]
    tokens: list[Annotated[float, Meta(ge=1, le=MAX_COUNT)]]
    tokens_per_round: list[Annotated[float, Meta(ge=1, le=256)]]
    seconds_per_prefill_token: _Seconds
    seconds_per_prefill: _Seconds


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    categories: Annotated[list[_Text], Meta(min_length=1)]
    laws: _Laws
    saturation_rps: Annotated[float, Meta(gt=0)]
    draft_share: Annotated[float, Meta(ge=0, le=1)]
    source: _Text

    def __post_init__(self) -> None:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories: expected different names, got {self.categories}")
        if not set(self.laws.heaviness) <= set(HEAVINESSES):
            raise ValueError(
                f"laws.heaviness: expected numbers of {HEAVINESSES}, got {self.laws.heaviness}"
            )
        for name, values in msgspec.structs.asdict(self.laws).items():
            if isinstance(values, list) and len(values) != len(self.categories):
                expected = f"{len(self.categories)} numbers, one a category"
                raise ValueError(f"laws.{name}: expected {expected}, got {len(values)}")
