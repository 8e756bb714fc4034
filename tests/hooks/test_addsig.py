"""addsig: the signature is where readers look for it, whole, in every charset, and nothing else moves."""

from __future__ import annotations

import asyncio
import base64
import html
import os
import quopri
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost import Address, ConfigError, Message
from gatepost.message.edit import ReplaceBody
from gatepost.testing import Gate, gate, run_hook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENVELOPE = (Address("anna", "example.org"), [Address("bert", "example.net")])
SIGNATURE = "Example Ltd, Vienna\nwww.example.org\n"
BLOCK = b"-- \r\nExample Ltd, Vienna\r\nwww.example.org\r\n"
HTML_BLOCK = b"<div>-- <br>\r\nExample Ltd, Vienna<br>\r\nwww.example.org</div>"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "signatures"
    place.mkdir()
    (place / "example.org").write_text(SIGNATURE)
    return place


async def signed(directory: Path, content: bytes, sender: str = "anna@example.org", **options: object) -> Message:
    result = await run_hook(
        "addsig", "data_post", options={"directory": str(directory), **options}, sender=sender, content=content
    )
    return result.message


async def body_of(directory: Path, content: bytes, **options: object) -> bytes:
    return bytes((await signed(directory, content, "anna@example.org", **options)).body)


def header(*fields: str) -> bytes:
    return "".join(f"{field}\r\n" for field in ("MIME-Version: 1.0", *fields, "")).encode()


# Where it goes


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"Hello\r\n", b"Hello\r\n" + BLOCK),
        (b"Hello", b"Hello\r\n" + BLOCK),
        (b"", BLOCK),
        (b"Hello\r\n\r\n", b"Hello\r\n\r\n" + BLOCK),
    ],
)
async def test_plain_mail_ends_with_the_signature(directory: Path, text: bytes, result: bytes) -> None:
    mail = await signed(directory, b"Subject: x\r\n\r\n" + text)
    assert bytes(mail.body) == result
    assert [type(edit) for edit in mail.edits] == [ReplaceBody]


MULTIPART = header("Content-Type: multipart/mixed; boundary=out") + (
    b"preamble\r\n--out\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
    b"--in\r\n\r\nPLAIN\r\n"
    b"--in\r\nContent-Type: multipart/related; boundary=rel\r\n\r\n"
    b"--rel\r\nContent-Type: text/html\r\n\r\n<html><body><p>Hi</p>HTML</body></html>\r\n"
    b"--rel\r\nContent-Type: text/plain\r\n\r\nnot the root\r\n--rel--\r\n"
    b"--in--\r\n"
    b"--out\r\nContent-Type: text/plain\r\n\r\nsecond text\r\n"
    b"--out\r\nContent-Disposition: attachment\r\n\r\nfile\r\n"
    b"--out--\r\nepilogue\r\n"
)


async def test_all_forms_of_the_first_text_are_signed_and_nothing_else_changes(directory: Path) -> None:
    mail = await signed(directory, MULTIPART)
    expected = MULTIPART.partition(b"\r\n\r\n")[2]
    expected = expected.replace(b"PLAIN", b"PLAIN\r\n" + BLOCK.removesuffix(b"\r\n"))
    expected = expected.replace(b"HTML</body>", b"HTML\r\n" + HTML_BLOCK + b"\r\n</body>")
    assert bytes(mail.body) == expected
    assert [type(edit) for edit in mail.edits] == [ReplaceBody]


async def test_attachments_before_the_text_are_passed_over(directory: Path) -> None:
    content = header("Content-Type: multipart/mixed; boundary=b") + (
        b"--b\r\nContent-Type: text/plain; name=a.txt\r\n\r\nfile\r\n"
        b"--b\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename=x.html\r\n\r\nfile\r\n"
        b"--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n--b--\r\n"
    )
    body = await body_of(directory, content)
    assert body == content.partition(b"\r\n\r\n")[2].replace(b"text\r\n--b--", b"text\r\n" + BLOCK + b"--b--")


@pytest.mark.parametrize(
    ("page", "result"),
    [
        (b"<p>x</p>\r\n", b"<p>x</p>\r\n%b\r\n"),
        (b"<p></BODY ></HTML>\r\n", b"<p>\r\n%b\r\n</BODY ></HTML>\r\n"),
        (b"<p></html>\r\n", b"<p>\r\n%b\r\n</html>\r\n"),
        (b"</body>quoted</body></html>\r\n", b"</body>quoted\r\n%b\r\n</body></html>\r\n"),
    ],
)
async def test_html_is_signed_before_its_end(directory: Path, page: bytes, result: bytes) -> None:
    assert await body_of(directory, header("Content-Type: text/html") + page) == result % HTML_BLOCK


