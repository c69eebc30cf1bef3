"""A container without a container engine; for root on Linux.

The image's files are a read-only root, one folder can be written to; user, environment and entry
point are the image's own.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.server_process import free_port
from check.server import READY_S, Server, kill

# /proc and /sys tell of the machine underneath: told that it is x86-64, the ARM code of onnxruntime
# hangs. So they say what they would on the CPU that is emulated.
_SET_UP = """
set -e
root=$1 data=$2 cpuinfo=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
for device in null zero random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/sys"
cpus=$root/sys/devices/system/cpu
mkdir -p "$cpus"
echo 0-1 | tee "$cpus/possible" >"$cpus/present"
for number in 0 1; do
    printf 'processor: %s\n%s\n\n' "$number" "$cpuinfo"
done >"$root/sys/cpuinfo"
mount --bind "$root/sys/cpuinfo" "$root/proc/cpuinfo"
mount -o remount,ro "$root/sys"
mount --bind "$data" "$root/data"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root/mnt"; shift
done
shift
mount -o remount,bind,ro "$root"
exec "$@"
"""

_CPUINFO = """\
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: 1"""
_BASIC = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
CPUS = {
    "neoverse-n1": _CPUINFO.format(
        features=f"{_BASIC} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp",
        variant="0x3",
        part="0xd0c",
    ),
    "cortex-a72": _CPUINFO.format(features=_BASIC, variant="0x0", part="0xd08"),
}
"""CPUs as QEMU names them, and what Linux tells of them in /proc/cpuinfo."""


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image and its configuration."""

    root: Path
    config: Mapping[str, Any]
    """As in the image: User, Env, WorkingDir, Entrypoint, Cmd, Healthcheck."""

    @classmethod
    def read(cls, folder: Path) -> "Image":
        """What `scripts/image` unpacked: `root` and `config.json`."""
        return cls((folder / "root").resolve(), json.loads((folder / "config.json").read_text()))

    @property
    def user(self) -> tuple[int, int]:
        """The user and group that its processes run as."""
        user, _, group = self.config["User"].partition(":")
        return int(user), int(group)

    def environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        """The environment of its processes."""
        return {**dict(line.split("=", 1) for line in self.config["Env"]), **changes}


@dataclass(frozen=True, slots=True)
class Container:
    """An image with a volume, on an emulated CPU."""

    image: Image
    volume: Path
    cpu: str
    """One of CPUS."""
    mounted: Path | None = None
    """A folder of ours that is seen at /mnt."""

    def command(self, arguments: Sequence[str], changes: Mapping[str, str]) -> list[str]:
        """The command line, on this machine, of a process in the container."""
        environment = self.image.environment({"QEMU_CPU": self.cpu, **changes})
        user, group = self.image.user
        folders = [str(self.mounted)] if self.mounted else []
        chroot = ["chroot", f"--userspec={user}:{group}", "--groups=", str(self.image.root)]
        env = ["/usr/bin/env", "-i", f"--chdir={self.image.config['WorkingDir']}"]
        values = [f"{name}={value}" for name, value in environment.items()]
        apart = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        outer = ["unshare", *apart, "sh", "-c", _SET_UP, "sh"]
        inner = [*chroot, *env, *values, *arguments]
        places = [str(self.image.root), str(self.volume), CPUS[self.cpu]]
        return [*outer, *places, *folders, "--", *inner]

    def run(self, *arguments: str, timeout: float = READY_S, **changes: str) -> "Ran":
        """Runs the image's entry point with other arguments, to its end."""
        return self.run_program(
            *self.image.config["Entrypoint"], *arguments, timeout=timeout, **changes
        )

    def run_program(
        self, *arguments: str, given: str = "", timeout: float = READY_S, **changes: str
    ) -> "Ran":
        """Runs any program of the image, to its end."""
        process = subprocess.Popen(
            self.command(arguments, changes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(given, timeout)
        finally:
            kill(process)
        return Ran(process.returncode, output)

    @contextlib.contextmanager
    def serving(self, log: Path, **changes: str) -> Iterator[Server]:
        """The image as `docker run` starts it, ready; ended at the end."""
        port = free_port()
        arguments = [*self.image.config["Entrypoint"], *self.image.config["Cmd"]]
        changes = {"PERSONA_PORT": str(port), **changes}
        with log.open("w") as out:
            start = time.monotonic()
            process = subprocess.Popen(
                self.command(arguments, changes), stdout=out, stderr=subprocess.STDOUT
            )
            server = Server(process, port, log)
            try:
                server.wait_until_ready()
                server.ready_s = time.monotonic() - start
                server.key = (self.volume / "api-keys").read_text().strip()
                yield server
            finally:
                server.end()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended and what it said."""

    code: int
    output: str
