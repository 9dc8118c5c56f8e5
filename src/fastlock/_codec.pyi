from typing import Any, final

def pack(*args: bytes | int) -> bytes: ...

@final
class Decoder:
    def feed(self, data: bytes) -> list[Any]: ...
