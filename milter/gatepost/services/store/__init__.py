"""The store, the only state that outlives a session, and what counts in it."""
