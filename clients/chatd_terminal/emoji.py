"""Names for the emoji that people react with. A table."""

from __future__ import annotations

QUICK = ("👍", "🎉", "😂", "😮", "😢", "🙏")
"""On the keys 1 to 6."""

EMOJI = {
    "angry": "😠",
    "beer": "🍺",
    "bulb": "💡",
    "cake": "🍰",
    "check": "✅",
    "clap": "👏",
    "coffee": "☕",
    "cool": "😎",
    "cross": "❌",
    "cry": "😢",
    "eyes": "👀",
    "fire": "🔥",
    "grin": "😁",
    "heart": "💗",
    "hundred": "💯",
    "joy": "😂",
    "laugh": "😂",
    "no": "👎",
    "ok": "👌",
    "party": "🎉",
    "pray": "🙏",
    "question": "❓",
    "rocket": "🚀",
    "sad": "😞",
    "smile": "🙂",
    "star": "⭐",
    "surprised": "😮",
    "tada": "🎉",
    "thanks": "🙏",
    "think": "🤔",
    "thumbs": "👍",
    "wave": "👋",
    "wink": "😉",
    "yes": "👍",
}


def emoji(typed: str) -> str:
    """An emoji by its name, with or without colons; what is no name is taken as it is. Raises ValueError for a name
    that is not in the table.
    """
    name = typed.strip(":").lower()
    found = EMOJI.get(name, typed)
    if found is typed and name.isascii() and name.isalpha():
        raise ValueError(f"no emoji is called {name[:20]!r} here: Tab completes names, or type the emoji itself")
    return found
