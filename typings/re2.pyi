"""What gatepost uses of google-re2, which has no types of its own."""

# ruff: noqa: N802

class error(Exception): ...

class Options:
    max_mem: int
    log_errors: bool
    case_sensitive: bool
    dot_nl: bool

class Set:
    @classmethod
    def SearchSet(cls, options: Options | None = ...) -> Set: ...
    def Add(self, pattern: str | bytes) -> int: ...
    def Compile(self) -> None: ...
    def Match(self, text: str | bytes) -> list[int] | None: ...

def compile(pattern: str | bytes, options: Options | None = ...) -> object: ...
