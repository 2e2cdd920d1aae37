"""Profiles that grow: what is known of each airport after each of its departures.

    pillion run examples/user_profiles.py:profiles --input examples/data/flights.parquet --output profiles.parquet \
        --key-by origin --event-time time_hour

The history is a list that is only appended to, which reads nothing; counts by destination are a map; sums are an accumulator. After a day
without a departure the last profile goes to the side output `quiet`: by a timer, or by the next departure where that is seen before the
watermark has passed.
"""

from pillion import AggregateFunction, AggregatingState, KeyedProcessFunction, ListState, MapState, OutputTag, ValueState, process

DAY = 24 * 3600 * 1000
PROFILE = {"airport": "string", "departures": "bigint", "favourite": "string", "mean_delay": "double"}
QUIET = OutputTag("quiet", PROFILE)


class MeanDelay(AggregateFunction):
    """Mean of the delays that are known."""

    def create_accumulator(self):
        """Nothing yet."""
        return 0.0, 0

    def add(self, value, accumulator):
        """One more."""
        return accumulator if value is None else (accumulator[0] + value, accumulator[1] + 1)

    def get_result(self, accumulator):
        """Null without any."""
        return accumulator[0] / accumulator[1] if accumulator[1] else None


class Profiles(KeyedProcessFunction):
    """One departure at a time, of one airport."""

    history = ListState("row<at bigint, dest string, delay double>")
    destinations = MapState("string", "bigint")
    delays = AggregatingState("row<total double, n bigint>", MeanDelay)
    departures = ValueState("bigint")
    favourite = ValueState("string")
    most = ValueState("bigint")
    quiet_at = ValueState("bigint")

    def process_element(self, flight, ctx):
        """Grow the profile, and tell it."""
        at, due = ctx.timestamp(), self.quiet_at.value()
        if due is not None and at >= due:
            yield QUIET, self.profile(ctx.get_current_key())
        self.history.add((at, flight.dest, flight.dep_delay))
        self.visit(flight.dest)
        self.delays.add(flight.dep_delay)
        self.departures.update((self.departures.value() or 0) + 1)
        if due is None or at + DAY > due:
            if due is not None:
                ctx.timer_service().delete_event_time_timer(due)
            ctx.timer_service().register_event_time_timer(at + DAY)
            self.quiet_at.update(at + DAY)
        yield self.profile(ctx.get_current_key())

    def on_timer(self, timestamp, ctx):
        """A day without a departure."""
        self.quiet_at.clear()
        yield QUIET, self.profile(ctx.get_current_key())

    def profile(self, airport):
        """What is known."""
        return airport, self.departures.value(), self.favourite.value(), self.delays.get()

    def visit(self, dest):
        """Count a destination. Looking through all of them at each departure would take longer the more there are."""
        times, most = (self.destinations.get(dest) or 0) + 1, self.most.value() or 0
        self.destinations.put(dest, times)
        if times > most or (times == most and dest < self.favourite.value()):
            self.favourite.update(dest)
            self.most.update(times)


profiles = process(Profiles, output=PROFILE, side_outputs=[QUIET])
