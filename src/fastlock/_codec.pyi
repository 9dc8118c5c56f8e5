from typing import Any, final

__all__ = ["Decoder", "pack"]

def pack(*args: bytes | int) -> bytes: ...

@final
class Decoder:
    def feed(self, data: bytes) -> list[Any]: ...
