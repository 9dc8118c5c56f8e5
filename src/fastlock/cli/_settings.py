"""Which server a command is for. Law: --url, else the environment, never both."""

from __future__ import annotations

from fastlock.config import Config


def config_of(url: str | None) -> Config:
    """What --url names, else FASTLOCK_URL and its kin; raises ConfigError."""
    return Config.from_env() if url is None else Config.from_url(url)
