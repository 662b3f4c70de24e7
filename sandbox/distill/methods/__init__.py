"""Published methods: each one file of records for the parts of a `Strategy`."""

METHODS: tuple[type, ...] = ()
"""What a stored record may name."""
