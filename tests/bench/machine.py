"""What a figure depends on besides the code: the machine, the disk, the versions."""

import os
import platform
import re
import statistics
import subprocess
import tempfile
import time


def first_line(*command, folder=None):
    """What a command says first; empty if it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0]


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def memory_mib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def filesystem(folder):
    """(type, device) of what holds a folder."""
    lines = subprocess.run(["df", "--output=fstype,source", folder], capture_output=True, text=True, check=True).stdout.split("\n")
    kind, device = lines[1].split(None, 1)
    return kind, device


def sync_microseconds(folder, times=200):
    """How long the disk takes to keep 4 KiB: the median."""
    block = b"x" * 4096
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(times):
            began = time.perf_counter()
            os.pwrite(file.fileno(), block, 0)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def commit(root):
    name = first_line("git", "rev-parse", "--short=12", "HEAD", folder=root)
    changed = first_line("git", "status", "--porcelain", "--untracked-files=no", folder=root)
    return name + (" with changes" if changed else "")


def facts(folder, kvd, root):
    kind, device = filesystem(folder)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(),
        "memoryMib": memory_mib(),
        "kernel": platform.release(),
        "filesystem": kind,
        "device": device,
        "syncMicroseconds": round(sync_microseconds(folder)),
        "loadAverage": round(os.getloadavg()[0], 2),
        "kvd": first_line(kvd, "--version"),
        "wrk": first_line("wrk", "-v").split(" Copyright")[0],
        "commit": commit(root),
    }
