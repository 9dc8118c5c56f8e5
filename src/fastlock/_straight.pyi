from typing import Any, final

__all__ = ["Straight"]

@final
class Straight:
    @property
    def freed(self) -> bytes: ...
    @property
    def freed_at(self) -> float: ...
    def __new__(
        cls,
        client: Any,
        leases: Any,
        pipe: Any,
        acquire: Any,
        release: Any,
        tokens: Any,
        prefix: bytes,
        meter: Any,
    ) -> Straight: ...
    def take(
        self,
        key: str | bytes,
        ttl: int,
        span: float,
        generation: int,
        timeout: float,
        trace: list[tuple[bytes, bytes]],
    ) -> Any: ...
    def free(self, lease: Any, generation: int, timeout: float) -> Any: ...
