"""A TCP proxy that breaks the network on purpose, at an exact command or reply.

Law: real sockets on both sides. It understands just enough RESP to tell where a command
or a reply ends and which reply belongs to which command. It counts what it did: a test
whose fault never happened must fail (``Fault.wait`` says so).

    proxy = Proxy(("127.0.0.1", 6379))
    fault = proxy.fault("lose_reply")      # of the next command that is about a lock
    ...
    fault.wait()                           # it has happened

Faults on the way to the server:
    cut_before      the connection is cut; the command never arrives
    cut_after       the command arrives; the client's side is cut at once, before the reply
    hold_command    the command waits in the network until ``go()``
Faults on the way back:
    lose_reply      the server has done it; its reply is swallowed, the connection cut
    cut_reply       only the first ``size`` bytes of the reply arrive, then the cut
    hold_reply      the reply waits until ``go()``
    delay_reply     the reply comes ``seconds`` late
    split_reply     the reply comes byte by byte
    half_close      the reply arrives, then the server's side says goodbye (FIN)
    replace_reply   ``data`` comes instead of the reply
    echo_reply      the same, with the command's own words in the place of ``%b`` in it
    add_reply       ``data`` comes after the reply
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter, deque
from contextlib import suppress

#: Faults injected in this session, by name; the session's footer prints them.
INJECTED: Counter[str] = Counter()

#: Commands that connect, ask and steer; faults without a verb pass them over.
HANDSHAKE = frozenset(
    ("HELLO", "AUTH", "CLIENT", "SELECT", "INFO", "COMMAND", "PING", "SCRIPT", "ACL")
)

TO_SERVER = frozenset({"cut_before", "cut_after", "hold_command"})
BEHIND = frozenset({"hold_reply", "delay_reply", "half_close", "add_reply"})  # reply passes
TO_CLIENT = BEHIND | {"lose_reply", "cut_reply", "split_reply", "replace_reply", "echo_reply"}


# ------------------------------------------------------------------ RESP, as little as will do


def reply_end(data: bytes, start: int = 0) -> int:
    """Where the reply that begins at ``start`` ends, or -1 if it is incomplete."""
    missing = 1
    while missing:
        end = data.find(b"\r\n", start)
        if end < 0:
            return -1
        kind, rest = data[start : start + 1], data[start + 1 : end]
        start = end + 2
        missing -= 1
        if kind in b"$=!" and rest != b"-1":
            start += int(rest) + 2
            if start > len(data):
                return -1
        elif kind in b"*~>" and rest != b"-1":
            missing += int(rest)
        elif kind == b"%":
            missing += 2 * int(rest)
        elif kind == b"|":
            missing += 2 * int(rest) + 1
    return start


def command_at(data: bytes, start: int) -> tuple[list[bytes], int]:
    """The command that begins at ``start`` and where it ends; ([], -1) if incomplete."""
    end = reply_end(data, start)  # a command is an array of bulk strings
    if end < 0:
        return [], -1
    args = []
    at = data.index(b"\r\n", start) + 2
    while at < end:
        head = data.index(b"\r\n", at)
        size = int(data[at + 1 : head])
        args.append(data[head + 2 : head + 2 + size])
        at = head + 2 + size + 2
    return args, end


# ------------------------------------------------------------------ faults


class Fault:
    """One fault, for the ``nth`` matching command from now on and ``times`` - 1 after it."""

    def __init__(
        self,
        name: str,
        verb: str | None,
        nth: int,
        times: int,
        seconds: float,
        size: int,
        data: bytes,
        rst: bool,
    ) -> None:
        assert name in TO_SERVER | TO_CLIENT, name
        self.name = name
        self.verb = verb
        self.skip = nth - 1
        self.left = times
        self.seconds = seconds
        self.size = size
        self.data = data
        self.rst = rst
        self.words: list[bytes] = []  # of the command it has struck last
        self.happened = threading.Event()
        self._go = threading.Event()

    def takes(self, verb: str) -> bool:
        """Whether this command is the one; counts it."""
        if not self.left or (verb != self.verb if self.verb else verb in HANDSHAKE):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.left -= 1
        return True

    def strike(self) -> None:
        INJECTED[self.name] += 1
        self.happened.set()

    def go(self) -> None:
        """Let go what is held."""
        self._go.set()

    def hold(self) -> None:
        self._go.wait(30)

    def wait(self, timeout: float = 10) -> None:
        """Until it has happened."""
        assert self.happened.wait(timeout), f"the fault {self.name!r} never happened"


def bound(port: int) -> socket.socket:
    """A socket on this loopback port (0: a free one), which others made here may share."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