async def test_markup_in_a_signature_is_text(directory: Path) -> None:
    (directory / "example.org").write_text("R&D <rd@example.org> ü\n")
    body = await body_of(directory, header("Content-Type: text/html; charset=us-ascii") + b"x\r\n")
    assert body == b"x\r\n<div>-- <br>\r\nR&amp;D &lt;rd@example.org&gt; &#252;</div>\r\n"


# Charsets and transfer encodings

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "7bit": bytes,
    "8bit": bytes,
    "quoted-printable": lambda data: quopri.encodestring(data).replace(b"\n", b"\r\n").replace(b"\r\r\n", b"\r\n"),
    "base64": lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
}
CHARSETS = {
    "us-ascii": "Hi",
    "utf-8": "Grüße",
    "iso-8859-1": "Grüße",
    "windows-1252": "100 €",
    "koi8-r": "Привет",
    "iso-2022-jp": "こんにちは",
    "utf-7": "Grüße",
}


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("kind", ["plain", "html"])
async def test_readers_see_text_and_signature_whatever_the_encoding(
    directory: Path, encoding: str, charset: str, kind: str
) -> None:
    (directory / "example.org").write_text("Straße, 東京\n")
    text = CHARSETS[charset] + " a=b"
    fields = header(f"Content-Type: text/{kind}; charset={charset}", f"Content-Transfer-Encoding: {encoding}")

    mail = await signed(directory, fields + ENCODERS[encoding](text.encode(charset)))

    assert mail.mime is not None
    read = html.unescape(mail.mime.get_content()).splitlines()
    assert read[0] == text
    assert read[1].removeprefix("<div>").removesuffix("<br>") == "-- "
    assert read[2].removesuffix("</div>") == "Straße, 東京"
    if encoding != "7bit":
        assert mail.headers.get("Content-Transfer-Encoding") == encoding
    if kind == "html":
        assert mail.mime.get_content_charset() == charset


async def test_utf_16_stays_utf_16(directory: Path) -> None:
    fields = header("Content-Type: text/plain; charset=utf-16", "Content-Transfer-Encoding: base64")
    mail = await signed(directory, fields + base64.encodebytes("Hi\r\n".encode("utf-16")))
    assert base64.b64decode(bytes(mail.body)) == ("Hi\r\n" + BLOCK.decode()).encode("utf-16")
    assert [type(edit) for edit in mail.edits] == [ReplaceBody]


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/plain", b"caf\xe9\r\n"),
        ("text/plain; charset=utf-8", b"caf\xe9\r\n"),
        ("text/plain; charset=no-such-charset", b"caf\xe9\r\n"),
        ("text/plain; charset=rot13", b"caf\xe9\r\n"),
        # Punycode would take minutes to decode it.
        ("text/plain; charset=PUNYCODE", b"b" * 500_000 + b"-" + b"a" * 500_000 + b"\r\n"),
        ("text/html; charset=gb2312", b"caf\xff\r\n"),
    ],
)
async def test_bytes_that_are_not_in_their_charset_stay_as_they_are(
    directory: Path, content_type: str, text: bytes
) -> None:
    assert (await body_of(directory, header(f"Content-Type: {content_type}") + text)).startswith(text)


async def test_utf_8_that_is_not_labelled_becomes_labelled_when_the_signature_needs_it(directory: Path) -> None:
    (directory / "example.org").write_text("ü\n")
    mail = await signed(directory, b"Subject: x\r\n\r\ncaf\xc3\xa9\r\n")
    assert bytes(mail.body) == "café\r\n-- \r\nü\r\n".encode()
    assert mail.headers.get("Content-Type") == "text/plain; charset=utf-8"
    assert mail.headers.get("MIME-Version") == "1.0"


async def test_format_flowed_is_respected(directory: Path) -> None:
    (directory / "example.org").write_text("From Vienna  \n > quoted\nplain\n")
    content = header("Content-Type: text/plain; format=flowed") + b"flowing \r\n"
    assert await body_of(directory, content) == b"flowing \r\n-- \r\n From Vienna\r\n  > quoted\r\nplain\r\n"


async def test_lf_inside_an_encoding_stays_lf(directory: Path) -> None:
    content = header("Content-Transfer-Encoding: base64") + base64.encodebytes(b"one\ntwo\n")
    assert base64.b64decode(await body_of(directory, content)) == b"one\ntwo\n" + BLOCK.replace(b"\r\n", b"\n")


# What is left alone

