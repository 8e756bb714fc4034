"""What an ARC-Authentication-Results field says that its writer found (RFC 8617 section 4.1.1), as plain data."""

from __future__ import annotations

import authres

from gatepost.authentication import MethodResult, method_result

VALUE_LIMIT = 8192
"""Characters that are read: the parser copies what is left of them at each step."""

RESULTS_LIMIT = 50
"""Results that are kept: an honest field has a dozen."""


def read_arc_results(value: str) -> tuple[str, list[MethodResult]]:
    """Return who found it, and the results; ("", []) for what is not in order.

    `value` is unfolded. A result whose words are not those of RFC 8601 is left out; so are properties.
    """
    _, _, rest = value.replace("\t", " ").partition(";")
    if len(value) > VALUE_LIMIT or not rest.isprintable():
        return "", []
    try:
        parsed = authres.AuthenticationResultsHeader.parse_value(rest.strip())
    except (authres.AuthResError, ValueError, RecursionError):
        return "", []
    results = []
    for one in parsed.results[:RESULTS_LIMIT]:
        try:
            results.append(method_result(one.method.lower(), one.result.lower(), None, one.reason))
        except ValueError:
            continue
        for found in one.properties:
            try:
                whole = method_result("arc", "none", {f"{found.type.lower()}.{found.name.lower()}": found.value})
            except ValueError:
                continue
            results[-1]["properties"] |= whole["properties"]
    return parsed.authserv_id, results
