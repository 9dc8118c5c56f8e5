"""The doctor's look at a server: can this user lock there, how, and how fast.

Law: asks and tries, changes nothing: its one lock has a key of its own and a ttl of five
seconds; other checks are refused or have no object.
"""

from __future__ import annotations

import secrets
import statistics
from time import monotonic
from typing import TYPE_CHECKING

import fastlock
from fastlock.config import Config
from fastlock.errors import FastlockError, ServerError, TransportError

from ._advice import do_about
from ._servers import Servers
from ._wire import Wire

if TYPE_CHECKING:
    from .doctor import Report

_TTL, _PINGS, _PATIENCE = 5.0, 50, 2.0
#: No connection has this number, no script this hash.
_NOBODY, _NO_SCRIPT = 2**63 - 1, "0" * 40
_ELSEWHERE = "or name another server: fastlock doctor --url redis://host:6379"


def look_at_server(config: Config, core: str, report: Report) -> None:
    """Connect, lock once, ask, measure; problems go to the report."""
    try:
        with fastlock.Client(config) as client:
            info = client.server
            transport = "TLS" if config.ssl else "a Unix socket" if config.unix_socket else "TCP"
            if config.ssl and not config.ssl_verify:
                transport += " (the server's certificate is not verified)"
            report.fact(f"{info.name} {info.version} over {transport}, RESP {info.protocol}")
            may_lock = _lock_once(client, info.release_command, report)
            key = _key_of_nobody(config)
            with Servers(config) as servers:
                at = servers.config_of(key.encode())
            _permissions(at, report)
            if may_lock:
                _waiting(at, key, report)
            _looking(at, key, report)
            _round_trip(client, report)
    except FastlockError as error:
        report.fact("not usable")
        report.problem(str(error), _advice(error, config))
        return
    _promise(config, core, report)


def _looking(config: Config, key: str, report: Report) -> None:
    """Whether this user may look at locks by the command line, which no lock needs."""
    with Wire(config) as wire:
        asked = {
            "+getrange": ("GETRANGE", key, 0, 0),
            "+pttl": ("PTTL", key),
            "+zcount": ("ZCOUNT", key, 0, 0),
            "+zrange": ("ZRANGE", key, 0, 0),
            "+time": ("TIME",),
            "+scan": ("SCAN", 0, "MATCH", key, "COUNT", 1),
            "+ping": ("PING",),
        }
        missing = [right for right, words in asked.items() if wire.refusal(*words) == "NOPERM"]
    if missing:
        report.fact(f"fastlock status and watch are for a user with {' '.join(missing)} besides")


def _advice(error: FastlockError, config: Config) -> str:
    if isinstance(error, ServerError):
        return do_about(error) or f"ask who runs the server, {_ELSEWHERE}"
    if config.sentinels is not None and not isinstance(error, ServerError):
        return f"see to sentinels and service, and whether they name a master, {_ELSEWHERE}"
    if isinstance(error, TransportError) and config.ssl:
        return f"see to host, port and certificates (ssl_ca_certs), {_ELSEWHERE}"
    if isinstance(error, TransportError):
        return f"start the server, see to host and port, {_ELSEWHERE}"
    return f"see to host and port, {_ELSEWHERE}"


def _lock_once(client: fastlock.Client, at_first: str, report: Report) -> bool:
    """Take, extend and free one lock; says which command frees. False: it may not."""
    key = f"fastlock-doctor:{secrets.token_hex(8)}"
    try:
        lease = client.acquire(key, ttl=_TTL, timeout=_PATIENCE)
        lease.extend(_TTL)
        freed = lease.release()
    except ServerError as error:
        report.fact("locks cannot be taken and freed")
        report.problem(str(error), do_about(error) or _grant(error, client))
        return False
    if not freed:
        report.problem(
            "a lock taken just now was gone before it was freed",
            "see whether the server evicts keys, or whether something deletes them",
        )
    command = client.server.release_command
    report.fact(f"releases by {command}; one lock was taken, extended and freed")
    if command != at_first:
        report.problem(
            f"this user may not use {at_first}, so {command} must do, which is slower",
            f"allow it: ACL SETUSER {client.config.username or 'default'} +{at_first.lower()}",
        )
    return True


def _grant(error: ServerError, client: fastlock.Client) -> str:
    user = client.config.username or "default"
    if error.code != "NOPERM":
        return f"ask who runs the server, {_ELSEWHERE}"
    return (
        f"let user {user} use SET, GET, EXISTS, PTTL, EVAL, EVALSHA and the server's DELIFEQ or "
        "DELEX on the keys of its locks; if it may use certain keys only, name their prefix by "
        "?prefix=... in the uri"
    )


