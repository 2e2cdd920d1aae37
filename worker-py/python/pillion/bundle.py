"""What the native runtime hands to a stateful function for one bundle, and what it takes back: columns, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pillion._native import Batch, Column, Type
from pillion.errors import PillionError

EVENT = "event"
PROCESSING = "processing"
"""The domains of timers."""

PUT, APPEND, REMOVE, CLEAR, TOUCH, CLEAR_PREFIX = range(6)
"""What a write does: sets a value or a map's entry; adds to a list; takes out a map's entry; drops everything at key
and namespace; only says that the value was read, which matters to cells whose time to live counts reads; or takes out
the entries of a map whose keys begin with a string or bytes.
"""

SET, DELETE = range(2)
"""What becomes of a timer."""

MIN_TIME, MAX_TIME = -(2**63), 2**63 - 1
"""Bounds of timestamps, in milliseconds. A watermark of `MIN_TIME` means that there was none yet."""

Wanted = tuple[str, Batch]
"""A cell, and what is asked of it, each thing once: `key` (uint32, positions), `namespace` (binary), and where they say
something `sub` (the key of one entry of a map) and `after` (what an earlier answer said of what comes next).
"""

Found = tuple[Column, "Column | None"]
"""Values as in `state`, aligned with what was asked, and unless all is complete what to ask next as `after`: null where
it is complete. The parts of lists and maps follow each other.
"""

Fetch = Callable[[list[Wanted]], list[Found]]
"""Reads state in mid-bundle."""

UINT32 = Type.parse("uint32").with_nullable(False)
UINT8 = Type.parse("uint8").with_nullable(False)
INT64 = Type.parse("bigint").with_nullable(False)
TEXT = Type.parse("string").with_nullable(False)
BINARY = Type.parse("bytes")
SPACE = BINARY.with_nullable(False)
"""Of namespaces of timers and fetches, where the empty one is no bytes; in writes it is null, too."""

TIMER_FIELDS = [
    ("key", UINT32),
    ("domain", TEXT),
    ("name", TEXT),
    ("namespace", SPACE),
    ("timestamp", INT64),
    ("op", UINT8),
]
"""The columns of :attr:`Effects.timers`; fired timers have all but the last."""


def no_fetch(wanted: list[Wanted]) -> list[Found]:
    """The `fetch` of a bundle that somebody has made by hand, without state behind it."""
    cells = ", ".join(f"`{name}`" for name, _ in wanted)
    raise PillionError("unsupported", f"state was asked for in a bundle that has none behind it: {cells}")


def empty_batch() -> Batch:
    """A batch of no columns."""
    return Batch.from_columns([], [], 0)


@dataclass
class Bundle:
    """The rows or the fired timers of one bundle, with the state of its keys. Rows come before timers."""

    rows: Batch | None = None
    """Input rows."""
    input: int = 0
    """Which input they come from."""
    timestamps: Column | None = None
    """Event time per row in ms, int64; null for a row without."""
    key_index: Column | None = None
    """Position in `keys` per row, uint32."""
    keys: Batch = field(default_factory=empty_batch)
    """The distinct keys, in typed key columns."""
    state: dict[str, Column] = field(default_factory=dict)
    """Declared cell -> values aligned with `keys` at the empty namespace. Null is absent; a list cell has lists, a map
    cell lists of structs of `key` and `value`, a pickled cell bytes. A broadcast cell is a map of one row. A missing
    cell is deferred: its values are fetched.
    """
    timers: Batch | None = None
    """Fired timers: `key` (position in `keys`), `domain`, `name`, `namespace`, `timestamp`."""
    timer_state: dict[str, Column] = field(default_factory=dict)
    """Cell -> values aligned with `timers`, at (key, namespace), for timers with a namespace."""
    watermark: int = MIN_TIME
    processing_time: int = 0
    """The one clock of the bundle, in ms."""
    broadcast: bool = False
    """Whether the rows are broadcast elements."""
    fetch: Fetch = no_fetch


@dataclass
class Effects:
    """What one bundle brings about."""

    outputs: list[tuple[int, Batch]] = field(default_factory=list)
    """0 is the main output, n the n-th side output; an output without rows may be missing."""
    writes: list[tuple[str, Batch]] = field(default_factory=list)
    """Cell -> `key`, `value`, and where they say something `namespace`, `op` and, for maps, `sub`; in order of
    effect. The key of a broadcast cell is 0.
    """
    timers: Batch | None = None
    """Timers set and deleted: `TIMER_FIELDS`."""
    user_ns: int = 0


def timers_batch(operations: dict[tuple[int, str, str, bytes | None, int], int]) -> Batch | None:
    """`Effects.timers` of operations by address."""
    if not operations:
        return None
    keys, domains, names, namespaces, timestamps = zip(*operations)
    spaces = [space or b"" for space in namespaces]
    values: list[Sequence[object]] = [keys, domains, names, spaces, timestamps, list(operations.values())]
    columns = [Column.from_pylist(list(one), kind) for one, (_, kind) in zip(values, TIMER_FIELDS)]
    return Batch.from_columns(columns, [name for name, _ in TIMER_FIELDS], len(operations))
