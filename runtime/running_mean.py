"""A mean in which the newest value counts most."""


class RunningMean:
    """Of the first values plain, then each new one has the weight `share`; None before any.

    Begins with `value` as if it had been the first.
    """

    def __init__(self, share: float, value: float | None = None) -> None:
        self._share = share
        self._num = int(value is not None)
        self.value = value

    def add(self, value: float) -> None:
        """One more value."""
        self._num += 1
        weight = max(self._share, 1 / self._num)
        self.value = value if self.value is None else (1 - weight) * self.value + weight * value

    def add_at_least(self, value: float) -> None:
        """One of which only a lower bound is known: it never makes the mean smaller."""
        self.add(value if self.value is None else max(value, self.value))
