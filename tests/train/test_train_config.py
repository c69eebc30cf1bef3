from pathlib import Path

import pytest
from msgspec.structs import replace

from train.config import CONFIGS, PROJECTIONS, read_config
from train.dataset import DatasetError

DATA = '[data]\nworld = "w"\ndata = "d"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_configurations_that_come_with_it_are_known_by_name() -> None:
    found = {path.stem: read_config(Path(path.stem)) for path in CONFIGS.glob("*.toml")}
    assert set(found) == {"demo", "qwen2.5-3b"}
    assert found["demo"].base.hf == found["demo"].base.gguf == ""
    assert found["qwen2.5-3b"].base.hf == "Qwen2.5-3B-Instruct"
    assert found["qwen2.5-3b"].base.nf4
    for config in found.values():
        assert config.lora.targets == PROJECTIONS
        assert (Path(__file__).parents[2] / config.data.world).is_dir()
        assert (Path(__file__).parents[2] / config.data.data / "train").is_dir()


def test_a_file_is_read_by_its_path_and_what_it_leaves_out_has_defaults(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, DATA + "[run]\nseed = 7\n"))
    assert (config.data.world, config.data.data, config.run.seed) == ("w", "d", 7)
    assert config.run.epochs == 2
    assert config.lora.r == 16


def test_a_file_of_that_path_goes_before_a_known_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text(DATA, "utf-8")
    assert read_config(Path("demo")).data.world == "w"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DATA + "[run]\nsteps = 1\n", r"unknown field `steps` - at `\$\.run`"),
        (DATA + "[schedule]\nepochs = 1\n", "unknown field `schedule`"),
        (DATA + '[run]\nepochs = "two"\n', r"Expected `int`, got `str` - at `\$\.run\.epochs`"),
        (DATA + "[run]\nepochs = 0\n", r"`int` >= 1 - at `\$\.run\.epochs`"),
        (DATA + "[lora]\ndropout = 1.5\n", r"<= 1\.0 - at `\$\.lora\.dropout`"),
        (DATA + "[optimiser]\nlr = nan\n", r"> 0\.0 - at `\$\.optimiser\.lr`"),
        (DATA + '[run]\nprecision = "fp8"\n', r"'fp8' - at `\$\.run\.precision`"),
        (DATA + '[base]\ngguf = "a"\nhf = "b"\n', "base.gguf and base.hf are both set; choose one"),
        (DATA + '[lora]\ntargets = ["q_proj", "lm_head"]\n', "lora.targets: lm_head; choose of"),
        ("[run]\nseed = 1\n", "missing required field `data`"),
        ('[data]\nworld = "w"\n', r"missing required field `data` - at `\$\.data`"),
        ("[data\n", "line 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_file_and_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"own\.toml: .*{message}"):
        read_config(write(tmp_path, text))


def test_text_that_is_not_utf_8_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"own\.toml: .*utf-8"):
        read_config(path)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_no_file_is_told_with_the_configurations_that_there_are(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(DatasetError, match=r"give a TOML file, or one of demo, qwen2\.5-3b"):
        read_config(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("run.seed=3", 3),
        ("optimiser.lr=1e-5", 1e-5),
        ("optimiser.lr=1", 1.0),
        ("base.trim=false", False),
        ("run.precision=fp32", "fp32"),
        ("base.hf=/models/some=thing", "/models/some=thing"),
        ('data.embedder="none"', "none"),
        ("data.world=my world", "my world"),
        ('lora.targets=["q_proj", "v_proj"]', ("q_proj", "v_proj")),
    ],
)
def test_a_change_goes_over_the_file_and_changes_nothing_else(
    tmp_path: Path, change: str, value: object
) -> None:
    path = write(tmp_path, DATA + "[run]\nseed = 7\n")
    section, key = change.split("=", maxsplit=1)[0].split(".")
    before, after = read_config(path), read_config(path, [change])
    changed = replace(getattr(before, section), **{key: value})
    assert after == replace(before, **{section: changed})
    assert type(getattr(getattr(after, section), key)) is type(value)


def test_the_last_of_two_changes_holds(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, DATA), ["run.seed=1", "run.seed=2", "run.epochs=5"])
    assert (config.run.seed, config.run.epochs) == (2, 5)


@pytest.mark.parametrize("change", ["run.seed", "seed=1", "run.seed=", ".seed=1", "run.=1", ""])
def test_a_malformed_change_is_quoted_and_its_form_shown(tmp_path: Path, change: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_config(write(tmp_path, DATA), [change])
    assert str(caught.value) == f"{change!r}: write a change as section.key=value"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.steps=1", r"unknown field `steps` - at `\$\.run`"),
        ("base.trim=yes", r"Expected `bool`, got `str` - at `\$\.base\.trim`"),
        ("lora.r=0", r"at `\$\.lora\.r`"),
        ("lora.targets=q_proj", r"Expected `array`, got `str` - at `\$\.lora\.targets`"),
    ],
)
def test_a_change_to_what_cannot_be_is_told_with_its_key(
    tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        read_config(write(tmp_path, DATA), [change])
