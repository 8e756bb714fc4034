"""What gatepost uses of pyspf, which has no types of its own: the methods that its subclass calls or replaces."""

class TempError(Exception):
    msg: str

class PermError(Exception):
    msg: str
    def __init__(self, msg: str, mech: str | None = ...) -> None: ...

class query:
    i: str
    s: str
    l: str
    o: str
    d: str
    h: str
    v: str
    A: str
    p: str | None
    cidrmax: int
    void_lookups: int
    mechanism: str | None
    def __init__(
        self,
        i: str,
        s: str,
        h: str,
        local: str | None = ...,
        receiver: str | None = ...,
        strict: bool | int = ...,
        timeout: float = ...,
        verbose: bool = ...,
        querytime: float = ...,
    ) -> None: ...
    def set_default_explanation(self, exp: str) -> None: ...
    def check(self, spf: str | None = ...) -> tuple[str, int, str]: ...
    def get_explanation(self, spec: str) -> str | None: ...
    def validate_mechanism(self, mech: str) -> tuple[str, str, str, int, str]: ...
    def expand_domain(self, arg: str) -> str: ...
    def expand(self, s: str, stripdot: bool = ...) -> str: ...
    def cidrmatch(self, ipaddrs: list[str], n: int) -> bool: ...
    def dns(self, name: str, qtype: str, cnames: object = ..., ignore_void: bool = ...) -> list[object]: ...
    def dns_mx(self, domainname: str) -> list[str]: ...
    def validated_ptrs(self) -> list[str]: ...
