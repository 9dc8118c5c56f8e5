"""Which server a command is for, and which key. Law: --url, else the environment, never both."""

from __future__ import annotations

import os

from fastlock.config import Config


def config_of(url: str | None) -> Config:
    """What --url names, else FASTLOCK_URL and its kin; raises ConfigError."""
    return Config.from_env() if url is None else Config.from_url(url)


def key_of(word: str) -> str | bytes:
    """The key that was typed; its bytes where they are no UTF-8, or the locale knows none."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return os.fsencode(word)
    return word
