"""Judges a recorded history of many clients: is there one order of all changes that explains every answer?

A history is what clients asked and heard, each operation with the time it began and ended; the final state is what the
store holds once it stands still: every version of every key, every event, every audit row. check() is a pure function
of the two and gives the rules that were broken. It knows nothing of how the operations were sent or where the state
was read from, so it serves one process or many, and operations whose outcome is unknown because a process died.

The store numbers the changes of a namespace (revisions), so the order to hold everything against is given: a write
stands at its revision, and a read may stand wherever the state was as it saw it. The history is good if all can be
placed so that what ended before something else began stands before it.
"""

import bisect
import contextlib
import dataclasses
import heapq
import json
import math
import uuid
from collections import Counter, defaultdict

import storages

REASONS = {1: "CREATE", 2: "UPDATE", 3: "ROTATION", 4: "ROLLBACK", 5: "DELETE", 6: "EXPIRY"}
KINDS = {1: "created", 2: "updated", 3: "rotated", 4: "rolled_back", 5: "deleted", 6: "expired", 7: "touched"}
KIND_OF = {"CREATE": "created", "UPDATE": "updated", "ROTATION": "rotated", "ROLLBACK": "rolled_back", "DELETE": "deleted", "EXPIRY": "expired"}
OPERATION_OF = {
    "put": "entry.put", "patch": "entry.patch", "delete": "entry.delete", "rotate": "entry.rotate", "rollback": "entry.rollback",
    "get": "entry.get", "versions": "entry.versions", "list": "entry.list", "bulk_set": "bulk.set", "bulk_get": "bulk.get",
    "bulk_delete": "bulk.delete", "ns_create": "namespace.create", "ns_get": "namespace.get", "ns_update": "namespace.update"}
SYSTEM_OPERATIONS = {"audit.open", "audit.close", "audit.closed", "audit.unclosed", "audit.checkpoint", "audit.resume", "entry.expire"}
# The wall clocks of a client and of kvd, which goes on from the time of its start, may lie so far apart.
CLOCK_SLACK = 0.1


# ---- what is judged ----

@dataclasses.dataclass
class Op:
    """One operation of one client. `end` is infinite and `status` None where nobody knows what became of it."""
    id: str
    user: str
    kind: str
    ns: str
    key: str = ""
    asked: dict = dataclasses.field(default_factory=dict)
    start: float = 0.0
    end: float = math.inf
    wall_start: float = 0.0
    wall_end: float = math.inf
    status: int | None = None
    answer: dict = dataclasses.field(default_factory=dict)

    @property
    def is_known(self):
        return self.status is not None

    @property
    def is_done(self):
        return self.is_known and self.status < 400

    @property
    def code(self):
        return self.answer.get("code", "")

    def __str__(self):
        asked = ", ".join(f"{name}={shorten(value)}" for name, value in self.asked.items() if value is not None)
        heard = self.status if self.is_known else "unknown"
        told = {name: self.answer[name] for name in ("code", "version", "revision", "value", "currentVersion") if name in self.answer}
        return f"[{self.start:.6f} .. {self.end:.6f}] {self.id} {self.user} {self.kind} {self.key} ({asked}) -> {heard} {shorten(told)}"


@dataclasses.dataclass
class Row:
    """A version of an entry, the current one or one of its history. `value` is None where it is sealed and was not read."""
    ns: str
    key: str
    version: int
    revision: int
    reason: str
    request_id: str
    is_tombstone: bool = False
    value: object = None
    rolled_back_from: int | None = None
    expires_at: float | None = None
    changed_at: float = 0.0
    made: int = 0  # the revision that made the version; `revision` is that of the last change, metadata's included


@dataclasses.dataclass
class Event:
    ns: str
    revision: int
    key: str
    kind: str
    version: int


@dataclasses.dataclass
class Audit:
    stream: str
    sequence: int
    ns: str
    key: str
    operation: str
    user: str
    request_id: str
    success: bool = True
    reason: str = ""
    version: int | None = None
    revision: int | None = None
    count: int = 1


@dataclasses.dataclass
class Final:
    """What the store holds once it stands still. `namespaces`: id -> (version, revision). Audit rows as they were written."""
    namespaces: dict
    rows: list
    events: list
    audit: list
    apart: set = dataclasses.field(default_factory=set)  # namespaces that others than the clients used

    def set_apart(self, ns):
        """Of this namespace only the audit rows count, as part of their streams."""
        self.apart.add(ns)
        del self.namespaces[ns]
        self.rows = [row for row in self.rows if row.ns != ns]
        self.events = [event for event in self.events if event.ns != ns]


@dataclasses.dataclass
class Violation:
    rule: str
    ns: str
    key: str
    text: str


