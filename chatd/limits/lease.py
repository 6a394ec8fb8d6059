"""A node's part of a token bucket that all nodes share: most checks spend it and ask nobody. Pure.

**How.** Redis holds the bucket (rate r, burst b) and a record of what each node has of it. A node takes tokens in chunks,
in the background, when it is below half of what it aims at; it reports what it has left in the same call, and hands back
what is above its aim when more nodes hold the same bucket.

**Why all nodes together let at most b + r*T through in any time T.** Let x be the tokens in the bucket, L the sum of the
records, B the sum of what nodes really have left.

1. x + L <= b, always: the bucket gains r a second but never beyond b - L; a grant moves tokens from x to L; a report only
   lowers L; what is handed back moves from L to x.
2. B <= L: a record is made with or before the tokens and lowered only by the node's own report; a node stops spending at
   nine tenths of a lease, by its own clock and from before it asked, so before the record expires; a balance that comes
   without a record is void; a report that is overtaken by a later one is ignored.
3. What is spent leaves B, and B comes only from x. So what is spent in T is at most (x + B) at its beginning, which is
   at most b, and what x gains in it, at most r*T.

That is 0 % above the limit. What remains of the 5 % are clocks that run at different speeds, and it costs nothing on the
way: what is lost (a node that dies, an answer that does not arrive) are tokens never spent. Two things are outside of it:
a Redis that forgets everything lends up to one burst again, and while Redis is away each node holds the limit alone.

**Alone.** Without Redis, and until its first answer, the lease is a plain TokenBucket: the limit holds on this node.
"""

from __future__ import annotations

from collections.abc import Callable

from chatd.limits.bucket import TokenBucket
from chatd.limits.port import LEASE_SECONDS, REST_SECONDS, Grant, Report, Rule

TRUST_SHARE = 0.9
"""Of the time that a lease lasts."""
AIM_SHARE = 0.75
"""Of the burst, divided by the nodes that hold the bucket. The rest is for a node that comes new."""
PAUSE_SECONDS = 0.05
"""Between two reports of a bucket that has too little; by then it has more."""
FIRST_TOP_UP_SECONDS = 0.5
LAST_TOP_UP_SECONDS = 20.0
"""After these times a report follows to one that found too little; then the usual renewal does it."""
SOON_SECONDS = 0.02
"""What is told to who is refused while an answer is on its way."""


