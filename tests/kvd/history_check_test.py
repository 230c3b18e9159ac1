"""The judge of histories is judged: good ones pass, and of each rule there is a bad one that it refuses."""

import math
import unittest

from history_check import OPERATION_OF, Audit, Event, Final, Op, Row, check, report

NS = "ns"
DENIED = "permission-denied"


class Tale:
    """A history written by hand. Each operation takes the time from t to t + 1 and the next begins at t + 2, unless told otherwise."""

    def __init__(self):
        self.time = 0.0
        self.ops, self.rows, self.events, self.audit = [], [], [], []
        self.revision = 0
        self.op("ns_create", answer={"version": 1, "revision": 0}, status=201)
        self.record(self.ops[0], "", version=1)

    def op(self, kind, key="", asked=None, answer=None, status=200, start=None, end=None, user="u"):
        start = self.time if start is None else start
        end = start + 1 if end is None else end
        self.time = max(self.time, start) + 2
        op = Op(f"o{len(self.ops)}", user, kind, NS, key, asked or {}, start, end, start, end, status, answer or {})
        if status is None:
            op.end = op.wall_end = math.inf
        self.ops.append(op)
        return op

    def record(self, op, key, **members):
        members.setdefault("user", op.user)
        members.setdefault("operation", OPERATION_OF.get(op.kind))
        self.audit.append(Audit("stream", len(self.audit) + 1, NS, key, request_id=op.id, **members))
        return self.audit[-1]

    def current(self, key):
        return next((row for row in reversed(self.rows) if row.key == key), None)

    def change(self, op, key, reason, **members):
        """What a change leaves: a version, an event, an audit row."""
        self.revision += 1
        before = self.current(key)
        row = Row(NS, key, before.version + 1 if before else 1, self.revision, reason, op.id, is_tombstone=reason in ("DELETE", "EXPIRY"), **members)
        self.rows.append(row)
        kind = {"CREATE": "created", "UPDATE": "updated", "ROTATION": "rotated", "ROLLBACK": "rolled_back", "DELETE": "deleted", "EXPIRY": "expired"}[reason]
        self.events.append(Event(NS, self.revision, key, kind, row.version))
        self.record(op, key, version=row.version, revision=row.revision)
        return row

    def put(self, key, value, asked=None, **timing):
        before = self.current(key)
        is_new = before is None or before.is_tombstone
        op = self.op("put", key, {"value": value, **(asked or {})}, status=timing.pop("status", 201 if is_new else 200), **timing)
        row = self.change(op, key, "CREATE" if is_new else "UPDATE", value=value)
        if op.is_known:
            op.answer = {"keyPath": key, "version": row.version, "revision": row.revision}
        return op

    def delete(self, key, **timing):
        op = self.op("delete", key, status=204, **timing)
        self.change(op, key, "DELETE")
        return op

    def rollback(self, key, to, asked=None):
        op = self.op("rollback", key, asked)
        value = next(row.value for row in self.rows if (row.key, row.version) == (key, to))
        row = self.change(op, key, "ROLLBACK", value=value, rolled_back_from=to)
        op.answer = {"keyPath": key, "version": row.version, "revision": row.revision}
        return op

    def patch(self, key, **timing):
        op = self.op("patch", key, **timing)
        self.revision += 1
        row = self.current(key)
        row.revision = self.revision
        self.events.append(Event(NS, self.revision, key, "touched", row.version))
        self.record(op, key, version=row.version, revision=self.revision)
        op.answer = {"keyPath": key, "version": row.version, "revision": self.revision}
        return op

    def expire(self, key, at):
        system = Op("", "system", "", NS)
        row = self.change(system, key, "EXPIRY", changed_at=at)
        self.audit[-1].operation = "entry.expire"
        return row

    def get(self, key, **timing):
        row = self.current(key)
        op = self.op("get", key, answer={"keyPath": key, "version": row.version, "revision": row.revision, "value": row.value}, **timing)
        self.record(op, key, version=row.version)
        return op

    def miss(self, key, **timing):
        op = self.op("get", key, answer={"code": "not-found"}, status=404, **timing)
        self.record(op, key, success=False, reason="not-found")
        return op

    def conflict(self, key, expected, current):
        op = self.op("put", key, {"value": "lost", "expected": expected}, {"code": "version-conflict", "keyPath": key, "currentVersion": current}, 409)
        self.record(op, key, success=False, reason="version-conflict")
        return op

    def list(self, **timing):
        live = {row.key: row for row in self.rows}
        items = [{"keyPath": row.key, "version": row.version, "revision": row.revision} for row in live.values() if not row.is_tombstone]
        op = self.op("list", "", {"prefix": ""}, {"items": items, "nextCursor": None}, **timing)
        self.record(op, "")
        return op

    def bulk(self, values, **timing):
        """An atomic one; `values`: key -> value."""
        op = self.op("bulk_set", "", {"items": [{"key": k, "value": v} for k, v in values.items()], "atomic": True}, **timing)
        results = []
        for key, value in values.items():
            row = self.change(op, key, "UPDATE" if self.current(key) else "CREATE", value=value)
            results.append({"keyPath": key, "status": "created", "version": row.version})
        if op.is_known:
            op.answer = {"results": results}
        return op

    def denied(self, number, written, counted):
        """So many denials, the first of which has a row of its own and the rest one together."""
        ops = [self.op("put", "a", {"value": "no"}, {"code": DENIED}, 403, user="eve") for _ in range(number)]
        if written:
            self.record(ops[0], "a", success=False, reason=DENIED)
        if counted:
            self.record(ops[-1], "a", success=False, reason=DENIED, count=counted)

    def final(self):
        return Final({NS: (1, self.revision)}, self.rows, self.events, self.audit)

    def broken(self, **options):
        return {violation.rule for violation in check(self.ops, self.final(), **options)}


