"""Measures kvd and libkv. tests/bench/run.sh builds what this needs and calls it; --help tells the rest."""

import argparse
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import broker
import credentials
import machine
import postgres
import report
import watchers
from servers import BenchError, Server, kvd_environment, load

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KINDS = ("ceiling", "get", "put")
NAMES = {"ceiling": "GET /healthz (the ceiling)", "get": "GET, a secret, audited", "put": "PUT, a secret, durable"}
CONNECTIONS = (64, 256)
ENTRIES = 100_000
FEW, MANY = 10_000, 1_000_000

ABOUT = """
What the figures mean:
  requests/s   answered by kvd, counted by wrk (1 thread); the median of the rounds, and their spread.
  of ceiling   the same, divided by what a handler that does nothing reached in the same round.
  cost         requests/s with 10 000 entries, divided by requests/s with as many as the row says.
  of bare      the time of an operation, divided by that of SQLite alone doing one row: a prepared SELECT by key, or one
               UPDATE that is on disk before it returns (WAL, synchronous=FULL; 8 threads share the one connection).
  kvd CPU us   processor time of kvd for one request, kernel included: steadier than requests/s where others use the
               machine, too.
  wrk CPU      how much of one core the load generator took. Near 100 % it, not kvd, is what was measured.

Parts:
  http      a secret namespace of 100 000 entries of 128 bytes over HTTP, random keys, 64 and 256 connections
  process   get and put inside one process from 1 and 8 threads, beside SQLite with nothing around it
  postgres  the same load on PostgreSQL, beside pgbench on the same server: UPDATE and SELECT of one row
  million   memory, start-up, GET and PUT with 1 000 000 entries, beside 10 000
  watchers  memory and processor time with 10 000 who watch one namespace, and how soon they hear of a change
  credentials  the same GETs with a token of the environment, of the store, and with a JWT
  broker    2 000 puts a second, each told to RabbitMQ: their times while it is well, and while it is not

Pieces of all kinds run in turns, round by round, and every ratio is one within a round: absolute figures drift.
"""


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=ABOUT,
                                     description="Measures kvd and libkv: prints tables, and writes all figures as JSON.")
    parser.add_argument("--quick", action="store_true", help="about a minute instead of six, and less sure")
    parser.add_argument("--only", choices=("http", "process", "million", "postgres", "watchers", "broker", "credentials"), help="one part")
    parser.add_argument("--against", metavar="KVD", help="compare with another kvd, over HTTP, in turns")
    parser.add_argument("--json", metavar="FILE", default=os.path.join(ROOT, "build", "bench.json"), help="where the figures go (build/bench.json)")
    parser.add_argument("--data", metavar="DIR",
                        help="keep the filled databases in DIR, and use those that are there (remove DIR when the schema changes)")
    parser.add_argument("--rounds", type=int, help="how many rounds of each part")
    parser.add_argument("--seconds", type=int, help="how long one piece of load takes")
    parser.add_argument("--seed", type=int, default=1, help="of the random keys (1)")
    parser.add_argument("--kvd-flag", metavar="FLAG", action="append", default=[], help="one more flag for kvd serve, as --kvd-flag=--threads=1")
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "release", "bin"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.seconds = arguments.seconds or (1 if arguments.quick else 3)
    if arguments.against and arguments.only not in (None, "http"):
        parser.error("--against compares over HTTP only")
    return arguments


