from typing import final

__all__ = ["Numbered", "Prepared", "pack", "prepare"]

def pack(*args: bytes | int) -> bytes: ...
def prepare(*parts: bytes | int | type) -> Prepared: ...

@final
class Prepared:
    def fill(
        self,
        first: bytes | int | None = None,
        second: bytes | int | None = None,
        third: bytes | int | None = None,
    ) -> bytes: ...
    def many(
        self, pairs: list[tuple[bytes | int, bytes | int]], third: bytes | int | None = None
    ) -> bytes: ...

@final
class Numbered:
    def __new__(cls, prefix: bytes, suffix: bytes) -> Numbered: ...
    def next(self) -> bytes: ...
    def pairs(self, keys: list[str | bytes], prefix: bytes) -> list[tuple[bytes, bytes]]: ...
