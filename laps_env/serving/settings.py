"""What a server is told about its policy: plain JSON values, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from laps_env import policies
from laps_env.policies import Policy
from laps_env.policies.base.traffic_file import Traffic, read_traffic
from laps_env.utils.documents import convert
from laps_env.workloads.scenarios import DEFAULT_SCENARIO, get_scenario

#: No scenario of ours: tuned parameters and weights are those for all of them.
_ELSEWHERE = replace(get_scenario(DEFAULT_SCENARIO), name="elsewhere")

_Name = Annotated[str, Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a scheduler inside another engine."""

    policy: _Name = "laps_sd"
    """Name of a policy, folder of a trained model, or file of your own rule (``rule.py:spec``)."""
    parameters: dict[str, float] = {}
    """Parameters of the policy by name."""
    traffic: _Name | None = None
    """File of ``laps-env fit-traffic``: the categories and laws of this server's requests."""
    categories: tuple[_Name, ...] = ()
    """Names of the categories, where no traffic file says them."""
    batch_size: Annotated[int, Meta(ge=1)] | None = None
    """Most requests in a step (the engine's own limit by default)."""
    hold: bool = True
    """Whether requests that are not in a step keep their caches while there is room."""
    patience_s: Annotated[float, Meta(gt=0)] | None = None
    """Seconds without service after which a request goes before all others (never by default)."""
    record: _Name | None = None
    """File to which every step and request is appended (``laps-env import steps`` reads it)."""

    @classmethod
    def of(cls, given: Any) -> Settings:
        """Settings from plain JSON values.

        Raises:
            ValueError: A setting is unknown or not of its type.
        """
        settings: Settings = convert({} if given is None else given, cls, "laps")
        if settings.traffic and settings.categories:
            raise ValueError("laps.categories: expected none beside laps.traffic, which names them")
        return settings

    def read_traffic(self) -> Traffic | None:
        """What is known of the traffic in advance.

        Raises:
            ValueError: The file is no traffic file.
            OSError: The file cannot be read.
        """
        return None if self.traffic is None else read_traffic(Path(self.traffic))

    def make_policy(self, traffic: Traffic | None) -> Policy:
        """The policy, with the laws of this traffic where it needs some.

        Raises:
            ValueError: The policy or a parameter is unknown, or it needs laws and there are none.
        """
        policy = policies.make(self.policy, _ELSEWHERE, traffic=traffic, **self.parameters)
        if traffic is None and policy.spec.fitted is not None:
            raise ValueError(
                f"laps.traffic: expected the file of laps-env fit-traffic, from which "
                f"{self.policy} takes its laws, got none"
            )
        return policy
