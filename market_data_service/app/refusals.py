"""What providers refused, remembered for a while, so that a storm of requests does not become a storm of calls.

an unknown symbol    is not asked for again for UNKNOWN_S
too many calls       the provider is not asked for anything until the time that it named, or else for 5 s, 10 s, 20 s ...
                     30 minutes with jitter, until a call succeeds
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import RateLimitedError, UnknownSymbolError

UNKNOWN_S = 60.0
MOST_UNKNOWN = 10_000
FIRST_PAUSE_S = 5.0
MOST_PAUSE_S = 1_800.0
MOST_RETRY_AFTER_S = 86_400.0
JITTER = 0.2


@dataclass
class _Pause:
    """A provider's: `until` on the clock, `began` when it was last made longer, and how many there were without a success."""

    until: float = -math.inf
    began: float = -math.inf
    in_a_row: int = 0


class Refusals:
    """Ask `check` before a call, and tell what came of it.

    Parameters
    ----------
    clock
        Seconds that never go back.
    spread
        A factor of the pauses, at random from 0.8 to 1.2.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = lambda: random.uniform(1 - JITTER, 1 + JITTER),
    ) -> None:
        self.clock, self._spread = clock, spread
        self._unknown: dict[tuple[str, str], tuple[float, UnknownSymbolError]] = {}  # oldest first
        self._pauses: dict[str, _Pause] = {}

    def check(self, provider: str, symbol: str) -> None:
        """Raises the UnknownSymbolError that is remembered, or a RateLimitedError while the provider is to be left alone."""
        now = self.clock()
        until, error = self._unknown.get((provider, symbol), (-math.inf, None))
        if error is not None and now < until:
            raise UnknownSymbolError(error.provider, error.message)
        pause = self._pauses.get(provider)
        if pause is not None and now < pause.until:
            raise RateLimitedError(
                provider, "it asked for fewer calls, and is left alone for a while", pause.until - now
            )

    def unknown(self, symbol: str, error: UnknownSymbolError) -> None:
        """The provider answered that it has no such symbol."""
        now = self.clock()
        self._unknown.pop((error.provider, symbol), None)
        while self._unknown and (len(self._unknown) >= MOST_UNKNOWN or next(iter(self._unknown.values()))[0] <= now):
            del self._unknown[next(iter(self._unknown))]
        self._unknown[error.provider, symbol] = now + UNKNOWN_S, error

    def limited(self, error: RateLimitedError, asked: float) -> RateLimitedError:
        """The provider asked for fewer calls, in answer to a call of the time `asked`; the error with the pause it leads to."""
        now, pause = self.clock(), self._pauses.setdefault(error.provider, _Pause())
        if asked >= pause.began:  # else it was under way when the pause began, and tells nothing new
            pause.in_a_row += 1
            pause.began = now
            backoff_s = min(MOST_PAUSE_S, self._spread() * FIRST_PAUSE_S * 2 ** min(pause.in_a_row - 1, 20))
            pause.until = now + max(backoff_s, min(error.retry_after_s or 0.0, MOST_RETRY_AFTER_S))
        return RateLimitedError(error.provider, error.message, max(pause.until - now, 0.0))

    def answered(self, provider: str) -> None:
        """The provider answered as it should."""
        self._pauses.pop(provider, None)
