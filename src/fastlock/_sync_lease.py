"""Floor 1, sync: the plain case of one try and one release, without an operation.

Law: one exchange on a working connection; whatever comes but the usual answer is handed to
the operation of ``_ops`` as the outcome of its first Call, so that what an answer means
still stands there alone. Half the instructions of a pair (``python -m bench instructions``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _args, _fork, _ops
from ._clock import clock
from ._resp import Reentered
from .errors import TransportError

if TYPE_CHECKING:
    from .sync import Client, Lease


def try_acquire(client: Client, key: str | bytes, ttl: float) -> Lease | None:
    """As ``Client.try_acquire``."""
    server = client._server
    link = server._link
    if link is None or server.strays or link.pipe.broken:
        return client._try_claim(client._claim((key,), ttl, None))
    milliseconds = _args.milliseconds(ttl)
    wire, token = pair = _args.wire_key(key, client._prefix), client._tokens()
    generation, patience = _fork.generation, client._patience
    data = link.commands.acquire(wire, token, milliseconds)
    answer: Any = None
    failure: TransportError | None = None
    sent_at = clock()
    try:
        answer = link.pipe.call(data, 1, patience)
        reply = answer[0]
        if reply == b"OK":
            return client._lease(key, pair, milliseconds, _ops.deadline(sent_at, milliseconds))
        if reply is None:
            return None
    except Reentered:
        pass
    except TransportError as error:
        client._check_fork(generation)
        failure = client._failed(error, link, sent_at, patience)
    except BaseException:
        if generation == _fork.generation:
            client._give_back_pairs([pair], clock() + milliseconds / 1000)
        raise
    claim = client._claim_of((key,), [pair], milliseconds, None, generation)
    if answer is None and failure is None:
        return client._try_claim(claim)
    return client._try_claim(claim, True, failure, (sent_at, answer))


def release(lease: Lease) -> bool:
    """As ``Lease.release``, of a lease that is neither over nor in doubt."""
    client = lease._client
    server = client._server
    link = server._link
    if link is None or server.strays or link.pipe.broken:
        return client._drive(_ops.release(lease, client._retries))
    generation, patience = _fork.generation, client._patience
    wire, token = lease.pair
    data = link.commands.release(wire, token)
    lease.doubt = True  # for whoever interrupts from here on
    sent_at = clock()
    try:
        answer = link.pipe.call(data, 1, patience)
        if answer[0] == 1:
            lease.over = lease.freed = True
            return True
        failure = None
    except Reentered:
        lease.doubt = False
        return client._drive(_ops.release(lease, client._retries))
    except TransportError as error:
        answer = None
        client._check_fork(generation)
        failure = client._failed(error, link, sent_at, patience)
    lease.doubt = False
    op = _ops.release(lease, client._retries)
    op.send(None)
    return client._drive(op, failure, (sent_at, answer))
