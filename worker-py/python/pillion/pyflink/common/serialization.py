"""How sinks write elements."""

from __future__ import annotations


class Encoder:
    """Writes one element as text."""

    @staticmethod
    def simple_string_encoder(charset_name: str = "UTF-8") -> Encoder:
        """`str` of the element, a line each."""
        made = Encoder()
        made.charset = charset_name
        return made

    charset = "UTF-8"