class Bench:
    """What every part needs: programs, a folder, a key, and filled databases."""

    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.kvd = os.path.join(arguments.bin, "kvd")
        self.data = arguments.data or os.path.join(folder, "filled")
        os.makedirs(self.data, exist_ok=True)
        self.key = self._key()
        self.token = secrets.token_urlsafe(32)

    def _key(self):
        path = os.path.join(self.data, "master.key")
        if not os.path.exists(path):
            with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                file.write(base64.b64encode(secrets.token_bytes(32)).decode())
        with open(path, encoding="ascii") as file:
            return file.read()

    def database(self, entries, name):
        """A database of its own with so many entries: filled, or copied from one that was."""
        path = os.path.join(self.folder, name + ".db")
        filled = os.path.join(self.data, f"{entries}.db")
        if not os.path.exists(filled):
            self._fill(filled, entries)
        if self.arguments.data or self.arguments.against:
            shutil.copyfile(filled, path)
        else:
            os.rename(filled, path)
        return path

    def _fill(self, path, entries):
        step(f"filling {entries} entries")
        began = time.monotonic()
        program = os.path.join(self.arguments.bin, "kv_bench_fill")
        making = path + ".new"
        for leftover in (making, making + ".lock", making + ".reserve"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        if subprocess.run([program, "sqlite:" + making, str(entries)], env=kvd_environment(self.key, ""), check=False).returncode != 0:
            raise BenchError("the database could not be filled")
        for leftover in (making + ".lock", making + ".reserve"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        os.rename(making, path)
        step(f"filled: {os.path.getsize(path) >> 20} MiB in {time.monotonic() - began:.1f} s")

    def serve(self, database, kvd=None, storage=None, flags=()):
        return Server(kvd or self.kvd, database, self.key, self.token, [*flags, *self.arguments.kvd_flag], storage)

    def load(self, server, kind, connections, entries, round_number):
        seed = self.arguments.seed * 1000 + round_number
        return load(server, kind, connections, self.arguments.seconds, entries, seed)

    def warm_up(self, server, entries):
        server.check_entries(entries)
        for kind in KINDS:
            load(server, kind, CONNECTIONS[0], 1, entries, self.arguments.seed)


def grouped(number):
    return f"{number:,}".replace(",", " ")


def step(text):
    print(f"-- {text}", file=sys.stderr, flush=True)


# ---- http ----

def measure_http(bench):
    rounds = {(kind, connections): [] for connections in CONNECTIONS for kind in KINDS}
    with bench.serve(bench.database(ENTRIES, "http")) as server:
        bench.warm_up(server, ENTRIES)
        for number in range(1, bench.arguments.rounds + 1):
            step(f"http: round {number} of {bench.arguments.rounds}")
            for (kind, connections), results in rounds.items():
                results.append(bench.load(server, kind, connections, ENTRIES, number))
        server.stop()
    return rounds


def rates(rounds):
    return report.column(rounds, "perSecond")


def report_http(rounds, targets):
    print(f"\nOver HTTP, {grouped(ENTRIES)} secret entries of 128 bytes")
    goals = {"get": (0.6, 0.5), "put": (0.22, 0.18)}
    rows = []
    for (kind, connections), results in rounds.items():
        of_ceiling = report.ratios(rates(results), rates(rounds["ceiling", connections]))
        rows.append(report.load_row(f"{NAMES[kind]}, {connections} connections", results, f"{report.median(of_ceiling):.2f}"))
        if kind in goals:
            targets.at_least(f"{kind.upper()} of the ceiling, {connections} connections", of_ceiling, *goals[kind])
    print(report.table(report.load_head("of ceiling"), rows))
    return [{"kind": kind, "connections": connections, "rounds": results} for (kind, connections), results in rounds.items()]


# ---- http, two of them ----

def measure_against(bench):
    rounds = {(kind, connections): ([], []) for connections in CONNECTIONS for kind in KINDS}
    with bench.serve(bench.database(ENTRIES, "this")) as this, bench.serve(bench.database(ENTRIES, "other"), bench.arguments.against) as other:
        for server in (this, other):
            bench.warm_up(server, ENTRIES)
        for number in range(1, bench.arguments.rounds + 1):
            step(f"against: round {number} of {bench.arguments.rounds}")
            for (kind, connections), pair in rounds.items():
                turns = [(this, pair[0]), (other, pair[1])]
                for server, results in turns if number % 2 else reversed(turns):
                    results.append(bench.load(server, kind, connections, ENTRIES, number))
        this.stop()
        other.stop()
    return rounds


def report_against(rounds):
    print("\nThis kvd and the other one: requests/s with their ratio (above 1: this one is faster), and CPU time for one request\n"
          "with its ratio (below 1: this one takes less)")
    rows = []
    for (kind, connections), (this, other) in rounds.items():
        row = [f"{NAMES[kind]}, {connections} connections"]
        for name, form in (("perSecond", "{:.0f}"), ("cpuMicroseconds", "{:.1f}")):
            mine, theirs = report.column(this, name), report.column(other, name)
            of_other = report.ratios(mine, theirs)
            row += [form.format(report.median(mine)), form.format(report.median(theirs)), f"{report.median(of_other):.3f}", report.spread(of_other)]
        rows.append(row)
    print(report.table(["", "this/s", "other/s", "ratio", "spread", "this us", "other us", "ratio", "spread"], rows))
    return [{"kind": kind, "connections": connections, "this": this, "other": other} for (kind, connections), (this, other) in rounds.items()]


# ---- process ----

def measure_process(bench):
    """{(piece, threads): rounds}, and the version of SQLite."""
    step("process: filling, then all rounds")
    folder = os.path.join(bench.folder, "process")
    os.mkdir(folder)
    seconds = 0.5 if bench.arguments.quick else 1
    rounds = 2 if bench.arguments.quick else 5
    program = [os.path.join(bench.arguments.bin, "kv_bench_process"), folder, str(ENTRIES), str(seconds), str(rounds), str(bench.arguments.seed)]
    done = subprocess.run(program, env=kvd_environment(bench.key, ""), stdout=subprocess.PIPE, text=True, check=False)
    shutil.rmtree(folder)
    if done.returncode != 0:
        raise BenchError("the in-process part failed")
    first, *lines = [json.loads(line) for line in done.stdout.splitlines()]
    pieces = {}
    for line in lines:
        each = {"microseconds": line["seconds"] / line["operations"] * 1e6, "cpuMicroseconds": line["cpuSeconds"] / line["operations"] * 1e6}
        pieces.setdefault((line["piece"], line["threads"]), []).append(each)
    return pieces, first["sqlite"]


def report_process(pieces, targets):
    print(f"\nIn one process, {grouped(ENTRIES)} entries of 128 bytes: time for one operation, all threads together")
    rows = []
    for (piece, threads), rounds in pieces.items():
        bare = "bare put" if "put" in piece else "bare get"
        times = report.column(rounds, "microseconds")
        of_bare = report.ratios(times, report.column(pieces[bare, threads], "microseconds"))
        rows.append([f"{piece}, {threads} thread{'s' if threads > 1 else ''}", f"{report.median(times):.2f}", report.spread(times),
                     f"{report.median(of_bare):.2f}", f"{report.median(report.column(rounds, 'cpuMicroseconds')):.2f}"])
        if piece == "put secret, told to a sink":
            targets.at_most(f"in-process put, every event told to a sink, {threads} thread{'s' if threads > 1 else ''}: of a put without",
                            report.ratios(times, report.column(pieces["put secret", threads], "microseconds")), 1.1)
        if (piece, threads) == ("get plain, audit deferred", 1):
            targets.at_most("in-process get, plain, audit deferred: of a bare read", of_bare, 2)
    print(report.table(["", "us", "spread", "of bare", "CPU us"], rows))
    return [{"piece": piece, "threads": threads, "rounds": rounds} for (piece, threads), rounds in pieces.items()]


# ---- million ----

def forget_cached(path):
    """Takes a file that is on disk out of the page cache, as after a boot."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path):
    """Brings a file into the page cache: what is measured is kvd, not how fast the disk reads."""
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def start_times(bench, database, times):
    """Start-up after a clean stop, after SIGKILL under load, and after a clean stop with nothing in the page cache."""
    starts = {"clean": [], "killed": [], "cold": []}
    for number in range(times):
        forget_cached(database)
        for kind in ("cold", "clean"):
            with bench.serve(database) as server:
                starts[kind].append(server.start_seconds)
                server.stop()
        with bench.serve(database) as server:
            load(server, "put", CONNECTIONS[0], 1, MANY, number)
            server.kill()
        with bench.serve(database) as server:
            starts["killed"].append(server.start_seconds)
            server.stop()
    return starts


def measure_million(bench):
    few, many = bench.database(FEW, "few"), bench.database(MANY, "many")
    step("million: starts")
    starts = start_times(bench, many, 3 if bench.arguments.quick else 5)
    remember(many)
    rounds = {(kind, entries): [] for kind in ("get", "put") for entries in (FEW, MANY)}
    memory = {}
    with bench.serve(few) as small, bench.serve(many) as large:
        memory["started"] = large.memory_mib()
        for server, entries in ((small, FEW), (large, MANY)):
            bench.warm_up(server, entries)
        for number in range(1, bench.arguments.rounds + 1):
            step(f"million: round {number} of {bench.arguments.rounds}")
            for (kind, entries), results in rounds.items():
                server = small if entries == FEW else large
                results.append(bench.load(server, kind, CONNECTIONS[0], entries, number))
        memory["loaded"] = large.memory_mib()
        memory["peak"] = large.memory_mib("VmHWM")
        memory["loadedWithoutFiles"] = large.memory_mib("RssAnon")
        memory["loadedWithFewEntries"] = small.memory_mib()
        small.stop()
        large.stop()
    return {"starts": starts, "memoryMib": memory, "rounds": rounds}


def report_million(measured, targets):
    rounds, memory, starts = measured["rounds"], measured["memoryMib"], measured["starts"]
    print(f"\n{grouped(MANY)} entries beside {grouped(FEW)}, {CONNECTIONS[0]} connections")
    rows = []
    for (kind, entries), results in rounds.items():
        cost = report.ratios(rates(rounds[kind, FEW]), rates(results))
        rows.append(report.load_row(f"{NAMES[kind]}, {grouped(entries)} entries", results, f"{report.median(cost):.2f}"))
        if entries == MANY:
            targets.at_most(f"{kind.upper()} with 1 million entries: cost of one with 10 000", cost, 1.5)
    print(report.table(report.load_head("cost"), rows))
    print("\nMemory of kvd with them (MiB resident): "
          f"{memory['started']:.0f} when started, {memory['loaded']:.0f} after the load, {memory['peak']:.0f} at the most "
          f"({memory['loadedWithFewEntries']:.0f} after the load with 10 000)")
    targets.at_most("memory with 1 million entries, at the most", [memory["peak"]], 150, " MiB")
    print("Start-up with them (s, from starting the program to the first 200 of /readyz): "
          + ", ".join(f"{report.median(values):.3f} {words}" for values, words in
                      ((starts["clean"], "after a clean stop"), (starts["killed"], "after SIGKILL under load"),
                       (starts["cold"], "with the file not in memory"))))
    targets.at_most("start-up with 1 million entries, after a clean stop", starts["clean"], 0.5, " s")
    targets.at_most("start-up with 1 million entries, after SIGKILL", starts["killed"], 0.5, " s")
    return {"startSeconds": starts, "memoryMib": memory,
            "pieces": [{"kind": kind, "entries": entries, "rounds": results} for (kind, entries), results in rounds.items()]}


# ---- all of it ----

def measure(bench, figures):
    only = bench.arguments.only
    targets = report.Targets()
    if bench.arguments.against:
        figures["against"] = report_against(measure_against(bench))
        return targets
    if only in (None, "http"):
        figures["http"] = report_http(measure_http(bench), targets)
    if only in (None, "process"):
        pieces, figures["machine"]["sqlite"] = measure_process(bench)
        figures["process"] = report_process(pieces, targets)
    if only in (None, "million"):
        figures["million"] = report_million(measure_million(bench), targets)
    if only in (None, "postgres"):
        figures["postgres"] = postgres.run(bench, targets)
    if only in (None, "watchers"):
        figures["watchers"] = watchers.run(bench, targets)
    if only in (None, "broker"):
        figures["broker"] = broker.run(bench, targets)
    if only in (None, "credentials"):
        figures["credentials"] = credentials.run(bench, targets)
    return targets


def print_machine(facts, folder):
    print(f"{facts['cores']} cores ({facts['cpu']}), {facts['memoryMib']} MiB, Linux {facts['kernel']}")
    print(f"{folder}: {facts['filesystem']} on {facts['device']}, which keeps 4 KiB in {facts['syncMicroseconds']} us (fdatasync)")
    print(f"{facts['kvd']}, commit {facts['commit']}; {facts['wrk']}")
    if facts["filesystem"] in ("tmpfs", "ramfs"):
        print("This folder is no disk: nothing written here is durable. Set TMPDIR to a folder that is on one.")
    if facts["loadAverage"] > 0.25 * facts["cores"]:
        print(f"Others are using this machine (load average {facts['loadAverage']}): trust the ratios and the CPU times more than the rest.")


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started ends, too
    folder = tempfile.mkdtemp(prefix="kv-bench-")
    try:
        bench = Bench(arguments, folder)
        facts = machine.facts(folder, bench.kvd, ROOT)
        figures = {"machine": facts, "settings": {"quick": arguments.quick, "rounds": arguments.rounds, "seconds": arguments.seconds,
                                                  "seed": arguments.seed, "kvdFlags": arguments.kvd_flag}}
        print_machine(facts, folder)
        targets = measure(bench, figures)
        if targets.rows:
            print("\n" + targets.table())
            figures["targets"] = targets.rows
        os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
        print(f"\nAll figures: {arguments.json}")
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
