"""Peers under load: each keeps its players' transcripts as our server does, and reads all of them.

What only our server does besides (the world's conditions, search by meaning, checks of the line) is
left out for them.
"""

import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from weakref import ref

from bench.load_targets import Kind, Outcome, Target
from bench.peer_llama_server import LlamaServerPeer
from bench.peer_two_pass import TwoPassPeer
from bench.peers import Peer, PeerAsk
from bench.turn_script import make_ask
from heads.bundle import load_bundle
from heads.loading import open_encoder
from rag.world import World, read_world
from runtime.encoder import PromptEncoder
from runtime.errors import RuntimeFault
from runtime.host import num_cores
from runtime.llama_backend import LlamaModel
from runtime.prompt import End, decision_segments
from server.sessions import Written
from server.settings import Settings
from server.turn import read_turn
from server.turn_prompt import append_turn, build_prompt
from train.dataset import TurnLabel
from train.transcripts import decision_words

_ENDING = 64
"""Tokens of a decision and of what ends a turn, at most."""


@dataclass(slots=True)
class _Session:
    number: int
    written: Written | None = None


class PeerTarget:
    """A peer that is told whole transcripts, with the decisions that the dataset's labels say."""

    def __init__(
        self, peer: Peer, world: World, encoder: PromptEncoder, max_tokens: int, budget: int
    ) -> None:
        self.name = peer.name
        self._peer, self._world, self._encoder = peer, world, encoder
        self._max_tokens, self._budget = max_tokens, budget
        self._sessions: dict[str, _Session] = {}
        self._numbers = count()
        self._lock = Lock()

    def turn(self, session: str, line: TurnLabel, *, is_first: bool) -> Outcome:
        """See Target."""
        with self._lock:  # the player goes on with this session alone
            player = session.rsplit(",", 1)[0]
            known = self._sessions.get(player)
            number = known.number if known else next(self._numbers)
            written = known.written if known and not is_first else None
            conversation = self._sessions[player] = _Session(number, written)
        start = time.monotonic()
        try:
            return self._ask(conversation, session, line, start)
        except RuntimeFault as error:
            return Outcome(Kind.FAILED, start, time.monotonic() - start, why=str(error))

    def _ask(self, conversation: _Session, session: str, line: TurnLabel, start: float) -> Outcome:
        turn = read_turn(make_ask(line, session, [], self._max_tokens), self._world)
        prompt = None
        if conversation.written is not None:
            prompt = append_turn(conversation.written, turn, self._world, self._encoder)
        if prompt is None or len(prompt.tokens) > self._budget:
            prompt = build_prompt(turn, self._world, self._encoder, self._budget)
        decision = self._encoder.encode(decision_segments(decision_words(line, self._world)))
        asked = PeerAsk(prompt.tokens, decision, self._max_tokens, conversation.number)
        reply = self._peer.ask(asked)
        total = time.monotonic() - start
        waited = total - reply.total_ms / 1e3  # for others, and for the prompt to be written
        tokens = [*prompt.tokens, *decision, *reply.tokens, *self._encoder.encode([End()])]
        conversation.written = Written(
            ref(self._world),
            turn.npc,
            prompt.transcript,
            array("i", tokens),
            [],
            prompt.prefixes,
        )
        return Outcome(
            Kind.MAIN,
            start,
            total,
            waited + reply.state_ms / 1e3,
            waited + reply.first_token_ms / 1e3,
        )


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """llama-server's program, and the threads of each of its two processes."""

    program: Path
    num_threads: int | None = None
    """None: one for each core."""


@contextmanager
def open_peers(
    settings: Settings,
    llama_server: LlamaServer | None,
    *,
    has_two_passes: bool,
    num_sessions: int,
    max_tokens: int,
) -> Iterator[list[Target]]:
    """The peers that are asked for; llama-server has a slot for each of `num_sessions` players.

    Raises BundleError, PeerFailed, ModelError or WorldError.
    """
    with ExitStack() as stack:
        peers: list[Peer] = []
        world = World(source.document for source in read_world(settings.world))
        bundle = load_bundle(settings.bundle, verify_hashes=False)
        model = stack.enter_context(closing(LlamaModel(bundle.model, vocab_only=True)))
        encoder = open_encoder(bundle, model)
        limits = {
            "num_tokens": settings.prompt_tokens + 2 * max_tokens + _ENDING,
            "num_threads": settings.threads or num_cores(),
        }
        if has_two_passes:
            peers.append(TwoPassPeer(bundle.model, model, **limits))
            stack.callback(peers[-1].close)
        if llama_server is not None:
            limits["num_threads"] = llama_server.num_threads or limits["num_threads"]
            slots = {"num_conversations": num_sessions}
            peers.append(LlamaServerPeer(llama_server.program, bundle.model, **limits, **slots))
            stack.callback(peers[-1].close)
        budget = settings.prompt_tokens
        yield [PeerTarget(peer, world, encoder, max_tokens, budget) for peer in peers]
