"""Functions that look at, and attack, the memory that they share with the engine."""

import ctypes
import os
import threading
import time

from pillion import udf


def mappings(name):
    """Start, end and permissions of the mappings whose file is named so."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if f"memfd:{name}" in line:
                span, permissions = line.split()[:2]
                start, end = (int(part, 16) for part in span.split("-"))
                yield start, end, permissions


def mapping_of(address):
    """Permissions and file of the mapping around an address."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return f"{line.split()[1]} {line.split()[-2]} {line.split()[-1]}"
    return "nowhere"


@udf(result_type="string", func_type="arrow")
def where_arrow(a):
    import pyarrow as pa

    return pa.array([mapping_of(a.buffers()[1].address)] * len(a))


@udf(result_type="string", func_type="arrow")
def place_arrow(a):
    """The address of the column, its file, and where in that it lies."""
    import pyarrow as pa

    address = a.buffers()[1].address
    found = [str(address), "nowhere", "0"]
    with open("/proc/self/maps") as maps:
        for line in maps:
            parts = line.split()
            start, end = (int(part, 16) for part in parts[0].split("-"))
            if start <= address < end and len(parts) > 5:
                found[1:] = [parts[5], str(address - start + int(parts[2], 16))]
    return pa.array([" ".join(found)] * len(a))


@udf(result_type="string", func_type="pandas")
def where_pandas(a):
    import pandas as pd

    values = a.to_numpy()
    writable = "writable" if values.flags.writeable else "read-only"
    return pd.Series([f"{writable} {mapping_of(values.__array_interface__['data'][0])}"] * len(a))


KEPT = []


@udf(result_type="bigint", func_type="arrow")
def keep(a):
    KEPT.append(a)
    import pyarrow as pa

    return pa.array([sum(part[0].as_py() for part in KEPT)] * len(a))


@udf(result_type="string")
def resize(a):
    outcomes = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "memfd:pillion" in os.readlink(f"/proc/self/fd/{fd}"):
                for size in (0, 1 << 31):
                    os.ftruncate(int(fd), size)
                    outcomes.append(f"resized to {size}")
        except OSError as error:
            outcomes.append(type(error).__name__)
    return " ".join(outcomes)


def scribble(deadline):
    while time.monotonic() < deadline:
        for start, _, permissions in mappings("pillion-results"):
            if "w" in permissions:
                ctypes.memset(start, int(time.monotonic_ns() % 256), 1 << 20)


STARTED = []


@udf(result_type="string")
def rewrite(a):
    """Overwrites its results for a while, whoever reads them."""
    if not STARTED:
        STARTED.append(threading.Thread(target=scribble, args=(time.monotonic() + 3,), daemon=True))
        STARTED[0].start()
    return f"text {a}"


@udf(result_type="bigint")
def ring_garbage_on_13(a):
    if a == 13:
        for start, end, _ in mappings("pillion-ring"):
            ctypes.memset(start + 4096, 0xEE, end - start - 4096)
        ring_bells()
        time.sleep(5)
    return a


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, payload):
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def ring_bells():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "eventfd" in os.readlink(f"/proc/self/fd/{fd}"):
                os.write(int(fd), (1).to_bytes(8, "little"))
        except OSError:
            pass


def forge(message):
    """Puts a message into the ring to the engine, as if the runtime had sent it."""
    for start, end, _ in mappings("pillion-ring"):
        # Mappings end at a page.
        capacity = 1 << ((end - start - 4096 - 1024) // 2).bit_length() - 1
        ring = start + 4096 + 512 + capacity
        written = ctypes.c_uint64.from_address(ring)
        data = len(message).to_bytes(4, "little") + message
        for at, byte in enumerate(data):
            ctypes.c_ubyte.from_address(ring + 512 + (written.value + at) % capacity).value = byte
        written.value += len(data)
    ring_bells()
    time.sleep(5)


@udf(result_type="bigint")
def wild_reference_on_13(a):
    if a == 13:
        slot = field(1, 1) + field(2, 1 << 40) + field(3, 1 << 20) + field(4, 77)
        frame = field(1, b"header") + field(2, varint(1 << 20)) + field(3, 1 << 20) + field(4, 1) + field(6, slot)
        forge(field(1, 2) + field(4, frame))
    return a


@udf(result_type="bigint")
def stale_release_on_13(a):
    if a == 13:
        forge(field(1, 2) + field(11, field(1, 1) + field(2, 0) + field(3, 64) + field(4, 1 << 30)))
    return a
