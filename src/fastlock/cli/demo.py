"""``fastlock demo``: locks at work on a real server, checked, beside redis-py's Lock.

Law: the exit code tells whether an update was lost; nothing is left on the server or of
the server. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import contextlib
import json
import platform
import secrets
from argparse import Namespace
from typing import Any

import fastlock
from fastlock.config import Config
from fastlock.errors import ConfigError, FastlockError

from ._ending import signals_as_exits, signals_wait
from ._screen import Progress, print_table, progress_bar
from ._server import OwnServer
from ._wire import Wire
from ._work import HOT, RETRY, Contest, Failed, Row

_HEAD = (
    "",
    "pairs/s",
    "cold\np50 ms",
    "cold\np99 ms",
    "hot\np50 ms",
    "hot\np99 ms",
    "connec-\ntions",
    "lost\nupdates",
)


def run(options: Namespace) -> int:
    """Do the work and print the result; 1 if an update was lost."""
    core = fastlock.core
    with signals_as_exits(), contextlib.ExitStack() as stack:
        if options.env:
            config = Config.from_env()
        elif options.url is not None:
            config = Config.from_url(options.url)
        else:
            config = Config.from_url(stack.enter_context(OwnServer()))
        if config.cluster is not None:
            raise ConfigError("cluster", "the demo is about one server: name it by redis://")
        config = config.replace(retry_timeout=RETRY, prefix="", client_name=None)
        server = _server(config)
        with progress_bar() as progress:
            rows = _contests(options, config, progress)
    lost = sum(row.lost for row in rows)
    if options.json:
        print(json.dumps(_as_json(options, core, server, rows, lost), indent=2))
    else:
        _print(options, core, server, rows, lost)
    return 1 if lost else 0


def _server(config: Config) -> dict[str, str]:
    with fastlock.Client(config) as client:
        info = client.server
        return {
            "name": info.name,
            "version": info.version,
            "release_command": info.release_command,
        }


# ------------------------------------------------------------------ the work


def _plan(options: Namespace) -> dict[str, dict[str, Any]]:
    """The rows of the table: name -> Contest's arguments."""
    who = "no lock" if options.no_lock else "fastlock"
    threads: dict[str, Any] = {"threads": options.threads, "locks": not options.no_lock}
    tasks: dict[str, Any] = {"tasks": options.tasks, "locks": not options.no_lock}
    plan = {
        f"{who} threads": threads,
        f"{who} tasks": tasks,
        f"{who} both at once": {**threads, **tasks},
    }
    if not options.no_lock:
        plan["redis-py Lock threads"] = {**threads, "rival": True}
    return plan


def _contests(options: Namespace, config: Config, progress: Progress) -> list[Row]:
    """Every row in turn; what is left on the server is removed however it ends."""
    prefix = f"fastlock-demo:{secrets.token_hex(4)}:"
    plan = _plan(options)
    contests = [Contest(name, config, prefix, **how) for name, how in plan.items()]
    rows: list[Row] = []
    try:
        with Wire(config) as admin:
            for contest in contests:

                def tell(share: float, name: str = contest.name) -> None:
                    progress(name, (len(rows) + share) / len(contests))

                rows.append(contest.run(admin, options.seconds / len(contests), tell))
    except Exception as error:
        if type(error).__module__.startswith("redis."):
            raise Failed(f"redis-py: {type(error).__name__}: {error}") from None
        raise
    finally:
        _sweep(config, [key for contest in contests for key in contest.all_keys()])
    return rows


def _sweep(config: Config, keys: list[str]) -> None:
    with contextlib.suppress(FastlockError), signals_wait(), Wire(config) as wire:
        for start in range(0, len(keys), 1000):
            wire.call("DEL", *keys[start : start + 1000])


# ------------------------------------------------------------------ the result


def _as_json(
    options: Namespace, core: str, server: dict[str, str], rows: list[Row], lost: int
) -> dict[str, Any]:
    return {
        "core": core,
        "python": platform.python_version(),
        "server": {**server, "embedded": options.url is None and not options.env},
        "locks": not options.no_lock,
        "threads": options.threads,
        "tasks": options.tasks,
        "hot_keys": HOT,
        "retry_ms": RETRY,
        "rows": [
            {
                "name": row.name,
                "pairs": row.pairs,
                "pairs_per_second": round(row.rate, 1),
                "cold_ms": {"p50": row.cold(50), "p99": row.cold(99)},
                "hot_ms": {"p50": row.hot(50), "p99": row.hot(99)},
                "connections": row.connections,
                "lost_updates": row.lost,
            }
            for row in rows
        ],
        "lost_updates": lost,
    }


def _print(
    options: Namespace, core: str, server: dict[str, str], rows: list[Row], lost: int
) -> None:
    origin = "embedded" if options.url is None else "the one of --url"
    if options.env:
        origin = "the one of FASTLOCK_* variables"
    print(f"core {core}")
    print(f"server {server['name']} {server['version']} ({origin}), {server['release_command']}")
    print(
        f"work {options.threads} threads, {options.tasks} tasks: half share {HOT} hot keys, the "
        "others have a cold key each"
    )
    print_table(
        _HEAD,
        [
            [
                row.name,
                f"{row.rate:,.0f}",
                *map(_milliseconds, (row.cold(50), row.cold(99), row.hot(50), row.hot(99))),
                "?" if row.connections is None else str(row.connections),
                str(row.lost),
            ]
            for row in rows
        ],
    )
    print(
        "a pair takes and frees one lock and increments its counter; ms is the lock's part,\n"
        f"waiting included (pause between tries: {RETRY} ms for all)"
    )
    if options.no_lock:
        print("without locks updates get lost; run it without --no-lock to see them kept")
    else:
        ours, rival = rows[0], rows[-1]
        print(f"{ours.name}: {ours.rate / rival.rate:.1f} times the pairs/s of {rival.name}")
    print(f"lost updates {lost}")


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
