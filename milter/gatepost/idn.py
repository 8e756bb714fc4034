"""Internationalised domain names (RFC 5890): one spelling to compare, another to read.

The mapping is that of IDNA 2008 in practice, UTS 46 without its deviations. Not Python's codec `idna`, which is IDNA
2003 and takes `straße` for `strasse`, another domain. Whether a label is allowed is for the registries. Nothing here
raises: what has no other spelling stays as it is.
"""

from __future__ import annotations

import unicodedata

_LABEL_LIMIT = 63
"""Characters; RFC 1035 section 2.3.4. A longer label is in no name, and its code would take time by the square."""

_DOT = "\u3002"
"""The ideographic full stop, which separates labels as a dot does (UTS 46 section 2.3)."""


def to_ascii(domain: str) -> str:
    """Return the domain in lower case, with A-labels and without dots at its end: `bücher.EXAMPLE.` likewise."""
    domain = domain.rstrip(".").lower()
    if domain.isascii():
        return domain
    labels = unicodedata.normalize("NFKC", domain).lower().replace(_DOT, ".").rstrip(".").split(".")
    return ".".join(map(_a_label, labels))


def to_unicode(domain: str) -> str:
    """Return the domain with U-labels, as people read it."""
    return ".".join(map(_u_label, domain.split("."))) if "xn--" in domain else domain


def _a_label(label: str) -> str:
    if label.isascii() or len(label) > _LABEL_LIMIT:
        return label
    try:
        label.encode()  # a surrogate is a byte that is not UTF-8, and in no name
        return "xn--" + label.encode("punycode").decode("ascii")
    except UnicodeError:
        return label


def _u_label(label: str) -> str:
    if not label.startswith("xn--") or len(label) > _LABEL_LIMIT:
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return label
