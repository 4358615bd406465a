"""Which tools fit some words: BM25 over what their authors say of them. Pure.

A tool is a document of five fields (its name, its description, the toolbelt with what its module
says, the names and the descriptions of its arguments), each of a weight of its own: BM25F, in the
simple form that adds the weighted counts up before they are saturated. Words are compared by their
stems. There is no meaning in it: `embeddings` could find what shares no word with a query.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agent_runtime.types import Json, ToolInfo

FOUND_MAX: Final = 8
"""Hits that `found` names: each may bring a toolbelt into the prompt, for the rest of the task."""
FAINT: Final = 0.4
"""A hit with less than this part of the best one's score shares a word with the query by chance."""

NAME, DESCRIPTION, TOOLBELT, ARGUMENT, ARGUMENT_TEXT = 3.0, 1.0, 1.5, 0.7, 0.4
"""What one word counts, by where it stands."""
SATURATION: Final = 1.2
LENGTH: Final = 0.4
"""BM25's k1 and b. Little of the length: a tool with many arguments is not about less."""
FACT: Final = 0.3
"""What a word of the facts counts beside one of the query."""
SYNONYM: Final = 0.5
SIMILAR: Final = 0.6
"""What a word counts that no tool has, by way of one that begins alike."""

SYNONYMS: Final = (
    ("delete", "remove", "erase", "drop", "destroy"),
    ("create", "make", "add", "new", "open"),
    ("edit", "change", "modify", "update", "alter", "patch"),
    ("search", "find", "look", "query", "locate"),
    ("list", "enumerate", "show", "display", "view"),
    ("get", "fetch", "download", "retrieve", "read"),
    ("send", "post", "publish", "notify"),
    ("run", "execute", "launch", "start", "invoke"),
    ("move", "rename"),
    ("copy", "duplicate", "clone"),
    ("convert", "transform", "turn", "render"),
    ("picture", "image", "photo"),
    ("ticket", "issue", "bug"),
    ("mail", "email"),
    ("db", "database"),
    ("k8s", "kubernetes"),
    ("repo", "repository"),
    ("dir", "directory", "folder"),
    ("stop", "kill", "terminate", "cancel"),
    ("log", "logs", "output"),
)
"""Words that people use for one thing; one of a row stands for the others at half its weight."""

STOPWORDS: Final = frozenset(
    """a an and any are as at be been but by can could do does each for from had has have how i if
    in into is it its me my need not of on onto or our out over should so some such than that the
    their them then there these they this those to up us use used using want was we what when where
    which who will with would you your""".split()
)

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = re.compile(r"[^\W_]+")
_VOWEL: Final = re.compile(r"[aeiouy]")


def rank(
    query: str, tools: Iterable[ToolInfo], facts: Mapping[str, Json] | None = None
) -> list[tuple[ToolInfo, float]]:
    """All `tools` with their scores, the best first, equal ones by name; 0 is no hit at all.

    `facts` are those of the repository (`RequirementsAnalyzed`): they tell apart what the query
    leaves open, such as whose tests are to be run, and make no hit by themselves.
    """
    documents = [(info, _document(info)) for info in tools]
    if not documents:
        return []
    average = sum(document.length for _, document in documents) / len(documents)
    known = Counter(word for _, document in documents for word in document.counts)
    rarity = {
        word: math.log(1 + (len(documents) - among + 0.5) / (among + 0.5))
        for word, among in known.items()
    }
    wanted = _query(query, known)
    asked = {word for meant in wanted for word in meant}
    hinted = [{word: FACT} for word in sorted(_fact_words(facts or {}) - asked)]
    ranked = []
    for info, document in documents:
        score = _score(document, wanted, rarity, average)
        if score:
            score += _score(document, hinted, rarity, average)
        # Rounded, so that no machine's way of adding decides between equals.
        ranked.append((info, round(score, 6)))
    return sorted(ranked, key=lambda each: (-each[1], each[0].name))


def found(
    query: str, ranked: Sequence[tuple[ToolInfo, float]], active: Collection[str]
) -> tuple[str, Json]:
    """What `find_tools` answers, as text and as data; `active` are the toolbelts that are on.

    `ranked` is what `rank` returned, of the tools that the task may use. The data names the hits,
    whose schemas the brain must see from its next turn on.
    """
    hits = strongest(ranked)
    if not hits:
        belts = sorted({info.toolbelt for info, _ in ranked})
        text = (
            f"No installed tool fits {query!r}. Try other words, or do it with shell. "
            f"Toolbelts: {', '.join(belts) or 'none'}."
        )
        return text, {"tools": []}
    lines = [f"{len(hits)} tool{'' if len(hits) == 1 else 's'} for {query!r}, the best first:"]
    for info in hits:
        when = "active" if info.toolbelt in active else "active from your next turn on"
        lines.append(
            f"- {info.name}: {first_sentence(info.description)} [toolbelt {info.toolbelt}, {when}]"
        )
    data = {"tools": [{"name": info.name, "toolbelt": info.toolbelt} for info in hits]}
    return "\n".join(lines), data


