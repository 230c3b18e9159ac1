"""Calls that change the files of kvd fail or fall short, one or all from one on, at every place of every operation. Each request
is told clearly: done, refused and nothing changed, or not known. Nothing acknowledged is lost, and when the fault is gone
service comes back by itself.

Broken on purpose, and found: a COMMIT that failed is told as refused without a look, or as done.
"""

import concurrent.futures
import contextlib
import errno
import os
import random
import threading
import time

import io_fault
from crash import DONE, NOT_DONE, OPERATIONS, Site, Writer, check_archive
from harness import IS_THIN, Jobs, main, until

AT_A_TIME = 3
SEED = int(os.environ.get("KV_TEST_SEED", random.randrange(1 << 32)))
REFUSED = {"unavailable", "overloaded", "storage-full", "audit-unavailable"}  # and nothing was changed
UNKNOWN = {"outcome-unknown"}
CALLS_MAX = 200

# What happens to the call picked, and to how many after it.
ONCE, FOR_EVER = 0, io_fault.FOR_EVER
FAULTS = {
    "EIO once": (io_fault.FAIL, errno.EIO, ONCE),
    "EIO for ever": (io_fault.FAIL, errno.EIO, FOR_EVER),
    "ENOSPC once": (io_fault.FAIL, errno.ENOSPC, ONCE),
    "ENOSPC for ever": (io_fault.FAIL, errno.ENOSPC, FOR_EVER),
    "short once": (io_fault.SHORT, 0, ONCE),
    "short for ever": (io_fault.SHORT, 0, FOR_EVER),
    "half, then ENOSPC": (io_fault.SHORT, errno.ENOSPC, 1),
    "half, then EIO": (io_fault.SHORT, errno.EIO, 1),
}


def quick_site(*flags):
    """After an outage a maintenance round finds out that the storage is back."""
    return Site("--maintenance-interval", "20ms", *flags)


def outcomes_of(answer):
    """What may be the case after this answer."""
    assert answer is not None, "no answer"
    if answer.status < 300:
        return (DONE,)
    if answer.code in REFUSED:
        return (NOT_DONE,)
    assert answer.code in UNKNOWN, answer
    return (DONE, NOT_DONE)


def is_back(site):
    """Ready, and takes writes."""
    ready, _ = site.request("GET", "/readyz")
    if ready.status != 200:
        return False
    answer, _ = site.request("PUT", site.entry("is-back"), {"value": 1})
    return answer.status in (200, 201)


def answer_with(site, operation, keys, fault, number):
    """Asks while the fault is there. One that is there for ever goes once it was met a few times: until then an outcome
    that is not known is not told."""
    action, error, more = fault
    site.fault.arm(action, number, min(number + more, io_fault.FOR_EVER), error)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(site.request, *operation.ask(site, keys))
        until(lambda: asked.done() or site.fault.hits >= 6, "the fault is met or the request answered")
        if not asked.done() and more == FOR_EVER:
            site.fault.disarm()
        answer, request = asked.result()
    was_hit = site.fault.hits > 0
    site.fault.disarm()
    return answer, request, was_hit


def is_spoilt_in(site, operation, fault, number, keys, seen):
    operation.prepare(site, keys)
    answer, request, was_hit = answer_with(site, operation, keys, fault, number)
    how = f"{operation.name}, call {number} ({site.fault.call(number)}): {answer}: "
    try:
        assert site.kvd.process.poll() is None, "kvd ended: " + site.kvd.read("stderr")
        outcomes = outcomes_of(answer)
        assert was_hit or outcomes == (DONE,)
        until(lambda: is_back(site), "service is back")
        operation.check(site, keys, request, outcomes)
        operation.go_on(site, keys)
    except AssertionError as error:
        raise AssertionError(how + str(error)) from error
    word = "done" if answer.status < 300 else answer.code
    seen[word] = 1 + seen.get(word, 0)
    return was_hit


def spoil_every_call(name, operations):
    """Which answers came how often."""
    seen = {}
    with quick_site() as site:
        site.start()
        site.make_namespace()
        for operation in operations:
            number = 1
            while is_spoilt_in(site, operation, FAULTS[name], number, operation.keys(f"{name}-{number}".replace(" ", "-")), seen):
                number += 1
                assert number < CALLS_MAX
            assert number > (3 if isinstance(operation, Read) else 10), f"{operation.name}: only {number} calls"
        site.check_known()
        site.check_whole()
        restart(site)
        site.kvd.stop()
    return seen


