"""What kvd exports, read as strictly as a scraper may; and the alerts and the runbook that stand on it."""

import os
import re
import tempfile
import unittest

import yaml

from api import STATUS_OF, ApiTestCase, element, grant
from certificates import Authority
from harness import Kvd, main, until

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
LABELS_KNOWN = {"operation", "status", "le", "code", "version", "key_id", "crypto", "sink"}


class Family:
    def __init__(self, name):
        self.name = name
        self.kind = None
        self.help = None
        self.samples = {}  # (name, labels) -> value

    def values(self, name=None, **labels):
        wanted = set(labels.items())
        return [value for (sample, has), value in self.samples.items() if sample == (name or self.name) and wanted <= set(has)]


def parse_labels(text):
    labels, at = [], 0
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, f"malformed labels: {text}"
        labels.append((match.group(1), match.group(2)))
        at = match.end()
        assert at == len(text) or text[at] == ",", text
        at += 1
    assert len({name for name, _ in labels}) == len(labels), text
    return tuple(sorted(labels))


def belongs(sample, family):
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    return sample in {family.name + suffix for suffix in suffixes}


def parse(text):
    """Families by name. Fails on whatever the format does not allow."""
    assert text.endswith("\n")
    families, family = {}, None
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            if family is None or family.name != name:
                assert name not in families, f"{name} in two places"
                assert re.fullmatch(NAME, name)
                family = families[name] = Family(name)
            assert not family.samples, f"{what} of {name} after its samples"
            if what == "HELP":
                assert family.help is None and rest
                family.help = rest
            else:
                assert what == "TYPE" and family.kind is None and rest in ("counter", "gauge", "histogram"), line
                family.kind = rest
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"malformed line: {line}"
        name, labels, value = match.groups()
        assert family is not None and family.kind and family.help and belongs(name, family), line
        key = (name, parse_labels(labels or ""))
        assert key not in family.samples, f"twice: {line}"
        family.samples[key] = float(value)
    return families


