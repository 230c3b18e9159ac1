"""Starts a PostgreSQL of its own, runs a command with KV_TEST_POSTGRES set to its URL, and ends as the command does.

    with_postgres.py [--durable] [--option NAME=VALUE]... -- COMMAND...

--durable: commits reach the disk, as they must where it counts. Without it they need not, which is faster.
"""

import argparse
import os
import signal
import subprocess
import sys

from postgres_server import PostgresServer


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def leave(number, _):
    sys.exit(128 + number)


def main():
    asked = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, leave)
    options = dict(option.split("=", 1) for option in asked.option)
    with PostgresServer(options, durable=asked.durable) as server:
        url = server.create_database("kv_test")
        command = subprocess.Popen(asked.command, env={**os.environ, "KV_TEST_POSTGRES": url})
        try:
            code = command.wait()
        finally:
            if command.poll() is None:
                command.terminate()
                command.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
