"""What was asked, as an expression of FTS5 that cannot be malformed. Pure."""

from __future__ import annotations

import re
from typing import Final

WORDS_MAX: Final = 32
_WORD_CHARS_MAX: Final = 64
_COMMON: Final = frozenset(
    "a an and are as at be by can do does for from how i in is it of on or should that the this to "
    "use we what when where which who why will with you".split()
)


def words_of(query: str) -> list[str]:
    """What is looked for, in order; common words only where there are no others."""
    # Letters and digits only, so no word has a quote, a star or anything else that FTS5 reads.
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", query.lower()[:10_000])))
    wanted = [word for word in words if word not in _COMMON] or words
    return [word[:_WORD_CHARS_MAX] for word in wanted[:WORDS_MAX]]


def expression(query: str) -> str | None:
    """Any of the words, or one that begins with it; None if there is no word in the query.

    Ranking brings what has more of them, and the rarer ones, to the top.
    """
    words = words_of(query)
    # A prefix of one or two letters would find everything.
    return " OR ".join(f'"{word}"*' if len(word) > 2 else f'"{word}"' for word in words) or None
