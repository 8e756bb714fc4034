class UserValue:
    def __init__(self, name: str) -> None: ...

class SpamValue:
    value: bool
    score: float
    threshold: float

class Headers:
    spam: SpamValue | None
