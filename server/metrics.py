"""What `/metrics` tells, in Prometheus' text format."""

from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.stats import EngineStats
from server.schemas import Answer

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the text

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20, 30, 60)
_GAUGES = {
    "num_waiting": ("requests_waiting", "Requests that wait for a sequence or for KV cells."),
    "num_running": ("requests_running", "Requests that are evaluated."),
    "num_claimed_sequences": (
        "sequences_claimed",
        "Sequences in use; more than run: some were lost.",
    ),
    "num_free_cells": ("kv_cells_free", "KV cells that no running request has, residents' too."),
    "num_resident_cells": ("kv_cells_resident", "KV cells that only finished requests hold."),
    "num_residents": ("residents", "Finished requests whose KV cells are kept."),
    "num_stored_bytes": ("prefix_bytes", "NPC prefixes on disk, in bytes."),
    "num_swapped": ("swapped", "Conversations in host memory, for want of room in the cache."),
    "num_swapped_bytes": ("swap_bytes", "What they take there, in bytes."),
}
_COUNTERS = {
    "num_preempted": ("preempted", "Requests that gave their KV cells to an older one."),
    "num_restored": ("prefixes_restored", "NPC prefixes read back from disk."),
    "num_swapped_in": ("swapped_in", "Conversations that came back from host memory."),
    "num_unusable": ("prefixes_unusable", "NPC prefixes on disk that could not be used."),
}


class _Engine(Collector):
    """The engine's counts, asked for when they are told."""

    def __init__(
        self, stats: Callable[[], EngineStats], num_conversations: Callable[[], int]
    ) -> None:
        self._stats, self._num_conversations = stats, num_conversations

    def collect(self) -> Iterator[Metric]:
        """One metric a count."""
        stats = self._stats()
        for field, (name, what) in _GAUGES.items():
            yield GaugeMetricFamily(f"persona_{name}", what, getattr(stats, field))
        for field, (name, what) in _COUNTERS.items():
            yield CounterMetricFamily(f"persona_{name}", what, getattr(stats, field))
        what = "Conversations that are remembered."
        yield GaugeMetricFamily("persona_conversations", what, self._num_conversations())


class Metrics:
    """Counts of what was answered since the start, and the state of the engine.

    All durations are in seconds since a request reached the engine.
    """

    def __init__(
        self, stats: Callable[[], EngineStats], num_conversations: Callable[[], int]
    ) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Engine(stats, num_conversations))
        ProcessCollector(registry=registry)  # its resident memory among others

        def count(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"persona_{name}", what, labels, registry=registry)

        def time(name: str, what: str) -> Histogram:
            return Histogram(f"persona_{name}_seconds", what, buckets=_SECONDS, registry=registry)

        self._turns = count("turns", "Turns answered.", "path", "reason", "text_source", "history")
        self._flags = count("flags_raised", "Flags raised.", "flag")
        self._tokens = count("tokens", "Tokens evaluated, saved by the KV cache, sampled.", "kind")
        self._errors = count("errors", "Requests refused or failed, by problem code.", "code")
        self._queue = time("queue", "Until a request's sequence was free.")
        self._state = time("time_to_state", "Until the decision.")
        self._first_token = time("time_to_first_token", "Until the first token of the line.")
        self._total = time("turn", "Until the line was whole.")

    def count_answer(self, answer: Answer) -> None:
        """A turn that was answered."""
        meta, usage, spans = answer.meta, answer.meta.usage, answer.meta.timings_ms
        self._turns.labels(meta.path, meta.reason or "", meta.text_source, meta.history).inc()
        for name, is_raised in answer.flags.items():
            if is_raised:
                self._flags.labels(name).inc()
        self._tokens.labels("prompt").inc(usage.prompt_tokens - usage.cached_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
        for histogram, milliseconds in (
            (self._queue, spans.queue),
            (self._state, spans.state),
            (self._first_token, spans.first_token),
            (self._total, spans.total),
        ):
            if milliseconds is not None:
                histogram.observe(milliseconds / 1e3)

    def count_error(self, code: str) -> None:
        """A request that got a problem for an answer."""
        self._errors.labels(code).inc()

    def text(self) -> bytes:
        """All of it, of MEDIA_TYPE."""
        return generate_latest(self._registry)
