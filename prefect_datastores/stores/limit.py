"""Limits of requests and bytes per second, as a decorator of a store.

A limit belongs inside retry, so that every try counts: `RetryingStore(LimitedStore(store, ...))`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from prefect_datastores.errors import ConfigurationError
from prefect_datastores.stores.base import Capabilities, ObjectStore
from prefect_datastores.stores.decorated import DecoratedStore, Result
from prefect_datastores.stores.requests import beyond

Clock = Callable[[], float]


@dataclass(frozen=True)
class Rates:
    """What may be used in a second; None is no limit. Bytes are counted in both directions."""

    requests_per_second: float | None = None
    bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        for rate in (self.requests_per_second, self.bytes_per_second):
            if rate is not None and not rate > 0:
                raise ConfigurationError(
                    f"A limit of {rate} a second is refused: nothing would ever move. Give a "
                    "positive number, or None for no limit."
                )


class Bucket:
    """Tokens that come at one rate; who asks first is served first.

    Every caller is given its own time and waits for that, so that threads do not race for tokens
    and none starves. One that asks for more than there ever is in the bucket waits for those
    before it, and all after it wait for what it took.
    """

    _SPARE_SECONDS = 1.0  # what an idle second leaves may be used at once

    def __init__(self, rate: float, clock: Clock = time.monotonic) -> None:
        """Fill the bucket."""
        self._rate, self._clock = rate, clock
        self._lock = threading.Lock()
        self._next = clock() - self._SPARE_SECONDS

    def take(self, amount: float) -> float:
        """Return the seconds after which that many tokens are the caller's."""
        with self._lock:
            now = self._clock()
            begin = max(self._next, now - self._SPARE_SECONDS)
            self._next = begin + amount / self._rate
            # Its own tokens have to come as well, unless they are more than the bucket holds.
            whole = min(amount / self._rate, self._SPARE_SECONDS)
            return max(0.0, begin + whole - now)

    def give_back(self, amount: float) -> None:
        """Take note that the caller does not use what it took."""
        with self._lock:
            self._next -= amount / self._rate


class Allowance:
    """The buckets of some rates, for all the stores and threads that share them."""

    def __init__(self, rates: Rates, clock: Clock = time.monotonic) -> None:
        """Fill the buckets."""
        self._requests, self._bytes = (
            Bucket(rate, clock) if rate is not None else None
            for rate in (rates.requests_per_second, rates.bytes_per_second)
        )

    def wait(self, requests: int, size: int, sleep: Callable[[float], None]) -> None:
        """Return when that much may be used; what an interrupted `sleep` left unused is given back."""
        wanted = [
            (bucket, amount)
            for bucket, amount in ((self._requests, requests), (self._bytes, size))
            if bucket is not None and amount
        ]
        pause = max((bucket.take(amount) for bucket, amount in wanted), default=0.0)
        if pause <= 0:
            return
        try:
            sleep(pause)
        except BaseException:
            for bucket, amount in wanted:
                bucket.give_back(amount)
            raise


@cache
def allowance_of(rates: Rates) -> Allowance:
    """Return the one allowance that all stores of this process with these rates share."""
    return Allowance(rates)


class LimitedStore(DecoratedStore):
    """`inner`, whose requests wait until the allowance has room for them."""

    def __init__(
        self,
        inner: ObjectStore,
        allowance: Allowance,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Decorate a store."""
        super().__init__(inner)
        self._allowance, self._sleep = allowance, sleep

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do, but for what would not wait for its share."""
        return replace(super().capabilities, begins_ahead=False, commits_ahead=False)

    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        expected = int(asks)
        self._allowance.wait(expected, size, self._sleep)
        with beyond(expected, lambda: self._allowance.wait(1, 0, self._sleep)):
            return request()
