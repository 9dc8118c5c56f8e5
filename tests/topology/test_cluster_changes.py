"""A cluster that changes under load: slots move, a master dies. Four ways at once.

Law: what leases said of themselves is compared; what is so, the nodes say.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from _cluster import ClusterServers, until
from _four import WAYS, Four
from _harness import Ways, clock

from fastlock._renewal import REFUSED

TTL = 6.0  # s, longer than a failover takes


def neighbours(cluster: ClusterServers, key: str) -> tuple[int, Any, Any]:
    """The key's slot, the master that serves it, and another one."""
    source = cluster.master_of(key)
    others = [s for s in cluster.alive() if cluster.is_master(s) and s is not source]
    return cluster.slot(key), source, others[0]


@pytest.mark.slow
def test_a_slot_that_moves_back_and_forth(cluster: ClusterServers) -> None:
    """Not one update is lost, not one error is raised, renewed locks stay."""
    tag = "{moving}"
    counts = dict.fromkeys(range(3), 0)
    done: list[int] = []
    over = False

    async def body(fl: Ways) -> None:
        client = fl.client(label=f"{fl.api}-{fl.core}")
        own = f"{tag}own:{fl.api}:{fl.core}"
        async with client.lock(own, ttl=1.0, auto_renew=True) as renewed:
            rounds = 0
            while not over:
                rounds += 1
                key = rounds % len(counts)
                async with client.lock(f"{tag}{key}", ttl=10, timeout=20) as lease:
                    before = counts[key]
                    if rounds % 10 == 0:
                        await lease.extend(10)
                    await fl.sleep(0.001)
                    counts[key] = before + 1
                done.append(key)
                assert not renewed.lost, renewed.lost.reason

    slot, source, target = neighbours(cluster, tag)
    four = Four(cluster, body)
    try:
        until(lambda: four.check() or len(done) > 20)
        for _ in range(6):
            before = len(done)
            cluster.begin_move(slot, source, target)
            time.sleep(0.2)  # keys are made at either meanwhile
            cluster.move_keys(slot, source, target)
            time.sleep(0.2)
            cluster.move_keys(slot, source, target)
            cluster.end_move(slot, source, target)
            source, target = target, source
            until(lambda before=before: four.check() or len(done) > before + 20)
    finally:
        over = True
        four.join()
        cluster.settled()
    assert [counts[key] for key in counts] == [done.count(key) for key in counts]


def test_all_or_none_of_many_slots_by_many(cluster: ClusterServers) -> None:
    """No update is lost, and nobody waits for ever, whatever order the keys come in."""
    keys = [f"all:{number}" for number in range(6)]
    counts = dict.fromkeys(keys, 0)
    done: list[str] = []

    async def body(fl: Ways) -> None:
        client = fl.client(retry_timeout=10)
        for rounds in range(15):
            wanted = keys[rounds % 3 :: 2] + keys[:1]
            own = list(dict.fromkeys(wanted if fl.sync else wanted[::-1]))
            async with client.lock_all(own, ttl=10, timeout=20):
                before = [counts[key] for key in own]
                await fl.sleep(0.001)
                for key, count in zip(own, before, strict=True):
                    counts[key] = count + 1
            done.extend(own)

    Four(cluster, body).join()
    assert counts == {key: done.count(key) for key in keys}


def test_renewed_locks_in_a_slot_on_its_way(cluster: ClusterServers) -> None:
    """Renewed where they are by now, although neither node takes a renewal as it is."""
    leases: list[Any] = []
    over = False

    async def body(fl: Ways) -> None:
        async with fl.client().lock(
            f"{{way}}{fl.api}:{fl.core}", ttl=0.6, auto_renew=True
        ) as lease:
            leases.append(lease)
            while not over:
                await fl.sleep(0.02)
            assert not lease.lost, lease.lost.reason

    slot, source, target = neighbours(cluster, "{way}")
    four = Four(cluster, body)
    try:
        until(lambda: four.check() or len(leases) == len(WAYS))
        cluster.begin_move(slot, source, target)
        time.sleep(0.4)
        cluster.move_keys(slot, source, target)
        time.sleep(1.3)  # s, in which each would have ended twice
        cluster.end_move(slot, source, target)
        time.sleep(0.7)
        held = [target.admin.get(lease.key) == lease.token.encode() for lease in leases]
    finally:
        over = True
        four.join()
        cluster.settled()
    assert held == [True] * len(WAYS)