PGP = b"-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"DKIM-Signature: v=1\r\n\r\nx\r\n",
        b"ARC-Seal: i=1\r\n\r\nx\r\n",
        b"ARC-Message-Signature: i=1\r\n\r\nx\r\n",
        b"\r\n" + PGP,
        header("Content-Transfer-Encoding: base64") + base64.encodebytes(b"x\r\n" + PGP),
        header("Content-Type: multipart/signed; boundary=b") + b"--b\r\n\r\nx\r\n--b--\r\n",
        header("Content-Type: multipart/encrypted; boundary=b") + b"--b\r\n\r\nx\r\n--b--\r\n",
        header("Content-Type: multipart/report; boundary=b") + b"--b\r\n\r\nx\r\n--b--\r\n",
        header("Content-Type: application/pkcs7-mime") + b"x\r\n",
        header("Content-Type: multipart/mixed; boundary=b")
        + b"--b\r\n\r\nx\r\n--b\r\nContent-Type: multipart/signed; boundary=c\r\n\r\n"
        + b"--c\r\n\r\ny\r\n--c--\r\n--b--\r\n",
        header("Content-Type: text/calendar") + b"x\r\n",
        header("Content-Type: message/rfc822") + b"\r\nx\r\n",
        header("Content-Transfer-Encoding: x-uuencode") + b"x\r\n",
        header("Content-Transfer-Encoding: base64") + b"AAAAA\r\n",
        header("Content-Type: text/plain; charset=utf-16") + b"odd\r\n",
        header("Content-Type: multipart/mixed; boundary=b") + b"no part\r\n",
        header("Content-Type: multipart/mixed; boundary=b")
        + b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--\r\n",
        b"\r\nx\r\n" + BLOCK,
        b"\r\nx\r\n" + BLOCK + b"\r\n",
        header("Content-Type: text/html") + b"<p>x\r\n" + HTML_BLOCK + b"\r\n</body>\r\n",
    ],
)
async def test_left_alone(directory: Path, content: bytes) -> None:
    assert (await signed(directory, content)).edits == ()


async def test_a_signature_that_would_break_the_message_is_left_out(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "example.org").write_text("Example Ltd\n--b\n")
    content = header("Content-Type: multipart/mixed; boundary=b") + b"--b\r\n\r\nx\r\n--b--\r\n"
    assert (await signed(directory, content)).edits == ()
    assert "boundary line" in capsys.readouterr().out


async def test_an_empty_text_between_two_boundary_lines_is_signed(directory: Path) -> None:
    file = b"--b\r\nContent-Type: application/pdf\r\n\r\n%PDF\r\n--b--\r\n"
    content = header("Content-Type: multipart/mixed; boundary=b") + b"--b\r\n" + file
    assert await body_of(directory, content, separator=False) == (
        b"--b\r\n\r\nExample Ltd, Vienna\r\nwww.example.org\r\n" + file
    )


async def test_a_signature_that_the_charset_cannot_hold_is_left_out_where_the_text_cannot_become_utf_8(
    directory: Path,
) -> None:
    (directory / "example.org").write_text("ü\n")
    assert (await signed(directory, b"\r\ncaf\xe9\r\n")).edits == ()


async def test_mail_above_the_mime_limit_is_left_alone(directory: Path) -> None:
    async with gate(addsig={"directory": str(directory)}, content={"mime_limit": "1 KiB"}) as made:
        small, large = [await through(made, b"\r\n" + b"x" * size) for size in (900, 1100)]
    assert len(small.edits) == 1
    assert large.edits == ()


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "postmaster",
        "a@other.example",
        "a@../signatures/example.org",
        "a@.example.org",
        "a@example.org.",
        "a@[192.0.2.1]",
    ],
)
async def test_other_senders_get_none(directory: Path, sender: str) -> None:
    (directory / ".example.org").write_text("hidden\n")
    (directory / "example.org.").write_text("dot\n")
    (directory / "[192.0.2.1]").write_text("literal\n")
    assert (await signed(directory, b"\r\nx\r\n", sender)).edits == ()


async def test_the_domain_is_compared_without_case_and_may_be_utf_8(directory: Path) -> None:
    (directory / "bücher.example").write_text("Bücher\n")
    assert (await signed(directory, b"\r\nx\r\n", "a@EXAMPLE.org")).edits
    assert (await signed(directory, b"\r\nx\r\n", "a@bücher.example")).edits


@given(
    st.lists(
        st.sampled_from([MULTIPART, b"--in\r\n", b"--out--\r\n", b"\r\n", b"\xff", b"Content-Type: text/html\r\n"])
    )
)
@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_no_message_makes_it_fail_and_what_it_adds_is_all_that_changes(directory: Path, pieces: list[bytes]) -> None:
    content = MULTIPART[:100] + b"".join(pieces)
    before = bytes(Message.parse(content, *ENVELOPE).body)
    after = asyncio.run(body_of(directory, content))
    for added in (b"\r\n" + HTML_BLOCK, HTML_BLOCK, b"\r\n" + BLOCK[:-2], BLOCK[:-2]):
        after = after.replace(added, b"")
    assert after.replace(b"\r\n", b"") == before.replace(b"\r\n", b"")


# Options


