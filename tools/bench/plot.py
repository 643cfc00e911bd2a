#!/usr/bin/env python3
"""Draws results of `o3fs bench --json` as bars, workload by workload, into an SVG.

    tools/bench/plot.py [--field FIELD] [--relative] [--title TEXT] DRAWING.svg [LABEL=]RESULTS.jsonl...

Each file is one series: a line of JSON for each workload, of which repetitions become their median. A line may also be
{"system": LABEL, "result": {...}}, as tools/bench/reads.sh writes them; then one file holds several series. --field names
what is drawn (ops_per_second unless told otherwise), --relative divides by the first series. Needs nothing but Python.
"""

import argparse
import json
import os
import statistics
import sys
from xml.sax.saxutils import escape

COLORS = ["#5b8def", "#e0803c", "#2fa48a", "#8a8f98", "#b565c4", "#c9a227"]
PLOT_HEIGHT, TOP, BOTTOM, LEFT, BAR, GAP = 240, 60, 60, 60, 26, 24


def read_series(arguments, field):
    """{series: {workload: median}} and the workloads, both in the order of the files."""
    values, workloads = {}, []
    for argument in arguments:
        label, path = argument.split("=", 1) if "=" in argument else (os.path.basename(argument), argument)
        with open(path) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                result = row.get("result", row)
                if "name" not in result or field not in result:
                    sys.exit(f"{path}:{number}: no name or no {field}")
                series = values.setdefault(row.get("system", label), {})
                series.setdefault(result["name"], []).append(float(result[field]))
                if result["name"] not in workloads:
                    workloads.append(result["name"])
    medians = {
        label: {name: statistics.median(found) for name, found in series.items()} for label, series in values.items()
    }
    return medians, workloads


def short(value):
    """Three digits and a unit."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def draw(series, workloads, title, axis):
    """The SVG: groups of bars, a scale of four lines, a legend."""
    top = max((value for found in series.values() for value in found.values()), default=0) or 1
    group = len(series) * BAR + GAP
    width = max(LEFT + group * len(workloads) + GAP, 420)
    height = TOP + PLOT_HEIGHT + BOTTOM
    base = TOP + PLOT_HEIGHT
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>'
        f'<text x="{LEFT}" y="{height - 8}" fill="#666">{escape(axis)}</text>'
    ]
    for step in range(5):
        y = base - PLOT_HEIGHT * step / 4
        out.append(
            f'<line x1="{LEFT}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{short(top * step / 4)}</text>'
        )
    x = LEFT
    for index, label in enumerate(series):
        out.append(
            f'<rect x="{x}" y="32" width="10" height="10" fill="{COLORS[index % len(COLORS)]}"/>'
            f'<text x="{x + 14}" y="41">{escape(label)}</text>'
        )
        x += 30 + 7 * len(label)
    for place, name in enumerate(workloads):
        left = LEFT + GAP / 2 + place * group
        for index, found in enumerate(series.values()):
            if name not in found:
                continue
            bar = PLOT_HEIGHT * max(found[name], 0) / top
            x = left + index * BAR
            out.append(
                f'<rect x="{x:.1f}" y="{base - bar:.1f}" width="{BAR - 3}" height="{bar:.1f}" '
                f'fill="{COLORS[index % len(COLORS)]}"/>'
                f'<text x="{x + BAR / 2 - 1:.1f}" y="{base - bar - 3:.1f}" font-size="8" text-anchor="middle">'
                f"{short(found[name])}</text>"
            )
        middle = left + len(series) * BAR / 2
        out.append(
            f'<text x="{middle:.1f}" y="{base + 14 + 12 * (place % 2)}" text-anchor="middle">{escape(name)}</text>'
        )
    return "".join(out) + "</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field", default="ops_per_second")
    parser.add_argument("--relative", action="store_true")
    parser.add_argument("--title", default="o3fs bench")
    parser.add_argument("drawing")
    parser.add_argument("results", nargs="+")
    options = parser.parse_args()
    series, workloads = read_series(options.results, options.field)
    axis = options.field
    if options.relative:
        base = list(series.values())[0]
        axis += f", {list(series)[0]} = 1"
        series = {
            label: {name: value / base[name] for name, value in found.items() if base.get(name)}
            for label, found in series.items()
        }
    with open(options.drawing, "w") as drawing:
        drawing.write(draw(series, workloads, options.title, axis))


main()
