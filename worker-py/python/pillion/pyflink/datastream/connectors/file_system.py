"""A sink that writes one file of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pillion.pyflink.common.serialization import Encoder


class OutputFileConfig:
    """How the file is called."""

    def __init__(self, prefix: str = "part", suffix: str = "") -> None:
        self.prefix, self.suffix = prefix, suffix

    @staticmethod
    def builder() -> OutputFileConfig:
        """The default, to be changed."""
        return OutputFileConfig()

    def with_part_prefix(self, prefix: str) -> OutputFileConfig:
        """Begin the name with this."""
        self.prefix = prefix
        return self

    def with_part_suffix(self, suffix: str) -> OutputFileConfig:
        """End the name with this."""
        self.suffix = suffix
        return self

    def build(self) -> OutputFileConfig:
        """The configuration."""
        return self


class RollingPolicy:
    """When a new file begins: never, here."""

    @staticmethod
    def default_rolling_policy(*settings: Any, **named: Any) -> RollingPolicy:
        """The only one."""
        return RollingPolicy()


class FileSink:
    """Writes elements as lines of one file below a folder."""

    def __init__(self, base_path: str, encoder: Encoder) -> None:
        self._base_path, self._encoder = base_path, encoder
        self._config = OutputFileConfig()

    @staticmethod
    def for_row_format(base_path: str, encoder: Encoder) -> FileSink:
        """A sink below this folder."""
        return FileSink(base_path, encoder)

    def with_output_file_config(self, file_config: OutputFileConfig) -> FileSink:
        """Call the file so."""
        self._config = file_config
        return self

    def with_rolling_policy(self, policy: RollingPolicy) -> FileSink:
        """Taken, without effect."""
        return self

    def build(self) -> FileSink:
        """The sink."""
        return self

    def write(self, lines: list[str]) -> None:
        """Write the file."""
        folder = Path(self._base_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._config.prefix}-0{self._config.suffix}"
        path.write_text("".join(f"{line}\n" for line in lines), encoding=self._encoder.charset)
