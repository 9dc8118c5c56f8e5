"""W7's tables. Law: computed from the stored rounds alone."""

from __future__ import annotations

from typing import Any

from .figures import median, spread, values
from .tables import notes, table
from .w7_shards import (
    BATCH_OVER,
    CLUSTER,
    KEYS,
    KINDS,
    MASTERS,
    PLAIN,
    SHARDS,
    WORKERS,
    Sections,
    costs,
    estimate,
    growth,
)

#: Whose costs the estimate is made from, by kind of caller.
ESTIMATED = {"threads": "fastlock-cluster", "tasks": "fastlock-aio-cluster"}


def render(sections: Sections) -> str:
    """All of it; empty if nothing was measured."""
    parts = [_kind(sections, caller) for caller in KINDS] + [_batch(sections)]
    parts += [_estimate(sections, caller, who) for caller, who in ESTIMATED.items()]
    return "\n\n".join(part for part in parts if part)


def _us(value: float | None) -> str:
    return "" if value is None else f"{value * 1e6:.2f}"


def _of(sections: Sections, name: str, who: str, what: str) -> float | None:
    section = sections.get(name)
    return median(section, who, what) if section else None


def _kind(sections: Sections, caller: str) -> str:
    first = sections.get(f"w7-{caller}-1")
    if first is None:
        return ""
    rows = [["CPU us/pair", "plain server", *(f"{n} masters" for n in SHARDS)]]
    rows[0] += ["1 / plain", "most / 1", "spread", "server us/pair, 1", f"{SHARDS[-1]}"]
    for who, plain in zip(CLUSTER[caller].split(), PLAIN[caller].split(), strict=True):
        alone, base = (
            _of(sections, f"w7-{caller}-{where}", name, "cpu")
            for where, name in (("plain", plain), (1, who))
        )
        grown = growth(sections, caller, who)
        if base is None:
            continue
        served = [
            _us(_of(sections, f"w7-{caller}-{masters}", who, "server"))
            for masters in (SHARDS[0], SHARDS[-1])
        ]
        rows.append([
            who, _us(alone),
            *(_us(_of(sections, f"w7-{caller}-{masters}", who, "cpu")) for masters in SHARDS),
            f"{base / alone:.2f}" if alone else "",
            f"{max(grown.values()):.2f}" if grown else "",
            f"{spread(values(first, who, 'cpu')):.0%}",
            *served,
        ])  # fmt: skip
    workload, count, each = KINDS[caller]
    what = {"w1": "keys in turn, a lone caller", "w2": "threads", "w3": "tasks"}[workload]
    head = f"w7-{caller}: {count} {what}{' for each master' * each}; {_where(first)}"
    return "\n".join([head, table(rows), _notes(sections, f"w7-{caller}-")])


def _where(section: dict[str, Any]) -> str:
    rounds = max((len(one["rounds"]) for one in section["contestants"].values()), default=0)
    return (
        f"servers on core {section['server_core']}, client on core {section['client_core']}; "
        f"{rounds} rounds of {section['seconds']} s"
    )


def _notes(sections: Sections, prefix: str) -> str:
    """The noisiest section's, and who is missing in any."""
    own = {name: one for name, one in sections.items() if name.startswith(prefix)}
    noisiest = max(own.values(), key=lambda one: float(one["others"]))
    absent = {
        who: f"{why} ({name})" for name, one in own.items() for who, why in one["absent"].items()
    }
    return notes({**noisiest, "absent": absent})


def _batch(sections: Sections) -> str:
    name = f"w7-batch-{BATCH_OVER}"
    section = sections.get(name)
    if section is None:
        return ""
    rows = [["CPU us/pair", "plain server", f"{BATCH_OVER} masters", "keys per CPU second / plain"]]
    for who, plain in zip(CLUSTER["batch"].split(), PLAIN["batch"].split(), strict=True):
        here, alone = _of(sections, name, who, "cpu"), _of(sections, "w7-batch-plain", plain, "cpu")
        if here and alone:
            rows.append([who, _us(alone), _us(here), f"{alone / here:.2f}"])
    head = f"{name}: {KEYS:,} keys acquired and released in one call each; {_where(section)}"
    return "\n".join([head, table(rows), _notes(sections, "w7-batch-")])


def _estimate(sections: Sections, caller: str, who: str) -> str:
    known = {masters: costs(sections, caller, who, masters) for masters in MASTERS}
    lines = []
    rows = [["cores of workers", *(f"{masters} masters" for masters in MASTERS)]]
    for masters, cost in known.items():
        if cost is None:
            return ""
        client, server = cost
        asked, served = estimate(client, server, 1, masters)
        lines.append(
            f"  {masters} masters: a core of workers 1 / {client * 1e6:.2f} us = {asked:,.0f}; "
            f"masters {masters} / {server * 1e6:.2f} us = {served:,.0f}"
        )
    for workers in WORKERS:
        row = [str(workers)]
        for masters, cost in known.items():
            assert cost is not None
            asked, served = estimate(*cost, workers, masters)
            row.append(f"{min(asked, served):,.0f}{' (masters)' if served < asked else ''}")
        rows.append(row)
    head = (
        f"estimate of pairs/s from {who}, {caller}: the lesser of cores / client CPU per pair "
        "and masters / server CPU per pair"
    )
    supposed = (
        "(a process and client for each core of workers, a core for each master, keys spread "
        "evenly, a network that costs nothing; where the masters are the limit it says so)"
    )
    return "\n".join([head, *lines, table(rows), supposed])
