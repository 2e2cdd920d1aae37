"""What a function is told when it is opened."""

from __future__ import annotations

import os


class FunctionContext:
    """Handed to :meth:`pillion.ScalarFunction.open`, once per worker."""

    def __init__(self, function_name: str) -> None:
        self.function_name = function_name
        """The function as it was asked for: `file.py:name` or `module:name`."""

    def get_job_parameter(self, key: str, default_value: str) -> str:
        """The variable `key` of the function's environment, or `default_value` if it is not set.

        PyFlink keeps job parameters in the job's configuration; a sidecar serves many jobs, so here they are the
        `variables` that the environment of the function declares.
        """
        return os.environ.get(key, default_value)

    def __repr__(self) -> str:
        return f"FunctionContext({self.function_name!r})"
