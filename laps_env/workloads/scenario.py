"""`Scenario`: a server and its traffic.

It pairs the acceptance and the costs of *one* system with an arrival process and a server; its
saturation throughput is stored beside it, so that a load means the same for every policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from laps_env.sim.server_model import ServerModel
from laps_env.sim.workload import Workload
from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.utils.checks import MAX_COUNT, check_count, check_positive
from laps_env.utils.code_digest import code_digest
from laps_env.utils.splits import as_split
from laps_env.workloads.arrivals import ArrivalProcess, RecordedArrivals
from laps_env.workloads.confidence import CONCENTRATION
from laps_env.workloads.generator import draw_workload
from laps_env.workloads.limits import Limits, limits_ns
from laps_env.workloads.load import measure_saturation, scaled_to_load
from laps_env.workloads.predictors import (
    RECORDED,
    REFRESHED,
    ErrorName,
    LengthPredictor,
    PredictorError,
    make_predictor,
)
from laps_env.workloads.refreshes import REFRESH_ERROR
from laps_env.workloads.requests import GeneratedRequests, RecordedRequests, RequestSource

#: Standard deviation of log(predicted / true length) where none is given (assumed).
DEFAULT_PREDICTOR_ERROR = 0.5

#: In place of a load: play recorded arrivals back with the gaps they had.
AS_RECORDED = "recorded"

#: A rate that is told from 0, so that gaps are finite (the workload refuses them all the same).
_LEAST_RPS = 1e-300


@dataclass(frozen=True)
class Definition:
    """A scenario's file with all that it names, as results keep it.

    Attributes:
        name: Name of the scenario.
        text: Content of the file, TOML.
        files: Files that it names: name in it, and content, gzip.
    """

    name: str
    text: str
    files: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A server and the traffic it meets.

    Attributes:
        name: Name as given to ``gym.make(..., scenario=name)``.
        description: Line for lists.
        server: Server with its batch, draft length, pool and costs.
        requests: Source of the requests' lengths and acceptance.
        arrivals: Arrival process.
        saturation_rps: Completed requests per second of first come first served with all requests
            present at time 0, at the scenario's own server, by split (`with_saturation` measures
            it); a load is a fraction of that of its split, whatever is overridden.
        limits: Limits of the requests by category; none in a category that is not in it.
        predictor_error: Error of the length predictions where none is given: a number,
            ``"recorded"``, ``"refreshed"``, or None (`error_in_force`).
        definition: File that it was read from; None for those of the package and of a program.
    """

    name: str
    description: str
    server: ServerModel
    requests: RequestSource
    arrivals: ArrivalProcess
    saturation_rps: dict[str, float] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)
    predictor_error: PredictorError = None
    definition: Definition | None = field(default=None, compare=False, repr=False)

    def workload(
        self,
        *,
        load: float | str,
        num_requests: int,
        split: str = "train",
        seed: int = 0,
        episode: int = 0,
        predictor_error: PredictorError = None,
        confidences: bool = False,
    ) -> Workload:
        """Workload at an address (split, seed, episode).

        Args:
            load: Arrival rate as a fraction of the saturation throughput, > 0 and finite; or
                ``"recorded"`` for a recorded arrival trace at its own speed.
            num_requests: Number of requests, >= 1.
            split: Part of all traffic: ``train``, ``validation``, ``test`` or ``calibration``.
            seed: Seed, >= 0.
            episode: Number of the episode of one environment, >= 0 and below 2**32.
            predictor_error: Deviation of log(predicted / true length), a predictor,
                ``"recorded"`` for the predictions that come with the requests, ``"refreshed"`` for
                the scenario's own with refreshes, or None (`error_in_force`).
            confidences: Whether it has the draft's confidences, as it does where the scenario's own
                draft length goes by them.

        Raises:
            ValueError: A load, count or address is out of range, or confidences are asked for where
                none were recorded.
        """
        check_count("num_requests", num_requests, most=int(MAX_COUNT))
        check_count("episode", episode, least=0, most=2**32 - 1)
        error = self.error_in_force(predictor_error)
        first = self._error_without_refreshes() if error == REFRESHED else error
        predictor = (
            None if first == RECORDED else make_predictor(first)  # type: ignore[arg-type]  # checks
        )
        workload = draw_workload(
            self.requests,
            self.arrivals,
            predictor,
            mean_gap_s=self.mean_gap_s(load, split),
            split=as_split(split),
            seed=seed,
            episode=episode,
            num_requests=num_requests,
            confidences=confidences or self.server.needs_confidence,
            refreshes=error == REFRESHED,
        )
        if self.limits:
            limits = limits_ns(self.limits, workload.categories, workload.category)
            workload = replace(workload, limits_ns=limits)
        if isinstance(load, str) or not self._scales_windows:
            return workload
        return scaled_to_load(workload, self.server, load)

    @property
    def _scales_windows(self) -> bool:
        """Whether each workload is stretched to the load by itself."""
        if isinstance(self.arrivals, RecordedArrivals):
            return self.arrivals.scaling == "window"
        return getattr(self.requests, "drift", None) is not None

    def error_in_force(
        self, predictor_error: PredictorError
    ) -> float | LengthPredictor | ErrorName:
        """Predictor error to use.

        None is the scenario's own; without one ``"recorded"`` where there are predictions, and 0.5
        elsewhere.

        Raises:
            ValueError: Recorded or refreshed predictions are asked for where there are none.
        """
        if predictor_error is None:
            predictor_error = self.predictor_error
        if predictor_error is None:
            return self._error_without_refreshes()
        if predictor_error == REFRESHED and not self.requests.has_refreshes:
            raise ValueError(
                f"predictor_error: expected requests with refreshed predictions for {REFRESHED!r}, "
                f"those of scenario {self.name!r} bring none"
            )
        if predictor_error == RECORDED and not self.requests.has_predictions:
            raise ValueError(
                f"predictor_error: expected a number on scenario {self.name!r}, whose requests "
                f"bring no predictions, got {predictor_error!r}"
            )
        return predictor_error

    def _error_without_refreshes(self) -> float | LengthPredictor | ErrorName:
        """Error of what is told at arrival, where no error is given."""
        if self.predictor_error not in (None, REFRESHED):
            return self.error_in_force(self.predictor_error)
        return RECORDED if self.requests.has_predictions else DEFAULT_PREDICTOR_ERROR

    def mean_gap_s(self, load: float | str, split: str) -> float:
        """Mean seconds between arrivals (arguments and errors as for `workload`)."""
        if load == AS_RECORDED:
            if not isinstance(self.arrivals, RecordedArrivals):
                raise ValueError(
                    f"load {AS_RECORDED!r}: expected recorded arrivals, scenario {self.name!r} has "
                    f"{self.arrivals}"
                )
            return self.arrivals.mean_gap_s(as_split(split))
        rate = check_positive("load", load) * self.saturation(split)
        return 1.0 / max(rate, _LEAST_RPS)

    def saturation(self, split: str) -> float:
        """Saturation throughput of a split in requests per second.

        Raises:
            ValueError: It has not been measured.
        """
        rate = self.saturation_rps.get(as_split(split), math.nan)
        if not rate > 0:
            raise ValueError(
                f"saturation_rps of scenario {self.name!r}: expected a number > 0 for the split "
                f"{split}, got {rate}: measure it by with_saturation()"
            )
        return rate

    def with_saturation(self) -> Scenario:
        """Same scenario with its saturation measured on every split, which takes seconds."""
        return replace(self, saturation_rps=measure_saturation(self.requests, self.server))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of everything that decides its workloads and costs."""
        # what older rows did not have yet does not count where it is as it was
        later: list[object] = [self.limits] if self.limits else []
        for name, usual in (("concentration", CONCENTRATION), ("refresh_error", REFRESH_ERROR)):
            value = getattr(self.requests, name, usual)
            later += [{name: value}] if value != usual else []
        if isinstance(self.requests, RecordedRequests):
            parts = (self.requests.train, self.requests.test)
            sampled = [part.acceptance for part in parts if part.acceptance is not None]
            later += [{"acceptance": sampled}] if sampled else []
        drift = getattr(self.requests, "drift", None)
        later += [] if drift is None else [drift]
        return code_digest(self.server, self.requests, self.arrivals, self.saturation_rps, *later)

    def with_arrivals(self, arrivals: ArrivalProcess | ArrivalTrace) -> Scenario:
        """Same server and requests, arriving otherwise, or as in an arrival trace."""
        if isinstance(arrivals, ArrivalTrace):
            arrivals = RecordedArrivals(arrivals)
        return replace(self, arrivals=arrivals)

    def with_requests(self, requests: RecordedRequests) -> Scenario:
        """Same server on recorded requests; the saturation must be measured anew."""
        return replace(self, requests=requests, saturation_rps={})

    def with_lengths_of(self, trace: RecordedArrivals) -> Scenario:
        """Same acceptance profiles, prompt and output lengths as in an arrival trace."""
        if not isinstance(self.requests, GeneratedRequests):
            raise ValueError(
                "lengths of an arrival trace: expected a scenario with generated acceptance "
                f"(...-8b), got {self.requests.name}"
            )
        return replace(self, requests=replace(self.requests, lengths=trace), saturation_rps={})
