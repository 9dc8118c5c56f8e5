"""Every contestant by name. Law: a name means the same in every workload."""

from __future__ import annotations

import json

from .runner import Spec
from .variants import VARIANTS

COMPILED = {"FASTLOCK_CORE": "cython"}
PURE = {"FASTLOCK_CORE": "python"}
NO_HIREDIS = {"BENCH_HIREDIS": "0"}
#: Between two tries, seconds: as redis-py does by itself.
OWN_PAUSE = {"BENCH_SLEEP": "0.1"}
#: Nothing is counted or timed for stats().
UNMETERED = {"BENCH_CLIENT": '{"metrics": false}'}
#: Who holds the lock that a contestant waits for, in w5_wakeup.py.
HELD_BY_REDIS_PY = {"BENCH_HOLDER": "redis-py"}

_ALL = [
    # the limits
    Spec("c-sockets", "C, RESP by hand", program="w1_sockets"),
    Spec("c-deferred", "C, by hand, release not waited for", program="w1_deferred"),
    Spec("c-hiredis", "C on libhiredis, redisCommandArgv", program="w1_hiredis"),
    Spec("c-hiredis-format", "C on libhiredis, redisCommand", program="w1_format_hiredis"),
    Spec("c-threads", "C, a thread and a connection each", program="w2_threads"),
    Spec("c-depth", "C, one connection, one thread", program="w3_depth"),
    Spec("c-pipeline", "C, pipeline by hand", program="w4_pipeline"),
    Spec("c-pipeline-native", "C, native release", program="w4_pipeline", native=True),
    Spec("c-pipeline-hiredis", "C on libhiredis, pipeline", program="w4_hiredis"),
    Spec("machinery", "asyncio alone, no I/O", python="machinery"),
    Spec(
        "machinery-uvloop", "uvloop alone, no I/O", python="machinery",
        uvloop=True, needs="uvloop",
    ),
    # ours
    Spec("fastlock", "compiled core", python="fastlock", env=COMPILED),
    Spec("fastlock-with", "compiled, with client.lock()", python="fastlock-with", env=COMPILED),
    Spec(
        "fastlock-deferred", "compiled, release(wait=False)", python="fastlock-deferred",
        env=COMPILED,
    ),
    Spec(
        "fastlock-deferred-pure", "Python core, release(wait=False)", python="fastlock-deferred",
        env=PURE,
    ),
    Spec("fastlock-script", "compiled, EVALSHA", python="fastlock-by-script", env=COMPILED),
    Spec("fastlock-pure", "Python core", python="fastlock", env=PURE),
    Spec(
        "fastlock-unmetered", "compiled, metrics=False", python="fastlock",
        env=COMPILED | UNMETERED,
    ),
    Spec(
        "fastlock-pure-unmetered", "Python core, metrics=False", python="fastlock",
        env=PURE | UNMETERED,
    ),
    Spec(
        "fastlock-aio-unmetered", "asyncio, compiled, metrics=False", python="fastlock-aio",
        env=COMPILED | UNMETERED,
    ),
    Spec(
        "fastlock-aio-pure-unmetered", "asyncio, Python core, metrics=False",
        python="fastlock-aio", env=PURE | UNMETERED,
    ),
    Spec("fastlock-aio", "asyncio, compiled", python="fastlock-aio", env=COMPILED),
    Spec("fastlock-aio-with", "async with", python="fastlock-aio-with", env=COMPILED),
    Spec("fastlock-aio-pure", "asyncio, Python core", python="fastlock-aio", env=PURE),
    Spec(
        "fastlock-uvloop", "uvloop, compiled", python="fastlock-aio", env=COMPILED,
        uvloop=True, needs="uvloop",
    ),
    Spec(
        "fastlock-uvloop-pure", "uvloop, Python core", python="fastlock-aio", env=PURE,
        uvloop=True, needs="uvloop",
    ),
    Spec(
        "fastlock-component", "pip-services4, compiled", python="fastlock-component",
        env=COMPILED, needs="fastlock.contrib.pip_services4",
    ),
    Spec(
        "fastlock-component-pure", "pip-services4, Python core", python="fastlock-component",
        env=PURE, needs="fastlock.contrib.pip_services4",
    ),
    Spec(
        "fastlock-after-redis-py", "compiled, redis-py's Lock released", python="fastlock",
        env=COMPILED | HELD_BY_REDIS_PY, needs="redis, hiredis",
    ),
    Spec(
        "fastlock-aio-after-redis-py", "asyncio, redis-py's Lock released", python="fastlock-aio",
        env=COMPILED | HELD_BY_REDIS_PY, needs="redis, hiredis",
    ),
    Spec("drop-in", "redis-py's lock(), installed", python="drop-in", env=COMPILED, needs="redis"),
    Spec("drop-in-pure", "on the Python core", python="drop-in", env=PURE, needs="redis"),
    Spec("drop-in-aio", "asyncio, installed", python="drop-in-aio", env=COMPILED, needs="redis"),
    Spec("fastlock-cluster", "compiled, on a cluster", python="fastlock-cluster", env=COMPILED),
    Spec(
        "fastlock-cluster-pure", "Python core, on a cluster", python="fastlock-cluster", env=PURE,
    ),
    Spec(
        "fastlock-aio-cluster", "asyncio, compiled, on a cluster", python="fastlock-aio-cluster",
        env=COMPILED,
    ),
    Spec(
        "fastlock-aio-cluster-pure", "asyncio, Python core, on a cluster",
        python="fastlock-aio-cluster", env=PURE,
    ),
    # rivals
    Spec("redis-py+hiredis", "redis-py Lock", python="redis-py", needs="redis, hiredis"),
    Spec(
        "redis-py", "redis-py Lock, no hiredis", python="redis-py", env=NO_HIREDIS, needs="redis",
    ),
    Spec(
        "redis-py-default", "redis-py Lock, polls as it does by itself; hiredis",
        python="redis-py", env=OWN_PAUSE, needs="redis, hiredis",
    ),
    Spec(
        "redis-py-cluster", "redis-py Lock on RedisCluster", python="redis-py-cluster",
        needs="redis, hiredis",
    ),
    Spec("redis-py-raw", "SET, EVALSHA; hiredis", python="redis-py-raw", needs="redis, hiredis"),
    Spec("valkey-py", "valkey-py Lock", python="valkey-py", needs="valkey"),
    Spec("python-redis-lock", "its Lock", python="python-redis-lock", needs="redis_lock"),
    Spec("pottery", "Redlock, one master", python="pottery", needs="pottery"),
    Spec(
        "pip-services4+hiredis", "its RedisLock", python="pip-services4-redis",
        needs="pip_services4_redis, hiredis",
    ),
    Spec(
        "pip-services4", "its RedisLock, no hiredis", python="pip-services4-redis",
        env=NO_HIREDIS, needs="pip_services4_redis",
    ),
    Spec("redis-aio", "redis.asyncio Lock; hiredis", python="redis-aio", needs="redis, hiredis"),
    Spec(
        "redis-aio-default", "redis.asyncio Lock, polls as it does by itself; hiredis",
        python="redis-aio", env=OWN_PAUSE, needs="redis, hiredis",
    ),
    Spec(
        "redis-aio-uvloop", "the same on uvloop", python="redis-aio", uvloop=True,
        needs="redis, hiredis, uvloop",
    ),
    Spec("coredis", "coredis Lock", python="coredis", needs="coredis"),
    Spec("valkey-glide-sync", "SET, EVALSHA", python="valkey-glide-sync", needs="glide_sync"),
    Spec("valkey-glide", "SET, EVALSHA", python="valkey-glide", needs="glide"),
]  # fmt: skip

#: Ours that differ by what is asked of the client or of acquire() alone; threads and processes
#: are one of them.
_ALL += [
    Spec(
        name,
        f"{'asyncio, ' * (kind == 'tasks')}{core}, {variant.what}",
        python="fastlock-aio" if kind == "tasks" else "fastlock",
        env=env
        | {"BENCH_LOCK": json.dumps(variant.lock), "BENCH_CLIENT": json.dumps(variant.client)},
    )
    for variant in VARIANTS[1:]
    for kind in variant.kinds
    for name, core, env in zip(
        variant.names(kind), ("compiled", "Python core"), (COMPILED, PURE), strict=True
    )
]

SPECS = {spec.name: spec for spec in _ALL}


def named(names: str) -> list[Spec]:
    """Contestants by their names, spaces between."""
    return [SPECS[name] for name in names.split()]
