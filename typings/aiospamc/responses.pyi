from enum import IntEnum

from aiospamc.header_values import Headers

class Status(IntEnum):
    EX_OK = 0
    EX_TEMPFAIL = 75

class Response:
    headers: Headers
    body: bytes

class ResponseException(Exception):
    code: int
