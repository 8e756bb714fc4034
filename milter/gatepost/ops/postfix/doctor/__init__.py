"""What `gatepost postfix doctor` does: reads a live configuration and says what will not work, and how to mend it.

It changes nothing, neither files nor the state of a daemon. From the ground up: `finding` is what it says, `remedy`
makes the commands to run, `smtpd` tells what is in force in one service, `place` compares addresses, `roster` knows
what the loaded plugins ask of Postfix, `examination` gathers all facts once. Each concern then has a module with
`find(examination)`: `fronts`, `inner`, `milters`, `timeouts`, `limits`, `smuggling`, `recipients` (on `lookup` and
`routing`), `drift`, `sockets` and `live`. `diagnosis` asks them in order, `report` prints.
"""
