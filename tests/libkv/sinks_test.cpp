#include <doctest/doctest.h>

#include "kv/admin.h"
#include "libkv/backup_fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

void change(Storage& storage, const Changeset& changes) {
    const auto written = storage.write([&](StorageWriter& writer) -> Result<void> {
        KV_TRY(const auto locked, writer.lock({}));
        return writer.apply(changes);
    });
    REQUIRE_MESSAGE(written, written.error().message);
}

// As a process does that delivers to it.
void add_sink(Fixture& kv, const std::string& name, const std::string& owner, Time until) {
    Changeset changes;
    changes.sinks.push_back({name, kv.clock.now(), owner, until, 1});
    change(*kv.storage, changes);
}

std::string shown(Storage& storage) {
    const auto sinks = list_sinks(storage);
    REQUIRE(sinks);
    std::string text;
    for (const SinkInfo& sink : *sinks) text += sink.name + " [" + sink.owner + "] " + std::to_string(sink.pending) + "\n";
    return text;
}

std::string recorded(Storage& storage) {
    AuditRange range;
    range.operation = "sink.forget";
    const auto rows = storage.scan_audit(range);
    REQUIRE(rows);
    std::string text;
    for (const AuditRow& row : rows->rows)
        text += std::string(to_string(row.record.action)) + " " + row.record.key_path + " " + row.record.user_id + (row.record.success ? " ok" : " failed") + "\n";
    return text;
}

std::size_t audit_rows(Storage& storage) {
    AuditRange range;
    range.limit = 10'000;
    return storage.scan_audit(range).value().rows.size();
}

}  // namespace

TEST_CASE("a list of sinks tells how many events each has not confirmed") {
    Fixture kv;
    for (const char* key : {"a", "b", "c"}) REQUIRE(kv.call(kv.put_request(key, "x")));
    kv.close();
    add_sink(kv, "behind", "somebody", kv.clock.now() + 10s);
    add_sink(kv, "done", "", {});
    Changeset cursors;
    cursors.cursors.push_back({"behind", kv.ns, "app", 1});
    cursors.cursors.push_back({"done", kv.ns, "app", 3});
    change(*kv.storage, cursors);
    CHECK(shown(*kv.storage) == "behind [somebody] 2\ndone [] 0\n");

    REQUIRE(begin_epoch(*kv.storage, *right_key()));
    kv.open();
    REQUIRE(kv.call(kv.put_request("d", "x")));
    kv.close();
    CHECK(shown(*kv.storage) == "behind [somebody] 3\ndone [] 1\n");
}

TEST_CASE("a sink is forgotten when no process owns it any more, and that is recorded") {
    Fixture kv;
    kv.close();
    add_sink(kv, "amqp", "somebody", kv.clock.now() + 10s);
    add_sink(kv, "other", "", {});
    Changeset cursors;
    cursors.cursors.push_back({"amqp", kv.ns, "app", 1});
    change(*kv.storage, cursors);

    const std::size_t before = audit_rows(*kv.storage);
    CHECK(forget_sink(*kv.storage, *right_key(), "none") == Errc::not_found);
    CHECK(audit_rows(*kv.storage) == before);
    CHECK(forget_sink(*kv.storage, *make_fixed_key(SecretBytes(std::string(32, 'w'))), "amqp") == Errc::wrong_key);
    CHECK(forget_sink(*kv.storage, *right_key(), "amqp") == Errc::invalid_state);
    CHECK(recorded(*kv.storage).empty());
    CHECK(shown(*kv.storage) == "amqp [somebody] 0\nother [] 0\n");

    kv.clock.set(kv.clock.now() + 10s);
    CHECK(shown(*kv.storage) == "amqp [] 0\nother [] 0\n");
    REQUIRE(forget_sink(*kv.storage, *right_key(), "amqp"));
    CHECK(shown(*kv.storage) == "other [] 0\n");
    CHECK(kv.storage->scan_cursors({})->empty());
    CHECK(recorded(*kv.storage) == "DELETE amqp system ok\n");
    CHECK(findings(*kv.storage).empty());
}
