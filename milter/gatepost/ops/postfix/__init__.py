"""What `gatepost postfix show|diff|apply|revert|doctor` does to master.cf, and nothing else of Postfix.

The modules from the ground up: `postconf` reads and edits one configuration directory, `listener` writes addresses as
Postfix does, `entry` says what a front and the inner service must hold, `milters` decides about milters that were
there before, `fronts` chooses the services, `plan` puts these together without touching a file, `backup` keeps and
restores the originals, `change` carries a plan out, `report` prints, `doctor` looks for what will not work, `commands`
is the command line.
"""
