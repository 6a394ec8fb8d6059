"""Token buckets: how often one party may do one thing. Pure; the time of a call is an argument.

A bucket starts full, so that an office behind one address may arrive at once and only then meets the rate.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache

DEFAULT_MAX_KEYS = 20_000
"""About 5 MiB when full; an attacker with more addresses than this meets the limit on all connections instead."""


class TokenBucket:
    """Holds at most ``burst`` tokens and gains ``rate_per_s`` of them a second. ``now`` is in seconds, any epoch."""

    __slots__ = ("_at", "_tokens", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        if rate_per_s <= 0 or burst <= 0:
            raise ValueError("rate_per_s and burst must be positive")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, now: float, n: float = 1) -> float:
        """Take ``n`` tokens and return 0, or take nothing and return the seconds until ``n`` will be there.

        More than ``burst`` at once counts as ``burst``: otherwise it could never be had. A clock that goes back
        neither gives nor takes tokens.
        """
        # Not by _refill and min(): twice for every message that comes, it costs a third less so.
        at, tokens, burst = self._at, self._tokens, self.burst
        if at is not None and now > at and tokens < burst:
            tokens += (now - at) * self.rate_per_s
            if tokens > burst:
                tokens = burst
        self._at = now
        wanted = n if n < burst else burst  # noqa: FURB136 - it costs a third less
        if tokens >= wanted:
            self._tokens = tokens - wanted
            return 0.0
        self._tokens = tokens
        return (wanted - tokens) / self.rate_per_s

    def set(self, tokens: float, now: float) -> None:
        """Hold ``tokens`` from now on, at most the burst."""
        self._tokens = min(self.burst, max(0.0, tokens))
        self._at = now

    def remaining(self, now: float) -> int:
        """Whole tokens that could be taken now."""
        self._refill(now)
        return int(self._tokens)

    def full_in(self, now: float) -> float:
        """Seconds until the bucket is full again."""
        self._refill(now)
        return (self.burst - self._tokens) / self.rate_per_s

    def _refill(self, now: float) -> None:
        if self._at is not None and now > self._at and self._tokens < self.burst:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate_per_s)
        self._at = now


class Buckets:
    """One bucket per key, the least recently used forgotten beyond ``max_keys``.

    A forgotten bucket comes back full. That favours the caller, never the memory: a bound that kept every key would
    let anybody with an IPv6 prefix grow this table without end.
    """

    def __init__(self, rate_per_s: float, burst: float, *, max_keys: int = DEFAULT_MAX_KEYS) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, key: str) -> TokenBucket:
        """The bucket of ``key``, made full when it is not known."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate_per_s, self._burst)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def take(self, key: str, now: float, n: float = 1) -> float:
        """As ``TokenBucket.take``, on the bucket of ``key``."""
        return self.bucket(key).take(now, n)


@lru_cache(maxsize=DEFAULT_MAX_KEYS)
def address_key(address: str) -> str:
    """The key under which a peer's address is counted.

    One IPv6 customer owns at least a /64, so all of it is one party. IPv4 in IPv6 counts as the IPv4 address. What is
    no address (a unix socket's peer) is its own key.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))
