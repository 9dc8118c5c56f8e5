from collections.abc import Sequence
from typing import Any, final

__all__ = ["Leases"]

@final
class Leases:
    def __new__(cls, kind: type) -> Leases: ...
    def one(
        self,
        client: Any,
        generation: int,
        key: str | bytes,
        pair: tuple[bytes, bytes],
        ttl: float,
        deadline: float,
        since: float | None = None,
    ) -> Any: ...
    def make(
        self,
        client: Any,
        generation: int,
        keys: Sequence[str | bytes],
        pairs: Sequence[tuple[bytes, bytes]],
        replies: Sequence[Any],
        ttl: float,
        deadline: float,
    ) -> list[Any]: ...
    def foreign(self, client: Any, generation: int, leases: list[Any]) -> int: ...
    def holds(
        self, leases: list[Any], results: list[bool], now: float
    ) -> list[tuple[float, int]]: ...
    def held(self, leases: list[Any]) -> Sequence[int]: ...
    def release(
        self, leases: list[Any], places: Sequence[int]
    ) -> tuple[list[tuple[bytes, bytes]], set[int]]: ...
    def released(self, leases: list[Any], places: Sequence[int], results: list[bool]) -> None: ...
