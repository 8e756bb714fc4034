"""A Postfix on the other side: its own retries deliver to recipients that disagree, all of them and each once."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from tests.e2e.postfix_rig import SmtpClient, queue_id

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

RECIPIENTS = 30


def test_thirty_recipients_who_disagree_get_their_mail(gate: Gate) -> None:
    postfix = gate.postfix
    # example.net goes to ourselves once more, through gatepost; what the aliases make of it stays in the queue.
    transport = f"inline:{{{{example.net=smtp:[127.0.0.1]:{postfix.front_port}}}}}"
    postfix.postconf_edit(
        {
            "transport_maps": transport,
            "relay_transport": "smtp:[127.0.0.1]:1",
            "minimal_backoff_time": "1s",
            "queue_run_delay": "1s",
        }
    )
    postfix.reload()
    aliases = "".join(f"r{n}@example.net: r{n}@example.org (tag.text=t{n})\n" for n in range(RECIPIENTS))
    tag = """
    class Options(PluginOptions):
        text: str = ""

    class Tag(Plugin[Options]):
        def data_post(self, transaction, message):
            message.add_header("X-Tag", self.options(transaction).text)
    """
    tables = (
        '[[plugin]]\nname = "aliases"\nfile = "aliases"\n[[plugin]]\nname = "tag"\n[[plugin]]\nname = "count_denies"\n'
    )
    gate.use(tables, files={"aliases": aliases}, hooks={"tag": tag}, restart=True)

    with SmtpClient(gate.plain_port) as client:
        recipients = [f"r{n}@example.net".encode() for n in range(RECIPIENTS)]
        queue_id(client.message(b"Subject: to all\r\n\r\ntext\r\n.\r\n", *recipients))

    def delivered() -> list[str]:
        return sorted(
            recipient
            for entry in postfix.queue()
            for recipient in entry.recipients
            if recipient.endswith("@example.org")
        )

    wanted = sorted(f"r{n}@example.org" for n in range(RECIPIENTS))
    deadline = time.monotonic() + 90
    while (found := delivered()) != wanted:
        assert time.monotonic() < deadline, (found, postfix.log()[-3000:])
        subprocess.run(["/usr/sbin/postqueue", "-c", str(postfix.config_dir), "-f"], check=True, timeout=30)
        time.sleep(0.1)
    gate.wait_until_idle()
    tally = gate.tally()
    assert tally["accepted"] == RECIPIENTS
    assert tally["offered"] == tally["accepted"] + tally["deferred"]
