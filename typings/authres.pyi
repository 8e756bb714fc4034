"""What gatepost uses of authres, which has no types of its own."""

class AuthResError(Exception): ...

class AuthenticationResultProperty:
    type: str
    name: str
    value: str | None
    def __init__(self, type: str, name: str, value: str | None = ..., comment: str | None = ...) -> None: ...

class AuthenticationResult:
    method: str
    result: str
    reason: str | None
    properties: list[AuthenticationResultProperty]

class AuthenticationResultsHeader:
    authserv_id: str
    results: list[AuthenticationResult]
    @classmethod
    def parse_value(cls, string: str) -> AuthenticationResultsHeader: ...
