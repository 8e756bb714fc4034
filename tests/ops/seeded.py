"""A configuration with as many kinds of mistakes as an administrator makes, each line that has one marked in place.

A comment `#! WORDS` ends such a line: the check must find, exactly there, a mistake in these words; for two mistakes in
one line, `#! WORDS #! WORDS`. A line without a mark must have none.
"""

from __future__ import annotations

from typing import Final

CONFIGURATION: Final = """\
[proxy]
listn = "127.0.0.1:10025"           #! there is no key 'listn' here: did you mean 'listen'?
max_sessions = 0                    #! greater than or equal to 1 (given: 0)
front_timeout = "soon"              #! 'soon' is not a duration
inner = "unix:/run/inner"           #! the inner smtpd must be reached by TCP
bare_newline = reject               #! not TOML: Invalid value: text stands in quotes
[milter]
socket = "inet:8890@localhost"      #! is no address: write HOST:PORT
edge = "maybe"                      #! milter.edge: Input should be a valid boolean
[store]
url = "redis://localhost"           #! Redis comes in a later version
[dns]
nameservers = ["192.0.2.1", "ns.example.org"]   #! 'ns.example.org'
[content]
defer_limit = -1                    #! greater than or equal to 0
mime_limit = "much"                 #! 'much' is not a size
disagree = "later"                  #! 'defer-rest' or 'lenient'
[contents]                          #! there is no key 'contents' here: did you mean 'content'?
defer_limit = 3

[hooks]
directory = "hooks"

[[plugin]]
name = "client_options"
file = "client_options"
lenient = true                      #! client_options has no option 'lenient'

[[plugin]]
name = "aliases"
file = "aliases"
timeout = "-1s"                     #! aliases.timeout: '-1s' is not a duration

[[plugin]]
name = "greylist"
black_timeout = "50 minutes"        #! greylist.black_timeout: '50 minutes' is not a duration
key = ["remote_ip", "colour"]       #! greylist.key.1: Input should be 'remote_ip', 'sender' or 'recipient'
mode = "on"                         #! greylist.mode: Input should be 'enforce', 'observe' or 'off'

[[plugin]]
name = "loop"
max = 0                             #! loop.max: Input should be greater than or equal to 1
max = 30                            #! Cannot overwrite a value: the key stands there before; delete one

[[plugin]]
name = "greylst"                    #! there is no plugin 'greylst': did you mean 'greylist'?

[[plugin]]
name = "loop"                       #! plugin loop stands here twice, first in line 41

[[plugin]]                          #! a [[plugin]] needs a name
file = "aliases"

[[plugin]]
name = "addsig"
directory = "none"                  #! addsig.directory: none is no directory: make it

[[plugin]]                          #! whitelist needs the option 'file'
name = "whitelist"

[[plugin]]
name = "badmailfrom"
file = "missing"                    #! plugin badmailfrom: cannot read missing: No such file

[[plugin]]
name = "hosts_allow"
file = "hosts_allow"

[[plugin]]
name = "count_denies"
limit = "four"                      #! count_denies.limit: Input should be a valid integer

[[plugin]]
name = "wrong_methods"
on_error = "allow"                  #! wrong_methods.on_error: Input should be 'defer' or 'pass'

[[plugin]]
name = "syntax"

[[plugin]]
name = "fails"

[[plugin]]
name = "init_fails"

[[plugin]]
name = "empty"

[[plugin]]
name = "two"
"""

FILES: Final = {
    "gatepost.toml": CONFIGURATION,
    "client_options": """\
# Fine:
10.0.0.0/8: greylist=off, syntax=off, syntax.level=3, greylst=off
10.1.2.3/8: greylist=off                    #! 10.1.2.3/8 is no network: write 10.0.0.0/8
example.net: greylist.black=5m              #! greylist has no option 'black'
example.org greylist=off                    #! not understood
example.com: greylist=maybe, loop.max=many  #! greylist.mode: Input should be
10.0.0.0/8: greylist=off                    #! 10.0.0.0/8 is listed twice, in lines 2 and 7
""",
    "aliases": """\
fine@example.org: a@example.com (greylist=off)
no colon here                               #! there is no colon
two@example.org: a@@example.com             #! is not an address
fine@example.org: b@example.com             #! fine@example.org is listed twice, in lines 1 and 4
open@example.org: a@example.com (loop.max=3 #! a parenthesis or quote is left open
word@example.org: (count_denys=off)         #! there is no plugin 'count_denys': did you mean 'count_denies'?
""",
    "hosts_allow": """\
192.0.2.0/24: allow
192.0.2.1: maybe                            #! 'maybe' is no action
""",
    "hooks/wrong_methods.py": """\
from gatepost import Deny, Plugin
class WrongMethods(Plugin):
    data = 3                                #! data is the name of a hook, and here it is a int
    def recpt(self, transaction, address):  #! recpt is no hook
        return None
    def mail(self, sender):                 #! mail has the wrong arguments
        return None
    def deny(self, session, hook, verdict):
        return Deny()                       #! the deny hook may not answer Deny
""",
    "hooks/syntax.py": "def broken(:              #! not Python: invalid syntax\n",
    "hooks/fails.py": "import gatepost\nimport no_such_module   #! cannot be loaded: No module named 'no_such_\n",
    "hooks/init_fails.py": """\
from gatepost import Plugin
class InitFails(Plugin):
    def init(self):
        open("/none/such")                  #! plugin init_fails cannot start: FileNotFoundError
    def rcpt(self, transaction, recipient):
        return None
""",
    "hooks/empty.py": "x = 1                    #! one class that subclasses gatepost.Plugin; here are 0\n",
    "hooks/two.py": """\
from gatepost import Plugin
class One(Plugin): ...
class Two(Plugin): ...                      #! one class that subclasses gatepost.Plugin; here are 2
""",
}


def marks() -> list[tuple[str, str]]:
    """Return `FILE:LINE` and the words of every mark, in the order of files and lines."""
    return [
        (f"{name}:{number}", words.strip())
        for name, text in sorted(FILES.items())
        for number, line in enumerate(text.split("\n"), 1)
        for words in line.split("#!")[1:]
    ]