def check_histogram(family):
    groups = {}
    for (name, labels), value in family.samples.items():
        bound = dict(labels).get("le")
        rest = tuple(label for label in labels if label[0] != "le")
        groups.setdefault(rest, {"buckets": []})
        if name.endswith("_bucket"):
            groups[rest]["buckets"].append((float(bound), value))
        else:
            groups[rest][name.rsplit("_", 1)[1]] = value
    for group in groups.values():
        bounds = [bound for bound, _ in group["buckets"]]
        counts = [count for _, count in group["buckets"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), family.name
        assert counts == sorted(counts) and counts[-1] == group["count"], family.name
        assert group["sum"] >= 0, family.name


class Metrics(ApiTestCase):
    flags = ("--audit-copy", "file:copy.jsonl", "--amqp", "amqp://127.0.0.1:1")  # where nobody listens
    tokens = [element("reader", grant("kv-entry:read", application="nobodys-application"), user="nobody-in-a-label")]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        self = cls()
        ns = self.namespace(name="name-in-no-label", applicationId="application-in-no-label", isSecretNamespace=True)
        for number in range(5):
            self.put(ns, f"key/in-no-label/{number}", "value-in-no-label")
            self.get(ns, f"key/in-no-label/{number}")
        self.call("GET", "/namespaces", token="reader", status=403)
        self.call("GET", "/namespaces", token="unknown", status=401)
        self.call("GET", "/admin/backup", admin=True, status=200)
        cls.ns = ns

    def families(self):
        families = parse(self.kvd.request("GET", "/metrics", admin=True, token=None).body.decode())
        for family in families.values():
            self.assertEqual(family.name.endswith("_total"), family.kind == "counter", family.name)
            if family.kind == "histogram":
                check_histogram(family)
        return families

    def value(self, name, sample=None, **labels):
        values = self.families()[name].values(sample, **labels)
        self.assertEqual(len(values), 1, name)
        return values[0]

    def test_they_read_and_tell_nothing_that_is_nobodys_business(self):
        text = self.kvd.request("GET", "/metrics", admin=True, token=None).body.decode()
        for word in ("in-no-label", "nobody", self.ns["id"], "copy.jsonl", self.kvd.folder, self.kvd.token, "127.0.0.1"):
            self.assertNotIn(word, text)
        for family in self.families().values():
            for _, labels in family.samples:
                self.assertLessEqual({name for name, _ in labels}, LABELS_KNOWN, family.name)

    def test_requests_are_counted_by_operation_and_status(self):
        before = self.value("kvd_requests_total", operation="entry.get", status="200")
        self.get(self.ns, "key/in-no-label/1")
        until(lambda: self.value("kvd_requests_total", operation="entry.get", status="200") == before + 1, "one more")
        self.assertEqual(self.value("kvd_requests_total", operation="admin.backup", status="200"), 1)
        self.assertGreaterEqual(self.value("kvd_requests_total", operation="namespace.list", status="401"), 1)

    def test_commits_and_reads_are_timed(self):
        for name in ("kv_commit_seconds", "kv_audit_seconds"):
            count = self.value(name, name + "_count")
            self.assertGreater(count, 0, name)
            self.assertGreater(self.value(name, name + "_sum"), 0, name)
        before = self.value("kv_audit_seconds", "kv_audit_seconds_count")
        self.get(self.ns, "key/in-no-label/1")
        until(lambda: self.value("kv_audit_seconds", "kv_audit_seconds_count") > before, "one more")

    def test_what_an_operator_watches_is_there(self):
        self.assertEqual(self.value("kvd_ready", code="ready"), 1)
        self.assertGreaterEqual(self.value("kv_denials_total"), 1)
        self.assertEqual(self.value("kv_integrity_failures_total"), 0)
        self.assertGreater(self.value("kv_storage_database_bytes"), 0)
        self.assertGreater(self.value("kv_disk_bytes"), self.value("kv_disk_free_bytes"))
        self.assertLess(abs(self.value("kv_clock_skew_seconds")), 10)
        self.assertEqual(self.value("kv_master_key_rows_missing"), 0)
        self.assertEqual(self.value("kv_rekeying_namespaces"), 0)
        self.assertEqual(self.value("kvd_audit_copy_dropped_total"), 0)
        until(lambda: self.value("kvd_audit_copy_rows_total") == self.value("kv_audit_rows_total"), "every row is copied")
        self.assertEqual(self.value("kvd_build_info"), 1)

    def test_events_that_wait_are_counted(self):
        until(lambda: self.value("kvd_outbox_pending", sink="amqp") >= 5, "those of the five keys")
        until(lambda: self.value("kvd_sink_failures_total", sink="amqp") >= 1, "one that did not arrive")
        self.assertGreater(self.value("kvd_outbox_oldest_pending_seconds", sink="amqp"), 0)
        self.assertEqual(self.value("kvd_sink_delivered_total", sink="amqp"), 0)
        for name in ("kvd_amqp_connected", "kvd_amqp_blocked", "kvd_amqp_published_total", "kvd_amqp_confirmed_total", "kvd_watches", "kvd_events_removed_total"):
            self.assertEqual(self.value(name), 0, name)

    def test_a_tokens_file_that_does_not_read_is_counted(self):
        before = self.value("kvd_token_reload_failures_total")
        good = self.kvd.read("tokens.json")
        self.kvd.write_tokens("{")
        self.kvd.signal(1)
        until(lambda: self.value("kvd_token_reload_failures_total") == before + 1, "one more")
        self.kvd.write_tokens(good)
        self.kvd.signal(1)
        until(lambda: self.value("kvd_token_reloads_total") >= 2, "it was read again")

    def test_nothing_is_counted_twice_or_backwards(self):
        one = self.families()
        self.put(self.ns, "key/in-no-label/9")
        two = self.families()
        for name, family in one.items():
            if family.kind == "counter":
                for key, value in family.samples.items():
                    self.assertGreaterEqual(two[name].samples[key], value, name)


class Alerts(ApiTestCase):
    """The alerts stand on metrics that there are, and lead to a chapter of the runbook."""

    flags = Metrics.flags

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with open(os.path.join(ROOT, "kvd/packaging/alerts.yml"), encoding="utf-8") as file:
            groups = yaml.safe_load(file)["groups"]
        cls.rules = [rule for group in groups for rule in group["rules"]]
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            cls.readme = file.read()

    def anchors(self):
        """Of the headings, as renderers of Markdown make them."""
        headings = re.findall(r"^#+ (.*)$", self.readme, re.M)
        return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}

    def test_each_alert_says_how_bad_it_is_and_what_to_do(self):
        names = [rule["alert"] for rule in self.rules]
        self.assertEqual(len(set(names)), len(names))
        for rule in self.rules:
            with self.subTest(alert=rule["alert"]):
                self.assertLessEqual(set(rule), {"alert", "expr", "for", "labels", "annotations"})
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertTrue(rule["annotations"]["summary"])
                file, anchor = rule["annotations"]["runbook"].split("#")
                self.assertEqual((file, anchor), ("README.md", rule["alert"].lower()))
                self.assertIn(anchor, self.anchors())

    def test_the_runbook_has_a_chapter_for_no_other_alert(self):
        chapters = set(re.findall(r"^#+ (Kvd\w+)$", self.readme, re.M))
        self.assertEqual(chapters, {rule["alert"] for rule in self.rules})

    def test_each_metric_that_an_alert_names_is_exported(self):
        self.call("GET", "/admin/backup", admin=True, status=200)
        families = parse(self.kvd.request("GET", "/metrics", admin=True, token=None).body.decode())
        with tempfile.TemporaryDirectory() as folder:
            families |= self.families_of_other_credentials(folder)
        samples = {name for family in families.values() for name, _ in family.samples} | set(families)
        for rule in self.rules:
            with self.subTest(alert=rule["alert"]):
                named = set(re.findall(r"\b(?:kv|kvd|process)_\w+", rule["expr"]))
                self.assertLessEqual(named, samples)
                self.assertTrue(named or "up{" in rule["expr"])
                for code in re.findall(r'code=~?"([^"]*)"', rule["expr"]):
                    self.assertLessEqual(set(code.split("|")), set(STATUS_OF))
                for status in re.findall(r'status=~?"([^"]*)"', rule["expr"]):
                    self.assertLessEqual({int(one) for one in status.split("|")}, set(STATUS_OF.values()))

    def families_of_other_credentials(self, folder):
        """What a kvd with TLS, a key set and a permission service has besides; nobody is there to be asked."""
        certificate, key = Authority(folder).issue("server", "IP:127.0.0.1")
        nobody = "http://127.0.0.1:9/"
        with Kvd("--tls-cert", certificate, "--tls-key", key, "--jwt-jwks", nobody, "--jwt-issuer", "i", "--jwt-audience", "a", "--permissions-url", nobody) as kvd:
            return parse(kvd.request("GET", "/metrics", admin=True, token=None).body.decode())

    def test_the_readme_explains_every_code(self):
        for code in STATUS_OF:
            self.assertIn(f"`{code}`", self.readme)


if __name__ == "__main__":
    main()
