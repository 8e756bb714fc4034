"""The sockets: the proxy port, the connections to the inner smtpd, the milter socket."""
