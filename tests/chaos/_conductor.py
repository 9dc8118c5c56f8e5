"""Starts a server and the workers, breaks both as planned, ends them, keeps the logs.

Law: every fault is real: signals, the server's own commands, its end and its start. What was
done, from when to when, stands in the log ``conductor``; so does what was left at the end.
A server's fault that lost its data has lost it between ``t`` and ``until``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import redis
from _servers import Server, free_port

from chaos import _plan
from chaos._checker import Verdict, check
from chaos._history import History, history_of
from chaos._log import Log, now, read
from chaos._plan import Fault

TESTS = Path(__file__).resolve().parent.parent
#: Seconds without faults at the end: what was in doubt before has ended by itself.
CALM = _plan.LONGEST + 0.5
#: Seconds for a worker to finish its step and leave.
LAST = 40.0
#: A step of the machine's clock, in seconds, that makes keys end too early or too late.
STEP = 0.02


class Run(NamedTuple):
    """What is to be done."""

    seed: int
    seconds: float
    kind: str  #: of server: "valkey", "redis", or a name given by FASTLOCK_TEST_SERVERS
    folder: Path  #: for the logs
    broken: str = ""  #: a mistake to make, of _broken
    calm: float = CALM  #: of them, the last ones without faults
    kinds: tuple[str, ...] = _plan.SERVER_FAULTS


def play(run: Run) -> tuple[History, Verdict]:
    """Carry the run out, and judge it by its logs."""
    Conductor(run).play()
    history = history_of(read(run.folder))
    return history, check(history)


class Worker:
    """The process in one slot; replaced when it is killed."""

    def __init__(self, conductor: Conductor, slot: int) -> None:
        self.conductor = conductor
        self.slot = slot
        self.life = 0
        self.mutex = threading.Lock()  # a frozen one may be killed, and must not be thawed then
        self.start()

    def start(self) -> None:
        run = self.conductor.run
        api, core = _plan.WAYS[self.slot]
        self.life += 1
        self.name = f"w{self.slot}.{self.life}"
        patience = Random(f"{run.seed}/{self.name}").choice((0.4, 1.0, 2.0))
        said = {
            "name": self.name, "slot": self.slot, "life": self.life, "api": api, "seed": run.seed,
            "uri": self.conductor.server.uri, "folder": str(run.folder), "patience": patience,
            "broken": run.broken,
        }  # fmt: skip
        core = "python" if os.environ.get("FASTLOCK_CORE") == "python" else core
        errors = (run.folder / f"{self.name}.err").open("wb")
        with errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chaos._worker", json.dumps(said)],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                cwd=TESTS,
                env={**os.environ, "FASTLOCK_CORE": core, "PYTHONPATH": str(TESTS)},
                start_new_session=True,  # with its forks
            )

    def works(self) -> bool:
        """Whether it has begun; fails if it never will."""
        if self.process.poll() is not None:
            raise RuntimeError((self.conductor.run.folder / f"{self.name}.err").read_text())
        log = self.conductor.run.folder / f"{self.name}.log"
        return log.exists() and log.stat().st_size > 0

    def interrupt(self) -> bool:
        """As Ctrl-C does; not while Python starts, which that would end."""
        with self.mutex:
            ready = self.works()
            if ready:
                self.process.send_signal(signal.SIGINT)
            return ready

    def kill(self) -> None:
        with self.mutex:
            self.process.kill()
            self.process.wait()
            self._close()
            self.start()

    def freeze(self, seconds: float) -> None:
        process = self.process
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        with self.mutex:
            if process is self.process:
                process.send_signal(signal.SIGCONT)

    def _close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self, until: float) -> str | None:
        """Wait until it has left, its forks too; what was wrong with that."""
        trouble = None
        try:
            status = self.process.wait(max(0.1, until - now()))
            trouble = f"left with status {status}" if status else None
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # shows what its threads do
            time.sleep(1.0)
            trouble = "did not leave"
        while trouble is None and self._group():
            if now() > until:
                trouble = "a process forked from it did not leave"
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        text = (self.conductor.run.folder / f"{self.name}.err").read_text(errors="replace")
        text = "\n".join(line for line in text.splitlines() if "DeprecationWarning" not in line)
        return f"{self.name} {trouble}:\n{text[-3000:]}" if trouble else None

    def _group(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Conductor:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.log = Log(run.folder, "conductor")
        self.broken = threading.Event()  # one of our own threads has failed

    def play(self) -> None:
        """The whole run. Raises if the conductor itself could not do what it was to do."""
        # Written before it is answered, if not to the disk: a killed server loses nothing.
        options = {"appendonly": "yes", "appendfsync": "no", "auto-aof-rewrite-percentage": "0"}
        self.server = Server(self.run.kind, **options)
        self.standby = None
        self.workers: list[Worker] = []
        try:
            self.standby = Server(self.run.kind, repl_diskless_sync_delay="0")
            self._play()
        finally:
            for worker in self.workers:
                with suppress(OSError):
                    os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.wait()
                with suppress(OSError):
                    worker._close()
            self.server.discard()
            if self.standby is not None:
                self.standby.discard()

    def _play(self) -> None:
        run = self.run
        self.log("run", seed=run.seed, seconds=run.seconds, server=self.server.version)
        self.workers = [Worker(self, slot) for slot in range(len(_plan.WAYS))]
        while not all(worker.works() for worker in self.workers):
            time.sleep(0.01)
        self.begun = now()
        lanes = _plan.faults(run.seed, run.seconds - run.calm, run.kinds)
        clock = threading.Event()
        threads = [
            *(threading.Thread(target=self._lane, args=(lane,)) for lane in lanes),
            threading.Thread(target=self._watch_the_clock, args=(clock,)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads[:-1]:
            thread.join()
        self._calm()
        clock.set()
        threads[-1].join()
        if self.broken.is_set():
            raise RuntimeError("the conductor has failed, see above")

    def _lane(self, faults: list[Fault]) -> None:
        """One fault after the other; but a frozen process freezes none of what follows."""
        freezes = []
        try:
            for fault in faults:
                time.sleep(max(0.0, self.begun + fault.at - now()))
                if fault.kind == "freeze":
                    freezes.append(threading.Thread(target=self._freeze, args=(fault,)))
                    freezes[-1].start()
                elif fault.slot >= 0:
                    self._strike(fault)
                else:
                    self._break(fault)
            for thread in freezes:
                thread.join()
        except BaseException:
            self.broken.set()
            raise

    def _watch_the_clock(self, end: threading.Event) -> None:
        """The server counts on CLOCK_REALTIME; leases do not. A step there is nobody's fault."""
        before = time.time() - now()
        while not end.wait(0.05):
            t = now()
            offset = time.time() - t
            if abs(offset - before) > STEP:
                self.log("step", t, by=offset - before)
            before = offset

    def _calm(self) -> None:
        """No more faults; then all leave, and what they leave behind is written down."""
        self.log("calm")
        time.sleep(self.run.calm)
        self.log("stop")
        for worker in self.workers:
            worker._close()
        until = now() + LAST
        for worker in self.workers:
            trouble = worker.end(until)
            if trouble:
                self.log("complaint", what=trouble)
        self.log("left", at="once", keys=self._keys(), connections=self._connections())
        time.sleep(CALM)  # the longest ttl
        self.log("left", at="last", keys=self._keys(), connections=[])

    def _keys(self) -> list[str]:
        return sorted(
            key.decode()
            for key in self.server.admin.scan_iter(count=1000)
            if b":fastlock.fence" not in key
        )

    def _connections(self) -> list[str]:
        """Those of workers: ours is over the unix socket."""
        end = now() + 2
        while True:
            clients = self.server.admin.client_list()
            left = [one["addr"] for one in clients if self.server.socket_path not in one["addr"]]
            if not left or now() > end:
                return left
            time.sleep(0.02)

    # ------------------------------------------------------------------ processes

    def _freeze(self, fault: Fault) -> None:
        worker = self.workers[fault.slot]
        name, t = worker.name, now()
        worker.freeze(fault.seconds)
        self.log("fault", t, kind=fault.kind, until=now(), target=name)

    def _strike(self, fault: Fault) -> None:
        worker = self.workers[fault.slot]
        name, t = worker.name, now()
        if fault.kind == "kill":
            worker.kill()
        elif not worker.interrupt():
            return
        self.log("fault", t, kind=fault.kind, until=now(), target=name)

    # ------------------------------------------------------------------ the server

    def _break(self, fault: Fault) -> None:
        t = now()
        doing: Callable[[float], Any] = getattr(self, f"_do_{fault.kind}")
        doing(fault.seconds)
        self.log("fault", t, kind=fault.kind, until=now(), target="server")

    def _admin(self, *words: Any) -> Any:
        """Said to the server until it hears: it may be loading, or have killed our connection."""
        end = now() + 20
        while True:
            try:
                return self.server.admin.execute_command(*words)
            except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                if now() > end:
                    raise
                time.sleep(0.005)

    def _do_flush(self, _: float) -> None:
        self._admin("FLUSHALL")

    def _do_wipe(self, _: float) -> None:
        self.server.kill()
        shutil.rmtree(self.server.folder / "appendonlydir")
        self._start()

    def _do_failover(self, _: float) -> None:
        """To one that had nothing of it: what the standby has replaces all."""
        assert self.standby is not None
        self._admin("REPLICAOF", "127.0.0.1", self.standby.port)
        end = now() + 20
        while self._info()["master_link_status"] != "up":
            if now() > end:
                raise RuntimeError("the standby's data did not come")
            time.sleep(0.005)
        self._admin("REPLICAOF", "NO", "ONE")

    def _info(self) -> Any:
        return self._admin("INFO", "replication")

    def _do_restart(self, _: float) -> None:
        self.server.stop()
        self._start()

    def _do_crash(self, _: float) -> None:
        self.server.kill()
        self._start()

    def _start(self) -> None:
        self.server.start()
        self._admin("DBSIZE")  # once its data is loaded

    def _do_demote(self, seconds: float) -> None:
        self._admin("REPLICAOF", "127.0.0.1", free_port())  # nobody is there
        time.sleep(seconds)
        self._admin("REPLICAOF", "NO", "ONE")

    def _do_clients(self, _: float) -> None:
        self._admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _do_pause(self, seconds: float) -> None:
        self._admin("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
        time.sleep(seconds)

    def _do_stall(self, seconds: float) -> None:
        self.server.freeze()
        time.sleep(seconds)
        self.server.thaw()

    def _do_scripts(self, _: float) -> None:
        self._admin("SCRIPT", "FLUSH")

    def _do_memory(self, seconds: float) -> None:
        self._admin("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self._admin("CONFIG", "SET", "maxmemory", "1")
        time.sleep(seconds)
        self._admin("CONFIG", "SET", "maxmemory", "0")
