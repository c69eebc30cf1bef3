"""The files that deploy the server agree with one another, with the image and with its settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from rag.embedder import DEFAULT
from server.settings import Settings, read_settings

DEPLOY = Path("deploy")
GUIDE = Path("docs/deploy-oracle.md")
IMAGE_FILE = Path("Dockerfile.arm64")
NGINX = (DEPLOY / "nginx" / "nginx.conf").read_text()
COMPOSE_FILES = ("compose.yaml", "compose.one.yaml")
ENGINE_PORT = "8000"


def read_yaml(path: Path) -> dict[Any, Any]:
    """A file's mapping. YAML takes the key `on` for a truth."""
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def services(file: str) -> dict[str, dict[str, Any]]:
    """The services of a compose file, with what they extend."""
    common = read_yaml(DEPLOY / "common.yaml")["services"]
    own: dict[str, dict[str, Any]] = read_yaml(DEPLOY / file)["services"]
    extended = {}
    for name, service in own.items():
        base = service.get("extends", {"file": "common.yaml"})
        assert base["file"] == "common.yaml"
        extended[name] = common.get(base.get("service"), {}) | service
    return extended


def environment(name: str) -> dict[str, str]:
    """The variables that an example of an environment file sets."""
    lines = (DEPLOY / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def seconds(text: str) -> int:
    """Of `75s`."""
    return int(text.removesuffix("s"))


def in_nginx(directive: str) -> list[str]:
    """The values that nginx.conf gives a directive."""
    return re.findall(rf"^\s*{directive} (.+?);", NGINX, re.MULTILINE)


def test_nginx_balances_over_the_engines_that_compose_starts() -> None:
    listed = re.findall(r"^server (\S+)", (DEPLOY / "nginx/engines.conf").read_text(), re.MULTILINE)
    started = services("compose.yaml")
    engines = {name for name in started if name.startswith("engine-")}
    assert {f"{name}:{ENGINE_PORT}" for name in engines} == set(listed)
    hosts = dict(entry.split(":", 1) for entry in started["nginx"]["extra_hosts"])
    for name in engines:
        address = started[name]["networks"]["engines"]["ipv4_address"]
        assert hosts[name].endswith(f":-{address}}}")


def test_what_lies_before_an_engine_waits_longer_than_a_turn_may_take() -> None:
    settings = Settings()
    (read_timeout,) = in_nginx("proxy_read_timeout")
    assert seconds(read_timeout) > settings.deadline_ms / 1e3 + 5
    (time_for_retries,) = in_nginx("proxy_next_upstream_timeout")
    assert seconds(time_for_retries) < seconds(read_timeout), "a silent engine is not asked twice"
    for file in COMPOSE_FILES:
        for name, service in services(file).items():
            grace = seconds(service["stop_grace_period"])
            assert grace > (settings.deadline_ms + settings.drain_ms) / 1e3 + 5, name


def test_the_engine_and_not_nginx_says_that_a_body_is_too_large() -> None:
    (limit,) = in_nginx("client_max_body_size")
    assert int(limit.removesuffix("m")) * 2**20 > Settings().max_body_bytes


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_every_container_is_confined_and_its_log_bounded(file: str) -> None:
    for name, service in services(file).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["driver"] == "local", name
        assert service["restart"] == "unless-stopped", name


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_only_caddy_is_reached_from_outside(file: str) -> None:
    for name, service in services(file).items():
        for port in service.get("ports", []):
            is_private = str(port).startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:"))
            assert is_private or name == "caddy", port


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_caddy_finds_what_it_stands_before(file: str) -> None:
    started = services(file)
    name, port = started["caddy"]["environment"]["UPSTREAM"].split(":")
    assert name in started
    assert port == (ENGINE_PORT if name == "engine" else in_nginx("listen")[0])


def test_the_engines_share_no_volume() -> None:
    started = services("compose.yaml")
    volumes = [started[name]["volumes"][0] for name in ("engine-1", "engine-2")]
    assert len(set(volumes)) == 2
    assert all(volume.endswith(":/data") for volume in volumes)


def test_the_example_of_the_engines_settings_is_one_that_they_take() -> None:
    given = environment("persona.env.example")
    settings = read_settings(given)
    assert settings.embedder == DEFAULT
    assert settings.log_format == "json"
    inline = services("compose.yaml")["engine-1"]["environment"]
    assert read_settings({name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", v) for name, v in inline.items()})


def test_what_the_compose_files_ask_of_the_environment_is_in_its_example() -> None:
    given = environment("env.example")
    assert given["COMPOSE_FILE"] in COMPOSE_FILES
    for file in ("common.yaml", *COMPOSE_FILES):
        required = re.findall(r"\$\{(\w+):\?", (DEPLOY / file).read_text())
        assert set(required) <= given.keys()
    caddyfile = (DEPLOY / "caddy/Caddyfile").read_text()
    for name in re.findall(r"\{\$(\w+)\}", caddyfile):
        assert name in services("compose.yaml")["caddy"]["environment"]


def test_the_image_is_what_the_compose_files_and_the_workflow_take_it_for() -> None:
    recipe = IMAGE_FILE.read_text()
    assert f"EXPOSE {ENGINE_PORT}" in recipe
    assert "VOLUME /data" in recipe
    steps = read_yaml(Path(".github/workflows/image.yml"))["jobs"]["build"]["steps"]
    builds = [step["with"] for step in steps if "build-push" in step.get("uses", "")]
    assert {build["target"] for build in builds} == {"slim", "with-model"}
    for build in builds:
        assert Path(build["file"]) == IMAGE_FILE
        assert re.search(rf"^FROM .+ AS {build['target']}$", recipe, re.MULTILINE)
        assert build["platforms"] == "linux/arm64,linux/amd64"
        assert build["provenance"] == "mode=max"
        assert build["sbom"] is True
        for name in re.findall(r"^(\w+)=", build["build-args"], re.MULTILINE):
            assert f"ARG {name}" in recipe


def test_each_day_has_security_fixes_of_its_own() -> None:
    recipe = IMAGE_FILE.read_text()
    slim = recipe[recipe.index(" AS slim\n") : recipe.index(" AS with-model\n")]
    assert slim.index("\nARG DAY=") < slim.index(
        "\nRUN apt-get update && \\\n    apt-get upgrade -y"
    )
    workflow = Path(".github/workflows/image.yml").read_text()
    assert workflow.count(" DAY=${{ steps.version.outputs.day }}\n") == 2


def test_the_image_is_readable_though_the_checkout_may_be_its_owners_alone() -> None:
    recipe = IMAGE_FILE.read_text()
    copies = re.findall(r"^COPY (.+)$", recipe[recipe.index(" AS slim\n") :], re.MULTILINE)
    from_checkout = [c for c in copies if not c.startswith(("--from=", "build/image/"))]
    assert len(from_checkout) >= 3
    for copy in from_checkout:
        assert copy.startswith("--chmod="), copy


def test_the_workflow_knows_its_secrets_by_name_only() -> None:
    text = Path(".github/workflows/image.yml").read_text()
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN"}
    for name in ("username", "password"):
        assert re.search(rf"{name}: \$\{{\{{ secrets\.", text)


def test_the_guide_names_files_that_are_there_and_the_version_that_is_published() -> None:
    text = GUIDE.read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (GUIDE.parent / link).exists(), link
    version = re.search(r'^version = "(.+)"', Path("pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert environment("env.example")["IMAGE"].endswith(f":{version[1]}")
    assert f"--branch v{version[1]} " in text
