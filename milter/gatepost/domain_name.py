"""Names of domains as administrators write them (`example.org`, `bücher.example`), as a type for options."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

from gatepost.idn import to_ascii

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")


def parse_domain_name(value: object) -> str:
    """Return the name in lower case, with A-labels; ValueError for what no domain is called, such as `*.example.org`.

    Such an entry would be compared, never fit, and nobody would be told.
    """
    name = to_ascii(value.strip()) if isinstance(value, str) else ""
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError(f"{value!r} is no name of a domain: write it like example.org, without anything around it")
    return name


DomainName = Annotated[str, BeforeValidator(parse_domain_name)]
"""A domain in lower case, with A-labels and without a dot at its end."""
