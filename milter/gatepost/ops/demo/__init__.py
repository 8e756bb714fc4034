"""`gatepost demo`: a private Postfix with the daemon behind it, and a newcomer's first sessions with them."""
