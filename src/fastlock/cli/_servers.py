"""What is looked at: the server, or the masters of a cluster.

Law: a connection for each, made when it is first needed. A key is asked for where the cluster says
that its slot is served; where that has just changed, the cluster is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from fastlock._cluster import Address, ranges
from fastlock._config_fields import divided
from fastlock._slots import slot
from fastlock.config import Config
from fastlock.errors import ServerError, TransportError

from ._look import Look, look
from ._wire import Wire, pack

#: How often a look begins anew because slots have moved.
_TRIES = 3


class Servers:
    """As a context manager. Belongs to one thread at a time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._wires: dict[Address | None, Wire] = {}
        self._slots: list[tuple[int, int, Address]] = []  # first, last, the master

    def __enter__(self) -> Servers:
        """Raises TransportError, ServerError, ProtocolError."""
        try:
            if self._config.cluster is not None:
                self._learn()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def connect_again(self) -> None:
        """Forget all connections; of a cluster, ask who serves what now."""
        self._close()
        self._wires.clear()
        if self._config.cluster is not None:
            self._learn()

    def _close(self) -> None:
        for wire in self._wires.values():
            wire.close()

    def _learn(self) -> None:
        """Ask the cluster who serves what: the first node that answers."""
        failure: TransportError | None = None
        for node in self._config.cluster or ():
            address = divided(node)
            try:
                (reply,) = self._at(address).exchange_all(pack("CLUSTER", "SLOTS"), 1)
                self._slots = ranges(reply, address)
                return
            except TransportError as error:
                failure = error
                if (broken := self._wires.pop(address, None)) is not None:
                    broken.close()
        assert failure is not None  # a cluster has nodes
        raise failure

    def _at(self, address: Address | None) -> Wire:
        wire = self._wires.get(address)
        if wire is None:
            wire = self._wires[address] = Wire(self._config_at(address))
        return wire

    def _config_at(self, address: Address | None) -> Config:
        return self._config if address is None else self._config.at(*address)

    def _of(self, key: bytes) -> Address | None:
        if self._config.cluster is None:
            return None
        number = slot(key)
        for first, last, address in self._slots:
            if first <= number <= last:
                return address
        raise ServerError(f"CLUSTERDOWN slot {number} is served by nobody")

    def all(self) -> list[Wire]:
        """Where keys are scanned for."""
        if self._config.cluster is None:
            return [self._at(None)]
        return [self._at(address) for address in dict.fromkeys(entry[2] for entry in self._slots)]

    def config_of(self, key: bytes) -> Config:
        """The settings for what serves the key."""
        return self._config_at(self._of(key))

    def of(self, key: bytes) -> Wire:
        """Which serves the key."""
        return self._at(self._of(key))

    def look(self, keys: Sequence[bytes]) -> list[Look]:
        """How each of them is, in their order; see ``_look.look``."""
        for left in reversed(range(_TRIES)):
            try:
                return self._look(keys)
            except ServerError as error:
                if error.code != "MOVED" or self._config.cluster is None or not left:
                    raise
                self._learn()
        raise AssertionError

    def _look(self, keys: Sequence[bytes]) -> list[Look]:
        places: dict[Address | None, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self._of(key), []).append(place)
        found: dict[int, Look] = {}
        for address, numbers in places.items():
            wire, asked = self._at(address), [keys[number] for number in numbers]
            found.update(zip(numbers, look(wire, asked, self._config.prefix), strict=True))
        return [found[place] for place in range(len(keys))]
