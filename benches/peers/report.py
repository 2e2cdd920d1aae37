"""The tables of the comparison, and their place in the documentation."""

import datetime
import statistics


def number(value):
    return f"{value / 1e6:,.1f}" if value >= 1e7 else f"{value / 1e6:,.2f}" if value >= 1e5 else f"{value / 1e6:,.4f}"


def ratio(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quantile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))]


def spread(values, show):
    middle = show(statistics.median(values))
    return f"{middle} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else middle


class Summary:
    def __init__(self, sides, works, machine, seconds, options):
        self.sides, self.works, self.machine, self.seconds, self.options = sides, works, machine, seconds, options
        self.pillion = [side for side in sides if side.name.startswith("Pillion")]

    def figures(self):
        """Everything, for machines."""
        names = ("name", "versions", "start", "rows", "rates", "fixed", "latency", "note", "problems")
        return {
            "machine": self.machine,
            "seconds": self.seconds,
            "sides": [{name: getattr(side, name) for name in names} for side in self.sides],
        }

    def markdown(self):
        parts = [self.conditions()]
        parts += [self.throughput(work) for work in self.options.works]
        parts += [self.latency(), self.problems(), self.versions()]
        return "\n\n".join(part for part in parts if part)

    def conditions(self):
        date = datetime.date.today().isoformat()
        return (
            f"{date}; {self.machine}; {self.options.rounds} rounds of about {self.options.seconds:g} s for each figure, "
            f"the sides taking turns; {self.seconds / 60:.0f} minutes in all. "
            "Figures are medians, with the lowest and the highest of the rounds behind them. One worker each."
        )

    def throughput(self, work):
        ours = [side for side in self.pillion if side.rates.get(work)]
        lines = [f"### Throughput: {self.works[work]}", ""]
        heads = [
            "",
            "million rows/s",
            *(f"{side.name.removeprefix('Pillion ')} is faster by" for side in ours),
            "a job's fixed cost",
            "start",
        ]
        lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for side in self.sides:
            rates = side.rates.get(work)
            if not rates:
                continue
            cells = [side.name, spread(list(rates.values()), number)]
            for our in ours:
                # Round by round: what slowed a round down slowed both.
                ratios = [our.rates[work][turn] / rates[turn] for turn in rates if turn in our.rates[work]]
                cells.append("" if side in self.pillion or not ratios else spread(ratios, ratio))
            cells += [f"{statistics.median(side.fixed[work].values()) * 1e3:,.0f} ms", f"{side.start:.1f} s"]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def latency(self):
        ours = [side for side in self.pillion if side.latency.get("add")]
        heads = ["", "p50", "p99", *(f"{side.name.removeprefix('Pillion ')} is faster by (p50)" for side in ours), "measured as"]
        lines = [
            "### Latency: one row of two int64 added, 100 rows a second",
            "",
            "| " + " | ".join(heads) + " |",
            "|" + " --- |" * len(heads),
        ]
        for side in self.sides:
            us = side.latency.get("add")
            if not us:
                continue
            middle = statistics.median(us)
            cells = [side.name, f"{middle:,.0f} µs", f"{quantile(us, 0.99):,.0f} µs"]
            cells += ["" if side in self.pillion else ratio(middle / statistics.median(our.latency["add"])) for our in ours]
            lines.append("| " + " | ".join([*cells, side.note["add"]]) + " |")
        return "\n".join(lines)

    def problems(self):
        found = [(side.name, where, reason) for side in self.sides for where, reason in side.problems]
        lines = [f"- {name}, {where}: {reason}" for name, where, reason in found]
        return "\n".join(["### Without a row", "", *lines]) if lines else ""

    def versions(self):
        seen = {}
        for side in self.sides:
            seen.update({name: version for name, version in side.versions.items() if name not in ("python", "pyarrow", "pandas", "java")})
            seen.update(
                {f"{name} ({side.name.split()[0]})": side.versions[name] for name in ("python", "pyarrow", "java") if name in side.versions}
            )
        return "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(seen.items())) + "."


def into(path, name, text):
    """Puts `text` between the markers `name` of a Markdown file."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    content = path.read_text()
    before, _, rest = content.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
