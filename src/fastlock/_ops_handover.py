"""Floor 2, handing a lock over to another caller of the same client.

Law: that of ``_ops.py``. One compare-and-swap is a release for the giver and a try for the taker:
where its answer is lost, the giver goes on as after a release, and the taker as after a try,
whose answer was lost. What the taker is to know is said the moment it is known.
"""

from __future__ import annotations

from ._claim import HeldLease
from ._doubt import SHARED, UNDER_WAY
from ._effects import Backoff, Call, Now, Op
from ._handover import Giving
from ._ops import mended, release, release_unknown, released, unheard
from ._replies import checked, handed, is_unusual
from .errors import FastlockError, ServerError, TransportError


def hand_over(lease: HeldLease, giving: Giving, retries: int, now: float) -> Op[bool]:
    """True: handed over, or freed. False: it was no longer ours. OutcomeUnknown: cannot be known.

    Swapped once, whatever happens. If that certainly was not done, or may have been, the lease is
    released as usual; in the latter case "not ours" means that the swap had been done.
    """
    claim = giving.claim
    begun = not lease.doubt
    lease.doubt = UNDER_WAY if begun else SHARED
    giving.sent_at = now
    call = Call(claim.handing, (*lease.pair, claim.pairs[0][1], claim.ttl))
    try:
        sent_at, (reply,) = yield call
        if is_unusual(call.verb, reply):
            sent_at, reply = yield from mended(call, sent_at, reply)
            checked(reply, lease.key)
        if handed(reply):
            giving.given(sent_at, reply)
            lease.over = lease.freed = True
            return True
        giving.refused()
        lost = lease.doubt is True  # a release of another call, which may have freed it
        then = (yield Now()) if lost else sent_at
        return released(lease, 0, lost, then)
    except TransportError as error:
        if error.sent:
            giving.unheard(error.sent_at)
        else:
            giving.refused()
        unheard(lease, error.sent, begun)
        if not retries:
            if error.sent:
                raise release_unknown(lease) from error
            raise
        retries -= 1
        yield Backoff(1, None)
    except ServerError:  # as without memory, which a release does not take
        giving.refused()
        unheard(lease, False, begun)
    except FastlockError:  # no connection to be had
        giving.refused()
        unheard(lease, False, begun)
        raise
    except BaseException:
        if call.left:
            giving.unheard(now)
        else:
            giving.refused()
        unheard(lease, call.left, begun)
        raise
    return (yield from release(lease, retries))
