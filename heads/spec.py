"""The head spec: names, ranges, thresholds and calibration, as the manifest records them."""

from typing import Annotated

import msgspec

Unit = Annotated[float, msgspec.Meta(ge=-1, le=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class DeltaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One regression output: its name and the range that it is clamped to."""

    name: Name
    min: Unit = -1.0
    max: Unit = 1.0


class FlagSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One classification output: its name and the score from which it is raised."""

    name: Name
    threshold: Probability = 0.5


class HeadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of the heads' outputs, in order.

    `temperature` divides the flag logits and is already part of the ONNX graph; it is recorded
    so that a later calibration knows what it starts from.
    """

    delta: tuple[DeltaSpec, ...]
    flags: tuple[FlagSpec, ...]
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
