"""What gatepost uses of aiospamc, which has annotations but does not say so (no py.typed)."""
