"""Programs that look at a message: their protocols, and which of several servers is asked."""
