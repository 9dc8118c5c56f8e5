"""Every error fastlock raises. Law: this module imports nothing at run time.

The tree says whose fault it was and what is true now:

    FastlockError
    |- ConfigError(ValueError)            the caller's settings or arguments
    |- LockError               .key       the lock itself
    |  |- AcquireTimeout(TimeoutError)    somebody else kept it until the timeout
    |  |- NotReplicated .confirmed .wanted   too few replicas had it in time; it was released
    |  |- LockLost                        it was ours and is no longer
    |  |  `- StaleFence  .fence .seen     and a later holder has been at the resource
    |  `- OutcomeUnknown                  the server may or may not have done it
    |- ServerError             .code      the server refused a command
    |- TransportError(ConnectionError)  .sent   the connection failed
    `- ProtocolError                      the peer does not speak RESP

No message ever holds a token or a password.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AcquireTimeout",
    "ConfigError",
    "FastlockError",
    "LockError",
    "LockLost",
    "NotReplicated",
    "OutcomeUnknown",
    "ProtocolError",
    "ServerError",
    "StaleFence",
    "TransportError",
]


class FastlockError(Exception):
    """Catch this to catch everything fastlock raises on purpose."""


class ConfigError(FastlockError, ValueError):
    """A setting or an argument is wrong, unknown or contradictory.

    ``field`` names it; the message says what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return type(self), (self.field, self.problem)


class LockError(FastlockError):
    """Something about one lock; ``key`` says which (as the caller wrote it)."""

    def __init__(self, message: str, key: str | bytes) -> None:
        super().__init__(message, key)
        self.key = key

    def __str__(self) -> str:
        return str(self.args[0])


class AcquireTimeout(LockError, TimeoutError):
    """The lock was still held by somebody else when the timeout ended."""


class NotReplicated(LockError):
    """The lock was taken, but too few replicas confirmed that in time; it is not held.

    ``confirmed`` of them did, ``wanted`` were to. It was released before this was raised; where
    that could not be done, as ``__cause__`` says, it is done in the background.
    """

    confirmed = 0
    wanted = 0


class LockLost(LockError):
    """The lock was ours and is no longer: expired, deleted or taken over."""


class StaleFence(LockLost):
    """A fencing number below one that the resource has seen: a later holder was there.

    ``key`` is the resource, ``fence`` the number refused, ``seen`` the highest one seen.
    """

    fence = 0
    seen = 0


class OutcomeUnknown(LockError):
    """The server may or may not have carried the operation out.

    Raised when the retries are used up, by a quorum when too few servers answered, when the
    answer to a release comes after the lease's deadline, and at once by ``force_release``. After an
    acquire the caller does not hold the lock, and what may still have arrived is given back in the
    background; after a release or an extend the call may be repeated. False from a repeated
    release then says only that the lock is not ours now.
    """


class ServerError(FastlockError):
    """The server answered with an error.

    ``code`` is the first word of it ("WRONGTYPE", "NOAUTH", "READONLY", ...).
    """

    # The cores return these as values; the layers above raise them.

    #: Another server will be asked soon, which may do it (internal).
    passing = False

    def __init__(self, message: str) -> None:
        # Some servers repeat what was sent, the token among it.
        message = message.partition(", with args beginning with")[0]
        super().__init__(message)
        self.code: str = message.partition(" ")[0]


class TransportError(FastlockError, ConnectionError):
    """The connection could not be made, broke, or did not answer in time.

    ``sent`` is False only when the server cannot have seen any byte of the
    command; True means that it may have carried it out.
    """

    #: Answers that had arrived before the failure, in order (internal).
    replies: Sequence[object] = ()
    #: Only the time given ran out; the connection itself goes on (internal).
    timed_out: bool = False
    #: When the command was sent, in seconds on fastlock's clock (internal).
    sent_at: float = 0.0

    def __init__(self, message: str, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent

    def __reduce__(self) -> tuple[type[TransportError], tuple[str, bool]]:
        return type(self), (str(self), self.sent)  # not the answers, which may be tokens


class ProtocolError(FastlockError):
    """While connecting: somebody answers, but in no RESP, or beyond the decoder's limits.

    On a connection that has worked such bytes end it: TransportError, or OutcomeUnknown.
    """