def strongest(ranked: Sequence[tuple[ToolInfo, float]], limit: int = FOUND_MAX) -> list[ToolInfo]:
    """The hits worth naming: at most `limit`, and none that is faint beside the best."""
    best = ranked[0][1] if ranked else 0.0
    return [info for info, score in ranked[:limit] if score and score >= best * FAINT]


def first_sentence(text: str, limit: int = 160) -> str:
    """One line of a description."""
    line = " ".join(text.split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", line, maxsplit=1)[0]
    return sentence if len(sentence) <= limit else sentence[: limit - 1].rstrip() + "…"


def words(text: str) -> list[str]:
    """The stems of a text's words, in order: camelCase and snake_case taken apart.

    Of camelCase the whole as well: `PromQL` and `GitHub` are names, and people write them small.
    """
    return list(_stems(text))


# Every query meets the same texts of the same tools.
@lru_cache(maxsize=4096)
def _stems(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for whole in _WORD.findall(text):
        parts = _CAMEL.split(whole)
        found += [whole, *parts] if len(parts) > 1 else parts
    lower = (word.lower() for word in found)
    return tuple(stem(word) for word in lower if len(word) > 1 and word not in STOPWORDS)


def stem(word: str) -> str:
    """A word without its ending, roughly: `deleting`, `deletes` and `deletion` are one."""
    if not word.isascii() or not word.isalpha() or len(word) < 4:
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif re.search(r"(?:[sxz]|ch|sh)es$", word):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        before = word.removesuffix(ending)
        if before != word and len(before) > 2 and _VOWEL.search(before):
            doubled = before[-1] == before[-2] and before[-1] not in "lsz"
            word = before[:-1] if doubled else before
            break
    for ending in ("ation", "ion", "ment"):
        before = word.removesuffix(ending)
        if before != word and len(before) > 3:
            return before.removesuffix("at")
    return word.removesuffix("e").removesuffix("at") if len(word) > 4 else word


@dataclass(frozen=True, slots=True)
class _Document:
    counts: Mapping[str, float]
    length: float


def _document(info: ToolInfo) -> _Document:
    counts: Counter[str] = Counter()
    fields = [
        (info.name, NAME),
        (info.description, DESCRIPTION),
        (f"{info.toolbelt if info.toolbelt != 'standard' else ''} {info.about}", TOOLBELT),
    ]
    for name, text in _arguments(info.parameters):
        fields += [(name, ARGUMENT), (text, ARGUMENT_TEXT)]
    for text, weight in fields:
        for word in words(text):
            counts[word] += weight  # type: ignore[assignment]  # typeshed: Counter counts ints only
    return _Document(counts, sum(counts.values()))


def _arguments(schema: Mapping[str, Json]) -> Iterable[tuple[str, str]]:
    """Names and descriptions of the arguments, those inside of others too."""
    properties = schema.get("properties")
    for name, each in properties.items() if isinstance(properties, Mapping) else ():
        if not isinstance(each, Mapping):
            continue
        said = each.get("description")
        yield str(name), said if isinstance(said, str) else ""
        inner = each.get("items", each)
        if isinstance(inner, Mapping):
            yield from _arguments(inner)


def _query(text: str, known: Collection[str]) -> list[dict[str, float]]:
    """For each word of a query what it may mean: itself, or what else people call it, by weight."""
    wanted = []
    for word in dict.fromkeys(words(text)):
        meant = dict.fromkeys(_SYNONYMS_OF.get(word, ()), SYNONYM)
        if word not in known:
            meant |= {other: SIMILAR for other in known if _begins_alike(word, other)}
        wanted.append(meant | {word: 1.0})
    return wanted


def _begins_alike(left: str, right: str) -> bool:
    """Is one the beginning of the other, or nearly: `postgresql` and `postgres`?"""
    short, long = sorted((left, right), key=len)
    if len(short) < 4:
        return False
    common = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), None)
    return common is None or common >= max(6, 0.75 * len(long))


_SYNONYMS_OF: Final = {
    stem(word): [stem(other) for other in row if other != word] for row in SYNONYMS for word in row
}


def _fact_words(facts: Mapping[str, Json]) -> set[str]:
    """Languages, the runners of tests, and what the goal's files are called."""
    texts = [
        text
        for key in ("languages", "test_commands", "files_named_in_goal")
        for text in (facts.get(key) or ())
        if isinstance(text, str)
    ]
    return {word for text in texts for word in words(text)}


def _score(
    document: _Document,
    wanted: Sequence[Mapping[str, float]],
    rarity: Mapping[str, float],
    average: float,
) -> float:
    """What each word of the query finds, by the best of what it may mean, added up."""
    room = SATURATION * (1 - LENGTH + LENGTH * document.length / average)

    def found(word: str, weight: float) -> float:
        count = document.counts.get(word, 0.0)
        return weight * rarity[word] * count * (SATURATION + 1) / (count + room) if count else 0.0

    return sum(max(found(word, weight) for word, weight in meant.items()) for meant in wanted)
