"""``fastlock status``: who holds these locks, for how long, who waits.

Law: reads only; never shows a token.
"""

from __future__ import annotations

import json
from argparse import Namespace

from ._look import Look, glob, scan, wire_keys
from ._screen import print_table
from ._servers import Servers
from ._settings import config_of

#: Of one lock, in a table.
_HEAD = ("key", "holder", "ttl s", "in queue")


def run(options: Namespace) -> int:
    """Print them, in the order of the words, or of their keys where they were searched for."""
    config = config_of(options.url)
    keys = wire_keys(options.keys, config.prefix)
    with Servers(config) as servers:
        if options.match is None:
            looks = servers.look(keys)
        else:
            looks = []
            for wire in servers.all():
                for found in scan(wire, glob(config.prefix, options.match)):
                    looks += servers.look(found)
            unique = {one.wire: one for one in looks if one.token is not None}
            looks = [unique[key] for key in sorted(unique) if options.foreign or unique[key].ours]
    if options.json:
        print(json.dumps([one.as_json() for one in looks], indent=2))
    elif looks:
        print_table(_HEAD, [_row(one) for one in looks], 2)
    else:
        print("no lock matches")
    return 0


def _row(one: Look) -> list[str]:
    """As a table shows it."""
    if one.problem is not None:
        return [one.shown, f"({one.problem.partition(' ')[0]}: it is no lock)", "-", "-"]
    holder = "(free)" if one.holder is None else one.holder
    ttl = "-" if one.holder is None else "no end" if one.ttl is None else f"{one.ttl:.1f}"
    return [one.shown, holder, ttl, "?" if one.waiters is None else str(one.waiters)]
