"""uribl against a real rbldnsd and nsd: which links are found, which lists are asked, and what a listing means."""

from __future__ import annotations

import base64
import quopri
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dns_rig import BlockList, NameServer
from tests.services.dns.patient_dns import patient_resolver

from gatepost import ConfigError, Overrides
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gatepost import Message

    Refusal = Callable[..., Awaitable[str]]

ZONES = {
    "dbl.example:dnset": ":127.0.1.2:Domain of a spammer\n.spam.example\nexact.example\n.xn--bse-sna.example\n"
    "evil.co.uk\nuser.blogspot.com\nphish.example :127.0.1.4:Phishing\n",
    "bits.example:dnset": "grey.example :127.0.0.4:grey\nblack.example :127.0.0.2:black\n",
    "ip.example:ip4set": ":127.0.0.2:Host of a spammer, $\n192.0.2.99\n198.51.100.0/24\n",
    "friends.example:dnset": ":127.0.0.2:\nspam.example\n",
    "score.example:dnset": ":127.0.0.2:\nspam.example\nblack.example\n",
}
HOSTS = "landing.example.com. IN A 198.51.100.7\nnowhere.example.com. IN A 192.0.2.1\n"

LISTED = "554 5.7.1 Service unavailable; "
SPAM = f"{LISTED}linked domain [spam.example] blocked using dbl.example; Domain of a spammer"
TEMPORARY = "451 4.3.0 temporary failure, please try again later"


@pytest.fixture(scope="module")
def server() -> Iterator[BlockList]:
    with BlockList(ZONES) as running:
        yield running


