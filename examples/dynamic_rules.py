"""Rules that change while events flow: each rule names a field, a limit and how many times it may be passed.

Events come on the first input, rules on the second, which is broadcast: every key sees the same rules, and a rule without a limit goes
away. What a user did is counted per rule, and an alert is given at the event that is one too many.
"""

from pillion import BroadcastState, KeyedBroadcastProcessFunction, MapState, OutputTag, process

CHANGES = OutputTag("changes", {"rule": "string", "what": "string"})


class Alerts(KeyedBroadcastProcessFunction):
    """Events of one user meet all rules."""

    rules = BroadcastState("string", "row<field string, over double, times bigint>")
    passed = MapState("string", "bigint")

    def process_element(self, event, ctx):
        """Count what passes a limit."""
        for name, rule in sorted(self.rules.items()):
            value = event[rule.field]
            if value is not None and value > rule.over:
                times = (self.passed.get(name) or 0) + 1
                if times > rule.times:
                    self.passed.remove(name)
                    yield ctx.get_current_key(), name, value
                else:
                    self.passed.put(name, times)

    def process_broadcast_element(self, rule, ctx):
        """Take a rule, or drop it."""
        if rule.over is None:
            self.rules.remove(rule.name)
        else:
            self.rules.put(rule.name, (rule.field, rule.over, rule.times))
        yield CHANGES, (rule.name, "dropped" if rule.over is None else "set")


alerts = process(Alerts, output={"user": "string", "rule": "string", "value": "double"}, side_outputs=[CHANGES])
