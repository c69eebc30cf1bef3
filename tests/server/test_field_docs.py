"""Descriptions of fields."""

import msgspec

from server.field_docs import field_docs


class Lamp(msgspec.Struct):
    """A lamp."""

    oil: int = 3
    """Measures
    of oil."""
    wick: str | None = None
    keeper: str = ""
    """Who lights it."""


def test_a_field_is_described_by_the_docstring_below_it() -> None:
    assert field_docs(Lamp) == {"oil": "Measures of oil.", "keeper": "Who lights it."}
