from pathlib import Path

import pytest

from server.settings import Settings, SettingsError, read_settings


def test_what_is_not_set_has_its_default() -> None:
    settings = read_settings({"HOME": "/root", "PATH": "/bin"})
    assert settings == Settings()
    assert settings.threads is None
    assert settings.on_overload == "fallback"


def test_every_kind_of_value_is_read() -> None:
    settings = read_settings(
        {
            "PERSONA_BUNDLE": "/srv/bundle",
            "PERSONA_WORLD": "my/world",
            "PERSONA_PORT": "0",
            "PERSONA_VERIFY_HASHES": "false",
            "PERSONA_ON_OVERLOAD": "reject",
            "PERSONA_HOST": "::",
        }
    )
    assert (settings.bundle, settings.world) == (Path("/srv/bundle"), Path("my/world"))
    assert (settings.port, settings.host) == (0, "::")
    assert settings.verify_hashes is False
    assert settings.on_overload == "reject"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("PERSONA_N_CTX", "many", "Expected `int`"),
        ("PERSONA_N_CTX", "511", ">= 2048"),
        ("PERSONA_PORT", "65536", "<= 65535"),
        ("PERSONA_PORT", "", "Expected `int`"),
        ("PERSONA_THREADS", "0", ">= 1"),
        ("PERSONA_N_SEQUENCES", "257", "<= 256"),
        ("PERSONA_VERIFY_HASHES", "perhaps", "Expected `bool`"),
        ("PERSONA_ON_OVERLOAD", "hang", "Invalid enum value"),
        ("PERSONA_WORLD", "", "name a folder"),
        ("PERSONA_BUNDLE", "", "name a folder"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_its_variable(
    name: str, value: str, what: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({name: value})
    assert str(caught.value).startswith(f"{name}={value!r}: ")
    assert what in str(caught.value)


def test_an_unknown_variable_is_told_with_those_that_exist() -> None:
    with pytest.raises(SettingsError, match=r"^PERSONA_N_CONTEXT is not a setting") as caught:
        read_settings({"PERSONA_N_CONTEXT": "4096"})
    assert "PERSONA_N_CTX" in str(caught.value)


@pytest.mark.parametrize("name", ["PERSONA_CACHE", "PERSONA_URL"])
def test_the_cache_folder_and_a_clients_server_are_anothers_business(name: str) -> None:
    assert read_settings({name: "somewhere"}) == Settings()
