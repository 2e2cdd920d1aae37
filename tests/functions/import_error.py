"""Fails at import."""


def helper():
    raise LookupError("no such thing")


helper()
