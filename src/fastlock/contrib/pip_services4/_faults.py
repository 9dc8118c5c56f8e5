"""Errors as the framework knows them, with the trace id of the call.

Law: every FastlockError becomes an ApplicationException here and nowhere else; no message
and no detail holds a secret, since none of fastlock's own does.
"""

from __future__ import annotations

from typing import Any

from pip_services4_commons.errors import (
    ApplicationException,
    BadRequestException,
    ConfigException,
    ConflictException,
    ConnectionException,
    InvalidStateException,
    InvocationException,
)
from pip_services4_components.context import Context, ContextResolver

from fastlock.errors import (
    AcquireTimeout,
    ConfigError,
    FastlockError,
    OutcomeUnknown,
    ProtocolError,
    ServerError,
    TransportError,
)

#: How a server refuses a login, rather than a command.
_NO_ENTRY = frozenset({"NOAUTH", "WRONGPASS", "NOPROTO", "DENIED"})


def as_context(context: Any) -> Any:
    """What components of the framework can read: text becomes a context with that trace id."""
    return Context.from_trace_id(context) if isinstance(context, str) else context


def trace_id_of(context: Any) -> str:
    """The call's trace id; a plain str is one itself, and without any it is ""."""
    if isinstance(context, str):
        return context
    if not callable(getattr(context, "get", None)):
        return ""
    return str(ContextResolver.get_trace_id(context))


def not_opened(context: Any) -> ApplicationException:
    """For calls before ``open`` or after ``close``."""
    return InvalidStateException(trace_id_of(context), "NOT_OPENED", "Connection is not opened")


def wrong(context: Any, name: str, problem: str) -> ApplicationException:
    """For an argument that cannot be meant."""
    code = f"WRONG_{name.upper()}"
    return BadRequestException(trace_id_of(context), code, f"{name}: {problem}")


def misconfigured(context: Any, error: ConfigError) -> ApplicationException:
    """For a setting that fastlock refuses."""
    found = ConfigException(trace_id_of(context), "WRONG_CONFIG", str(error)).with_cause(error)
    return found.with_details("setting", error.field)


def not_connected(context: Any, error: FastlockError, address: str) -> ApplicationException:
    """For an ``open`` that reached no server, or one that does not let us in."""
    if isinstance(error, ConfigError):
        return misconfigured(context, error)
    found = ConnectionException(trace_id_of(context), "CONNECT_FAILED", str(error))
    return found.with_details("server", address).with_cause(error)


def failed(context: Any, error: FastlockError, key: str) -> ApplicationException:
    """For whatever a call about one lock met."""
    return _kind(trace_id_of(context), error, key).with_details("key", key).with_cause(error)


def _kind(trace_id: str, error: FastlockError, key: str) -> ApplicationException:
    if isinstance(error, AcquireTimeout):
        text = f"Acquiring lock {key} failed on timeout"
        return ConflictException(trace_id, "LOCK_TIMEOUT", text)
    if isinstance(error, ConfigError):
        return BadRequestException(trace_id, f"WRONG_{error.field.upper()}", str(error))
    if isinstance(error, OutcomeUnknown):
        return ConnectionException(trace_id, "OUTCOME_UNKNOWN", str(error))
    if isinstance(error, ServerError) and error.code not in _NO_ENTRY:
        return InvocationException(trace_id, "SERVER_ERROR", str(error))
    if isinstance(error, ServerError | TransportError | ProtocolError):
        return ConnectionException(trace_id, "CONNECT_FAILED", str(error))
    # What is left: another thread has closed the component meanwhile.
    return InvalidStateException(trace_id, "NOT_OPENED", "Connection is not opened")
