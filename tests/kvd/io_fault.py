"""Steers tests/fault/io_fault.c, which stands between a kvd and its files: counts the calls that change them, and lets those
that a test picks fail, fall short or be the last thing kvd does."""

import mmap
import os
import struct

LIBRARY = os.environ.get("IO_FAULT", "")

WRITE, SYNC, TRUNCATE, ALLOCATE, OPEN, UNLINK, RENAME = (1 << i for i in range(7))
CHANGES = WRITE | SYNC | TRUNCATE | ALLOCATE | UNLINK | RENAME
KINDS = {WRITE: "write", SYNC: "sync", TRUNCATE: "truncate", ALLOCATE: "allocate", OPEN: "open", UNLINK: "unlink", RENAME: "rename"}
FAIL, SHORT, KILL_BEFORE, KILL_HALF, KILL_AFTER = range(1, 6)
FOR_EVER = (1 << 64) - 1

# As struct control is laid out.
CALLS, HITS, FIRST, LAST = 0, 8, 16, 24
ACTION, ERROR, KINDS_ASKED, IS_LOADED = 32, 36, 40, 44
RECORDS, RECORD, RECORDS_MAX = 48, struct.Struct("<II24s"), 8192
SIZE = RECORDS + RECORD.size * RECORDS_MAX


class IoFault:
    """For files below `folder`; `control` is the path of a file that this makes."""

    def __init__(self, folder, control, journal=None):
        self.environment = {
            "LD_PRELOAD": LIBRARY, "IO_FAULT_FOLDER": os.path.realpath(folder), "IO_FAULT_CONTROL": control,
            # A sanitizer wants to be the first library; what comes before it here calls on to it.
            "ASAN_OPTIONS": ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0"]))}
        if journal:
            self.environment["IO_FAULT_JOURNAL"] = journal
        with open(control, "w+b") as file:
            file.truncate(SIZE)
            self.memory = mmap.mmap(file.fileno(), SIZE)
        self.pick(CHANGES)

    def _get(self, form, offset):
        return struct.unpack_from(form, self.memory, offset)[0]

    def _set(self, form, offset, value):
        struct.pack_into(form, self.memory, offset, value)

    def pick(self, kinds):
        """Which calls count from now on."""
        self._set("<I", KINDS_ASKED, kinds)

    def arm(self, action, first, last=None, error=0):
        """Counts anew: `action` is done to the first-th call from now, and on to the last-th."""
        self._set("<Q", FIRST, 0)
        self._set("<Q", CALLS, 0)
        self._set("<Q", HITS, 0)
        self._set("<I", ACTION, action)
        self._set("<I", ERROR, error)
        self._set("<Q", LAST, first if last is None else last)
        self._set("<Q", FIRST, first)

    def disarm(self):
        self._set("<Q", FIRST, 0)

    def count(self):
        """Counts anew, and does nothing."""
        self.arm(0, 0)

    @property
    def is_loaded(self):
        return self._get("<I", IS_LOADED) == 1

    @property
    def calls(self):
        return self._get("<Q", CALLS)

    @property
    def hits(self):
        return self._get("<Q", HITS)

    def call(self, number):
        """What the number-th call was, in words."""
        kind, size, name = RECORD.unpack_from(self.memory, RECORDS + (number - 1) * RECORD.size)
        return f"{KINDS.get(kind, kind)} {name.rstrip(bytes(1)).decode()} {size}"

    def calls_made(self):
        return [self.call(number) for number in range(1, min(self.calls, RECORDS_MAX) + 1)]
