"""How much of a prompt goes into one step.

So much that those who speak hardly notice, and never so much that a deadline waits for it.
"""

from runtime.running_mean import RunningMean

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
_LEAST_SHARE = 0.1
"""Of a step's time that its prompt tokens take at least: what a step costs by itself is estimated.
"""


class StepBudget:
    """Learns from the steps that were measured; before it has seen any it is careful."""

    def __init__(self) -> None:
        self._quiet = RunningMean(SHARE)
        self._per_token = RunningMean(SHARE)
        self._per_token_alone = RunningMean(SHARE)

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that may ride with replies in the next step."""
        if not self._quiet.value or not self._per_token.value:
            return 2 * LEAST
        return max(LEAST, int((STRETCH - 1) * self._quiet.value / self._per_token.value))

    @property
    def num_alone(self) -> int:
        """Prompt tokens of a step without replies.

        A power of two: the shape of batches should not change with every breath of the machine.
        """
        if not self._per_token_alone.value:
            return 4 * LEAST_ALONE
        left = max(LONGEST_S - self._of_itself, _LEAST_SHARE * LONGEST_S)
        num_tokens = max(LEAST_ALONE, int(left / self._per_token_alone.value))
        return 1 << (num_tokens.bit_length() - 1)

    @property
    def _of_itself(self) -> float:
        """Seconds of a step that reads the weights for next to nothing."""
        return self._quiet.value or 0.0

    def observe(self, num_replies: int, num_prompt: int, seconds: float) -> None:
        """A step that evaluated so many reply and prompt tokens took `seconds`."""
        if not num_prompt:
            self._quiet.add(seconds)
            return
        per_token = max(seconds - self._of_itself, _LEAST_SHARE * seconds) / num_prompt
        if num_replies and self._quiet.value:
            self._per_token.add(per_token)
        elif not num_replies and num_prompt >= LEAST_ALONE:
            self._per_token_alone.add(per_token)


class WholeBatches(StepBudget):
    """Prompts fill every batch: what is evaluated when does not depend on the machine."""

    num_tokens = 1 << 20
    num_alone = 1 << 20
