"""What the tests use of linkify-it-py, which has no types of its own."""

class Match:
    schema: str
    url: str

class LinkifyIt:
    def match(self, text: str) -> list[Match] | None: ...
