"""A client's figures, and a span for each lock, for OpenTelemetry.

    from fastlock.contrib.opentelemetry import instrument, traced

    instrument(client)                      # figures, whenever a reader collects
    with traced(client.lock("orders:42")):  # spans around the waiting and the holding
        ...

Law: needs the extra ``otel`` and says so; it takes the API alone, and who configures the SDK
decides where all this goes. No token in any attribute, and a key only where it is asked for.
"""

from __future__ import annotations

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"fastlock.contrib.opentelemetry needs opentelemetry-api ({_error}): "
        "pip install 'fastlock[otel]'"
    ) from _error

from ._meters import instrument
from ._spans import traced

__all__ = ["instrument", "traced"]