@pytest.mark.slow
@pytest.mark.alone
def test_a_master_that_is_killed(cluster: ClusterServers) -> None:
    """All goes on within a second of the promotion; what did not survive is told to be lost."""
    victim = cluster.master_of("{dying}")
    replica = next(s for s in cluster.alive() if _replicates(s, victim))
    survivors: dict[tuple[str, str], Any] = {}
    goners: dict[tuple[str, str], Any] = {}
    lost_at: dict[tuple[str, str], tuple[float, str]] = {}
    history: list[tuple[int, float, float]] = []  # key, since when, until when
    cut = over = False

    async def body(fl: Ways) -> None:
        way = (fl.api, fl.core)
        client = fl.client(label="-".join(way))
        name = f"{{dying}}{fl.api}:{fl.core}"
        survivors[way] = await client.acquire(f"{name}:survivor", ttl=TTL, auto_renew=True)
        while not cut:
            await fl.sleep(0.01)
        goners[way] = await client.acquire(
            f"{name}:goner", ttl=TTL, auto_renew=True,
            on_lost=lambda lease: lost_at.setdefault(way, (clock(), lease.lost.reason)),
        )  # fmt: skip
        rounds = 0
        while not over:
            rounds += 1
            lease = await client.acquire(f"{{dying}}{rounds % 2}", ttl=TTL, timeout=20)
            told = clock()
            await fl.sleep(0.002)
            end = clock()
            held = lease.valid()
            try:
                await lease.release()
            finally:
                if held:
                    history.append((rounds % 2, told, end))
        assert await survivors[way].release() is True

    four = Four(cluster, body)
    try:
        until(lambda: four.check() or len(survivors) == len(WAYS))
        until(lambda: all(replica.admin.execute_command("CLUSTER", "INFO") for _ in WAYS))
        offset = victim.admin.execute_command("ROLE")[1]
        until(lambda: replica.admin.execute_command("ROLE")[4] >= offset)
        replica.freeze()  # what is taken from here on it will not have
        victim.admin.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        cut = True
        until(lambda: four.check() or (len(goners) == len(WAYS) and len(history) > 50))
        killed_at = clock()
        victim.kill()
        replica.thaw()
        until(lambda: cluster.is_master(replica))
        promoted_at = clock()
        until(lambda: four.check() or len(lost_at) == len(WAYS), 10)
        until(lambda: four.check() or clock() > promoted_at + 1.5)
    finally:
        over = True
        replica.thaw()
        four.join()
        if victim.process is None:
            victim.start()
        cluster.settled()
    print(f"promoted {promoted_at - killed_at:.2f} s after the kill")
    for told_at, reason in lost_at.values():
        assert killed_at < told_at < promoted_at + TTL / 3 + 1
        assert reason == REFUSED
    after = sorted((told, end, key) for key, told, end in history if told > promoted_at)
    first = after[0][0]
    print(f"went on {first - promoted_at:.2f} s after the promotion, {len(after)} locks then")
    assert first < promoted_at + 1
    assert len(after) > 20
    for key in (0, 1):
        own = [(told, end) for told, end, of in after if of == key]
        for (_, end), (told, _) in itertools.pairwise(own):
            assert end <= told, "two held the same lock at once"


def _replicates(server: Any, master: Any) -> bool:
    role = server.admin.execute_command("ROLE")
    return role[0] == b"slave" and role[2] == master.port
