"""Medians, ratios and tables."""

import statistics


def median(values):
    return statistics.median(values)


def spread(values, form="{:.2f}"):
    return f"{form.format(min(values))} .. {form.format(max(values))}"


def column(rounds, name):
    return [one[name] for one in rounds]


def ratios(above, below):
    """Round by round, because what slows a machine down slows both."""
    return [a / b for a, b in zip(above, below)]


class Targets:
    """What is to be reached, next to what was."""

    def __init__(self):
        self.rows = []

    def at_least(self, name, values, target, floor):
        self._add(name, values, median(values), target, floor, median(values) >= target, median(values) >= floor, ">=")

    def at_most(self, name, values, target, unit=""):
        met = median(values) <= target
        self._add(name, values, median(values), target, None, met, met, "<=", unit)

    def _add(self, name, values, value, target, floor, met, tolerable, sign, unit=""):
        self.rows.append({"name": name, "value": round(value, 4), "min": round(min(values), 4), "max": round(max(values), 4),
                          "sign": sign, "target": target, "floor": floor, "unit": unit,
                          "verdict": "reached" if met else "at the least" if tolerable else "MISSED"})

    def table(self):
        lines = []
        for row in self.rows:
            target = f"{row['sign']} {row['target']}{row['unit']}"
            if row["floor"] is not None:
                target += f" (floor {row['floor']})"
            lines.append([row["name"], f"{row['value']:.3g}{row['unit']}", f"{row['min']:.3g} .. {row['max']:.3g}", target, row["verdict"]])
        return table(["target", "median", "spread", "to reach", ""], lines)


def table(head, rows):
    """Columns of text, the first to the left and the others to the right."""
    cells = [head, *rows]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        line = [str(row[0]).ljust(widths[0])] + [str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(line).rstrip())
    lines.insert(1, "  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def percent(share):
    return f"{share * 100:.0f} %"


def load_row(name, rounds, beside=""):
    """One row of what wrk measured, with what the caller compares it to."""
    rate = column(rounds, "perSecond")
    return [name, f"{median(rate):.0f}", spread(rate, "{:.0f}"), beside, f"{median(column(rounds, 'cpuMicroseconds')):.1f}",
            percent(median(column(rounds, "wrkShare"))), f"{median(column(rounds, 'p50Microseconds')) / 1000:.2f}",
            f"{median(column(rounds, 'p99Microseconds')) / 1000:.2f}"]


def load_head(beside):
    return ["", "requests/s", "spread", beside, "kvd CPU us", "wrk CPU", "p50 ms", "p99 ms"]
