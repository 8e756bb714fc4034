"""The plugins in their order: which is asked what, in what time, and what its answer means for client and message."""
