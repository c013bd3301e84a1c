"""The providers of prices, by name. A provider's library is imported when the provider is first asked for, not before."""

from __future__ import annotations

import importlib

from app.errors import ProviderError
from app.providers.base import Provider, ProviderSettings

_CLASSES = {"yfinance": "YahooProvider", "replay": "ReplayProvider"}
DEFAULT = "yfinance"


def names() -> tuple[str, ...]:
    """Every provider's name, the default one first."""
    return tuple(_CLASSES)


def get(name: str, settings: ProviderSettings) -> Provider:
    """A new provider of that name. `yfinance` brings pandas with it: only app/providers/worker.py and tests call this.

    Raises
    ------
    ProviderError
        If there is no such provider.
    SettingsError
        If a setting of the provider is wrong.
    """
    if name not in _CLASSES:
        raise ProviderError(name, "there is no such provider; it must be one of " + ", ".join(names()))
    module = importlib.import_module(f"{__name__}.{name}")
    provider: Provider = getattr(module, _CLASSES[name])(settings)
    return provider