class Lease:
    """One user's limit on one operation, on this node. ``need`` is called when it wants to report; it must not wait.

    Not for two tasks at once: its owner is the limiter, and every call is synchronous.
    """

    __slots__ = (
        "_aim", "_alone", "_asked", "_balance", "_low", "_need", "_refill_at", "_sent", "_top_ups", "_trusted_until", "_used",
        "closed", "holders", "key", "not_before", "reported_at", "rule", "seconds", "topping_up",
    )  # fmt: skip

    def __init__(self, key: str, rule: Rule, need: Callable[[Lease], None]) -> None:
        self.key = key
        self.rule = rule
        self.closed = False
        self.holders = 1
        self.not_before = 0.0
        self.reported_at = 0.0
        self.seconds = LEASE_SECONDS
        self.topping_up = False
        self._top_ups = 0
        self._need = need
        self._alone: TokenBucket | None = TokenBucket(rule.rate_per_s, rule.burst)
        self._asked = False
        self._used = False
        self._balance = 0
        self._sent = 0
        self._trusted_until = 0.0
        self._refill_at = 0.0
        self._aim = self._low = 1
        self._set_aim()

    @property
    def shared(self) -> bool:
        """Whether Redis has answered since the last loss."""
        return self._alone is None

    @property
    def balance(self) -> int:
        """Tokens of the shared bucket that can be spent here."""
        return self._balance

    @property
    def unreported(self) -> int:
        """Tokens spent here that Redis still has on record as lent."""
        return 0 if self._alone is not None else max(0, self._sent - self._balance)

    def take(self, now: float) -> float:
        """Spend one token and return 0, or return the seconds after which to try again. ``now`` is in seconds."""
        alone = self._alone
        if alone is not None:
            return alone.take(now)
        self._used = True
        if now >= self._trusted_until:
            self._balance = 0  # the record has expired, or will before we know
        if self._balance > 0:
            self._balance -= 1
            if self._balance < self._low and not self._asked:
                self._asked = True
                self._need(self)
            return 0.0
        if not self._asked:
            self._asked = True
            self._need(self)
        return max(SOON_SECONDS, self._refill_at - now, self.not_before - now)

    def begin_with(self, tokens: float, now: float) -> None:
        """Go on alone from what was left here; before the first report."""
        self._alone = _bucket_of(self.rule, tokens, now)

    def remaining(self, now: float) -> float:
        """What this node alone knows to be left."""
        return self._balance if self._alone is None else self._alone.remaining(now)

    def change_rule(self, rule: Rule, now: float) -> None:
        """Another tier: what is held stays, up to the new burst."""
        if rule == self.rule:
            return
        held = self.remaining(now)
        self.rule = rule
        self._set_aim()
        if self._alone is not None:
            self._alone = _bucket_of(rule, held, now)

    def report(self, now: float, *, release: bool = False) -> Report:
        """What to send. The balance stays spendable meanwhile; what is handed back is gone at once."""
        self._asked = True
        self.reported_at = now
        usable = self._alone is None and now < self._trusted_until
        held = self._balance if usable else 0
        keep = 0 if release else min(held, self._aim_now())
        self._sent = self._balance = keep
        want = 0 if release else self._aim_now() - keep
        seconds = LEASE_SECONDS if self._used or not usable else REST_SECONDS
        self._used = False
        return Report(self.key, self.rule, keep, held - keep, want, release, seconds)

    def granted(self, grant: Grant, now: float) -> None:
        """The answer to the last report; from here on the lease is shared."""
        spent = self._sent - self._balance
        if grant.kept:
            self._balance += grant.granted
            self._sent += grant.granted
        else:
            self._balance = max(0, grant.granted - spent)
            self._sent = grant.granted
        self._alone = None
        self._asked = False
        self._trusted_until = self.reported_at + TRUST_SHARE * grant.seconds
        self.seconds = grant.seconds
        self.holders = max(1, grant.holders)
        self._set_aim()
        self._refill_at = now + max(0.0, 1.0 - grant.left) / self.rule.rate_per_s
        self.not_before = now if self._balance >= self._low else max(now + PAUSE_SECONDS, self._refill_at)

    def top_up_at(self, now: float) -> float | None:
        """When to report again though nobody asks: the bucket was all but empty, and gains while its user is idle, who is then
        not to be refused for what is there. At longer and longer intervals; None when there is enough here.
        """
        if self._balance >= self._low:
            self._top_ups = 0
            return None
        self._top_ups += 1
        return now + min(FIRST_TOP_UP_SECONDS * 2.0 ** min(self._top_ups - 1, 10), LAST_TOP_UP_SECONDS)

    def lost(self, now: float) -> None:
        """Redis is away: go on alone, with what is here. What was asked for is not coming."""
        self._asked = self.topping_up = False
        if self._alone is None:
            held = self._balance if now < self._trusted_until else 0
            self._alone = _bucket_of(self.rule, held, now)
            self._balance = self._sent = 0

    def _aim_now(self) -> int:
        # A burst too small to share: whoever used it last keeps one token.
        return self._aim or (1 if self._used or self._alone is not None else 0)

    def _set_aim(self) -> None:
        self._aim = int(self.rule.burst * AIM_SHARE / self.holders) or (1 if self.holders == 1 else 0)
        self._low = max(1, self._aim // 2)


def _bucket_of(rule: Rule, tokens: float, now: float) -> TokenBucket:
    bucket = TokenBucket(rule.rate_per_s, rule.burst)
    bucket.set(tokens, now)
    return bucket
