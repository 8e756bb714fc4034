from collections.abc import Mapping

from aiospamc.header_values import UserValue

class Request:
    body: bytes
    def __init__(self, verb: str, *, headers: Mapping[str, UserValue] | None = None, body: bytes = b"") -> None: ...
