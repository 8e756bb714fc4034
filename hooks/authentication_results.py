"""authentication_results: writes down what SPF, DKIM, ARC and DMARC found, in one header field (RFC 8601) on top.

Mail programs, filters of users and later servers read it there, and believe it because of the name in it. So each such
field with that name that came with a message is a forgery, and is removed; those of others stay as they are.

HOOKS
    data_post   after all plugins whose results are written: spf, dkim, arc, dmarc

OPTIONS
    authserv_id     required: the name in the field, such as "mx.example.org" or "example.org"; the same on all of your
                    mail hosts or one for each, but always the same, because filters of users ask for it
    own_ids         []: more names that are yours, such as those of your other mail hosts: such fields are forged, too
    trusted_networks    []: clients whose fields with these names stay: your other mail hosts, such as ["192.0.2.25"]
    auth            true: auth=pass is written for a client that has logged in (known with the edge door)
    login           false: true: with its login name, which every recipient then reads
    iprev           false: true: iprev=pass is written with the client's address, if that has a name that leads back to
                    it. Nothing is written of others: it may be that Postfix did not ask, or had no answer
    skip_authenticated  false: true: for a client that has logged in, nothing is written or removed
    skip_whitelisted    false: so too for what is whitelisted

    authserv_id and own_ids are the same for everybody; the others can be overridden.

EXAMPLE
    Authentication-Results: mx.example.org;
            spf=pass smtp.mailfrom=example.com;
            dkim=pass header.d=example.com header.s=2026 header.b=dzdVyOfA;
            dmarc=pass header.from=example.com

    "mx.example.org; none" where nothing was found: then at least nobody else has said so. A field that is malformed,
    and has one of your names anywhere in it, is removed, too. In a value from a stranger, "=pass" is written "?pass".

REPLIES
    554 5.6.0 too many forged Authentication-Results header fields     more than 50 with a name of yours

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import IPvAnyNetwork, StringConstraints

from gatepost import (
    AUTHENTICATION_RESULTS,
    Deny,
    Fixed,
    Plugin,
    PluginOptions,
    claiming,
    method_result,
    results_field,
    results_of,
)

if TYPE_CHECKING:
    from gatepost import Message, MethodResult, Transaction, Verdict

AuthservId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,255}$")]

METHODS = ("auth", "iprev", "spf", "dkim", "arc", "dmarc")
"""In the order in which they are written; others come last."""

FORGED_FIELDS = 50
"""As many are removed. Postfix looks through the header for each: 8,000 took it four seconds, and it goes on with them
when its client has long left."""

LONG_BYTES = 16_384
"""Of such fields, however many: longer ones are looked through in a thread, for a megabyte takes half a second."""


class Options(PluginOptions):
    """What the manual above says."""

    authserv_id: Annotated[AuthservId, Fixed]
    own_ids: Annotated[tuple[AuthservId, ...], Fixed] = ()
    trusted_networks: tuple[IPvAnyNetwork, ...] = ()
    auth: bool = True
    login: bool = False
    iprev: bool = False
    skip_authenticated: bool = False
    skip_whitelisted: bool = False


class AuthenticationResults(Plugin[Options]):
    """Removes forged fields, then writes one."""

    after = ("spf", "dkim", "arc", "dmarc")

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        ip = transaction.session.ip
        if ip is None or not any(ip in network for network in options.trusted_networks):
            if sum(field.size for field in message.headers.fields(AUTHENTICATION_RESULTS)) > LONG_BYTES:
                forged = await self.in_thread(_forged, message, options)
            else:
                forged = _forged(message, options)
            if len(forged) > FORGED_FIELDS:
                return Deny(f"too many forged {AUTHENTICATION_RESULTS} header fields", enhanced="5.6.0")
            if forged:
                message.delete_header(AUTHENTICATION_RESULTS, forged)
                self.log.info("forged_authentication_results", txn=transaction.id, removed=len(forged))
        # Scanners end when they end: the field has the same order each time.
        results = sorted([*_of_client(transaction, options), *results_of(transaction)], key=_place)
        message.insert_header(0, AUTHENTICATION_RESULTS, results_field(options.authserv_id, results))
        return None


def _forged(message: Message, options: Options) -> list[int]:
    return claiming(message.headers, {options.authserv_id, *options.own_ids})


def _of_client(transaction: Transaction, options: Options) -> list[MethodResult]:
    session = transaction.session
    results = []
    if options.auth and session.login is not None:
        results.append(method_result("auth", "pass", {"smtp.auth": session.login if options.login else None}))
    if options.iprev and session.name is not None and session.ip is not None:
        results.append(method_result("iprev", "pass", {"policy.iprev": str(session.ip)}))
    return results


def _place(result: MethodResult) -> int:
    return METHODS.index(result["method"]) if result["method"] in METHODS else len(METHODS)
