"""What is limited, for whom, and how far: operations, tiers, and one's own state as the wire tells it. Pure.

A user has a tier: what the token of an outside issuer claims as ``tier``, else what the operator has set (``chatd user
tier``), else ``free``. What an address may do before anybody knows who it is has no tier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from chatd.limits.port import Rule
from chatd.options import Limits, Tier

DEFAULT_TIER: Final = "free"


class Operation(StrEnum):
    """Each has a rule of its own; the value is the ``scope`` on the wire and the label of the metrics."""

    MESSAGES = "messages"
    REQUESTS = "requests"
    SEARCH = "search"
    CONNECTIONS = "connections"
    SIGN_IN = "sign_in"
    ACCOUNTS = "accounts"
    API = "api"


USER_OPERATIONS: Final = (Operation.MESSAGES, Operation.REQUESTS, Operation.SEARCH)
ADDRESS_OPERATIONS: Final = (Operation.CONNECTIONS, Operation.SIGN_IN, Operation.ACCOUNTS, Operation.API)


class State(Struct, frozen=True):
    """How one limit stands: ``remaining`` of ``limit``, and all of it again in ``reset_ms``."""

    scope: str
    limit: int
    remaining: int
    reset_ms: int


def state_of(operation: Operation, rule: Rule, tokens: float) -> State:
    """The state of a bucket that holds ``tokens``; what the table of buckets says beyond its ends is cut off."""
    held = min(float(rule.burst), max(0.0, tokens))
    return State(operation.value, rule.burst, int(held), math.ceil((rule.burst - held) * 1000 / rule.rate_per_s))


class Tiers:
    """The rules of the configuration: by address, and by tier for users."""

    def __init__(self, limits: Limits) -> None:
        self.address: Mapping[Operation, Rule] = {
            Operation.CONNECTIONS: _per_minute(limits.connections_per_minute),
            Operation.SIGN_IN: _per_minute(limits.sign_ins_per_minute),
            Operation.ACCOUNTS: _per_minute(limits.accounts_per_minute),
            Operation.API: _per_minute(limits.api_per_minute),
        }
        self._tiers = {name: _user_rules(limits, tier) for name, tier in limits.tiers.items()}
        self._tiers.setdefault(DEFAULT_TIER, _user_rules(limits, Tier()))

    @property
    def names(self) -> list[str]:
        """Every tier that there is, ascending."""
        return sorted(self._tiers)

    def knows(self, name: str) -> bool:
        """Whether a tier is called so."""
        return name in self._tiers

    def of(self, name: str) -> Mapping[Operation, Rule]:
        """The rules of a tier; of ``free`` for a name that is none: a mistake of an issuer's must not lock users out."""
        return self._tiers.get(name) or self._tiers[DEFAULT_TIER]


def _user_rules(limits: Limits, tier: Tier) -> Mapping[Operation, Rule]:
    return {
        Operation.MESSAGES: _rule(
            tier.messages_per_second, tier.messages_burst, limits.messages_per_second, limits.messages_burst
        ),
        Operation.REQUESTS: _rule(
            tier.requests_per_second, tier.requests_burst, limits.requests_per_second, limits.requests_burst
        ),
        Operation.SEARCH: _rule(
            tier.searches_per_second, tier.searches_burst, limits.searches_per_second, limits.searches_burst
        ),
    }


def _rule(rate: float | None, burst: int | None, default_rate: float, default_burst: int) -> Rule:
    return Rule(default_rate if rate is None else rate, default_burst if burst is None else burst)


def _per_minute(count: int) -> Rule:
    return Rule(count / 60, count)
