"""What models cost and how much they can read, from the tables of genai-prices, offline.

The tables are large: nobody imports this file before a model is looked for. They are of the day on
which the installed version was made, so a price may be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from agent_runtime.messages import ModelUsage

OUTPUT_TOKENS: Final = 16_384
"""Asked for at most, where a model can give more: what is reserved for an answer that is short."""
_OUTPUT_OF_OLD = (
    (re.compile(r"claude-3-(?:5|7)"), 8_192),
    (re.compile(r"claude-(?:[123v]|instant)|gpt-(?:3|4-turbo)"), 4_096),
    (re.compile(r"claude-(?:opus)-4-?(?:0|1|2025|$)"), 8_192),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the tables say about a model. None: nothing."""

    context_tokens: int | None = None
    input_usd_per_mtok: float | None = None
    """The dearest that applies, as `ModelChoice` wants it."""
    output_usd_per_mtok: float | None = None


def look_up(model: str, *, provider: str = "", url: str = "") -> Known:
    """What is known about a model of a provider (its id in the tables), or of a server."""
    try:
        _, info = get_snapshot().find_provider_model(
            model, None, provider or None, None if provider else url
        )
    except LookupError:
        return Known()
    # Prices may depend on the hour and change tomorrow: the dearest of the next day counts.
    now = datetime.now(UTC)
    prices = [info.get_prices(now + timedelta(hours=hours)) for hours in range(25)]
    return Known(
        context_tokens=info.context_window,
        input_usd_per_mtok=_dearest(prices, ("input_mtok", "cache_write_mtok")),
        output_usd_per_mtok=_dearest(prices, ("output_mtok",)),
    )


def usd(usage: ModelUsage, model: str, *, provider: str = "", url: str = "") -> float | None:
    """What a turn cost; None if nobody knows."""
    counted = Usage(
        input_tokens=usage.input,
        cache_read_tokens=usage.cached,
        cache_write_tokens=usage.cache_written,
        output_tokens=usage.output,
    )
    try:
        if provider:
            return float(calc_price(counted, model, provider_id=provider).total_price)
        return float(calc_price(counted, model, provider_api_url=url).total_price)
    except (LookupError, ValueError):
        return None


def output_tokens(model: str, context_tokens: int) -> int:
    """How long an answer may be asked for."""
    least = min(OUTPUT_TOKENS, context_tokens // 4)
    return next((min(n, least) for known, n in _OUTPUT_OF_OLD if known.match(model)), least)


def _dearest(prices: Iterable[Any], names: tuple[str, ...]) -> float | None:
    found: list[Decimal] = []
    for price in prices:
        for name in names:
            value = getattr(price, name, None)
            tiers = getattr(value, "tiers", ())
            values = [getattr(value, "base", value), *(tier.price for tier in tiers)]
            found += [each for each in values if isinstance(each, Decimal)]
    return float(max(found)) if found else None