class GoodHistories(unittest.TestCase):
    def test_a_history_with_everything_in_it_is_good(self):
        tale = Tale()
        tale.put("a", "one")
        tale.put("a", "two", {"expected": 1})
        tale.get("a")
        tale.conflict("a", 1, 2)
        tale.patch("a")
        tale.get("a")
        tale.rollback("a", 1)
        tale.delete("a")
        tale.miss("a")
        tale.put("a", "three", {"expected": 0})
        tale.bulk({"a": "four", "b": "five"})
        tale.list()
        tale.denied(5, True, 4)
        self.assertEqual(tale.broken(), set())

    def test_reads_that_overlap_a_write_may_see_it_or_not(self):
        for order in (("old", "new"), ("new", "new"), ("old", "old")):
            tale = Tale()
            tale.put("a", "old")
            tale.put("a", "new", start=9, end=20)
            rows = {row.value: row for row in tale.rows}
            for number, value in enumerate(order):
                op = tale.op("get", "a", answer={"keyPath": "a", "version": rows[value].version, "revision": rows[value].revision, "value": value}, start=10 + 2 * number, end=11 + 2 * number)
                tale.record(op, "a", version=rows[value].version)
            self.assertEqual((order, tale.broken()), (order, set()))

    def test_what_nobody_heard_of_may_be_in_or_out(self):
        tale = Tale()
        tale.put("a", "in", status=None)
        tale.op("put", "a", {"value": "out"}, status=None)
        tale.bulk({"a": "x", "b": "y"}, status=None)
        tale.op("bulk_set", "", {"items": [{"key": "a", "value": 1}, {"key": "b", "value": 2}], "atomic": True}, status=None)
        tale.get("a", start=100)
        self.assertEqual(tale.broken(), set())

    def test_an_entry_past_its_time_is_absent_before_it_is_swept(self):
        tale = Tale()
        tale.put("a", "short")
        tale.rows[-1].expires_at = 5.0
        tale.miss("a", start=6)
        tale.expire("a", 7.0)
        tale.miss("a", start=8)
        self.assertEqual(tale.broken(), set())

    def test_denials_counted_by_a_process_that_was_killed_are_lost(self):
        tale = Tale()
        tale.denied(5, True, 0)
        self.assertEqual(tale.broken(losses=True), set())


