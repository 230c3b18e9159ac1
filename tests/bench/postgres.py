"""kvd on PostgreSQL, beside pgbench on the same server."""

import json
import os
import re
import subprocess
import sys

import report
from servers import BenchError, kvd_environment, load

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "postgres"))
import postgres_server  # noqa: E402

CONNECTIONS = (64, 256)
ENTRIES = 100_000  # pgbench's rows as well: scale 1
SETTINGS = {"max_connections": "400", "shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
SCRIPTS = {
    "get": ["-S"],
    # What pgbench's simple update does, without its other statements and its history.
    "put": ["-f", "update.sql"],
}
UPDATE = "\\set aid random(1, 100000)\n\\set delta random(-5000, 5000)\nUPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n"
NAMES = {"get": "GET, a secret, audited", "put": "PUT, a secret, durable"}
BARE = {"get": "pgbench -S", "put": "pgbench, UPDATE of one row"}


class PgBench:
    """Debian's pgbench against a database of its own, with prepared statements and one thread, as wrk has."""

    def __init__(self, server, folder):
        self.url = server.create_database("bare")
        self.folder = folder
        with open(os.path.join(folder, "update.sql"), "w", encoding="ascii") as file:
            file.write(UPDATE)
        self.run("-i", "-q", "-s", "1")

    def run(self, *arguments):
        command = [postgres_server.program("pgbench"), *arguments, self.url]
        done = subprocess.run(command, cwd=self.folder, env=postgres_server.tool_environment(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"pgbench ended with {done.returncode}: {done.stdout[-500:]}")
        return done.stdout

    def load(self, kind, connections, seconds, seed):
        # Connecting takes its share of the time, of which the rate is without.
        seconds += connections // 64
        said = self.run("-n", "-M", "prepared", "-c", str(connections), "-j", "1", "-T", str(seconds), f"--random-seed={seed}", *SCRIPTS[kind])
        return {"perSecond": float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE).group(1))}


def fill(bench, url):
    program = os.path.join(bench.arguments.bin, "kv_bench_fill")
    if subprocess.run([program, url, str(ENTRIES)], env=kvd_environment(bench.key, ""), check=False).returncode != 0:
        raise BenchError("the database could not be filled")


def load_groups(bench, url, seed):
    """Puts in groups of 64, from one thread of a program that links libkv."""
    program = os.path.join(bench.arguments.bin, "kv_bench_groups")
    done = subprocess.run([program, url, str(ENTRIES), str(bench.arguments.seconds), str(seed)], env=kvd_environment(bench.key, ""), stdout=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode != 0:
        raise BenchError("puts in groups failed")
    return json.loads(done.stdout)


def measure(bench):
    """{(kind, connections): (rounds of kvd, rounds of pgbench)}, and the rounds of groups in one process"""
    groups = []
    rounds = {(kind, connections): ([], []) for connections in CONNECTIONS for kind in ("get", "put")}
    print("-- postgres: filling", file=sys.stderr, flush=True)
    with postgres_server.PostgresServer(SETTINGS) as server:
        url = server.create_database("kv")
        fill(bench, url)
        bare = PgBench(server, bench.folder)
        with bench.serve(os.path.join(bench.folder, "postgres"), storage=url) as kvd:
            kvd.check_entries(ENTRIES)
            for kind in ("get", "put"):
                load(kvd, kind, CONNECTIONS[0], 1, ENTRIES, bench.arguments.seed)
            for number in range(1, bench.arguments.rounds + 1):
                print(f"-- postgres: round {number} of {bench.arguments.rounds}", file=sys.stderr, flush=True)
                for (kind, connections), (mine, theirs) in rounds.items():
                    mine.append(bench.load(kvd, kind, connections, ENTRIES, number))
                    theirs.append(bare.load(kind, connections, bench.arguments.seconds, bench.arguments.seed * 1000 + number))
                groups.append(load_groups(bench, url, number))
            kvd.stop()
    return rounds, groups


def run(bench, targets):
    rounds, groups = measure(bench)
    print("\nOver HTTP on PostgreSQL, 100 000 secret entries of 128 bytes, beside pgbench with as many connections on the same server")
    goals = {"get": 0.5, "put": 1.0}
    rows = []
    for (kind, connections), (mine, theirs) in rounds.items():
        of_bare = report.ratios(report.column(mine, "perSecond"), report.column(theirs, "perSecond"))
        rows.append(report.load_row(f"{NAMES[kind]}, {connections} connections", mine, f"{report.median(of_bare):.2f}"))
        rate = report.column(theirs, "perSecond")
        rows.append([f"{BARE[kind]}, {connections} connections", f"{report.median(rate):.0f}", report.spread(rate, "{:.0f}"), "1.00", "", "", "", ""])
        targets.at_least(f"{kind.upper()} on PostgreSQL, of {BARE[kind]}, {connections} connections", of_bare, goals[kind], goals[kind])
    print(report.table(report.load_head("of pgbench"), rows))
    rate = report.column(groups, "perSecond")
    print(f"\nPuts in one process, 64 at a time, one transaction after the other: {report.median(rate):.0f} per second ({report.spread(rate, '{:.0f}')})")
    targets.at_least("puts on PostgreSQL in one process, 64 at a time, per second", rate, 30_000, 30_000)
    return [{"kind": "groups", "rounds": groups}] + [{"kind": kind, "connections": connections, "kvd": mine, "pgbench": theirs} for (kind, connections), (mine, theirs) in rounds.items()]