@pytest.mark.parametrize(
    ("options", "content", "result"),
    [
        ({"separator": False}, b"\r\nx\r\n", b"x\r\n\r\n" + BLOCK.removeprefix(b"-- \r\n")),
        (
            {"separator": False, "html": "pre"},
            header("Content-Type: text/html") + b"x\r\n",
            b"x\r\n<pre>Example Ltd, Vienna\r\nwww.example.org</pre>\r\n",
        ),
        ({"html": "off"}, header("Content-Type: text/html") + b"x\r\n", b"x\r\n"),
    ],
)
async def test_options_change_the_form(
    directory: Path, options: dict[str, object], content: bytes, result: bytes
) -> None:
    assert await body_of(directory, content, **options) == result


@pytest.mark.parametrize("separator", [True, False])
async def test_a_separator_in_the_file_is_not_doubled(directory: Path, separator: bool) -> None:
    (directory / "example.org").write_text("\ufeff-- \r\nExample Ltd\r\n\r\n")
    body = await body_of(directory, header("Content-Type: text/html") + b"x\r\n", separator=separator)
    assert body == b"x\r\n<div>-- <br>\r\nExample Ltd</div>\r\n"
    assert await body_of(directory, b"\r\nx\r\n", separator=separator) == b"x\r\n-- \r\nExample Ltd\r\n"


async def test_authenticated_only_leaves_strangers_without(directory: Path) -> None:
    async with gate(addsig={"directory": str(directory), "authenticated_only": True}) as made:
        stranger = await through(made, b"\r\nx\r\n")
        user = await through(made, b"\r\nx\r\n", login="anna")
    assert stranger.edits == ()
    assert len(user.edits) == 1


# The files


async def through(made: Gate, content: bytes, sender: str = "anna@example.org", login: str | None = None) -> Message:
    client = made.client(login=login)
    reply = await client.send(sender, "bert@example.net", content=content)
    assert reply.code == 250
    assert client.message is not None
    return client.message


async def signature_in_use(made: Gate) -> bytes:
    """Return what a message from example.org gets after its first line."""
    mail = await through(made, b"\r\nx\r\n")
    return bytes(mail.body).removeprefix(b"x\r\n").removeprefix(b"-- \r\n")


def save(path: Path, data: bytes) -> None:
    """Write a new version as an editor does, with another time of change."""
    new = path.with_name("new~")
    new.write_bytes(data)
    stamp = path.stat().st_mtime_ns + 1_000_000_000 if path.exists() else 1_000_000_000
    os.utime(new, ns=(stamp, stamp))
    new.replace(path)


async def test_a_changed_file_counts_from_the_next_message_on(directory: Path) -> None:
    path = directory / "example.org"
    async with gate(addsig={"directory": str(directory)}) as made:
        save(path, b"second\n")
        assert await signature_in_use(made) == b"second\r\n"
        path.unlink()
        assert await signature_in_use(made) == b""
        save(path, b"third\n")
        assert await signature_in_use(made) == b"third\r\n"
        save(path, b"\n")
        assert await signature_in_use(made) == b""


async def test_a_broken_new_version_is_logged_by_line_and_the_old_one_stays(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = directory / "example.org"
    async with gate(addsig={"directory": str(directory)}) as made:
        save(path, b"good\n")
        assert await signature_in_use(made) == b"good\r\n"
        for bad in (b"fine\n\xff\n", b"fine\n\0\n"):
            save(path, bad)
            assert await signature_in_use(made) == b"good\r\n"
            seen = capsys.readouterr()
            assert f"{path}:2" in seen.out + seen.err


async def test_a_new_file_that_was_never_good_is_logged_once(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = directory / "example.org"
    path.unlink()
    async with gate(addsig={"directory": str(directory)}) as made:
        save(path, b"\xff\n")
        assert [await signature_in_use(made) for _ in range(3)] == [b"", b"", b""]
        seen = capsys.readouterr()
        assert (seen.out + seen.err).count(f"{path}:1") == 1
        save(path, b"mended\n")
        assert await signature_in_use(made) == b"mended\r\n"


async def test_a_missing_directory_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"addsig\.directory"):
        await signed(tmp_path / "missing", b"\r\nx\r\n")


async def test_a_bad_file_stops_the_start_with_its_line(directory: Path) -> None:
    (directory / "other.example").write_bytes(b"one\n\xff\n")
    with pytest.raises(ConfigError) as raised:
        await signed(directory, b"\r\nx\r\n")
    assert str(raised.value).startswith(f"{directory / 'other.example'}:2: ")


async def test_other_files_in_the_directory_are_not_looked_at(directory: Path) -> None:
    (directory / "example.org~").write_bytes(b"\xff")
    (directory / "old").mkdir()
    assert (await signed(directory, b"\r\nx\r\n")).edits
