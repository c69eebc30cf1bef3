"""Everything the runtime raises on purpose."""


class RuntimeFault(Exception):
    """Base of the runtime's errors."""


class ModelError(RuntimeFault):
    """A GGUF cannot be loaded, or has not what is needed of it."""


class DecodeError(RuntimeFault):
    """llama.cpp could not evaluate a batch; `code` is what llama_decode returned."""

    def __init__(self, code: int) -> None:
        what = "no KV cells are left for the batch" if code == 1 else "llama.cpp failed"
        super().__init__(f"{what} (llama_decode returned {code})")


class Overloaded(RuntimeFault):
    """Too many requests wait, or too many for its deadline; the request was not taken."""


class PromptTooLong(RuntimeFault):
    """A prompt and the reply asked for can never fit the KV cache."""


class EngineStopped(RuntimeFault):
    """The engine is not running (any more)."""
