import msgspec
import pytest

from rag.schema_errors import locate


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    names: list[str] = []


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner


@pytest.mark.parametrize(
    ("raw", "path", "what"),
    [
        ("[]", "$", "Expected `object`, got `array`"),
        ("{}", "$.inner", "Object missing required field `inner`"),
        ('{"inner": {}}', "$.inner.number", "Object missing required field `number`"),
        ('{"inner": {"number": 1, "x": 1}}', "$.inner.x", "Object contains unknown field `x`"),
        ('{"inner": {"number": "1"}}', "$.inner.number", "Expected `int`, got `str`"),
        ('{"inner": {"number": 1, "names": ["", 2]}}', "$.inner.names[1]", "Expected `str`"),
    ],
)
def test_an_error_is_located_at_the_field_it_is_about(raw: str, path: str, what: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(raw, type=Outer)
    found_path, found_what = locate(caught.value)
    assert found_path == path
    assert found_what.startswith(what)


def test_what_a_stranger_sent_is_quoted_in_part() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"' + b"x" * 100_000 + b'": 1}', type=Outer)
    assert all(len(part) < 300 for part in locate(caught.value))
