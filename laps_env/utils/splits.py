"""`Split`: disjoint parts of all traffic, and what each may be used for."""

from __future__ import annotations

from enum import StrEnum

from laps_env.utils.checks import check_one_of


class Split(StrEnum):
    """A part of the requests and workloads that shares nothing with the others.

    Nothing is fitted or chosen on ``test``; ``calibration`` is for costs and saturation alone.
    """

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    CALIBRATION = "calibration"


def as_split(name: str) -> Split:
    """The split of this name.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    check_one_of("split", name, Split)
    return Split(name)
