"""How much of a prompt rides with replies: so much that those who speak hardly notice."""

SHARE = 0.3
"""Weight of the newest step in the running means."""
STRETCH = 2.5
"""A step of replies and prompts may take so many times as long as one of replies alone."""
LEAST = 4
"""Prompt tokens that any step may have, so that no prompt waits for ever."""


class StepBudget:
    """Learns from the steps that were measured; before it has seen any it is careful."""

    def __init__(self) -> None:
        self._quiet: float | None = None
        self._per_token: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that may ride with replies in the next step."""
        if not self._quiet or not self._per_token:
            return 2 * LEAST
        return max(LEAST, int((STRETCH - 1) * self._quiet / self._per_token))

    def observe(self, num_replies: int, num_prompt: int, seconds: float) -> None:
        """A step that evaluated so many reply and prompt tokens took `seconds`."""
        if not num_prompt:
            self._quiet = _mean(self._quiet, seconds)
        elif num_replies and self._quiet:
            spent = max(seconds - self._quiet, 0.1 * seconds)
            self._per_token = _mean(self._per_token, spent / num_prompt)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - SHARE) * mean + SHARE * value