class Proxy:
    """Listens on a loopback port of its own and passes everything on to ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.commands: list[list[bytes]] = []  # everything clients sent, in order
        self.connections = 0  # accepted so far
        self.latency = 0.0  # seconds that replies take; twice that at most
        self._faults: list[Fault] = []
        self._mutex = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        # Keeps the port while nobody listens on it; other tests' sockets would get it.
        self._claim: socket.socket | None = None
        self.port = 0
        self.up()

    @property
    def uri(self) -> str:
        return f"redis://localhost:{self.port}"

    def fault(
        self,
        name: str,
        verb: str | None = None,
        nth: int = 1,
        times: int = 1,
        seconds: float = 0.0,
        size: int = 1,
        data: bytes = b"",
        rst: bool = False,
    ) -> Fault:
        """Plan a fault for the ``nth`` command from now that is ``verb`` (None: about locks)."""
        fault = Fault(name, verb, nth, times, seconds, size, data, rst)
        with self._mutex:
            self._faults.append(fault)
        return fault

    def verbs(self) -> list[str]:
        """Which commands about locks have passed."""
        said = [args[0].decode().upper() for args in list(self.commands)]
        return [verb for verb in said if verb not in HANDSHAKE]

    @property
    def open(self) -> int:
        """How many connections have not ended on both sides."""
        return len(self._pairs)

    # -- life

    def up(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = bound(self.port)
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        self._start(self._accept, self._listener)

    def down(self) -> None:
        """Refuse connections and cut those there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._claim = bound(self.port)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection there is."""
        for pair in list(self._pairs):
            pair.cut()

    def close(self) -> None:
        """Stop; nothing of it stays."""
        for fault in self._faults:
            fault.go()
        self.down()
        if self._claim is not None:
            self._claim.close()
        for thread in list(self._threads):
            thread.join(5)

    # -- inside

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            pair = _Pair(self, client, server)
            self._pairs.add(pair)
            self._start(pair.pass_commands)
            self._start(pair.pass_replies)

    def _fault_for(self, args: list[bytes]) -> Fault | None:
        verb = args[0].decode("ascii", "replace").upper()
        with self._mutex:
            self.commands.append(args)
            for fault in self._faults:
                if fault.takes(verb):
                    fault.words = args
                    return fault
        return None


class _Pair:
    """One client's connection and its counterpart to the server; a thread each way."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.pending: deque[Fault | None] = deque()  # of commands not yet answered
        self._reset = False
        self._ended = 0
        self._mutex = threading.Lock()
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- client -> server

    def pass_commands(self) -> None:
        held = b""
        try:
            while chunk := self.client.recv(65536):
                held = self._forward(held + chunk)
        except OSError:
            pass
        # The client has gone: what it sent still reaches the server, as in a real network.
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)
        self._end()

    def _forward(self, data: bytes) -> bytes:
        """Pass on all complete commands; return the rest."""
        sent = at = 0
        while at < len(data):
            args, end = command_at(data, at)
            if end < 0:
                break
            fault = self.proxy._fault_for(args)
            if fault is None or fault.name in TO_CLIENT:
                self.pending.append(fault)
                at = end
                continue
            self.server.sendall(data[sent:at])
            if fault.name == "cut_before":
                fault.strike()
                self.cut(fault.rst)
                raise OSError("cut")
            if fault.name == "hold_command":
                fault.strike()
                fault.hold()
            self.pending.append(fault if fault.name == "cut_after" else None)
            self.server.sendall(data[at:end])
            sent = at = end
            if fault.name == "cut_after":
                fault.strike()
                self.cut_client(fault.rst)
                raise OSError("cut")
        self.server.sendall(data[sent:at])
        return data[at:]

    # -- server -> client

    def pass_replies(self) -> None:
        held = b""
        try:
            while chunk := self.server.recv(65536):
                if self.proxy.latency:
                    time.sleep(self.proxy.latency)
                held = self._return(held + chunk)
            if not self._reset:
                self.client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._end()

    def _return(self, data: bytes) -> bytes:
        sent = at = 0
        while at < len(data):
            end = reply_end(data, at)
            if end < 0:
                break
            fault = None
            if data[at : at + 1] != b">" and self.pending:
                fault = self.pending.popleft()
            if fault is not None:
                self.client.sendall(data[sent:at])
                if fault.name == "cut_after":  # however fast the server was
                    raise OSError("cut")
                self._spoil(fault, data[at:end])
                sent = end
            at = end
        self.client.sendall(data[sent:at])
        return data[at:]

    def _spoil(self, fault: Fault, reply: bytes) -> None:
        if fault.name == "hold_reply":
            fault.strike()
            fault.hold()
        elif fault.name == "delay_reply":
            time.sleep(fault.seconds)
        if fault.name in BEHIND:
            self.client.sendall(reply)
        elif fault.name == "cut_reply":
            self.client.sendall(reply[: fault.size])
        elif fault.name == "split_reply":
            for place in range(len(reply)):
                self.client.sendall(reply[place : place + 1])
                time.sleep(0.001)  # lest the kernel puts them together again
        if fault.name in ("replace_reply", "add_reply"):
            self.client.sendall(fault.data)
        elif fault.name == "echo_reply":
            self.client.sendall(fault.data.replace(b"%b", b" ".join(fault.words)))
        if fault.name != "hold_reply":
            fault.strike()
        if fault.name in ("lose_reply", "cut_reply"):
            self.cut(fault.rst)
            raise OSError("cut")
        if fault.name == "half_close":
            self.client.shutdown(socket.SHUT_WR)
            raise OSError("cut")

    # -- ends

    def cut_client(self, rst: bool = False) -> None:
        """End the client's side: an orderly FIN, or with ``rst`` as a crash would."""
        with suppress(OSError):
            if rst:
                self._reset = True  # closing sends it, when both directions have ended
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.shutdown(socket.SHUT_RD if rst else socket.SHUT_RDWR)

    def cut(self, rst: bool = False) -> None:
        """End both sides now."""
        self.cut_client(rst)
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        """A direction has ended; the last one closes."""
        with self._mutex:
            self._ended += 1
            if self._ended < 2:
                return
        self.client.close()
        self.server.close()
        self.proxy._pairs.discard(self)
