"""Counts the instructions of llama.cpp's kernels in the unpacked ARM image, for `bench.kernels`.

    python deploy/image/instructions/count.py IMAGE_ROOT >bench/kernels.json

Needs Debian's qemu-user (not the static one, which loads no plugins) and a C compiler. Counts do
not depend on what else the machine does; a run takes some ten minutes.
"""

import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path

import msgspec

from bench.kernels import LAYOUTS, TYPES, Counted, Counts, make_files

HERE = Path(__file__).parent
CPUS: dict[str, list[str]] = {"cortex-a72": [], "neoverse-n1": ["DOTPROD"]}
"""CPUs as QEMU names them, and what their kernels use that those of the one before do not."""
PROMPT, STEPS = 64, 4
SITE = "usr/local/lib/python3.11/dist-packages"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def main(root: Path) -> None:
    """Count everything; JSON to standard output."""
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        sys.exit("no qemu-aarch64 here; install Debian's qemu-user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = folder / "count.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(HERE / "count.c")]
        subprocess.run(compiler, check=True)
        files = dict(make_files(folder))
        kinds = []
        for cpu, features in CPUS.items():
            qemu = [emulator, "-L", str(root), "-cpu", cpu, "-plugin", str(plugin)]
            counted: dict[str, dict[str, Counted]] = {weights: {} for weights in TYPES}
            for weights, layout in product(TYPES, LAYOUTS):
                found = count(qemu, root, files[weights], layout)
                print(f"{cpu}, {weights}, {layout}: {found}", file=sys.stderr)
                counted[weights][layout] = found
            kinds.append({"features": features, "counted": counted})
    text = msgspec.json.format(
        msgspec.json.encode(msgspec.convert(msgspec.to_builtins(kinds), list[Counts]))
    )
    print(text.decode())


def count(qemu: list[str], root: Path, model: Path, layout: str) -> Counted:
    """The instructions of a token, in millions."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{root}/{SITE}"}
    work = ["-P", str(HERE / "work.py"), str(model), str(PROMPT), str(STEPS), layout]
    done = subprocess.run(
        [*qemu, f"{root}/usr/bin/python3.11", *work],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    marks = [
        int(line.split()[1])
        for line in done.stderr.splitlines()
        if line.startswith("instructions: ")
    ]
    if done.returncode or len(marks) != 4:
        sys.exit(f"{' '.join(work)}: {done.stdout}{done.stderr[-2000:]}")
    prompt, _, steps = (end - start for start, end in pairwise(marks))
    return Counted(round(prompt / PROMPT / 1e6, 2), round(steps / STEPS / 1e6, 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