def named(*names):
    return [operation for operation in OPERATIONS if operation.name in names]


class Read:
    """A value leaves when its reading is recorded, and not before."""

    name = "get"

    def keys(self, number):
        return [f"read/{number}"]

    def prepare(self, site, keys):
        site.put(keys[0], "planted")

    def ask(self, site, keys):
        return "GET", site.entry(keys[0]), None

    def check(self, site, keys, request, outcomes):
        records = site.records(request)
        assert (records == [("entry.get", keys[0], 1)]) in outcomes, f"answered otherwise, and recorded: {records}"

    def go_on(self, site, keys):
        pass


# ---- a fault that stays ----

def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def outlast(error):
    """The fault stays until the patience for an outcome that is not known is over, and some time longer."""
    operation = named("put")[0]
    with quick_site() as site:
        site.start()
        site.make_namespace()
        keys = operation.keys(1)
        operation.prepare(site, keys)
        busy = processor_seconds(site.kvd.process.pid)
        site.fault.pick(io_fault.SYNC)  # the first call after everything was written
        site.fault.arm(io_fault.FAIL, 1, io_fault.FOR_EVER, error)
        answer, request = site.request(*operation.ask(site, keys))
        outcomes = outcomes_of(answer)
        seen = [answer.code]
        for _ in range(3):
            for method, path, body in (("PUT", site.entry("other"), {"value": 1}), ("GET", site.entry(keys[0]), None),
                                       ("GET", f"/{site.ns}/entries", None), ("DELETE", site.entry(keys[0]), None),
                                       ("POST", "/namespaces", {"name": "other"}), ("GET", "/namespaces", None)):
                refused, _ = site.request(method, path, body)
                assert refused is not None and refused.status >= 500 and outcomes_of(refused), (method, path, refused)
                seen.append(refused.code)
        ready, _ = site.request("GET", "/readyz")
        assert (ready.status, ready.code in REFUSED) == (503, True), ready
        used = processor_seconds(site.kvd.process.pid) - busy
        assert used < 3, f"{used} s of processor time while nothing could be done"
        site.fault.disarm()
        site.fault.pick(io_fault.CHANGES)
        until(lambda: is_back(site), "service is back")
        # What was refused while the fault was there was not done later, either; what was not known is known now.
        is_done = operation.check(site, keys, request, outcomes)
        del site.known[keys[0]]
        restart(site)
        operation.check(site, keys, request, (is_done,))
        site.kvd.stop()
    return seen


def restart(site):
    """Not asked to stop: what was acknowledged is on the disk already."""
    site.kvd.kill()
    site.start()
    site.check_known()
    site.check_whole()


# ---- opening and closing ----

def open_with_faults(name, is_new):
    """kvd begins to serve, or says why it does not; without the fault it begins, and has everything."""
    action, error, more = FAULTS[name]
    seen = {}
    number = 1
    while True:
        with quick_site() as site:
            if not is_new:
                site.start()
                site.make_namespace()
                for i in range(5):
                    site.put(f"key-{i}", f"value-{number}")
                site.kvd.kill()
            site.fault.arm(action, number, min(number + more, io_fault.FOR_EVER), error)
            try:
                site.start()
                code = 0
                site.kvd.kill()
            except AssertionError as failure:
                code = int(str(failure).removeprefix("kvd ended with ").split(":")[0])
                assert code > 0 and "kvd: " in str(failure), f"call {number} ({site.fault.call(number)}): {failure}"
            seen[code] = 1 + seen.get(code, 0)
            was_hit = site.fault.hits > 0
            site.fault.disarm()
            site.start()
            if is_new:
                site.make_namespace()
            site.check_known()
            site.check_whole()
            site.kvd.stop()
        if not was_hit:
            return seen
        number += 5 if is_new else 3


def close_with_faults(name):
    action, error, more = FAULTS[name]
    number = 1
    with quick_site() as site:
        while True:
            site.start()
            if number == 1:
                site.make_namespace()
            site.put("key", f"value-{number}")
            site.fault.arm(action, number, min(number + more, io_fault.FOR_EVER), error)
            site.kvd.signal(15)
            code = site.kvd.wait()
            was_hit = site.fault.hits > 0
            site.fault.disarm()
            assert code >= 0, f"call {number} ({site.fault.call(number)}): {code}"
            site.start()
            site.check_known()
            site.check_whole()
            site.kvd.stop()
            if not was_hit:
                return number - 1
            number += 1


