"""``fastlock release --force``: end a lock whose holder does not.

Law: asks first, unless told not to; ends the holder that it has shown and no later one, by the
same compare-and-delete as a release, so a lost answer may be asked for again.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import fastlock
from fastlock.errors import LockLost

from . import _exits, complain, quoted
from ._look import wire_keys
from ._servers import Servers
from ._settings import config_of, key_of


def run(options: Namespace) -> int:
    """End it; 1 if there was nothing to end, or it was not to be."""
    config = config_of(options.url)
    keys, name = wire_keys([options.key], config.prefix), quoted(options.key)
    with Servers(config) as servers:
        (found,) = servers.look(keys)
        token = None if found.token is None else servers.of(keys[0]).call("GET", keys[0])
    if found.problem is not None:
        return complain(f"{name} is no lock: {found.problem}", _exits.FOUND_WRONG)
    if token is None:
        return _tell(options, False, None, f"{name} is held by nobody")
    ends = "never ends by itself" if found.ttl is None else f"ends by itself in {found.ttl:.1f} s"
    if not options.yes:
        if not sys.stdin.isatty():
            return complain("nobody to ask: say --yes to end the lock unasked")
        print(f"{name} is held by {found.holder} and {ends}.", file=sys.stderr)
        print("Whoever holds it may still be at work. End it? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return _tell(options, False, found.holder, "not ended")
    try:
        with fastlock.Client(config) as client:
            lease = client.adopt(key_of(options.key), token.decode("utf-8", "surrogateescape"))
            freed = lease.release()
    except LockLost:
        freed = False
    if not freed:
        return _tell(options, False, found.holder, f"{found.holder} holds it no more; not ended")
    return _tell(options, True, found.holder, f"{name} was held by {found.holder}; ended")


def _tell(options: Namespace, released: bool, holder: str | None, said: str) -> int:
    if options.json:
        print(json.dumps({"key": options.key, "released": released, "holder": holder}))
    else:
        print(said)
    return 0 if released else _exits.FOUND_WRONG
