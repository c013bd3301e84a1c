"""Numbers, prices and names as they are written."""

from __future__ import annotations

import numpy as np

MINUS, TIMES, UP, DOWN = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"


def signed(value: float, form: str = ",.1f") -> str:
    """A number with its sign, + or a true minus; without one if it is zero as written."""
    text = f"{abs(value):{form}}"
    return text if not text.strip("0.,") else ("+" if value > 0 else MINUS) + text


def px_text(px: float) -> str:
    """A price in whole cents if it is, with four decimals otherwise."""
    return f"{px:.4f}".removesuffix("00")


def range_text(px: np.ndarray) -> str:
    """From the lowest to the highest price, or the only one."""
    low, high = px_text(px.min()), px_text(px.max())
    return low if low == high else f"{low} to {high}"


def bps_text(bps: float) -> str:
    """A measure with as many decimals as it deserves: two below 100 bps, one below 1,000."""
    return signed(bps, ",.2f" if abs(bps) < 100 else ",.1f" if abs(bps) < 1000 else ",.0f")


def plain(text: str, most: int) -> str:
    """What the font can draw of a name from outside, on one line and not too long."""
    text = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-most // 2 + 1 :]}"
