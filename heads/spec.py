"""The head spec: names, ranges, thresholds and calibration, as the manifest records them."""

import re
from typing import Annotated

import msgspec

Unit = Annotated[float, msgspec.Meta(ge=-1, le=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Not a msgspec pattern: those crash now and then as the interpreter ends (msgspec #717)."""


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: small letters, digits and _, a letter first")


def _check_distinct(names: list[str]) -> None:
    if len({*names}) < len(names):
        raise ValueError(f"a name twice among {', '.join(names)}")


class DeltaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One regression output: its name and the range that it is clamped to."""

    name: str
    min: Unit = -1.0
    max: Unit = 1.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.min > self.max:
            raise ValueError(f"{self.name}: min {self.min} is above max {self.max}")


class FlagSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One classification output: its name and the score from which it is raised."""

    name: str
    threshold: Probability = 0.5

    def __post_init__(self) -> None:
        _check_name(self.name)


class HeadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of the heads' outputs, in order.

    `temperature` divides the flag logits and is already part of the ONNX graph; it is recorded
    so that a later calibration knows what it starts from.
    """

    delta: tuple[DeltaSpec, ...]
    flags: tuple[FlagSpec, ...]
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        _check_distinct([spec.name for spec in self.delta])
        _check_distinct([spec.name for spec in self.flags])
