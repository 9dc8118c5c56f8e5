"""What to try when a server is in trouble. Law: pure; one short clause, no secret."""

from __future__ import annotations

from fastlock.errors import (
    AcquireTimeout,
    FastlockError,
    OutcomeUnknown,
    ProtocolError,
    ServerError,
    TransportError,
)

#: By the code of a server's error.
_DO = {
    "WRONGPASS": "give the right user and password, as in FASTLOCK_URL=redis://user:password@host",
    "NOAUTH": "give a password, as in FASTLOCK_URL=redis://:password@host",
    "READONLY": "name the primary: this is a replica",
    "OOM": "give the server more memory, or remove keys",
    "MISCONF": "see to the server's disk and its log",
    "LOADING": "wait until the server has read its data",
    "MOVED": "write redis+cluster:// instead of redis://: it is a node of a cluster",
    "ASK": "wait until the cluster has moved the slot",
    "CLUSTERDOWN": "see to the cluster, and write redis+cluster:// instead of redis://",
    "NOPROTO": "add ?protocol=2 to the uri",
}
#: By words of it, where the code says nothing.
_SAID = {
    "cluster support disabled": "write redis:// instead of redis+cluster://: it is one server",
    "DB index is out of range": "name another database, as in redis://host:6379/0",
}
_HERE = {
    "NOPERM": "fastlock doctor says what its user must be allowed",
    "WRONGTYPE": "name another key",
}


def do_about(error: ServerError) -> str | None:
    """What anybody can do about it, if that is known."""
    said = (do for words, do in _SAID.items() if words in str(error))
    return next(said, None) or _DO.get(error.code)


def what_to_try(error: FastlockError) -> str:
    """For the end of a line that has said what is wrong; "" where that says it."""
    if isinstance(error, ServerError):
        return f"try: {do_about(error) or _HERE.get(error.code, 'ask who runs the server')}"
    if isinstance(error, OutcomeUnknown):
        return "try: fastlock status says who holds it now"
    if isinstance(error, TransportError):
        return "try: fastlock doctor, or name another server by --url or FASTLOCK_URL"
    if isinstance(error, ProtocolError):
        return "try: see to host and port"
    if isinstance(error, AcquireTimeout):
        return "try: a longer --timeout, or fastlock status"
    return ""
