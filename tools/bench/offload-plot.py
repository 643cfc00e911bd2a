#!/usr/bin/env python3
"""Prints medians of tools/bench/offload.sh as a table, and draws them."""

import argparse
import json
import statistics
from collections import defaultdict

LAYERS = ["none", "compaction", "flush", "all"]
COLORS = ["#8a8f98", "#5b8def", "#2fa48a", "#e0803c"]


def main(source, target):
    groups = defaultdict(list)
    for line in open(source):
        row = json.loads(line)
        groups[(bool(row["distance"]), row["value_size"], row["layer"])].append(row["result"])

    def median(key, field):
        return statistics.median(result[field] for result in groups[key])

    cases = sorted({key[:2] for key in groups})
    print("| storage | value | layer | ops/s | × none | P50 µs | P99 µs | × none | P99.9 µs | stall s | write ampl. |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    parts = []
    for number, case in enumerate(cases):
        name = f"{'distant' if case[0] else 'near'} storage, {case[1]} B values"
        base = median((*case, "none"), "ops_per_second")
        tail = median((*case, "none"), "p99_us")
        parts.append(f'<text x="{20 + number * 210}" y="40" font-size="13">{name}</text>')
        for index, layer in enumerate(LAYERS):
            key = (*case, layer)
            if key not in groups:
                continue
            speed = median(key, "ops_per_second")
            print(
                f"| {'distant' if case[0] else 'near'} | {case[1]} B | {layer} | {speed:,.0f} | {speed / base:.2f} "
                f"| {median(key, 'p50_us'):.1f} | {median(key, 'p99_us'):.1f} | {median(key, 'p99_us') / tail:.2f} "
                f"| {median(key, 'p999_us'):.0f} | {median(key, 'stall_seconds'):.1f} "
                f"| {median(key, 'write_amplification'):.2f} |"
            )
            height = min(200, 40 * speed / base)
            x = 20 + number * 210 + index * 45
            parts.append(
                f'<rect x="{x}" y="{260 - height:.1f}" width="38" height="{height:.1f}" fill="{COLORS[index]}"/>'
                f'<text x="{x}" y="{254 - height:.1f}" font-size="11">{speed / base:.1f}×</text>'
                f'<text x="{x}" y="275" font-size="9">{layer}</text>'
            )
    width = 20 + 210 * len(cases)
    with open(target, "w") as drawing:
        drawing.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="290" font-family="sans-serif">'
            f'<rect width="{width}" height="290" fill="white"/>'
            '<text x="20" y="20" font-size="14">fillrandom: throughput by what is offloaded, none = 1</text>'
            + "".join(parts)
            + "</svg>\n"
        )


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("results", help="lines of JSON")
parser.add_argument("drawing", help="the SVG to write")
options = parser.parse_args()
main(options.results, options.drawing)