def mail(text: str | bytes, content_type: str = "text/plain", encoding: str = "8bit", *, head: str = "") -> bytes:
    data = text.encode() if isinstance(text, str) else text
    match encoding:
        case "base64":
            data = base64.encodebytes(data)
        case "quoted-printable":
            data = quopri.encodestring(data)
    return (
        f"From: a@example.net\r\n{head}MIME-Version: 1.0\r\nContent-Type: {content_type}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode() + data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


async def send(dns: Any, content: bytes, **options: Any) -> tuple[str, Message | None]:
    async with gate(dns=dns, uribl=options) as postfix:
        client = postfix.client()
        reply = await client.send("a@sender.example", "b@example.org", content=content)
        return "250" if reply.code == 250 else reply.encode().decode().strip(), client.message


@pytest.fixture
def refusal(server: BlockList) -> Refusal:
    async def ask(content: bytes, zones: Any = ("dbl.example",), **options: Any) -> str:
        return (await send(patient_resolver(server.address), content, zones=zones, **options))[0]

    return ask


HTML = "text/html; charset=utf-8"
LINKS: dict[str, tuple[str | bytes, str]] = {
    "plain": ("see http://spam.example/x for more", "text/plain"),
    "end of sentence": ("see http://spam.example.", "text/plain"),
    "port and user": ("http://user:pw@spam.example:8080/", "text/plain"),
    "upper case": ("HTTPS://SPAM.EXAMPLE/", "text/plain"),
    "below": ("https://very.deep.spam.example/", "text/plain"),
    "no scheme": ("go to www.spam.example today", "text/plain"),
    "back slashes": ("http:\\\\spam.example\\x", "text/plain"),
    "one slash": ("http:/spam.example/x", "text/plain"),
    "percent": ("http://%73pam.exam%70le/", "text/plain"),
    "redirector": ("https://good.example/?u=http%3A%2F%2Fspam.example%2F", "text/plain"),
    "redirector twice": ("https://good.example/?u=http%253A%252F%252Fspam.example", "text/plain"),
    "redirector base64": (f"https://g.example/{base64.b64encode(b'https://spam.example/').decode()}", "text/plain"),
    "wrapped in brackets": ("<http://spam\r\n  .example/long>", "text/plain"),
    "flowed": ("http://spam.ex \r\nample/", "text/plain; format=flowed; delsp=yes"),
    "invisible": ("http://sp\u200bam.exam\u00adple/", "text/plain; charset=utf-8"),
    "full width": ("http://\uff53\uff50\uff41\uff4d\uff0eexample/", "text/plain; charset=utf-8"),
    "utf-16": ("http://spam.example/".encode("utf-16"), "text/plain; charset=utf-16"),
    "no such charset": ("http://spam.example/ \xff", "text/plain; charset=x-none"),
    "href": ('<a href="http://spam.example/">click</a>', HTML),
    "href without quotes": ("<A HREF=http://spam.example>click</A>", HTML),
    "href without scheme": ("<a href='//spam.example/'>click</a>", HTML),
    "href broken": ('<a\nx=\'"\'href\t=\n"h\tttp://spa\nm.example/">', HTML),
    "entities": ('<a href="&#104;ttp&colon;//&#x73;pam.example">', HTML),
    "action": ('<form action="http://spam.example/">', HTML),
    "image": ("<img src=http://spam.example/1.png>", HTML),
    "srcset": ('<img srcset="http://good.example/1 1x, http://spam.example/2 2x">', HTML),
    "background": ('<td background="http://spam.example/">', HTML),
    "style": ("<p style=\"background: url('http://spam.example/')\">", HTML),
    "style sheet": ("<style>p { background: URL( http://spam.example/x ) }</style>", HTML),
    "refresh": ('<meta http-equiv="refresh" content="0; URL=http://spam.example/">', HTML),
    "base": ('<base href="http://spam.example/"><a href="x">', HTML),
    "for outlook": ('<!--[if mso]><a href="http://spam.example/"><![endif]-->', HTML),
    "html without end": ('<a href="http://spam.example/', HTML),
    "script": ("<script>location = 'http://spam.example/'</script>", HTML),
    "text of html": ("<p>http://sp<b>am</b>.example/</p>", HTML),
    "html as something else": ("<html><a href='http:spam.example'>", "application/octet-stream"),
    "html by name": ("<a href='http:spam.example'>", 'application/octet-stream; name="a.HTML"'),
    "number": ("http://spam.example@3221226083/", "text/plain"),
}
"""192.0.2.99 is 3221226083."""


@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
async def test_links_are_found_however_they_are_written(server: BlockList, encoding: str) -> None:
    zones = [{"zone": "dbl.example"}, {"zone": "ip.example", "lookup": "ip"}]
    async with gate(dns=[server.address], uribl={"zones": zones}) as postfix:
        client, passed = postfix.client(), []
        for name, (text, content_type) in LINKS.items():
            reply = await client.send("a@s.example", "b@e.example", content=mail(text, content_type, encoding))
            if reply.code != 554:
                passed.append(name)
    assert passed == []


async def test_the_subject_attachments_and_attached_messages_are_read(refusal: Refusal) -> None:
    link = "http://spam.example/"
    assert await refusal(mail("x", head=f"Subject: =?utf-8?q?{link.replace(':', '=3A')}?=\r\n")) == SPAM
    inner = mail(mail(link, encoding="base64"), "message/rfc822")
    assert await refusal(inner) == SPAM
    # RFC 2046 forbids it, and people do it.
    assert await refusal(mail(inner, "message/rfc822", "base64")) == SPAM
    parts = b"--b\r\n\r\nhello\r\n--b\r\nContent-Type: text/html\r\n\r\n<a href=" + link.encode() + b">\r\n--b--\r\n"
    assert await refusal(mail(parts, "multipart/mixed; boundary=b")) == SPAM


@pytest.mark.parametrize(
    "text",
    [
        "nothing here",
        "mail anybody@spam.example about it",
        "http://good.example/ http://notspam.example/ http://mail.exact.example.org/",
        "spam.example.invalid-tld-zz",
        "http://",
        "http://[::1",
        "http://999.999.999.999/ http://1.2.3.4.5/ http://0x/",
        "http://" + "a" * 300 + ".example/",
        "http://spam..example/ http://localhost/ http://-/",
        "\x00\xff<http://>",
    ],
)
async def test_other_mail_passes(refusal: Refusal, text: str) -> None:
    assert await refusal(mail(text)) == "250"
    assert await refusal(mail(text, "text/html")) == "250"


async def test_the_registered_domain_is_asked_about_and_the_suffix_is_not(server: BlockList, refusal: Refusal) -> None:
    assert (await refusal(mail("http://a.b.evil.co.uk/"))).startswith(f"{LISTED}linked domain [evil.co.uk]")
    assert (await refusal(mail("http://user.blogspot.com/"))).startswith(f"{LISTED}linked domain [user.blogspot.com]")
    before = len(server.queries())
    assert await refusal(mail("http://b.other.blogspot.com/ http://co.uk/ http://blogspot.com/")) == "250"
    asked = ["blogspot.com.dbl.example A", "other.blogspot.com.dbl.example A"]
    assert sorted(set(server.queries()[before:])) == asked


async def test_internationalised_domains_are_asked_about_as_a_labels(refusal: Refusal) -> None:
    for name in ("böse.example", "BÖSE.example", "xn--bse-sna.example", "b%C3%B6se.example"):
        assert (await refusal(mail(f"http://{name}/", "text/plain; charset=utf-8")))[:3] == "554", name


async def test_a_host_name_is_asked_about_where_the_list_wants_that(server: BlockList, refusal: Refusal) -> None:
    before = len(server.queries())
    assert await refusal(mail("http://www.exact.example.com/"), [{"zone": "dbl.example", "lookup": "host"}]) == "250"
    assert server.queries()[before:] == ["www.exact.example.com.dbl.example A"]
    reply = await refusal(mail("http://mail.spam.example/"), [{"zone": "dbl.example", "lookup": ["host", "ip"]}])
    assert reply.startswith(f"{LISTED}linked host [mail.spam.example] blocked")


@pytest.mark.parametrize(
    "host", ["192.0.2.99", "0xC0000263", "0300.0.02.0x63", "3221226083", "192.0.611", "192%2E0.2.99"]
)
async def test_an_address_is_asked_about_where_the_list_wants_that(
    server: BlockList, refusal: Refusal, host: str
) -> None:
    zones = [{"zone": "dbl.example"}, {"zone": "ip.example", "lookup": "ip"}]
    before = len(server.queries())
    expected = f"{LISTED}linked address [192.0.2.99] blocked using ip.example; Host of a spammer, 192.0.2.99"
    assert await refusal(mail(f"http://{host}/x"), zones) == expected
    assert {query for query in server.queries()[before:] if "dbl" in query} == set()


async def test_where_a_name_leads_and_where_its_name_servers_stand() -> None:
    lists = "7.100.51.198.ip.example. IN A 127.0.0.2\n"
    with NameServer({"example.com": HOSTS, "ip.example": lists}) as server:

        async def ask(host: str, lookup: str) -> str:
            zones = [{"zone": "ip.example", "lookup": lookup}]
            return (await send([server.address], mail(f"http://{host}/"), zones=zones))[0]

        assert (await ask("landing.example.com", "address")).startswith(f"{LISTED}linked address [198.51.100.7]")
        assert await ask("nowhere.example.com", "address") == "250"
        assert await ask("landing.example.com", "ip") == "250"
        # What the sender's own name servers do not answer costs him nothing, and us no mail.
        assert await ask("refused.invalid.net", "address") == "250"


async def test_name_servers() -> None:
    table = {
        "spammer.com": {"NS": ["ns.hoster.net."]},
        "ns.hoster.net": {"A": ["198.51.100.53"]},
        "53.100.51.198.ip.example": {"A": ["127.0.0.2"]},
        "dead.com": "servfail",
    }
    zones = [{"zone": "ip.example", "lookup": "nameserver"}]
    reply, _ = await send(table, mail("http://www.spammer.com/"), zones=zones)
    assert reply == f"{LISTED}linked name server [198.51.100.53] blocked using ip.example"
    assert (await send(table, mail("http://www.dead.com/ http://good.com"), zones=zones))[0] == "250"


async def test_codes_and_bits_choose_among_the_lists_in_a_zone(refusal: Refusal) -> None:
    zones = [
        {"zone": "bits.example", "codes": ["127.0.0.0&4"], "action": "defer", "name": "grey list"},
        {"zone": "bits.example", "codes": "127.0.0.0&2"},
    ]
    assert (await refusal(mail("http://grey.example"), zones)).startswith("451 4.7.1 Service unavailable; linked dom")
    assert (await refusal(mail("http://black.example"), zones)).startswith(f"{LISTED}linked domain [black.example]")


async def test_scores_add_up_for_one_host_and_not_for_several(refusal: Refusal) -> None:
    zones = ["dbl.example", "score.example", "bits.example"]
    assert (await refusal(mail("http://spam.example/"), zones, reject_score=2)).startswith(LISTED)
    assert await refusal(mail("http://exact.example/ http://phish.example/"), zones, reject_score=2) == "250"
    with pytest.raises(ConfigError, match="does nothing"):
        await refusal(mail(""), [{"zone": "dbl.example", "action": "score"}])


async def test_a_list_of_friends_speaks_for_its_own_hosts_only(refusal: Refusal) -> None:
    zones = ["dbl.example", {"zone": "friends.example", "action": "allow"}]
    assert await refusal(mail("http://spam.example/"), zones) == "250"
    reply = await refusal(mail("http://spam.example/ http://phish.example/"), zones)
    assert reply.startswith(f"{LISTED}linked domain [phish.example]")


async def test_allowed_domains_are_not_asked_about(server: BlockList, refusal: Refusal) -> None:
    before = len(server.queries())
    text = "http://www.spam.example http://spam.example http://www.w3.org/1999/xhtml"
    assert await refusal(mail(text), allow=["Spam.Example.", "w3.org"]) == "250"
    assert server.queries()[before:] == []
    assert (await refusal(mail("http://myspam.example http://spam.example"), allow=["pam.example"])) == SPAM


async def test_a_mark_in_place_of_a_refusal(server: BlockList) -> None:
    content = mail("http://spam.example/", head="X-URIBL: clean\r\n")
    mark = b"X-URIBL: linked domain [spam.example] blocked using dbl.example; Domain of a\r\n spammer\r\n"
    for options in ({"zones": ["dbl.example"], "tag": True}, {"zones": [{"zone": "dbl.example", "tag": True}]}):
        reply, message = await send([server.address], content, **options)
        assert reply == "250"
        assert message is not None
        assert [bytes(field) for field in message.headers.fields("X-URIBL")] == [mark]
    reply, message = await send([server.address], mail("x", head="X-URIBL: mine\r\n"), zones=["dbl.example"], tag=True)
    assert message is not None
    assert message.edits == ()


async def test_one_list_may_refuse_and_another_mark(server: BlockList) -> None:
    zones = [{"zone": "dbl.example", "tag": True}, "bits.example"]
    assert (await send([server.address], mail("http://spam.example http://black.example"), zones=zones))[0][:3] == "554"
    reply, message = await send([server.address], mail("http://spam.example"), zones=zones)
    assert reply == "250"
    assert message is not None
    assert len(message.edits) == 1


async def test_so_many_hosts_and_no_more_are_asked_about(server: BlockList) -> None:
    text = " ".join(f"http://h{number}.example/" for number in range(1000))
    before = len(server.queries())
    with capture_logs() as logs:
        reply, _ = await send([server.address], mail(text), zones=["dbl.example"], max_domains=10)
    assert reply == "250"
    asked = {query.partition(".")[0] for query in server.queries()[before:]}
    assert len(asked) == 10
    assert {"h0", "h1", "h2", "h3", "h4", "h999"} <= asked
    (line,) = (line for line in logs if line["event"] == "not all links are looked up")
    assert (line["asked"], line["left_out"]) == (10, 990)


async def test_no_mail_is_refused_because_it_has_too_many_links(server: BlockList) -> None:
    text = " ".join(f"http://h{number}.example/" for number in range(1000))
    zones = ["dbl.example", "bits.example", "score.example", {"zone": "ip.example", "lookup": ["ip", "address"]}]
    assert (await send([server.address], mail(text), zones=zones, max_domains=1000))[0] == "250"


async def test_disguised_links_come_first(server: BlockList, refusal: Refusal) -> None:
    padding = "".join(f"<a href='http://h{number}.example/'>" for number in range(500))
    hidden = padding + "<a href='http://bank.example@spam.example/'>" + padding.replace("http://h", "http://i")
    assert await refusal(mail(hidden, HTML), max_domains=2) == SPAM


async def test_the_same_host_is_one_question_however_often_it_is_linked(server: BlockList, refusal: Refusal) -> None:
    before = len(server.queries())
    assert await refusal(mail("http://a.good.example/ http://b.good.example/ www.good.example " * 500)) == "250"
    assert server.queries()[before:] == ["good.example.dbl.example A"]


async def test_names_below_one_domain_do_not_crowd_out_another(server: BlockList, refusal: Refusal) -> None:
    crowd = "".join(f"<a href='http://h{number}.good.example/'>" for number in range(500))
    content = mail(f"{crowd}<a href='http://spam.example/'>{crowd.replace('//h', '//i')}", HTML)
    assert await refusal(content, max_domains=2) == SPAM


async def test_a_list_that_gives_no_answer_is_never_not_listed(refusal: Refusal) -> None:
    link = mail("http://good.example/")
    assert await refusal(link, ["not-served.example"]) == TEMPORARY
    assert await refusal(link, ["not-served.example"], on_unavailable="pass") == "250"
    assert await refusal(mail("no links"), ["not-served.example"]) == "250"
    assert await refusal(mail("http://good.example http://spam.example"), ["not-served.example", "dbl.example"]) == SPAM


async def test_no_mail_waits_for_a_mark(refusal: Refusal) -> None:
    assert await refusal(mail("http://good.example/"), ["not-served.example"], tag=True) == "250"


async def test_a_message_above_the_limit_is_not_looked_at_and_the_log_says_so(server: BlockList) -> None:
    with capture_logs() as logs:
        async with gate(
            dns=[server.address], content={"mime_limit": 2000}, uribl={"zones": ["dbl.example"]}
        ) as postfix:
            reply = await postfix.client().send(
                "a@s.example", "b@e.example", content=mail("http://spam.example/\r\n" + "x\r\n" * 1000)
            )
    assert reply.code == 250
    assert [line["reason"] for line in logs if line["event"] == "links not looked at"] == [
        "larger than content.mime_limit"
    ]


async def test_a_megabyte_of_padding_hides_nothing_behind_it(refusal: Refusal) -> None:
    assert await refusal(mail("padding " * 300_000 + "http://spam.example/")) == SPAM
    assert await refusal(mail("http://spam.example/ " + "padding " * 300_000)) == SPAM
    padding = b"--b\r\n\r\n" + b"padding " * 150_000 + b"\r\n"
    parts = 3 * padding + b"--b\r\nContent-Type: text/html\r\n\r\n<a href=http://spam.example/>\r\n" + 2 * padding
    assert await refusal(mail(parts + b"--b--\r\n", "multipart/mixed; boundary=b")) == SPAM


@pytest.mark.parametrize(
    "name",
    ['filename="=?utf-8?b?YS5odG1s?="', "filename*0=a.ht; filename*1=ml", "filename*=utf-8''a%2Ehtm", "name=a.HTML."],
)
async def test_an_attachment_is_html_if_any_of_its_names_says_so(refusal: Refusal, name: str) -> None:
    head = f"Content-Disposition: attachment; {name}\r\n"
    assert await refusal(mail("<p>x<a href='http://sp&#97;m.example/'>", "application/octet-stream", head=head)) == SPAM


async def test_recipients_may_have_other_options(server: BlockList) -> None:
    async with gate(dns=[server.address], uribl={"zones": ["dbl.example"]}) as postfix:
        client = postfix.client()
        client.session.override(Overrides({"uribl": {"tag": True}}))
        assert (await client.send("a@s.example", "b@e.example", content=mail("http://spam.example"))).code == 250


@pytest.mark.parametrize(
    "options",
    [
        {"zones": []},
        {"zones": ["a.example"], "header": "X Y"},
        {"zones": [{"zone": "a.example", "lookup": "nothing"}]},
        {"zones": ["a.example"], "max_domains": 0},
    ],
)
async def test_wrong_options_stop_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await send({}, mail(""), **options)