def _permissions(config: Config, report: Report) -> None:
    """What the server lets this user do; none of it has an effect."""
    user = config.username or "default"
    with Wire(config) as wire:
        if wire.refusal("CLIENT", "KILL", "ID", _NOBODY) == "NOPERM":
            report.fact("CLIENT KILL is refused to this user")
            report.problem(
                "this user may not use CLIENT KILL: after a broken connection, a lock that nobody "
                "holds may stay for one ttl",
                f"allow it: ACL SETUSER {user} +client|kill",
            )
        else:
            report.fact("CLIENT KILL is allowed: broken connections leave no lock behind")
        scripts = wire.refusal("EVALSHA", _NO_SCRIPT, 0) != "NOPERM"
        report.fact(f"scripts are {'allowed' if scripts else 'refused to this user'}")
        if not scripts:
            report.problem(
                "this user may not use scripts: lock_all() and some retries may need them",
                f"allow them: ACL SETUSER {user} +eval +evalsha",
            )
        _eviction(wire, report)


def _waiting(config: Config, key: str, report: Report) -> None:
    """Whether the server wakes who waits; asked as they ask it, on a connection of its own."""
    every = f"tries every {config.retry_timeout:g} ms (retry_timeout)"
    if not config.push:
        report.fact(f"push is off: who waits for a lock {every}")
        return
    with Wire(config) as wire:
        if config.protocol != 3 and wire.refusal("HELLO", 3) is not None:
            report.fact(f"the server speaks no RESP 3: who waits for a lock {every}")
            return
        asked = {
            "CLIENT TRACKING": wire.refusal("CLIENT", "TRACKING", "ON", "OPTIN"),
            "CLIENT CACHING": None,
            "PTTL": wire.refusal("PTTL", key),
        }
        if asked["CLIENT TRACKING"] is None:
            asked["CLIENT CACHING"] = wire.refusal("CLIENT", "CACHING", "YES")
    missing = [name for name, code in asked.items() if code is not None]
    if not missing:
        report.fact("the server wakes who waits for a lock (CLIENT TRACKING)")
        return
    names = " and ".join(missing)
    if any(asked[name] != "NOPERM" for name in missing):
        report.fact(f"the server does not offer {names}: who waits for a lock {every}")
        return
    report.fact(f"{names} {'is' if len(missing) == 1 else 'are'} refused to this user")
    rights = dict(zip(asked, ("+client|tracking", "+client|caching", "+pttl"), strict=True))
    if "CLIENT TRACKING" in missing:  # without which the second was not asked
        missing = sorted({*missing, "CLIENT CACHING"}, key=list(asked).index)
    needed = " ".join(rights[name] for name in missing)
    report.problem(
        f"this user may not use {names}: nobody wakes who waits for a lock, who {every} instead, "
        "which is slower and more work for the server",
        f"allow it: ACL SETUSER {config.username or 'default'} {needed}",
    )


def _key_of_nobody(config: Config) -> str:
    """A key that this user may read, if it may read any, and that is not there."""
    return f"{config.prefix}fastlock-doctor:{secrets.token_hex(8)}"


def _eviction(wire: Wire, report: Report) -> None:
    """A server that is a cache may drop locks that are held."""
    try:
        text = wire.call("INFO", "memory").decode("utf-8", "replace")
    except ServerError:
        return
    facts = dict(line.partition(":")[::2] for line in text.splitlines())
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
        report.problem(
            f"when memory is full this server drops keys, locks too (maxmemory-policy {policy})",
            "set maxmemory-policy noeviction, or keep locks on a server that is no cache",
        )


def _round_trip(client: fastlock.Client, report: Report) -> None:
    """The median of some pings."""
    times: list[float] = []
    end = monotonic() + _PATIENCE
    try:
        while len(times) < _PINGS and (not times or monotonic() < end):
            times.append(client.ping())
    except ServerError as error:
        report.fact(f"round trip not measured: {error}")
        return
    milliseconds = 1000 * statistics.median(times)
    report.fact(f"round trip {milliseconds:.3f} ms (median of {len(times)})")


def _promise(config: Config, core: str, report: Report) -> None:
    """Where threads go on while others wait for the server."""
    if core != "cython":
        report.fact("the Python core needs the GIL to write, read and parse")
    elif config.ssl:
        report.fact("over TLS, Python's ssl writes and reads: that needs the GIL")
    else:
        report.fact("the compiled core writes, reads, parses, waits and renews without the GIL")
