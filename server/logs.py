"""What the log looks like: lines of text or of JSON; what players say only if it is asked for."""

import logging
import re
from contextvars import ContextVar
from typing import Any

import msgspec

from server.schemas import Answer
from server.settings import Settings

turn_logger = logging.getLogger("server.turn")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the HTTP request that is being answered."""

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_HIDDEN = re.compile(
    r"""[\w.+-]+@[\w-]+\.[\w.-]+         # e-mail addresses
      | https?://\S+
      | \+?\d(?:[ ().-]?\d){6,}          # telephone, card and identity numbers
      | \b(?=\w*\d)(?=\w*[A-Za-z])\w{20,}\b  # keys and tokens
    """,
    re.VERBOSE,
)


def set_up_logging(settings: Settings) -> None:
    """Log to stderr as the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines(_TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def redacted(text: str) -> str:
    """`text` without what looks like an address, a number of someone's, or a key."""
    return _HIDDEN.sub("[hidden]", text)


def log_turn(answer: Answer, utterance: str | None) -> None:
    """Tell what became of a turn; with its `utterance`, what was said too."""
    if not turn_logger.isEnabledFor(logging.INFO):
        return
    meta, spans = answer.meta, msgspec.to_builtins(answer.meta.timings_ms)
    fields = {
        "turn_id": meta.turn_id,
        "npc_id": meta.npc_id,
        "path": meta.path,
        "reason": meta.reason,
        "text_source": meta.text_source,
        "history": meta.history,
        "evaluated": meta.usage.prompt_tokens - meta.usage.cached_tokens,
        "cached": meta.usage.cached_tokens,
        "completion": meta.usage.completion_tokens,
        **{f"{name}_ms": span for name, span in spans.items()},
    }
    if utterance is not None:
        fields |= {"player": redacted(utterance), "npc": redacted(answer.text)}
    turn_logger.info("turn", extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was logged beside the message, as `extra={"fields": {...}}`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


class TextLines(logging.Formatter):
    """A line for people, what belongs to it as `key=value` at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """See logging.Formatter."""
        pairs = [f"{key}={value}" for key, value in _fields(record).items() if value is not None]
        return " ".join([super().formatMessage(record), *pairs])


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get() or None,
            "error": self.formatException(record.exc_info) if record.exc_info else None,
            **_fields(record),
        }
        shown = {key: value for key, value in line.items() if value is not None}
        return msgspec.json.encode(shown, enc_hook=str).decode()
