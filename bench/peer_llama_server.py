"""Two `llama-server` processes on loopback: one embeds the whole prompt, one completes it."""

import http.client
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.peers import PeerAsk, PeerFailed, PeerReply
from bench.server_process import HOST, free_port, stop_process
from runtime.context_config import ContextConfig
from runtime.sampling import SamplingParams

HOW_TO_BUILD = "scripts/build-llama-server builds it and prints its path, for --llama-server"
_START_S, _ANSWER_S, _LOOK_S = 60.0, 300.0, 0.05
_LAST_CHARACTERS = 600
_PENALTY = SamplingParams().repetition_penalty


class LlamaServerPeer:
    """`/embedding` of one server for the state, `/completion` of another for the reply.

    The second has `num_conversations` slots, each with KV cells for `num_tokens`; a turn goes to
    its conversation's slot with `cache_prompt`. The first keeps nothing from one request to the
    next, as is its way, and gives the vector of `<STATE>` alone (`--pooling last`; with `none` it
    would write those of the whole prompt as JSON). Raises PeerFailed.
    """

    name = "llama-server"

    def __init__(
        self,
        program: Path,
        path: Path,
        *,
        num_tokens: int,
        num_threads: int,
        num_conversations: int = 1,
    ) -> None:
        self._num_slots = num_conversations
        threads = ["--threads", str(num_threads), "--threads-batch", str(num_threads)]
        kernels = ["--ubatch-size", str(ContextConfig().n_ubatch), "--flash-attn", "on"]
        model = [str(program), "--model", str(path), *threads, *kernels, "--swa-full"]
        slots = ["--parallel", str(num_conversations)]
        slots += ["--ctx-size", str(num_tokens * num_conversations)]
        vectors = ["--embeddings", "--pooling", "last", "--parallel", "1"]
        vectors += ["--ctx-size", str(num_tokens), "--batch-size", str(num_tokens)]
        with ExitStack() as stack:
            self._writer = stack.enter_context(run_server([*model, *slots]))
            self._embedder = stack.enter_context(run_server([*model, *vectors]))
            self._stack = stack.pop_all()

    def ask(self, turn: PeerAsk) -> PeerReply:
        """See Peer. Raises PeerFailed."""
        start = time.perf_counter()
        wanted = {"content": list(turn.prompt), "embd_normalize": -1}
        (found,) = msgspec.json.decode(b"".join(self._embedder.post("/embedding", wanted)))
        (vector,) = found["embedding"]
        state = time.perf_counter()
        completion = {
            "prompt": [*turn.prompt, *turn.decision],
            "n_predict": turn.max_tokens,
            "temperature": 0,
            "repeat_penalty": _PENALTY,
            "cache_prompt": True,
            "id_slot": turn.conversation % self._num_slots,
            "return_tokens": True,
            "stream": True,
        }
        reply: list[int] = []
        first, last = None, dict[str, Any]()
        for line in self._writer.post("/completion", completion):
            if line.startswith(b"data: "):
                last = msgspec.json.decode(line.removeprefix(b"data: "))
                reply += last["tokens"]
                first = first or time.perf_counter()
        end = time.perf_counter()
        if first is None or "timings" not in last:
            raise PeerFailed("llama-server ended a completion before it was whole")
        return PeerReply(
            state_ms=(state - start) * 1e3,
            first_token_ms=(first - start) * 1e3,
            total_ms=(end - start) * 1e3,
            num_evaluated=len(turn.prompt) + last["timings"]["prompt_n"],
            num_state=len(turn.prompt),
            tokens=reply,
            state=np.array(vector, np.float32),
        )

    def close(self) -> None:
        """Stop both servers."""
        self._stack.close()


@contextmanager
def run_server(command: Sequence[str]) -> Iterator["LlamaServer"]:
    """A process on a free port of loopback, ready to answer. Raises PeerFailed."""
    port = free_port()
    place = ["--host", HOST, "--port", str(port), "--no-ui", "--offline"]
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(  # noqa: S603 (a program that the user named)
                [*command, *place], stdout=log, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise PeerFailed(f"{command[0]}: {error.strerror}; {HOW_TO_BUILD}") from error
        try:
            server = LlamaServer(port)
            end = time.monotonic() + _START_S
            while not server.is_ready():
                code = process.poll()
                if code is not None or time.monotonic() > end:
                    how = "is not ready" if code is None else f"ended with {code}"
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-_LAST_CHARACTERS:]
                    raise PeerFailed(f"{command[0]} {how}: {said}")
                time.sleep(_LOOK_S)
            yield server
        finally:
            stop_process(process)


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """The routes of a running server."""

    port: int

    def post(self, route: str, body: object) -> Iterator[bytes]:
        """The lines of the answer as they come. Raises PeerFailed."""
        headers = {"Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=_ANSWER_S)) as connection:
            try:
                connection.request("POST", route, msgspec.json.encode(body), headers)
                answer = connection.getresponse()
                if answer.status != http.client.OK:
                    said = answer.read(_LAST_CHARACTERS).decode(errors="replace")
                    raise PeerFailed(f"llama-server answered {route} with {answer.status}: {said}")
                yield from answer
            except (OSError, http.client.HTTPException) as error:
                raise PeerFailed(f"llama-server broke {route} off: {error!r}") from error

    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=_START_S)) as connection:
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == http.client.OK
            except OSError:
                return False
