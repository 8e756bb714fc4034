"""`gatepost check`: everything wrong with a configuration and all that it leads to, at once, beside a live daemon."""
