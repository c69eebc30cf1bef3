"""How much of a prompt goes into one step.

So much that those who speak hardly notice, and never so much that a deadline waits for it.
"""

SHARE = 0.3
"""Weight of the newest step in the running means."""
STRETCH = 2.5
"""A step of replies and prompts may take so many times as long as one of replies alone."""
LEAST = 4
"""Prompt tokens that any step may have, so that no prompt waits for ever."""
LONGEST_S = 0.5
"""Seconds for a step of prompts alone, as far as LEAST_ALONE tokens allow."""
LEAST_ALONE = 16
"""With fewer the weights are read for too little."""


class StepBudget:
    """Learns from the steps that were measured; before it has seen any it is careful."""

    def __init__(self) -> None:
        self._quiet: float | None = None
        self._per_token: float | None = None
        self._per_token_alone: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that may ride with replies in the next step."""
        if not self._quiet or not self._per_token:
            return 2 * LEAST
        return max(LEAST, int((STRETCH - 1) * self._quiet / self._per_token))

    @property
    def num_alone(self) -> int | None:
        """Prompt tokens of a step without replies; None before one was measured.

        A power of two: the shape of batches should not change with every breath of the machine.
        """
        if not self._per_token_alone:
            return None
        num_tokens = max(LEAST_ALONE, int(LONGEST_S / self._per_token_alone))
        return 1 << (num_tokens.bit_length() - 1)

    def observe(self, num_replies: int, num_prompt: int, seconds: float) -> None:
        """A step that evaluated so many reply and prompt tokens took `seconds`."""
        if not num_prompt:
            self._quiet = _mean(self._quiet, seconds)
        elif num_replies and self._quiet:
            spent = max(seconds - self._quiet, 0.1 * seconds)
            self._per_token = _mean(self._per_token, spent / num_prompt)
        elif not num_replies and num_prompt >= LEAST_ALONE:
            self._per_token_alone = _mean(self._per_token_alone, seconds / num_prompt)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - SHARE) * mean + SHARE * value
