"""What fastlock says to the standard ``logging``: one logger, and fields for machines.

Law: no token and no password, in no message and no field. Fields are attributes of the record,
each begins with ``fastlock_``, and ``fastlock_event`` is always there; docs/metrics.md lists them.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("fastlock")

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


def tell(level: int, event: str, message: str, *args: object, **fields: Any) -> None:
    """Log ``message % args``, with the event's name and ``fields`` beside it."""
    if _log.isEnabledFor(level):
        _log.log(level, message, *args, extra=_extra(event, fields), stacklevel=2)


def failed(event: str, message: str, *args: object, **fields: Any) -> None:
    """As ``tell``, at level ERROR with the exception that is being handled."""
    _log.error(message, *args, exc_info=True, extra=_extra(event, fields), stacklevel=2)


def _extra(event: str, fields: dict[str, Any]) -> dict[str, Any]:
    named = {f"fastlock_{name}": value for name, value in fields.items()}
    return {"fastlock_event": event, **named}