# ---- under load ----

class Patient(Writer):
    """Goes on after a refusal, and looks before it repeats what may have been done."""

    def write(self, count, deadline):
        while self.acknowledged < count:
            assert time.monotonic() < deadline, f"{self.name} got to {self.acknowledged} only"
            answer, _ = self.site.request("PUT", self.site.entry(self.name), {"value": self.acknowledged + 1,
                                                                              "expectedVersion": self.acknowledged + 1})
            outcomes = outcomes_of(answer)
            if outcomes == (DONE,):
                self.acknowledged += 1
            elif DONE in outcomes:
                found = until(self.look, "the outcome can be looked at")
                assert found["version"] in (self.acknowledged + 1, self.acknowledged + 2)
                self.acknowledged = found["version"] - 1
            self.asked = self.acknowledged

    def look(self):
        answer, _ = self.site.request("GET", self.site.entry(self.name))
        return answer.json() if answer.status == 200 else None


def disturb(site, numbers, stop):
    while not stop.is_set():
        action, error, more = FAULTS[numbers.choice(sorted(FAULTS))]
        first = numbers.randrange(1, 40)
        site.fault.arm(action, first, min(first + more, io_fault.FOR_EVER), error)
        with contextlib.suppress(AssertionError):
            until(lambda: site.fault.hits >= 8 or stop.is_set(), "met", patience=0.1)
        site.fault.disarm()


def spoil_under_load():
    numbers = random.Random(SEED)
    with quick_site() as site:
        site.start()
        site.make_namespace()
        writers = [Patient(site, f"writer-{i}") for i in range(8)]
        stop = threading.Event()
        deadline = time.monotonic() + 60
        with concurrent.futures.ThreadPoolExecutor(len(writers) + 1) as pool:
            disturbing = pool.submit(disturb, site, numbers, stop)
            try:
                for done in [pool.submit(writer.write, 60, deadline) for writer in writers]:
                    done.result()
            finally:
                stop.set()
            disturbing.result()
        site.fault.disarm()
        until(lambda: is_back(site), "service is back")
        for writer in writers:
            writer.check()
        restart(site)
        site.kvd.stop()
    return "sound"


def spoil_archive():
    """Rows that cannot be archived stay in the log, and none comes into the archive twice."""
    with quick_site() as site:
        archive = os.path.join(site.data, "archive")
        os.mkdir(archive)
        site.flags += ("--audit-archive", archive, "--audit-bytes-max", "4000")
        site.fault = io_fault.IoFault(archive, site.path("control-archive"))
        site.fault.pick(io_fault.CHANGES | io_fault.OPEN)
        site.start()
        site.make_namespace()
        for name in sorted(FAULTS):
            action, error, more = FAULTS[name]
            for number in range(1, 8):
                site.fault.arm(action, number, min(number + more, io_fault.FOR_EVER), error)
                until(lambda n=number: site.put("key", n) and site.fault.hits > 0, "the archive is written")
                site.fault.disarm()
        calls = site.fault.calls
        until(lambda: site.put("key", 0) and site.fault.calls > calls, "the archive is written again")
        site.kvd.stop()
        site.start()
        check_archive(site, archive)
        site.kvd.stop()
    return "whole"


class EveryCall(Jobs):
    def test_of_every_operation(self):
        every = () if IS_THIN else ("EIO once", "EIO for ever", "half, then EIO")
        few = named("put", "bulk-set")
        self.each({name: (spoil_every_call, name, [*OPERATIONS, Read()] if name in every else few) for name in FAULTS}, AT_A_TIME)

    def test_of_opening_closing_and_the_files_beside(self):
        print("seed", SEED)
        jobs = {"outlasting EIO": (outlast, errno.EIO), "outlasting ENOSPC": (outlast, errno.ENOSPC), "load": (spoil_under_load,),
                "archive": (spoil_archive,)}
        for name in ("EIO once", "EIO for ever", "ENOSPC for ever"):
            jobs[f"opening, {name}"] = (open_with_faults, name, False)
            jobs[f"closing, {name}"] = (close_with_faults, name)
        jobs["creating, EIO once"] = (open_with_faults, "EIO once", True)
        self.each(jobs, AT_A_TIME)


if __name__ == "__main__":
    main()
