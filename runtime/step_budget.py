"""How much of a prompt goes into one step, and when: replies and prompts share the engine's time.

A small chunk of a prompt costs up to three times as much a token as a large one, so beside replies
prompts are read in few large chunks, and after each the replies have the engine to themselves for
as long as is due to them. On a quick machine most tokens of a reply come as fast as if nobody else
was there, and the few that don't are late by no more than LONGEST_STALL_S.
"""

from runtime.running_mean import RunningMean

SHARE = 0.3
"""Weight of the newest step in the running means."""
STRETCH = 2.5
"""So many times may every step take as long as one of replies alone; what takes longer is owed."""
STALL = 24
"""A step of replies and prompts may take so many times as long as one of replies alone."""
LONGEST_STALL_S = 0.25
"""Seconds for such a step, where STRETCH allows no more."""
DUE = 1.2
"""Seconds of their own that replies get for each that is owed, where prompts are as many."""
MOST_TO_ONE = 4
"""With more replies to a prompt they are as so many: a prompt never waits for longer."""
LEAST = 4
"""Prompt tokens that a step with any has, so that no prompt waits for ever."""
LONGEST_S = 0.5
"""Seconds for a step of prompts alone, as far as LEAST_ALONE tokens allow."""
LEAST_ALONE = 16
"""With fewer the weights are read for too little."""
_LEAST_SHARE = 0.1
"""Of a step's time that its prompt tokens take at least: what a step costs by itself is estimated.
"""
_MOST_SLOWER = 2
"""A step is taken for so many times slower than those before it at most: one may have been late."""


class StepBudget:
    """Learns from the steps that were measured; before it has seen any it is careful."""

    def __init__(self) -> None:
        self._quiet = RunningMean(SHARE)
        self._per_token = RunningMean(SHARE)
        self._per_token_alone = RunningMean(SHARE)
        self._owed = 0.0
        """Seconds that replies have to themselves before the next chunk, as if one to a prompt."""

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that may ride with replies in the next step."""
        return 0 if self._owed > 0 else self.num_decided

    @property
    def num_decided(self) -> int:
        """Tokens of decisions that may: what is owed does not keep them waiting."""
        quiet, per_token = self._quiet.value, self._per_token.value or self._per_token_alone.value
        if not quiet or not per_token:
            return 2 * LEAST
        longest = max(STRETCH * quiet, min(STALL * quiet, LONGEST_STALL_S))
        return max(LEAST, int((longest - quiet) / per_token))

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

    def observe(self, num_replies: int, num_prompt: int, num_prompts: int, seconds: float) -> None:
        """A step that evaluated so many reply and prompt tokens took `seconds`.

        `num_prompts` is how many prompts there were to read.
        """
        self._settle(num_replies, num_prompt, num_prompts, seconds)
        if not num_prompt:
            self._quiet.add(min(seconds, _MOST_SLOWER * (self._quiet.value or seconds)))
            return
        per_token = max(seconds - self._of_itself, _LEAST_SHARE * seconds) / num_prompt
        if num_replies and self._quiet.value:
            # a few tokens cost more each, and say nothing of many
            if num_prompt >= min(LEAST_ALONE, self.num_decided):
                self._per_token.add(per_token)
        elif not num_replies and num_prompt >= LEAST_ALONE:
            self._per_token_alone.add(per_token)

    def _settle(self, num_replies: int, num_prompt: int, num_prompts: int, seconds: float) -> None:
        """What is owed to replies after such a step."""
        if not num_replies:
            self._owed = 0.0
        elif num_prompt > LEAST:
            excess = max(0.0, seconds - STRETCH * self._of_itself)
            self._owed += DUE * min(excess, LONGEST_STALL_S)  # a longer one is nobody's doing
        else:
            to_one = min(num_replies / max(1, num_prompts), MOST_TO_ONE)
            paid = min(seconds, self._of_itself or seconds)  # a slow step gives no more than others
            self._owed = max(0.0, self._owed - paid / to_one)


class WholeBatches(StepBudget):
    """Prompts fill every batch: what is evaluated when does not depend on the machine."""

    num_tokens = num_decided = num_alone = 1 << 20
