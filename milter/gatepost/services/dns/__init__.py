"""DNS for every plugin: one resolver, its cache, its limits."""
