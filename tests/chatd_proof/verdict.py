"""What a checker found: the faults by kind, what each question was asked of, and what the history does not tell. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatd_proof.history import Asked

QUESTIONS = {
    "lost": "acknowledged and lost",
    "twice": "stored twice",
    "contents": "two contents at one place",
    "holes": "holes in a log",
    "order": "out of order, skipped or repeated in a session",
    "senders": "out of a sender's order",
    "numbers": "two under one number, or a number passed over",
    "welcome": "a welcome that names another last number",
    "non_member": "delivered to a non-member",
    "intruders": "written by who was no member",
    "unstored": "seen, but not stored",
    "unasked": "stored or acknowledged, but never sent",
    "elsewhere": "stored elsewhere or as another kind",
    "emptied": "a body that is gone without a delete",
    "members": "a change of members that was lost",
    "real_time": "before what was acknowledged earlier",
    "unseen": "not received by who was there at the end",
}
"""Each question, by the short name under which faults are counted."""
ASKED = {"changes": "changes asked for", "acknowledged": "acknowledged", "refused": "refusals", "unknown": "unknown"}
SHOWN = 20
"""Faults of a kind that are told in full."""


@dataclass(frozen=True)
class Fault:
    """One thing that may not be. ``kind``: one of QUESTIONS."""

    kind: str
    text: str


@dataclass
class Verdict:
    """``looked_at``: by question, of how many things it was asked. ``refusals``: how many, by their code.
    ``away_seconds``: without a live session, for each return of a device. ``behind_ms``: how many deliveries to sessions that
    were live came so many milliseconds after the first of all who received it. ``not_told``: what the history would have to tell
    to be a proof."""

    source: str = ""
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    away_seconds: list[float] = field(default_factory=list)
    behind_ms: Counter[float] = field(default_factory=Counter)
    done: list[Asked] = field(default_factory=list)
    not_told: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, fault: Fault) -> None:
        self.counts[fault.kind] += 1
        if self.counts[fault.kind] <= SHOWN:
            self.faults.append(fault)

    @property
    def broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.faults)

    @property
    def proven(self) -> bool:
        """Whether everything was asked, and nothing was found."""
        return not self.faults and not self.not_told


def readable(verdict: Verdict) -> str:
    """The verdict as a page of text, its last line the verdict itself."""
    figures = verdict.figures
    asked = [f"{figures[name]:,} {words}" for name, words in ASKED.items()]
    heard = [f"{figures[name]:,} {name}" for name in ("sessions", "devices", "conversations")]
    lines = [
        f"{verdict.source or 'history'}: {verdict.seconds:.1f} s", f"  {', '.join(asked)}",
        f"  {verdict.looked_at['unstored']:,} deliveries; {', '.join(heard)}",
    ]  # fmt: skip
    if verdict.away_seconds:
        lines.append(f"  away, per return of a device: {_spread(Counter[float](verdict.away_seconds))}")
    if verdict.behind_ms:
        behind = Counter[float]({late / 1000: count for late, count in verdict.behind_ms.items()})
        lines.append(f"  behind the first who received it: {_spread(behind)}")
    lines.append("")
    for kind, question in QUESTIONS.items():
        lines.append(f"  {question:<48} {verdict.counts[kind]:>7,}   of {verdict.looked_at[kind]:,}")
    lines += ["", *(f"  {fault.kind}: {fault.text}" for fault in verdict.faults)]
    hidden = sum(verdict.counts.values()) - len(verdict.faults)
    lines += [f"  and {hidden:,} more"] if hidden else []
    lines += [f"  not told: {what}" for what in verdict.not_told]
    return "\n".join([*lines, _last_line(verdict)])


def _last_line(verdict: Verdict) -> str:
    if verdict.broken:
        return f"BROKEN: {sum(verdict.counts.values()):,} faults"
    if verdict.not_told:
        return "NOT PROVEN: nothing is wrong in what the history tells, but it does not tell everything"
    return "holds"


def percentile(values: Mapping[float, int], share: float) -> float:
    """Of values that were counted; not a number where there are none."""
    left = int(share * sum(values.values()))
    for value in sorted(values):
        left -= values[value]
        if left < 0:
            return value
    return max(values, default=float("nan"))


def _spread(seconds: Mapping[float, int]) -> str:
    p50, p99, count = percentile(seconds, 0.5), percentile(seconds, 0.99), sum(seconds.values())
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(seconds):.2f} s, {count:,} of them"
