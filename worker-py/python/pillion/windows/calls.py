"""How window functions are called, when a window fires and when it is dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pillion.cells import LIST
from pillion.functions import AllWindowFunction, ProcessAllWindowFunction
from pillion.stateful.context import Context
from pillion.stateful.forms import form_of
from pillion.stateful.outputs import ROW, Output, Outputs
from pillion.stateful.store import Cell
from pillion.windows.contexts import WindowContext
from pillion.windows.kinds import Window
from pillion.windows.operation import WindowOperation

Address = tuple[int, bytes]


class WindowCalls:
    """Calls the function of a window with its contents."""

    def __init__(
        self,
        label: str,
        operation: WindowOperation,
        context: Context,
        element: Output,
        outputs: Outputs,
        contents: Cell,
    ) -> None:
        self._label, self._element, self._outputs = label, element, outputs
        self._operation, self._function = operation, operation.process
        self._contents: Any = contents.spaced
        self._listed = contents.spec.kind == LIST
        self._cursor = contents.spaced._cursor
        self._context = context
        self._window_context = WindowContext(context, context._store, operation.merging)
        self._form = None if operation.func_type == "general" else form_of(label, operation.func_type)
        self._waiting: list[tuple[Address, Window, list[Any]]] = []

    def fire(self, address: Address, window: Window | None) -> None:
        """Give the result of a window."""
        if window is None:
            return
        if self._operation.evictor is not None:
            self._evict(address, window)
            return
        found = self._contents.get()
        if self._listed:
            if found:
                self._call(address, window, found)
        elif found is not None:
            self._call(address, window, [found])

    def drop(self, address: Address, window: Window | None) -> None:
        """Let the function forget a window."""
        clear = getattr(self._function, "clear", None)
        if clear is not None and window is not None:
            self._cursor.k = (address[0], window.encode())
            clear(self._window_context._at(window))

    def finish(self) -> None:
        """Call a vectorized function, for all windows that have fired: their frames are slices of one."""
        form, waiting = self._form, self._waiting
        self._waiting = []
        if form is None or not waiting:
            return
        elements = [one for _, _, values in waiting for one in values]
        batch = self._element.batch(self._label, elements, "window")
        start = 0
        for address, window, values in waiting:
            frame = form.batch(batch.slice(start, len(values)))
            start += len(values)
            self._cursor.k, self._context._cursor.k = (address[0], window.encode()), address[0]
            result = self._function(frame, self._window_context._at(window))
            if result is not None and len(result):
                self._take(form, result)

    def _take(self, form: Any, result: Any) -> None:
        main = self._outputs.main
        if main.form != ROW:
            self._outputs.take(list(result))
            return
        made = form.from_batch(result, main.fields)
        self._outputs.batches.append((0, made))

    def _evict(self, address: Address, window: Window) -> None:
        operation, context = self._operation, self._window_context._at(window)
        elements = [(one[0], one[1]) for one in self._contents.get()]
        if not elements:
            return
        kept = operation.evictor.evict_before(elements, window, context)
        values = [value for value, _ in kept]
        if values and operation.reduce is not None:
            total = values[0]
            for value in values[1:]:
                total = operation.reduce(total, value)
            values = [total]
        elif values and operation.aggregate is not None:
            accumulator = operation.aggregate.create_accumulator()
            for value in values:
                accumulator = operation.aggregate.add(value, accumulator)
            values = [operation.aggregate.get_result(accumulator)]
        if values:
            self._call(address, window, values)
        kept = operation.evictor.evict_after(kept, window, context)
        if len(kept) != len(elements):
            self._cursor.k = address
            self._contents.update(kept)

    def _call(self, address: Address, window: Window, values: list[Any]) -> None:
        if self._form is not None:
            self._waiting.append((address, window, values))
            return
        function, context = self._function, self._window_context._at(window)
        self._cursor.k = (address[0], window.encode())
        results: Iterable[Any] | None
        if function is None:
            results = values
        elif isinstance(function, ProcessAllWindowFunction):
            results = function.process(context, values)  # type: ignore[attr-defined]
        elif isinstance(function, AllWindowFunction):
            results = function.apply(window, values)  # type: ignore[attr-defined]
        elif hasattr(function, "process"):
            results = function.process(context.key, context, values)
        elif hasattr(function, "apply"):
            results = function.apply(context.key, window, values)
        else:
            results = function(context.key, context, values)
        if results is not None:
            self._outputs.take(results)
        self._cursor.k = address
