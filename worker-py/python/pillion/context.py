"""What a function is told when it is opened."""

from __future__ import annotations

import os

from pillion.metrics import MetricGroup, Metrics


class FunctionContext:
    """Handed to :meth:`pillion.ScalarFunction.open`, once per worker."""

    def __init__(self, function_name: str, metrics: Metrics | None = None) -> None:
        self.function_name = function_name
        """The function as it was asked for: `file.py:name` or `module:name`."""
        self.metrics = metrics or Metrics(function_name)
        """All of them; for the worker."""

    def get_metric_group(self) -> MetricGroup:
        """Where the function's metrics are. They reach whoever runs the sidecar, and the engine, with each batch."""
        return self.metrics.group

    def get_job_parameter(self, key: str, default_value: str) -> str:
        """The variable `key` of the function's environment, or `default_value` if it is not set.

        PyFlink keeps job parameters in the job's configuration; a sidecar serves many jobs, so here they are the
        `variables` that the environment of the function declares.
        """
        return os.environ.get(key, default_value)

    def __repr__(self) -> str:
        return f"FunctionContext({self.function_name!r})"
