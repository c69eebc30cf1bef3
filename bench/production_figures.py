"""What `persona bench production` makes of its runs: medians, shares, table, plot."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.bandwidth import Bandwidth
from bench.report import Ratio, print_table, ratio_of

MEGABYTE, GIGABYTE = 1e6, 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process in RAM: all, and those that are no file's pages."""

    resident: int
    anonymous: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: tokens a second of prefill and of decode, bandwidth between, memory at the end."""

    prefill: float
    decode: float
    bandwidth: Bandwidth
    memory: Memory


@dataclass(slots=True)
class Row:
    """So many conversations resident, and how it went, run by run."""

    num_conversations: int
    token_bytes: float
    """Read to decode a token."""
    runs: list[Measured] = field(default_factory=list)

    @property
    def prefill(self) -> float:
        """Tokens a second, median."""
        return median(run.prefill for run in self.runs)

    @property
    def decode(self) -> float:
        """Tokens a second, median."""
        return median(run.decode for run in self.runs)

    @property
    def resident(self) -> float:
        """Bytes, median."""
        return median(run.memory.resident for run in self.runs)

    @property
    def share(self) -> Ratio:
        """Bytes that decoding read a second over those that memory gives."""
        read = [self.token_bytes * run.decode for run in self.runs]
        return ratio_of(read, [run.bandwidth.best for run in self.runs])


@dataclass(slots=True)
class Figures:
    """Everything that was measured of a model, in bytes where nothing else is said."""

    before: Memory
    """Of the process before the model was loaded."""
    loaded: Memory
    weights: int
    """Read for each token."""
    kv_cell: float
    """Of a token in all layers."""
    num_prompt: int
    """Tokens of a conversation."""
    num_reply: int
    """Tokens decoded after it."""
    cache: int
    """Of the CPU's last level, 0 if unknown."""
    rows: list[Row] = field(default_factory=list)

    @property
    def token_bytes(self) -> float:
        """Read to decode a token: all weights, and the cells before it, half the reply on average.

        Layers with a sliding window read less than all cells: it is then an upper bound.
        """
        return self.weights + self.kv_cell * (self.num_prompt + self.num_reply / 2)

    @property
    def bandwidth(self) -> Bandwidth:
        """Medians over all runs."""
        found = [run.bandwidth for row in self.rows for run in row.runs]
        return Bandwidth(median(b.read for b in found), median(b.copy for b in found))

    def kv_bytes(self, num_conversations: int) -> float:
        """Cells of so many conversations and their replies."""
        return num_conversations * self.kv_cell * (self.num_prompt + self.num_reply)

    def report(self) -> dict[str, object]:
        """For JSON."""
        return {
            "memory_before": self.before,
            "memory_loaded": self.loaded,
            "weight_bytes_a_token": self.weights,
            "kv_bytes_a_cell": self.kv_cell,
            "bytes_a_token": self.token_bytes,
            "last_cache_bytes": self.cache,
            "bandwidth": self.bandwidth,
            "conversations": [
                {
                    "num_conversations": row.num_conversations,
                    "prefill_tokens_per_s": row.prefill,
                    "decode_tokens_per_s": row.decode,
                    "share_of_bandwidth": row.share,
                    "resident_bytes": row.resident,
                    "kv_bytes": self.kv_bytes(row.num_conversations),
                    "runs": row.runs,
                }
                for row in self.rows
            ],
        }


def print_figures(name: str, figures: Figures) -> None:
    """The table, and what its figures are made of."""
    rows = [
        {
            "conversations": row.num_conversations,
            "prefill tok/s": row.prefill,
            "decode tok/s": row.decode,
            "share of bandwidth [95%]": row.share if len(row.runs) > 1 else row.share.median,
            "resident MB": row.resident / MEGABYTE,
            "of it KV cells MB": figures.kv_bytes(row.num_conversations) / MEGABYTE,
        }
        for row in figures.rows
    ]
    print_table(f"{name}, {figures.num_prompt} tokens a conversation, one speaks", rows)
    bandwidth, loaded = figures.bandwidth, figures.loaded
    print(
        f"a decoded token reads {figures.token_bytes / MEGABYTE:,.1f} MB: weights "
        f"{figures.weights / MEGABYTE:,.1f}, KV cells {figures.kv_cell / 1e3:,.1f} kB each"
    )
    print(
        f"memory bandwidth: {bandwidth.read / GIGABYTE:.1f} GB/s read, "
        f"{bandwidth.copy / GIGABYTE:.1f} GB/s copied, all cores; the roof is "
        f"{bandwidth.best / figures.token_bytes:,.1f} tokens/s"
    )
    print(
        f"resident: {figures.before.resident / MEGABYTE:,.0f} MB before loading, "
        f"{loaded.resident / MEGABYTE:,.0f} MB loaded; of these {loaded.anonymous / MEGABYTE:,.0f} "
        "MB are no file's pages (Python, and weights that llama.cpp repacked for this CPU)"
    )
    if figures.weights < figures.cache:
        print(
            f"the weights fit the last cache ({figures.cache / MEGABYTE:,.0f} MB): memory does not "
            "bound this model, and its share says nothing"
        )


def draw(path: Path, figures: Figures) -> None:
    """Speeds with the roof, and memory, by conversations."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    speeds, memory = figure.subplots(1, 2)
    counts = [str(row.num_conversations) for row in figures.rows]
    speeds.plot(counts, [row.prefill for row in figures.rows], "o-", label="prefill")
    speeds.plot(counts, [row.decode for row in figures.rows], "o-", label="decode")
    roof = figures.bandwidth.best / figures.token_bytes
    speeds.axhline(roof, color="grey", linestyle="--", label="roof of decode")
    speeds.set_ylim(bottom=0)
    speeds.set_ylabel("tokens/s")
    speeds.legend()
    memory.bar(counts, [row.resident / MEGABYTE for row in figures.rows], color="#3b82c4")
    memory.axhline(figures.loaded.resident / MEGABYTE, color="#d9822b", label="weights loaded")
    memory.set_ylabel("resident MB")
    memory.legend(loc="lower right")
    for axes in (speeds, memory):
        axes.set_xlabel("resident conversations")
    figure.savefig(path)