class BadHistories(unittest.TestCase):
    def tale(self):
        tale = Tale()
        tale.put("a", "one")
        tale.put("a", "two", {"expected": 1})
        tale.put("a", "three")
        return tale

    def refused(self, tale, *rules, **options):
        found = tale.broken(**options)
        for rule in rules:
            self.assertIn(rule, found)

    # ---- versions, events ----

    def test_a_version_used_twice(self):
        tale = self.tale()
        tale.rows[2].version = 2
        self.refused(tale, "versions go up by one, none twice, none left out")

    def test_a_version_left_out(self):
        tale = self.tale()
        tale.rows[2].version = 4
        self.refused(tale, "versions go up by one, none twice, none left out")

    def test_versions_made_in_another_order(self):
        tale = self.tale()
        tale.events[1].version, tale.events[2].version = 3, 2
        self.refused(tale, "a later version has a later revision")

    def test_a_revision_left_out(self):
        tale = self.tale()
        tale.revision += 1
        self.refused(tale, "revisions have no gap and one event each")

    def test_a_change_without_an_event(self):
        tale = self.tale()
        del tale.events[1]
        self.refused(tale, "revisions have no gap and one event each", "one event per change and none besides")

    def test_two_events_of_one_change(self):
        tale = self.tale()
        tale.events.append(Event(NS, 4, "a", "updated", 3))
        tale.revision = 4
        self.refused(tale, "one event per change and none besides")

    def test_an_event_of_another_kind(self):
        tale = self.tale()
        tale.events[1].kind = "rotated"
        self.refused(tale, "one event per change and none besides")

    # ---- changes and who asked for them ----

    def test_an_acknowledged_write_that_is_gone(self):
        tale = self.tale()
        del tale.rows[2], tale.events[2]
        tale.revision = 2
        self.refused(tale, "what was acknowledged is there")

    def test_an_acknowledged_delete_that_is_gone(self):
        tale = self.tale()
        tale.op("delete", "a", status=204)
        self.refused(tale, "what was acknowledged is there")

    def test_an_acknowledged_touch_that_is_gone(self):
        tale = self.tale()
        tale.op("patch", "a", answer={"keyPath": "a", "version": 3, "revision": 4})
        self.refused(tale, "what was acknowledged is there")

    def test_a_write_that_was_given_another_version(self):
        tale = self.tale()
        tale.ops[3].answer["version"] = 4
        self.refused(tale, "what was acknowledged is there")

    def test_a_change_by_nobody(self):
        tale = self.tale()
        tale.rows[2].request_id = "unheard-of"
        self.refused(tale, "every change was asked for")

    def test_a_change_that_was_not_what_was_asked_for(self):
        tale = self.tale()
        tale.rows[2].reason, tale.events[2].kind = "ROTATION", "rotated"
        self.refused(tale, "every change was asked for")

    def test_a_touch_that_no_audit_row_has(self):
        tale = self.tale()
        tale.patch("a")
        tale.audit.pop()
        self.refused(tale, "every change was asked for", "what was acknowledged is there")

    def test_a_refusal_that_changed_something(self):
        tale = self.tale()
        tale.ops[3].status, tale.ops[3].answer = 503, {"code": "unavailable"}
        self.refused(tale, "what was refused changed nothing")

    def test_a_write_that_was_done_twice(self):
        tale = self.tale()
        tale.change(tale.ops[3], "a", "UPDATE", value="three")
        self.refused(tale, "an operation is done once")

    def test_a_touch_that_was_done_twice(self):
        tale = self.tale()
        tale.patch("a")
        tale.patch("a")
        for row in tale.audit[-2:]:
            row.request_id = tale.ops[-1].id
        self.refused(tale, "an operation is done once")

    def test_a_version_with_another_value(self):
        tale = self.tale()
        tale.rows[1].value = "three"
        self.refused(tale, "a version holds what was written")

    def test_a_rollback_that_restored_another_version(self):
        for asked in ({}, {"version": 2}):
            tale = self.tale()
            tale.rollback("a", 1, asked)
            self.refused(tale, "a rollback goes where it was asked to")

    def test_a_rollback_with_another_value(self):
        tale = self.tale()
        tale.rollback("a", 2)
        tale.rows[-1].value = "one"
        self.refused(tale, "a version holds what was written")

    def test_an_expiry_of_what_never_expires(self):
        tale = self.tale()
        tale.expire("a", 100.0)
        self.refused(tale, "only what has a time to live expires")

    def test_an_expiry_before_its_time(self):
        tale = self.tale()
        tale.rows[-1].expires_at = 100.0
        tale.expire("a", 99.0)
        self.refused(tale, "nothing expires before its time")

    # ---- compare and set ----

    def test_a_stale_writer_that_was_let_in(self):
        for demand in ({"expected": 2}, {"if_match": 2}, {"if_absent": True}, {"expected": 0}):
            tale = self.tale()
            tale.put("a", "stale", demand)
            self.refused(tale, "a stale writer is refused")

    def test_two_winners_of_one_version(self):
        tale = self.tale()
        tale.put("a", "again", {"expected": 1})
        self.refused(tale, "one compare-and-set of a version wins")

    def test_a_refusal_without_a_reason(self):
        tale = self.tale()
        tale.conflict("a", 3, 3)
        self.refused(tale, "a refusal is for a reason")

    def test_a_refusal_that_tells_of_a_version_that_was_not(self):
        tale = self.tale()
        tale.conflict("a", 7, 9)
        self.refused(tale, "an answer tells of a state that was")

    def test_a_stale_update_of_a_namespace(self):
        tale = self.tale()
        op = tale.op("ns_update", "", {"version": 5}, {"version": 2, "revision": 3})
        tale.record(op, "", version=2)
        self.refused(tale, "a stale writer is refused", "a namespace's versions go up by one")

    # ---- bulks ----

    def test_half_a_bulk(self):
        tale = self.tale()
        tale.bulk({"a": 1, "b": 2, "c": 3}, status=None)
        del tale.rows[-1], tale.events[-1], tale.audit[-1]
        tale.revision -= 1
        self.refused(tale, "an atomic bulk is whole or absent")

    def test_a_bulk_with_another_write_in_its_middle(self):
        tale = self.tale()
        tale.bulk({"b": 1, "c": 2})
        tale.put("a", "between")
        one, other = tale.rows[-2], tale.rows[-1]
        one.revision, other.revision = other.revision, one.revision
        tale.events[-2].revision, tale.events[-1].revision = one.revision, other.revision
        tale.ops[-1].answer["revision"] = other.revision
        self.refused(tale, "nothing comes in between the changes of an atomic bulk")

    def test_a_list_that_shows_half_a_bulk(self):
        tale = Tale()
        tale.bulk({"a": 1, "b": 1})
        before = {row.key: row for row in tale.rows}
        tale.bulk({"a": 2, "b": 2}, start=10, end=30)
        op = tale.list(start=12, end=14)
        op.answer["items"][1].update(version=1, revision=before["b"].revision)
        self.refused(tale, "an answer tells of a state that was")

    def test_a_namespace_seen_in_the_middle_of_a_bulk(self):
        tale = Tale()
        tale.bulk({"a": 1, "b": 1}, start=10, end=30)
        op = tale.op("ns_get", answer={"version": 1, "revision": 1}, start=12, end=14)
        tale.record(op, "")
        self.refused(tale, "an answer tells of a state that was")

    # ---- real time ----

    STANDS = "what ended before something began stands before it"

    def test_a_write_that_went_before_one_that_had_ended(self):
        tale = self.tale()
        tale.ops[2].start, tale.ops[2].end = 100, 101
        tale.ops[3].start, tale.ops[3].end = 50, 51
        self.refused(tale, self.STANDS)

    def test_a_read_of_what_was_replaced_before_it_began(self):
        tale = Tale()
        tale.put("a", "one")
        stale = tale.get("a")
        tale.put("a", "two")
        stale.start, stale.end = 100, 101
        self.refused(tale, self.STANDS)

    def test_a_read_of_what_was_not_begun_yet(self):
        tale = self.tale()
        early = tale.get("a")
        early.start, early.end = 3, 3.5
        self.refused(tale, self.STANDS)

    def test_a_read_behind_another_read(self):
        tale = Tale()
        tale.put("a", "old")
        old = tale.get("a", start=12, end=13)
        tale.put("a", "new", start=5, end=50)
        tale.get("a", start=10, end=11)
        self.assertLess(tale.ops[-1].end, old.start)
        self.refused(tale, self.STANDS)

    def test_a_read_behind_a_read_of_another_key(self):
        tale = Tale()
        tale.put("a", "old")
        stale = tale.get("a")
        tale.put("a", "new", start=5, end=50)
        tale.put("b", "later", start=6, end=50)
        tale.get("b", start=20, end=21)
        stale.start, stale.end = 30, 31
        self.refused(tale, self.STANDS)

    def test_absent_though_it_was_there(self):
        tale = self.tale()
        tale.miss("a")
        self.refused(tale, self.STANDS)

    def test_absent_after_it_was_seen(self):
        tale = Tale()
        tale.put("a", "x", start=5, end=50)
        tale.get("a", start=10, end=11)
        tale.miss("a", start=12, end=13)
        self.refused(tale, self.STANDS)

    def test_a_former_version_that_is_not_found(self):
        tale = self.tale()
        op = tale.op("get", "a", {"version": 2}, {"code": "not-found"}, 404)
        tale.record(op, "a", success=False, reason="not-found")
        self.refused(tale, self.STANDS)

    def test_a_namespace_at_an_older_revision(self):
        tale = self.tale()
        op = tale.op("ns_get", answer={"version": 1, "revision": 2})
        tale.record(op, "")
        self.refused(tale, self.STANDS)

    # ---- what reads show ----

    def test_a_read_of_another_value(self):
        tale = self.tale()
        tale.get("a").answer["value"] = "two"
        self.refused(tale, "a read shows the value of its version")

    def test_a_read_of_a_version_that_never_was(self):
        tale = self.tale()
        tale.get("a").answer["revision"] = 77
        self.refused(tale, "an answer tells of a state that was")

    def test_a_former_version_with_another_value(self):
        tale = self.tale()
        op = tale.op("get", "a", {"version": 2}, {"keyPath": "a", "version": 2, "revision": 2, "value": "one"})
        tale.record(op, "a", version=2)
        self.refused(tale, "a read shows the value of its version")

    def test_an_entry_shown_after_its_time(self):
        tale = self.tale()
        tale.rows[-1].expires_at = 8.0
        tale.get("a", start=9)
        self.refused(tale, "expired is hidden at the instant")

    def history_of(self, tale, versions):
        rows = {row.version: row for row in tale.rows}
        items = [{"version": v, "reason": rows[v].reason, "requestId": rows[v].request_id, "value": rows[v].value} for v in versions]
        op = tale.op("versions", "a", answer={"items": items})
        tale.record(op, "a")
        for item in items:
            tale.record(op, "a", version=item["version"])
        return op

    def test_histories_that_are_shown(self):
        tale = self.tale()
        self.history_of(tale, (3, 2, 1))
        self.assertEqual(tale.broken(), set())
        for versions, rule in (((3, 1), "versions go up by one, none twice, none left out"), ((2, 1), self.STANDS), ((3, 2), "the history is shown down to what an expiry hid")):
            tale = self.tale()
            self.history_of(tale, versions)
            self.refused(tale, rule)
        tale = self.tale()
        self.history_of(tale, (3, 2, 1)).answer["items"][1]["value"] = "one"
        self.refused(tale, "a read shows the value of its version")
        tale = self.tale()
        self.history_of(tale, (3, 2, 1)).answer["items"][1]["requestId"] = "o1"
        self.refused(tale, "an answer tells of a state that was")

    # ---- audit ----

    ONE_ROW = "one audit row per operation"

    def test_a_read_without_an_audit_row(self):
        tale = self.tale()
        tale.get("a")
        tale.audit.pop()
        self.refused(tale, self.ONE_ROW)

    def test_a_refusal_without_an_audit_row(self):
        tale = self.tale()
        tale.conflict("a", 1, 3)
        tale.audit.pop()
        self.refused(tale, self.ONE_ROW)

    def test_two_audit_rows_of_one_read(self):
        tale = self.tale()
        tale.record(tale.get("a"), "a", version=3)
        self.refused(tale, self.ONE_ROW)

    def test_an_audit_row_that_says_something_else(self):
        for member, value in (("key", "b"), ("version", 2), ("success", False), ("operation", "entry.list")):
            tale = self.tale()
            tale.get("a")
            setattr(tale.audit[-1], member, value)
            self.refused(tale, self.ONE_ROW)

    def test_a_change_without_its_audit_row(self):
        tale = self.tale()
        tale.put("a", "x", status=None)
        tale.audit.pop()
        self.refused(tale, "a change and its audit row are there together")

    def test_an_audit_row_without_its_change(self):
        tale = self.tale()
        op = tale.op("put", "b", {"value": "x"}, status=None)
        tale.record(op, "b", version=1, revision=4)
        self.refused(tale, "a change and its audit row are there together")

    def test_an_expiry_without_its_audit_row(self):
        tale = self.tale()
        tale.rows[-1].expires_at = 8.0
        tale.expire("a", 9.0)
        tale.audit.pop()
        self.refused(tale, "a change and its audit row are there together")

    def test_an_audit_row_of_nobody(self):
        tale = self.tale()
        tale.record(Op("stranger", "u", "get", NS), "a")
        self.refused(tale, "every audit row has an operation")

    def test_a_gap_in_an_audit_stream(self):
        tale = self.tale()
        tale.audit[-1].sequence += 1
        self.refused(tale, "an audit stream has no gap")

    def test_audit_rows_in_another_order(self):
        tale = self.tale()
        tale.audit[-1].revision, tale.audit[-2].revision = tale.audit[-2].revision, tale.audit[-1].revision
        self.refused(tale, "audit rows stand in the order of their changes")

    def test_denials_that_are_miscounted(self):
        for written, counted in ((True, 3), (True, 5), (False, 4), (True, 0), (False, 0)):
            tale = self.tale()
            tale.denied(5, written, counted)
            self.refused(tale, "denials are counted one by one")

    def test_a_first_denial_that_was_not_written(self):
        tale = self.tale()
        tale.denied(5, False, 0)
        self.refused(tale, "denials are counted one by one", losses=True)

    def test_rows_of_reads_folded_into_one(self):
        tale = self.tale()
        tale.get("a")
        tale.audit[-1].count = 2
        self.refused(tale, "only denials are folded")

    # ---- the report ----

    def test_a_report_tells_the_seed_the_rule_and_the_history_of_the_key(self):
        tale = self.tale()
        tale.rows[1].value = "other"
        text = report(check(tale.ops, tale.final()), tale.ops, tale.final(), "4711")
        for part in ("seed 4711", "a version holds what was written", "'a'", "o2 u put a", "3 r3 UPDATE by o3"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
