#!/usr/bin/env python3
"""Prints medians of tools/bench/delegation.sh as a table, and draws them."""

import argparse
import json
import math
import statistics
from collections import defaultdict

POLICIES = {"off": "#8a8f98", "on": "#5b8def", "auto": "#e0803c"}
WORKLOADS = {"readrandom": "point reads", "seekrandom": "scans of 10"}


def main(source, target):
    groups = defaultdict(list)
    for line in open(source):
        row = json.loads(line)
        groups[(row["result"]["name"], row["latency"], row["policy"])].append(row["result"])
    latencies = sorted({key[1] for key in groups})

    def median(workload, latency, policy, field="ops_per_second"):
        return statistics.median(result[field] for result in groups[(workload, latency, policy)])

    print("| reads | µs | off, ops/s | on | auto | on / off | auto / best | P99 µs off | on | auto |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    parts = []
    for panel, (workload, name) in enumerate(WORKLOADS.items()):
        speeds = {p: [median(workload, latency, p) for latency in latencies] for p in POLICIES}
        top = math.log10(max(max(values) for values in speeds.values()))
        bottom = math.log10(min(min(values) for values in speeds.values()))
        left = 50 + panel * 370

        def place(index, speed):
            share = (math.log10(speed) - bottom) / max(top - bottom, 1e-9)
            return left + index * 290 / max(1, len(latencies) - 1), 255 - 190 * share

        parts.append(f'<text x="{left}" y="45" font-size="13">{name}, operations a second (logarithmic)</text>')
        for policy, color in POLICIES.items():
            points = [place(index, speed) for index, speed in enumerate(speeds[policy])]
            line = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.0f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        for speed in (10**bottom, 10**top):
            parts.append(f'<text x="{left - 45}" y="{place(0, speed)[1] + 4:.0f}" font-size="10">{speed:,.0f}</text>')
        for index, latency in enumerate(latencies):
            parts.append(f'<text x="{place(index, 10**top)[0] - 6:.0f}" y="278" font-size="10">{latency:g}</text>')
            off, on, auto = (speeds[policy][index] for policy in POLICIES)
            tails = " | ".join(f"{median(workload, latency, policy, 'p99_us'):.0f}" for policy in POLICIES)
            print(
                f"| {name} | {latency:g} | {off:,.0f} | {on:,.0f} | {auto:,.0f} | {on / off:.2f} "
                f"| {auto / max(off, on):.2f} | {tails} |"
            )
    for index, (policy, color) in enumerate(POLICIES.items()):
        parts.append(f'<text x="{50 + index * 60}" y="20" font-size="13" fill="{color}">{policy}</text>')
    parts.append('<text x="250" y="20" font-size="12">by --dm-latency in µs (below)</text>')
    with open(target, "w") as drawing:
        drawing.write(
            '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="290" font-family="sans-serif">'
            '<rect width="760" height="290" fill="white"/>' + "".join(parts) + "</svg>\n"
        )


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("results", help="lines of JSON")
parser.add_argument("drawing", help="the SVG to write")
options = parser.parse_args()
main(options.results, options.drawing)