def shorten(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- reading the final state ----

def read_storage(uri):
    """The final state from the storage of kvds that were stopped."""
    with contextlib.closing(storages.connect(uri)) as db:
        text = lambda raw: str(uuid.UUID(bytes=raw)) if raw is not None else ""
        moment = lambda micros: None if micros is None else micros / 1e6
        namespaces = {text(i): (version, revision) for i, version, revision in db.execute("select id, version, revision from namespaces")}
        keys = {i: key for i, key in db.execute("select id, key_path from entries")}
        columns = "namespace_id, version, revision, reason, request_id, is_tombstone, value_type, key_generation, value, rolled_back_from, expires_at"
        rows = []
        for table, entry, at in (("entries", "id", "updated_at"), ("versions", "entry_id", "changed_at")):
            for e, ns, version, revision, reason, request, tombstone, kind, generation, value, origin, expires, changed in db.execute(f"select {entry}, {columns}, {at} from {table}"):
                shown = None if generation or tombstone else decode(kind, value)
                rows.append(Row(text(ns), keys[e], version, revision, REASONS[reason], request, bool(tombstone), shown, origin, moment(expires), moment(changed)))
        events = [Event(text(ns), revision, key, KINDS[kind], version) for ns, revision, key, kind, version in
                  db.execute("select namespace_id, revision, key_path, kind, version from outbox")]
        audit = [Audit(text(stream), sequence, text(ns), key, operation, user, request, bool(success), reason, version, revision, count)
                 for stream, sequence, ns, key, operation, user, request, success, reason, version, revision, count in
                 db.execute("select stream, sequence, namespace_id, key_path, operation, user_id, request_id, success, reason, version, revision, count from audit order by position")]
    return Final(namespaces, rows, events, audit)


def decode(value_type, raw):
    text = bytes(raw).decode()
    return text if value_type == 1 else json.loads(text)


# ---- the states that a key went through ----

class State:
    """A key between two revisions: the version it is at, and until when its value may be seen."""

    def __init__(self, revision, version=0, is_live=False, reason="", expires_at=None, op=None, row=None):
        self.revision = revision
        self.version = version
        self.is_live = is_live
        self.reason = reason
        self.expires_at = expires_at
        self.op = op
        self.row = row
        self.until = math.inf  # the last revision of the namespace at which the key is so

    def may_seem_absent(self, op):
        """To somebody who asked when it may have been past its time."""
        return not self.is_live or (self.expires_at is not None and op.wall_end >= self.expires_at - CLOCK_SLACK)

    def may_be_seen(self, op):
        return self.is_live and (self.expires_at is None or op.wall_start <= self.expires_at + CLOCK_SLACK)


class Placement:
    """Where an operation may stand in the order of its namespace: ranges of revisions, or, of a change, its own."""

    def __init__(self, op, key, ranges=None, own=None):
        self.op = op
        self.key = key
        self.ranges = ranges  # ascending, [first, last]
        self.own = own        # the first and the last revision it made


class Checker:
    def __init__(self, ops, final, losses=False):
        self.ops = ops
        self.final = final
        self.losses = losses
        self.violations = []
        self.by_id = {op.id: op for op in ops}
        self.rows = defaultdict(list)    # (ns, key) -> rows by version
        self.states = defaultdict(list)  # (ns, key) -> states by revision
        self.rows_of = defaultdict(list)    # request id -> the versions it made
        self.touches_of = defaultdict(list)  # request id -> the events that made no version
        self.audit_of = defaultdict(list)
        self.bulks = defaultdict(list)       # ns -> the first and the last revision of each atomic bulk
        self.placements = defaultdict(list)  # ns -> what has a place in its order
        for row in final.rows:
            self.rows[row.ns, row.key].append(row)
            self.rows_of[row.request_id].append(row)
        for rows in self.rows.values():
            rows.sort(key=lambda row: row.version)
        for row in final.audit:
            self.audit_of[row.request_id].append(row)
        made = {(e.ns, e.key, e.version): e.revision for e in final.events if e.kind != "touched"}
        for row in final.rows:
            row.made = made.get((row.ns, row.key, row.version), row.revision)

    def broken(self, rule, ns, key, text):
        self.violations.append(Violation(rule, ns, key, text))

    def run(self):
        self.check_ids()
        self.check_versions()
        self.check_events()
        self.build_states()
        self.check_authors()
        self.check_acknowledged()
        self.check_values()
        self.check_preconditions()
        self.check_winners()
        self.check_whole()
        self.check_namespaces()
        self.place_all()
        for ns in self.placements:
            self.check_order(ns)
        self.check_audit()
        return self.violations

    # ---- the final state in itself ----

    def check_ids(self):
        for name, count in Counter(op.id for op in self.ops).items():
            if count > 1:
                raise ValueError(f"two operations have the id {name}: such a history proves nothing")

    def check_versions(self):
        """Per key up by one from 1, deleted and expired ones included."""
        for (ns, key), rows in self.rows.items():
            found = [row.version for row in rows]
            if found != list(range(1, len(rows) + 1)):
                self.broken("versions go up by one, none twice, none left out", ns, key, f"they are {found}")
            revisions = [row.made for row in rows]
            if revisions != sorted(set(revisions)):
                self.broken("a later version has a later revision", ns, key, f"they are {revisions}")

    def check_events(self):
        """One per revision, and one per change and none besides."""
        events = defaultdict(list)
        for event in self.final.events:
            events[event.ns].append(event)
        for ns, (_, revision) in self.final.namespaces.items():
            found = sorted(event.revision for event in events[ns])
            if found != list(range(1, revision + 1)):
                missing = sorted(set(range(1, revision + 1)) - set(found))
                self.broken("revisions have no gap and one event each", ns, "", f"revision {revision}, {len(found)} events, missing {missing[:10]}")
        made = Counter((row.ns, row.key, row.version, KIND_OF[row.reason]) for row in self.final.rows)
        told = Counter((e.ns, e.key, e.version, e.kind) for e in self.final.events if e.kind != "touched")
        for change in (made - told) + (told - made):
            ns, key, version, kind = change
            self.broken("one event per change and none besides", ns, key, f"{kind}, version {version}: {made[change]} changes, {told[change]} events")
        last = {(e.ns, e.key, e.version): e.revision for e in sorted(self.final.events, key=lambda event: event.revision)}
        for row in self.final.rows:
            if row.revision != last.get((row.ns, row.key, row.version)):
                self.broken("one event per change and none besides", row.ns, row.key, f"version {row.version} was last changed at revision {row.revision}, and no event says so")

    def build_states(self):
        made = {(row.ns, row.made): row for row in self.final.rows}
        touched = {(a.ns, a.revision): a.request_id for a in self.final.audit if a.operation == "entry.patch" and a.success}
        for event in sorted(self.final.events, key=lambda event: event.revision):
            states = self.states[event.ns, event.key]
            row = made.get((event.ns, event.revision))
            if event.kind == "touched":
                author = touched.get((event.ns, event.revision))
                if author is not None:
                    self.touches_of[author].append(event)
                last = states[-1] if states else State(0)
                state = State(event.revision, event.version, last.is_live, last.reason, last.expires_at, self.by_id.get(author), last.row)
            elif row is not None:
                state = State(event.revision, row.version, not row.is_tombstone, row.reason, row.expires_at, self.by_id.get(row.request_id), row)
            else:
                continue  # told already
            states.append(state)
        for key in {(op.ns, key) for op in self.ops for key in keys_of(op)} | set(self.states):
            states = self.states[key]
            states.insert(0, State(0))
            for one, after in zip(states, states[1:]):
                one.until = after.revision - 1

    # ---- changes against who asked for them ----

    def check_authors(self):
        """No change that nobody asked for, or whose author heard of a refusal, and no author of two."""
        for row in self.final.rows:
            if row.reason == "EXPIRY":
                self.check_expiry(row)
                continue
            op = self.by_id.get(row.request_id)
            if op is None:
                self.broken("every change was asked for", row.ns, row.key, f"version {row.version} is by {row.request_id!r}, which nobody sent")
            elif op.ns != row.ns or row.reason not in reasons_asked(op) or row.key not in keys_of(op):
                self.broken("every change was asked for", row.ns, row.key, f"version {row.version} ({row.reason}) is not what {op} asked for")
            elif op.is_known and not op.is_done:
                self.broken("what was refused changed nothing", row.ns, row.key, f"version {row.version} is by {op}")
        for op in self.ops:
            for key, count in Counter((row.ns, row.key) for row in self.rows_of.get(op.id, [])).items():
                if count > 1:
                    self.broken("an operation is done once", *key, f"{count} versions are by {op}")
            touches = self.touches_of.get(op.id, [])
            if len(touches) > 1:
                self.broken("an operation is done once", op.ns, op.key, f"{len(touches)} touches are by {op}")
        authored = {(e.ns, e.revision) for events in self.touches_of.values() for e in events}
        for event in self.final.events:
            if event.kind == "touched" and (event.ns, event.revision) not in authored:
                self.broken("every change was asked for", event.ns, event.key, f"revision {event.revision} touched it, and no audit row says who")
        for author, events in self.touches_of.items():
            op = self.by_id.get(author)
            if op is None or op.kind != "patch" or (op.is_known and not op.is_done):
                self.broken("what was refused changed nothing", events[0].ns, events[0].key, f"revision {events[0].revision} is by {op or author}")

    def check_expiry(self, row):
        before = next((one for one in self.rows[row.ns, row.key] if one.version == row.version - 1), None)
        if before is None or before.expires_at is None or before.is_tombstone:
            self.broken("only what has a time to live expires", row.ns, row.key, f"version {row.version} is an expiry")
        elif row.changed_at < before.expires_at:
            self.broken("nothing expires before its time", row.ns, row.key, f"version {row.version} is {before.expires_at - row.changed_at} s early")

    def check_acknowledged(self):
        """Every change that was acknowledged is there, as it was acknowledged."""
        for op in self.ops:
            if not op.is_done:
                continue
            for key, version, revision in acknowledged(op):
                if op.kind == "patch":
                    found = [(e.version, e.revision) for e in self.touches_of.get(op.id, []) if e.key == key]
                else:
                    found = [(row.version, row.made) for row in self.rows_of.get(op.id, []) if row.key == key]
                fits = [one for one in found if version in (None, one[0]) and revision in (None, one[1])]
                if not fits:
                    self.broken("what was acknowledged is there", op.ns, key, f"there is {found or 'no change'} of {op}, not version {version}, revision {revision}")
            extra = {row.key for row in self.rows_of.get(op.id, [])} - {key for key, _, _ in acknowledged(op)}
            for key in extra:
                self.broken("nothing changes but what was acknowledged", op.ns, key, f"by {op}")

    def expected_value(self, row):
        """The value that the row's author gave it; None where that is not known."""
        op = self.by_id.get(row.request_id)
        if op is None or row.is_tombstone:
            return None
        if row.reason == "ROLLBACK":
            origin = next((one for one in self.rows[row.ns, row.key] if one.version == row.rolled_back_from), None)
            return self.expected_value(origin) if origin is not None and origin.version < row.version else None
        return value_asked(op, row.key)

    def check_values(self):
        for (ns, key), rows in self.rows.items():
            for row in rows:
                wanted = self.expected_value(row)
                if row.value is not None and wanted is not None and row.value != wanted:
                    self.broken("a version holds what was written", ns, key, f"version {row.version} holds {shorten(row.value)}, not {shorten(wanted)}")
                if row.reason == "ROLLBACK":
                    self.check_rollback(row, rows)

    def check_rollback(self, row, rows):
        op = self.by_id.get(row.request_id)
        asked = op.asked.get("version") if op is not None else None
        if asked is None:
            older = [one.version for one in rows if one.version < row.version - 1 and not one.is_tombstone]
            asked = older[-1] if older else None
        if row.rolled_back_from != asked:
            self.broken("a rollback goes where it was asked to", row.ns, row.key, f"version {row.version} is from {row.rolled_back_from}, not {asked}")

    # ---- compare and set ----

    def state_before(self, ns, key, revision):
        states = self.states[ns, key]
        at = bisect.bisect_left([state.revision for state in states], revision)
        return states[at - 1]

    def check_preconditions(self):
        """What a change demanded was so right before it."""
        for op in self.ops:
            changes = [(row.key, row.made) for row in self.rows_of.get(op.id, [])] + [(e.key, e.revision) for e in self.touches_of.get(op.id, [])]
            for key, revision in changes:
                demanded = demands(op, key)
                before = self.state_before(op.ns, key, revision)
                wrong = [f"{name} {value}" for name, value in demanded.items() if not holds(name, value, before)]
                if wrong:
                    self.broken("a stale writer is refused", op.ns, key, f"{', '.join(wrong)} was demanded at version {before.version}, revision {before.revision} by {op}")

    def check_winners(self):
        winners = defaultdict(list)
        for op in self.ops:
            for key, _, _ in acknowledged(op) if op.is_done else ():
                version = demands(op, key).get("version")
                if version and op.kind != "patch":
                    winners[op.ns, key, version].append(op)
        for (ns, key, version), ops in winners.items():
            if len(ops) > 1:
                self.broken("one compare-and-set of a version wins", ns, key, f"version {version} was replaced by {' and by '.join(map(str, ops))}")

    def check_whole(self):
        """An atomic bulk of which nobody heard is there or not, and never with others in between."""
        for op in self.ops:
            if op.kind not in ("bulk_set", "bulk_delete") or not op.asked.get("atomic", True):
                continue
            rows = self.rows_of.get(op.id, [])
            wanted = set(keys_of(op))
            if op.kind == "bulk_set" and rows and {row.key for row in rows} != wanted:
                self.broken("an atomic bulk is whole or absent", op.ns, "", f"only {sorted(row.key for row in rows)} is there of {op}")
            if not rows:
                continue
            first, last = min(row.made for row in rows), max(row.made for row in rows)
            if first < last:
                self.bulks[op.ns].append((first, last))
            between = [row for row in self.final.rows if row.ns == op.ns and first < row.made < last and row.request_id != op.id and not (row.reason == "EXPIRY" and row.key in wanted)]
            if between:
                self.broken("nothing comes in between the changes of an atomic bulk", op.ns, between[0].key, f"version {between[0].version} within {op}")

    def check_namespaces(self):
        """A namespace's own versions: one more with each update."""
        for ns, (version, _) in self.final.namespaces.items():
            rows = [a for a in self.final.audit if a.ns == ns and a.success and a.operation in ("namespace.create", "namespace.update")]
            found = sorted(row.version for row in rows)
            if found != list(range(1, version + 1)):
                self.broken("a namespace's versions go up by one", ns, "", f"it is at {version}, and audited were {found}")
        for op in self.ops:
            if op.kind != "ns_update" or not op.is_done:
                continue
            told, demanded = op.answer["version"], op.asked.get("version")
            if demanded is not None and told != demanded + 1:
                self.broken("a stale writer is refused", op.ns, "", f"by {op}")

    # ---- placing operations in the order of a namespace ----

    def place_all(self):
        for op in self.ops:
            revisions = [row.made for row in self.rows_of.get(op.id, []) if row.ns == op.ns] + [e.revision for e in self.touches_of.get(op.id, []) if e.ns == op.ns]
            if revisions:
                self.placements[op.ns].append(Placement(op, op.key, own=(min(revisions), max(revisions))))
            if op.is_known:
                for key, ranges, what in self.seen(op):
                    if ranges:
                        self.placements[op.ns].append(Placement(op, key, ranges))
                    else:
                        self.broken("an answer tells of a state that was", op.ns, key, f"{what}: {op}")

    def seen(self, op):
        """What the answer tells of the state: for each key where in the order it was so."""
        answer = op.answer
        if is_denied(op):
            return
        if op.kind in ("ns_get", "ns_update") and op.is_done:
            yield "", self.between_commits(op.ns, [(answer["revision"], answer["revision"])]), "the namespace"
        elif op.kind == "get" and op.asked.get("version") is not None:
            yield from self.seen_old(op)
        elif op.kind == "get" and op.is_done:
            yield op.key, self.where_shown(op, answer), "the entry"
        elif op.kind == "versions":
            yield from self.seen_versions(op)
        elif op.kind == "list" and op.is_done and answer.get("nextCursor") is None:
            yield "", self.where_listed(op), "the list as a whole"
            for item in answer["items"]:
                yield item["keyPath"], self.where_shown(op, item), "an item"
        elif op.kind == "bulk_get" and op.is_done:
            for item in answer["entries"]:
                yield item["keyPath"], self.where_shown(op, item), "an item"
            for key in answer["missing"]:
                yield key, self.where(op, key, lambda state: state.may_seem_absent(op)), "missing"
        elif op.kind == "bulk_delete" and op.is_done:
            for key in answer["missing"]:
                yield key, self.where(op, key, lambda state: state.may_seem_absent(op)), "missing"
        elif op.kind in ("put", "patch", "delete", "rotate", "bulk_set", "get"):
            yield from self.seen_refused(op)

    def seen_refused(self, op):
        """Refusals that tell where the key was."""
        if op.status == 404:
            yield op.key, self.where(op, op.key, lambda state: state.may_seem_absent(op)), "absent"
        problems = [item["error"] for item in op.answer.get("results", ()) if item["status"] == "failed"]
        if not op.is_done:
            problems += op.answer.get("errors") or [op.answer]
        for problem in problems:
            if "currentVersion" not in problem:
                continue
            key, version = problem["keyPath"], problem["currentVersion"]
            yield key, self.where_at(op, key, version), f"currentVersion {version}"
            if version == demands(op, key).get("version"):
                self.broken("a refusal is for a reason", op.ns, key, f"the key is at the version that was expected: {op}")

    def where(self, op, key, fits):
        return [(state.revision, state.until) for state in self.states[op.ns, key] if fits(state)]

    def where_at(self, op, key, version):
        if version == 0:
            return self.where(op, key, lambda state: state.may_seem_absent(op))
        return self.where(op, key, lambda state: state.version == version and state.may_be_seen(op))

    def where_shown(self, op, shown):
        key = shown["keyPath"]
        state = next((one for one in self.states[op.ns, key] if one.revision == shown["revision"]), None)
        if state is None or state.version != shown["version"] or not state.is_live:
            return []
        wanted = self.expected_value(state.row) if state.row is not None else None
        if wanted is not None and "value" in shown and shown["value"] != wanted:
            self.broken("a read shows the value of its version", op.ns, key, f"version {state.version} was {shorten(wanted)}: {op}")
        if not state.may_be_seen(op):
            self.broken("expired is hidden at the instant", op.ns, key, f"{op.wall_start - state.expires_at:.3f} s after its time: {op}")
            return []
        return [(state.revision, state.until)]

    def where_listed(self, op):
        """Revisions at which everything in the list was as it is shown, and nothing else was there."""
        shown = {item["keyPath"]: item["revision"] for item in op.answer["items"]}
        ranges = [(0, math.inf)]
        for (ns, key) in self.states:
            if ns != op.ns or not key.startswith(op.asked.get("prefix", "")) or not key.startswith(op.asked.get("visible", "")):
                continue
            if key in shown:
                fits = self.where(op, key, lambda state: state.revision == shown[key])
            else:
                fits = self.where(op, key, lambda state: state.may_seem_absent(op))
            ranges = intersect(ranges, fits)
        return self.between_commits(op.ns, ranges)

    def between_commits(self, ns, ranges):
        """Without the revisions within an atomic bulk, at which nobody may see anything."""
        for first, last in self.bulks[ns]:
            outside = [(0, first - 1), (last, math.inf)]
            ranges = intersect(ranges, outside)
        return ranges

    def hidden_from(self, ns, key, version):
        """The revision at which an expiry hid the version, if one did."""
        return next((state.revision for state in self.states[ns, key] if state.reason == "EXPIRY" and state.version > version), math.inf)

    def seen_old(self, op):
        version = op.asked["version"]
        row = next((one for one in self.rows[op.ns, op.key] if one.version == version), None)
        if op.status == 404:
            if row is None or row.is_tombstone:
                return
            hidden = self.hidden_from(op.ns, op.key, version)
            ranges = [(0, row.made - 1), (hidden, math.inf)] if hidden < math.inf else [(0, row.made - 1)]
            # Also while it is the current one or a former one of an entry that is past its time but not swept yet.
            ranges += self.where(op, op.key, lambda state: state.is_live and state.may_seem_absent(op) and state.version >= version)
            yield op.key, merge(ranges), "no such version"
        elif op.is_done:
            if row is None or row.is_tombstone:
                yield op.key, [], "no such version was made"
                return
            wanted = self.expected_value(row)
            if wanted is not None and op.answer["value"] != wanted:
                self.broken("a read shows the value of its version", op.ns, op.key, f"version {version} was {shorten(wanted)}: {op}")
            yield op.key, [(row.made, self.hidden_from(op.ns, op.key, version) - 1)], "a version of the history"

    def seen_versions(self, op):
        if not op.is_done:
            return
        items = op.answer["items"]
        found = [item["version"] for item in items]
        if found != list(range(found[0], found[0] - len(found), -1)):
            self.broken("versions go up by one, none twice, none left out", op.ns, op.key, f"{op}")
        floor = found[-1] - 1
        rows = {row.version: row for row in self.rows[op.ns, op.key]}
        for item in items:
            row = rows.get(item["version"])
            if row is None or (row.reason, row.request_id) != (item["reason"], item["requestId"]):
                yield op.key, [], f"version {item['version']}"
                return
            wanted = self.expected_value(row)
            if "value" in item and wanted is not None and item["value"] != wanted:
                self.broken("a read shows the value of its version", op.ns, op.key, f"version {item['version']} was {shorten(wanted)}: {op}")
        if floor and rows[floor].reason != "EXPIRY":
            self.broken("the history is shown down to what an expiry hid", op.ns, op.key, f"version {floor} is left out: {op}")
        yield op.key, self.where(op, op.key, lambda state: state.version == found[0]), "the newest version"

    def check_order(self, ns):
        """Places all in turn, each as early as it may stand: if that fails, no other way succeeds."""
        ended, lower, last = [], 0, None
        for number, item in enumerate(sorted(self.placements[ns], key=lambda item: item.op.start)):
            while ended and ended[0][0] < item.op.start:
                _, _, position, other = heapq.heappop(ended)
                if position > lower:
                    lower, last = position, other
            if item.own is not None:
                position = item.own[1]
                fits = item.own[0] > lower
            else:
                position = next((max(first, lower) for first, until in item.ranges if until >= lower), None)
                fits = position is not None
            if not fits:
                before = f"but revision {lower} was done or seen before it began, by {last.op}" if last else ""
                self.broken("what ended before something began stands before it", ns, item.key or item.op.key, f"at {item.own or item.ranges[-3:]} stands {item.op}, {before}")
                continue
            heapq.heappush(ended, (item.op.end, number, position, item))

    # ---- audit ----

    def check_audit(self):
        self.check_streams()
        denied = defaultdict(list)
        for op in self.ops:
            if is_denied(op):
                denied[op.user, OPERATION_OF[op.kind], op.code].append(op)
        folded = Counter()
        for row in self.final.audit:
            op = self.by_id.get(row.request_id)
            if op is not None and is_record_of_denial(row, op):
                folded[row.user, row.operation, row.reason] += row.count
            elif (row.user == "system" and row.operation in SYSTEM_OPERATIONS) or (op is None and row.ns in self.final.apart):
                continue
            elif op is None:
                self.broken("every audit row has an operation", row.ns, row.key, f"{row}")
            elif row.count != 1:
                self.broken("only denials are folded", row.ns, row.key, f"{row}")
        self.check_denials(denied, folded)
        for op in self.ops:
            if not is_denied(op):
                self.check_rows_of(op)
        self.check_expiry_rows()
        self.check_revision_order()

    def check_streams(self):
        streams = defaultdict(list)
        for row in self.final.audit:
            streams[row.stream].append(row.sequence)
        for stream, sequences in streams.items():
            if sequences != list(range(1, len(sequences) + 1)):
                self.broken("an audit stream has no gap", "", "", f"{stream}: {len(sequences)} rows, the last is {sequences[-1]}")

    def check_denials(self, denied, folded):
        """Folded into few rows, but counted one by one. What a killed process had counted and not written is lost: perhaps all,
        where the first of them, which has a row at once, failed while another was counted."""
        for group in set(denied) | set(folded):
            known = sum(denials(op) for op in denied[group])
            others = [op for op in self.ops if op.user == group[0] and OPERATION_OF[op.kind] == group[1]]
            unknown = sum(len(keys_of(op)) or 1 for op in others if not op.is_known)
            has_failed = any(not op.is_known or op.status >= 500 for op in others)
            least = min(known, 0 if has_failed else 1) if self.losses else known
            if not least <= folded[group] <= known + unknown:
                self.broken("denials are counted one by one", "", "", f"{group}: {folded[group]} are on record, {known} were heard of, {unknown} may have been")

    def check_rows_of(self, op):
        rows = [row for row in self.audit_of.get(op.id, []) if not is_record_of_denial(row, op)]
        found = Counter((row.operation, row.key, row.success, row.reason, row.version) for row in rows)
        changed = Counter((row.key, row.version, row.made) for row in self.rows_of.get(op.id, []))
        changed += Counter((e.key, e.version, e.revision) for e in self.touches_of.get(op.id, []))
        recorded = Counter((row.key, row.version, row.revision) for row in rows if row.success and row.revision is not None)
        if changed != recorded:
            self.broken("a change and its audit row are there together", op.ns, op.key, f"changed {sorted(changed)}, recorded {sorted(recorded)}: {op}")
        if not op.is_known:
            if any(count > 1 for row, count in found.items() if row[2]):
                self.broken("an operation is done once", op.ns, op.key, f"recorded {sorted(map(str, found))}: {op}")
            return
        expected = Counter(rows_expected(op, self.rows_of.get(op.id, [])))
        # What came while the server could not serve may be refused before there is anything to record it.
        if found != expected and not (op.status == 503 and not found):
            self.broken("one audit row per operation", op.ns, op.key, f"missing {sorted(map(str, expected - found))}, too many {sorted(map(str, found - expected))}: {op}")

    def check_expiry_rows(self):
        made = Counter((row.ns, row.key, row.version, row.made) for row in self.final.rows if row.reason == "EXPIRY")
        told = Counter((a.ns, a.key, a.version, a.revision) for a in self.final.audit if a.operation == "entry.expire")
        for ns, key, version, revision in (made - told) + (told - made):
            self.broken("a change and its audit row are there together", ns, key, f"expiry, version {version}, revision {revision}: {made[ns, key, version, revision]} made, {told[ns, key, version, revision]} recorded")

    def check_revision_order(self):
        """Within a stream rows stand in the order in which their changes were made."""
        last = {}
        for row in self.final.audit:
            if row.revision is None:
                continue
            if row.revision <= last.get((row.stream, row.ns), 0):
                self.broken("audit rows stand in the order of their changes", row.ns, row.key, f"{row}")
            last[row.stream, row.ns] = row.revision


# ---- what an operation asks for ----

def keys_of(op):
    if op.kind == "bulk_set":
        return [item["key"] for item in op.asked["items"]]
    if op.kind in ("bulk_get", "bulk_delete"):
        return list(op.asked["keys"])
    return [op.key] if op.key else []


def reasons_asked(op):
    return {"put": ("CREATE", "UPDATE"), "bulk_set": ("CREATE", "UPDATE"), "rotate": ("ROTATION",), "rollback": ("ROLLBACK",),
            "delete": ("DELETE",), "bulk_delete": ("DELETE",)}.get(op.kind, ())


def value_asked(op, key):
    if op.kind == "bulk_set":
        return next(item["value"] for item in op.asked["items"] if item["key"] == key)
    return op.asked.get("value")


def demands(op, key):
    """The preconditions: "version" (0: absent), "revision" (of the ETag), "absent"."""
    asked = op.asked
    if op.kind == "bulk_set":
        asked = next(item for item in op.asked["items"] if item["key"] == key)
    names = (("expected", "version"), ("if_match", "revision"), ("if_absent", "absent"))
    return {name: asked[member] for member, name in names if asked.get(member) is not None}


def holds(name, value, state):
    if name == "version" and value:
        return state.is_live and state.version == value
    if name == "revision":
        return state.is_live and state.revision == value
    return not state.is_live


def acknowledged(op):
    """The changes that an answer acknowledges: key, version and revision where it tells them."""
    if op.kind in ("put", "patch", "rotate", "rollback"):
        return [(op.key, op.answer["version"], op.answer["revision"])]
    if op.kind == "delete":
        return [(op.key, None, None)]
    if op.kind == "bulk_set":
        return [(one["keyPath"], one["version"], None) for one in op.answer["results"] if one["status"] != "failed"]
    if op.kind == "bulk_delete":
        return [(key, None, None) for key in op.answer["deleted"]]
    return []


def is_denied(op):
    """Whether the refusal tells of a caller without a right. "blind": one who has no grant in the namespace at all."""
    return op.is_known and (op.status in (401, 403) or (op.status == 404 and bool(op.asked.get("blind"))))


def is_record_of_denial(row, op):
    """Of one or of more: a row that counts several is that of the last. A bulk whose items stand for themselves is not denied."""
    if row.success or op.is_done:
        return False
    return row.reason in ("permission-denied", "unauthenticated") or (row.reason == "not-found" and bool(op.asked.get("blind")))


def denials(op):
    return len(op.answer.get("errors") or ()) or 1


def rows_expected(op, changed):
    """The audit rows that HTTP.md promises for an operation whose answer is known: operation, key, success, reason, version."""
    name, answer = OPERATION_OF[op.kind], op.answer
    if not op.is_done:
        errors = answer.get("errors") or [{"keyPath": op.asked.get("prefix", op.key), "code": op.code}]
        return [(name, one["keyPath"], False, one["code"], None) for one in errors]
    if op.kind in ("put", "patch", "rotate", "rollback"):
        shown = [("entry.get", op.key, True, "", answer["version"])] if "value" in answer else []
        return [(name, op.key, True, "", answer["version"])] + shown
    if op.kind == "get":
        return [(name, op.key, True, "", answer["version"])]
    if op.kind == "versions":
        return [(name, op.key, True, "", None)] + [(name, op.key, True, "", one["version"]) for one in answer["items"] if "value" in one]
    if op.kind == "list":
        return [(name, op.asked.get("prefix", ""), True, "", None)] + [(name, one["keyPath"], True, "", one["version"]) for one in answer["items"] if "value" in one]
    if op.kind == "bulk_get":
        return [(name, one["keyPath"], True, "", one["version"]) for one in answer["entries"]] + [(name, key, False, "not-found", None) for key in answer["missing"]]
    if op.kind == "bulk_set":
        return [(name, one["keyPath"], False, one["error"]["code"], None) if one["status"] == "failed" else (name, one["keyPath"], True, "", one["version"]) for one in answer["results"]]
    if op.kind in ("delete", "bulk_delete"):
        versions = {row.key: row.version for row in changed}
        return [(name, key, True, "", versions.get(key)) for key, _, _ in acknowledged(op)] + [(name, key, False, "not-found", None) for key in answer.get("missing", ())]
    return [(name, "", True, "", answer["version"] if op.kind != "ns_get" else None)]


# ---- ranges ----

def intersect(one, other):
    found = [(max(a, c), min(b, d)) for a, b in one for c, d in other if max(a, c) <= min(b, d)]
    return sorted(found)


def merge(ranges):
    """Ascending and without overlaps."""
    merged = []
    for first, until in sorted(ranges):
        if first > until:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((first, until))
    return merged


# ---- the front door ----

def check(ops, final, losses=False):
    """The rules that the history breaks. `losses`: a process was killed, and with it denials that it had only counted."""
    return Checker(ops, final, losses).run()


def report(violations, ops, final, seed, shown=3, lines=40):
    """What to print: the seed, the rule, and all that happened to the key."""
    parts = [f"seed {seed}: {len(violations)} rules broken: " + ", ".join(sorted({v.rule for v in violations}))]
    for violation in violations[:shown]:
        parts.append(f"\n{violation.rule}\n  namespace {violation.ns} key {violation.key!r}\n  {violation.text}")
        if not violation.key:
            continue
        parts.append("  its versions:")
        rows = [row for row in final.rows if (row.ns, row.key) == (violation.ns, violation.key)]
        parts += [f"    {row.version} r{row.made} {row.reason} by {row.request_id} {shorten(row.value)}" for row in sorted(rows, key=lambda row: row.version)[-lines:]]
        parts.append("  what was asked, by the time it began:")
        about = [op for op in ops if op.ns == violation.ns and violation.key in keys_of(op)]
        parts += [f"    {op}" for op in sorted(about, key=lambda op: op.start)[-lines:]]
    return "\n".join(parts)
