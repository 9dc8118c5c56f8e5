from typing import Any, final

__all__ = ["Decoder"]

@final
class Decoder:
    @property
    def spent(self) -> int: ...
    def feed(self, data: bytes) -> list[Any]: ...
