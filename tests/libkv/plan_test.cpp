#include "plan.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "fixture.h"
#include "plan_parts.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

// ---- every write operation on every state of a key under every precondition ----

enum class State { absent, live, updated, live_ttl, reborn, expired, swept, destroyed, deleted, purged, forgotten };
constexpr State states[] = {State::absent,  State::live,      State::updated, State::live_ttl, State::reborn,   State::expired,
                            State::swept, State::destroyed, State::deleted, State::purged,   State::forgotten};
constexpr const char* state_names[] = {"absent", "live",      "updated", "live_ttl", "reborn",   "expired",
                                       "swept",  "destroyed", "deleted", "purged",   "forgotten"};

enum class Op { put, patch, remove, purge, rotate, rollback, rollback_to_current, rollback_to_unknown, set_atomic, set_each, bulk_delete, bulk_purge };
constexpr Op ops[] = {Op::put,      Op::patch,      Op::remove,   Op::purge,       Op::rotate,
                      Op::rollback, Op::rollback_to_current, Op::rollback_to_unknown, Op::set_atomic, Op::set_each, Op::bulk_delete, Op::bulk_purge};
constexpr const char* op_names[] = {"put",      "patch",    "remove",     "purge",    "rotate",      "rollback",
                                    "rollback_to_current", "rollback_to_unknown", "set_atomic", "set_each", "bulk_delete", "bulk_purge"};

enum class Asked { nothing, version_right, version_wrong, version_zero, etag_right, etag_among, etag_stale, match_any, none_match_any };
constexpr Asked all_asked[] = {Asked::nothing,    Asked::version_right, Asked::version_wrong, Asked::version_zero,  Asked::etag_right,
                               Asked::etag_among, Asked::etag_stale,    Asked::match_any,     Asked::none_match_any};
constexpr const char* asked_names[] = {"nothing",    "version_right", "version_wrong", "version_zero",  "etag_right",
                                       "etag_among", "etag_stale",    "match_any",     "none_match_any"};

bool is_live_state(State state) {
    return state == State::live || state == State::updated || state == State::live_ttl || state == State::reborn;
}

template <class E>
std::size_t index(E e) {
    return static_cast<std::size_t>(e);
}

// Everything a row says.
std::string whole(const EntryRow& row) {
    const auto time = [](const std::optional<Time>& at) { return at ? format_time(*at) : std::string("-"); };
    std::string out = row.id.to_string() + row.key_path + (row.is_tombstone ? " T " : " ") + std::to_string(row.version) + " " +
                      std::to_string(row.revision) + std::string(to_string(row.reason)) + row.comment + row.metadata + row.value;
    out += time(row.expires_at) + time(row.hidden_since) + time(row.created_at) + time(row.updated_at) + row.created_by;
    out += row.updated_by + row.request_id + std::to_string(row.history_floor) + std::to_string(row.ttl_seconds.value_or(-1));
    return out + std::to_string(row.key_generation) + std::to_string(row.rolled_back_from.value_or(0));
}

struct Before {
    State state;
    std::string key;
    std::optional<EntryRow> row;
    std::vector<VersionRow> history;
    std::uint64_t revision = 0;
    std::uint64_t floor = 0;
    bool keeps_history = true;

    bool is_live() const { return is_live_state(state); }
    std::uint64_t version() const { return row ? row->version : floor; }
};

Precondition make_precondition(Asked asked, const Before& before, const std::string& epoch) {
    const std::uint64_t revision = before.row ? before.row->revision : 0;
    const NamespaceId ns = before.row ? before.row->ns : NamespaceId{};
    Precondition out;
    switch (asked) {
        case Asked::nothing: break;
        case Asked::version_right: out.expected_version = before.is_live() || before.state == State::deleted ? before.version() : 0; break;
        case Asked::version_wrong: out.expected_version = before.version() + 7; break;
        case Asked::version_zero: out.expected_version = 0; break;
        case Asked::etag_right: out.if_match = std::vector<std::string>{entry_etag(epoch, ns, revision)}; break;
        case Asked::etag_among: out.if_match = std::vector<std::string>{entry_etag(epoch, ns, revision + 9), entry_etag(epoch, ns, revision)}; break;
        case Asked::etag_stale: out.if_match = std::vector<std::string>{entry_etag(epoch, ns, revision + 9), entry_etag("0000", ns, revision)}; break;
        case Asked::match_any: out.if_match_any = true; break;
        case Asked::none_match_any: out.if_none_match_any = true; break;
    }
    return out;
}

// What a precondition answers by itself.
std::string verdict(Asked asked, const Before& before, Op op) {
    const bool live = before.is_live();
    switch (asked) {
        case Asked::nothing: return "ok";
        case Asked::version_right:
            // Only a rollback may name the version of a deletion.
            return live || before.state != State::deleted || op == Op::rollback ? "ok" : "version-conflict";
        case Asked::version_wrong: return "version-conflict";
        case Asked::version_zero: return live ? "version-conflict" : "ok";
        case Asked::etag_right:
        case Asked::etag_among:
        case Asked::match_any: return live ? "ok" : "precondition-failed";
        case Asked::etag_stale: return "precondition-failed";
        case Asked::none_match_any: return live ? "precondition-failed" : "ok";
    }
    return "";
}

std::string expected_code(Op op, Asked asked, const Before& before) {
    const bool live = before.is_live();
    const bool has_past = before.state == State::deleted && before.keeps_history;
    switch (op) {
        case Op::put:
        case Op::set_each: return verdict(asked, before, op);
        case Op::set_atomic: return verdict(asked, before, op) == "ok" ? "ok" : "bulk-failed";
        case Op::patch:
        case Op::remove: return live ? verdict(asked, before, op) : "not-found";
        case Op::bulk_delete: return live ? "ok" : "not-found";
        case Op::purge: return live || has_past ? verdict(asked, before, op) : "not-found";
        case Op::bulk_purge: return live || has_past ? "ok" : "not-found";
        case Op::rotate:
            if (!before.keeps_history) return "history-disabled";
            return live ? verdict(asked, before, op) : "not-found";
        case Op::rollback:
            if (!before.keeps_history) return "history-disabled";
            if (before.state != State::updated && before.state != State::reborn && !has_past) return "not-found";
            return verdict(asked, before, op);
        case Op::rollback_to_current:
            if (!before.keeps_history) return "history-disabled";
            return live ? "current-version" : "not-found";
        case Op::rollback_to_unknown: return before.keeps_history ? "not-found" : "history-disabled";
    }
    return "";
}

Request make_request(const Fixture& kv, Op op, const Before& before, const Precondition& precondition) {
    const std::string& key = before.key;
    switch (op) {
        case Op::put: return kv.put_request(key, "new", {}, precondition);
        case Op::patch: return kv.patch_request(key, R"({"a":1})", {}, precondition);
        case Op::remove: return kv.delete_request(key, false, precondition);
        case Op::purge: return kv.delete_request(key, true, precondition);
        case Op::rotate: return kv.rotate_request(key, "new", {}, precondition);
        case Op::rollback: return kv.rollback_request(key, {}, precondition);
        case Op::rollback_to_current: return kv.rollback_request(key, std::max<std::uint64_t>(before.version(), 1), precondition);
        case Op::rollback_to_unknown: return kv.rollback_request(key, 99, precondition);
        case Op::set_atomic:
        case Op::set_each: {
            BulkSet set = kv.bulk_set_request({{key, "new"}}, op == Op::set_atomic);
            set.entries[0].precondition = precondition;
            return set;
        }
        case Op::bulk_delete: return kv.bulk_delete_request({key});
        case Op::bulk_purge: return kv.bulk_delete_request({key}, true, true);
    }
    return kv.get_request(key);
}

// The code of the one item, wherever the reply has put it.
std::string code_of_item(const Result<Reply>& reply) {
    if (!reply) return std::string(code_name(reply.error().code));
    if (const auto* set = std::get_if<BulkSetReply>(&*reply)) {
        return set->results.at(0).error ? std::string(code_name(set->results[0].error->code)) : "ok";
    }
    if (const auto* removed = std::get_if<BulkDeleteReply>(&*reply)) {
        REQUIRE(removed->deleted.size() + removed->missing.size() == 1);
        return removed->missing.empty() ? "ok" : "not-found";
    }
    return "ok";
}

const char* action_of(Op op) {
    switch (op) {
        case Op::remove:
        case Op::purge:
        case Op::bulk_delete:
        case Op::bulk_purge: return "DELETE";
        case Op::rotate: return "ROTATE";
        case Op::rollback:
        case Op::rollback_to_current:
        case Op::rollback_to_unknown: return "ROLLBACK";
        default: return "WRITE";
    }
}

const char* event_of(Op op, bool was_live) {
    switch (op) {
        case Op::patch: return "touched";
        case Op::remove:
        case Op::purge:
        case Op::bulk_delete:
        case Op::bulk_purge: return "deleted";
        case Op::rotate: return "rotated";
        case Op::rollback: return "rolled_back";
        default: return was_live ? "updated" : "created";
    }
}

// Plans the request on its own and says whether the refusal left the overlay as it was.
bool refusal_changes_nothing(Fixture& kv, const Request& request) {
    bool is_clean = true;
    const auto ended = kv.storage->write([&](StorageWriter& storage) -> Result<void> {
        Operation operation;
        operation.actor = kv.actor;
        operation.request = request;
        operation.fresh_ids = {*Uuid::parse("01890000-0000-7000-8000-00000000000a")};
        operation.values.push_back(Value{ValueType::string, SecretBytes("new")});
        operation.opened = Result<SecretBytes>(SecretBytes("old"));
        Needs needs;
        add_needs(request, needs);
        Overlay overlay;
        KV_TRY(const auto locked, storage.lock(needs.namespaces));
        overlay.add_namespace(*locked.front(), true);
        for (const bool is_full : {true, false}) {
            const auto& refs = is_full ? needs.full_entries : needs.entries;
            KV_TRY(auto found, storage.find(refs, Want{is_full, is_full}));
            for (std::size_t i = 0; i < refs.size(); ++i) overlay.add_entry(std::move(found[i]), refs[i].key_path, is_full);
        }
        const PlanContext context{kv.clock.now(), kv.store->epoch(), &kv.options.limits, kv.options.namespace_retention};
        const Planned planned = plan_write(operation, overlay, context);
        is_clean = planned.reply.has_value() || (overlay.take_changes().empty() && planned.seals.empty());
        return Error{Errc::unavailable, "only to see"};
    });
    REQUIRE(ended == Errc::unavailable);
    return is_clean;
}

std::string key_for(State state, Op op, Asked asked) {
    return std::string(state_names[index(state)]) + "/" + op_names[index(op)] + "/" + asked_names[index(asked)];
}

// Brings one key to each state for each case; `kv` is new.
void prepare_states(Fixture& kv) {
    const auto each = [&](State state, auto&& prepare) {
        for (Op op : ops) {
            for (Asked asked : all_asked) prepare(key_for(state, op, asked));
        }
    };
    const auto put = [&](const std::string& key, const char* text, Ttl ttl = {}) { REQUIRE(kv.put(key, text, ttl)); };
    const auto remove = [&](const std::string& key, bool purge = false) { REQUIRE(kv.call(kv.delete_request(key, purge))); };
    each(State::forgotten, [&](const std::string& key) { put(key, "one"), remove(key, true); });
    kv.clock.pass(24h * 31);
    kv.maintain();
    REQUIRE_FALSE(kv.entry_row(key_for(State::forgotten, Op::put, Asked::nothing)));
    each(State::destroyed, [&](const std::string& key) { put(key, "one", Ttl::after(10)); });
    kv.clock.pass(10s);
    kv.maintain();
    kv.clock.pass(1h);
    kv.maintain();
    each(State::swept, [&](const std::string& key) { put(key, "one", Ttl::after(10)); });
    kv.clock.pass(10s);
    kv.maintain();
    each(State::expired, [&](const std::string& key) { put(key, "one", Ttl::after(10)); });
    each(State::live_ttl, [&](const std::string& key) { put(key, "one", Ttl::after(11)); });
    kv.clock.pass(10s);
    each(State::live, [&](const std::string& key) { put(key, "one"); });
    each(State::updated, [&](const std::string& key) { put(key, "one"), put(key, "two"); });
    each(State::deleted, [&](const std::string& key) { put(key, "one"), remove(key); });
    each(State::purged, [&](const std::string& key) { put(key, "one"), remove(key, true); });
    each(State::reborn, [&](const std::string& key) { put(key, "one"), remove(key), put(key, "two"); });
}

Before look(const Fixture& kv, State state, const std::string& key, bool keeps_history) {
    Before before{state, key, kv.entry_row(key), {}, 0, 0, keeps_history};
    if (before.row) before.history = kv.archived(before.row->id);
    const NamespaceRow ns = kv.namespace_row();
    before.revision = ns.revision;
    before.floor = ns.version_floor;
    return before;
}

void check_refused(Fixture& kv, Op op, const Before& before, const std::string& code) {
    const auto after = kv.entry_row(before.key);
    REQUIRE(after.has_value() == before.row.has_value());
    if (after) {
        CHECK(whole(*after) == whole(*before.row));
        CHECK(kv.archived(after->id).size() == before.history.size());
    }
    CHECK(kv.namespace_row().revision == before.revision);
    CHECK(kv.events(before.revision).empty());
    // An atomic bulk records the fault of each item.
    const std::string reason = code == "bulk-failed" ? "" : code;
    const std::string audit = kv.new_audit();
    CHECK(audit.starts_with("audit " + std::string(action_of(op)) + " " + before.key + " " + reason));
    CHECK(std::count(audit.begin(), audit.end(), '\n') == 1);
}

void check_done(Fixture& kv, Op op, const Before& before) {
    const bool writes = op == Op::put || op == Op::set_atomic || op == Op::set_each;
    const bool expires = writes && before.state == State::expired;
    const bool purges = op == Op::purge || op == Op::bulk_purge;
    const std::uint64_t version = op == Op::patch ? before.version() : before.version() + (expires ? 2 : 1);
    const std::uint64_t revision = before.revision + (expires ? 2 : 1);

    const auto after = kv.entry_row(before.key);
    REQUIRE(after);
    CHECK(after->version == version);
    CHECK(after->revision == revision);
    CHECK(kv.namespace_row().revision == revision);
    CHECK(after->is_tombstone == (purges || op == Op::remove || op == Op::bulk_delete));
    if (before.row) CHECK(after->id == before.row->id);

    std::string events;
    std::string audit;
    if (expires) {
        events = "expired " + before.key + " v" + std::to_string(version - 1) + " r" + std::to_string(revision - 1) + "\n";
        audit = "audit DELETE " + before.key + " v" + std::to_string(version - 1) + " ok by system\n";
    }
    events += std::string(event_of(op, before.is_live())) + " " + before.key + " v" + std::to_string(version) + " r" + std::to_string(revision) + "\n";
    audit += "audit " + std::string(action_of(op)) + " " + before.key + " v" + std::to_string(version) + " ok\n";
    CHECK(kv.event_lines(before.revision) == events);
    CHECK(kv.new_audit() == audit);

    std::vector<std::uint64_t> versions;
    for (const VersionRow& row : kv.archived(after->id)) versions.push_back(row.version);
    std::vector<std::uint64_t> expected;
    for (const VersionRow& row : before.history) expected.push_back(row.version);
    if (before.row && op != Op::patch) expected.insert(expected.begin(), before.row->version);
    if (expires) expected.insert(expected.begin(), version - 1);
    if (purges || !before.keeps_history) expected.clear();
    CHECK(versions == expected);

    if (writes || op == Op::rotate) CHECK(kv.get(before.key) == "new");
    if (op == Op::rollback) CHECK(kv.get(before.key) == "one");
    if (op == Op::patch) CHECK(after->metadata == R"({"a":1})");
    kv.new_audit();
}

void check_every_case(Kind kind) {
    Fixture kv(kind);
    prepare_states(kv);
    const bool keeps_history = kind != Kind::no_history;
    kv.new_audit();
    for (State state : states) {
        for (Op op : ops) {
            for (Asked asked : all_asked) {
                const Before before = look(kv, state, key_for(state, op, asked), keeps_history);
                INFO(before.key);
                REQUIRE((before.row && !before.row->is_tombstone) == (before.is_live() || state == State::expired));
                const Request request = make_request(kv, op, before, make_precondition(asked, before, kv.store->epoch()));
                CHECK(refusal_changes_nothing(kv, request));
                const auto reply = kv.store->wait(kv.actor, request);
                const std::string code = expected_code(op, asked, before);
                CHECK(code_of_item(reply) == code);
                if (code == "ok") {
                    check_done(kv, op, before);
                } else {
                    check_refused(kv, op, before, code);
                }
            }
        }
    }
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

}  // namespace

TEST_CASE("every write does to every key what the rules say, in a secret namespace") { check_every_case(Kind::secret); }
TEST_CASE("every write does to every key what the rules say, in a plain namespace") { check_every_case(Kind::plain); }
TEST_CASE("every write does to every key what the rules say, in a namespace without history") { check_every_case(Kind::no_history); }

// ---- several operations on one key in one group ----

TEST_CASE("two puts in one group are two versions") {
    for (const Kind kind : {Kind::secret, Kind::plain}) {
        Fixture kv(kind);
        for (const auto& reply : kv.together({kv.put_request("k", "one"), kv.put_request("k", "two"), kv.put_request("k", "three")})) CHECK(reply);
        CHECK(kv.rows() == "k v3 three\n  v2 UPDATE two\n  v1 CREATE one\n");
        CHECK(kv.event_lines() == "created k v1 r1\nupdated k v2 r2\nupdated k v3 r3\n");
        CHECK(kv.get("k", 2) == "two");
    }
    Fixture kv(Kind::no_history);
    for (const auto& reply : kv.together({kv.put_request("k", "one"), kv.put_request("k", "two")})) CHECK(reply);
    CHECK(kv.rows() == "k v2 two\n");
}

TEST_CASE("a patch in the middle of a group stays with its version") {
    Fixture kv;
    REQUIRE(kv.put("stored", "zero"));
    kv.new_audit();
    const auto replies = kv.together({kv.put_request("k", "one"), kv.patch_request("k", R"({"a":1})"), kv.put_request("k", "two"),
                                      kv.patch_request("stored", R"({"b":2})"), kv.put_request("stored", "one"),
                                      kv.patch_request("stored", R"({"c":3})"), kv.patch_request("stored", R"({"d":4})")});
    for (const auto& reply : replies) CHECK(reply);
    CHECK(kv.dump() == "k v2 two\n"
                       "  v1 CREATE one {\"a\":1}\n"
                       "stored v2 one {\"c\":3,\"d\":4}\n"
                       "  v1 CREATE zero {\"b\":2}\n"
                       "audit READ ok\n"
                       "audit WRITE k v1 ok\n"
                       "audit WRITE k v1 ok\n"
                       "audit WRITE k v2 ok\n"
                       "audit WRITE stored v1 ok\n"
                       "audit WRITE stored v2 ok\n"
                       "audit WRITE stored v2 ok\n"
                       "audit WRITE stored v2 ok\n");
    CHECK(kv.get("stored", 1) == "zero");
}

TEST_CASE("a key may be deleted and made again within one group") {
    Fixture kv;
    REQUIRE(kv.put("k", "zero"));
    for (const auto& reply : kv.together({kv.put_request("k", "one"), kv.delete_request("k"), kv.put_request("k", "two")})) CHECK(reply);
    CHECK(kv.rows() == "k v4 two\n  v3 DELETE\n  v2 UPDATE one\n  v1 CREATE zero\n");
    const auto again = kv.together({kv.delete_request("k"), kv.delete_request("k")});
    CHECK(code_of(again[0]) == "ok");
    CHECK(code_of(again[1]) == "not-found");
    CHECK(kv.rows().starts_with("k v5 deleted\n"));
}

TEST_CASE("a purge destroys what the same group put before it, and not what it puts after") {
    Fixture kv;
    REQUIRE(kv.put("k", "zero"));
    for (const auto& reply : kv.together({kv.put_request("k", "one"), kv.delete_request("k", true), kv.put_request("k", "two"), kv.put_request("k", "three")})) {
        CHECK(reply);
    }
    CHECK(kv.get("k") == "three");
    CHECK(kv.get("k", 4) == "two");
    CHECK(kv.get("k", 2) == "!not-found");
    CHECK(kv.get("k", 1) == "!not-found");
    const std::string rows = kv.rows();
    CHECK(rows.find("zero") == std::string::npos);
    CHECK(rows.find("one") == std::string::npos);
    CHECK(kv.call(kv.rollback_request("k"))->entry.version == 6);
    CHECK(kv.get("k") == "two");
    CHECK(kv.call(kv.rollback_request("k", 2)) == Errc::not_found);
}

TEST_CASE("a rollback sees what the groups before it stored, and the rest of its group sees it") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    const auto replies = kv.together({kv.put_request("k", "two"), kv.rollback_request("k"), kv.patch_request("k", R"({"a":1})"),
                                      kv.put_request("k", "three"), kv.rollback_request("k"), kv.rollback_request("k", 1)});
    for (const auto& reply : replies) CHECK(reply);
    CHECK(kv.rows() == "k v6 one\n"
                       "  v5 ROLLBACK one {\"a\":1}\n"
                       "  v4 UPDATE three\n"
                       "  v3 ROLLBACK one {\"a\":1}\n"
                       "  v2 UPDATE two\n"
                       "  v1 CREATE one\n");
}

TEST_CASE("of two writers who both expect the same version the second is refused, also in one group") {
    Fixture kv;
    REQUIRE(kv.put("k", "zero"));
    Precondition first;
    first.expected_version = 1;
    const auto replies = kv.together({kv.put_request("k", "a", {}, first), kv.put_request("k", "b", {}, first), kv.delete_request("k", false, first)});
    CHECK(code_of(replies[0]) == "ok");
    CHECK(code_of(replies[1]) == "version-conflict");
    CHECK(replies[1].error().current_version == 2);
    CHECK(code_of(replies[2]) == "version-conflict");
    CHECK(kv.rows() == "k v2 a\n  v1 CREATE zero\n");
}

TEST_CASE("a put over an expired entry ends it first, once, also when two come in one group") {
    Fixture kv;
    REQUIRE(kv.put("k", "old", Ttl::after(10)));
    kv.clock.pass(10s);
    kv.new_audit();
    const auto replies = kv.together({kv.put_request("k", "new"), kv.put_request("k", "newer")});
    CHECK(std::get<EntryReply>(*replies[0]).created);
    CHECK_FALSE(std::get<EntryReply>(*replies[1]).created);
    CHECK(kv.event_lines(1) == "expired k v2 r2\ncreated k v3 r3\nupdated k v4 r4\n");
    CHECK(kv.new_audit() == "audit READ ok\naudit DELETE k v2 ok by system\naudit WRITE k v3 ok\naudit WRITE k v4 ok\n");
    auto versions = kv.call(kv.versions_request("k"));
    REQUIRE(versions);
    CHECK(versions->items.size() == 2);  // what expired is not shown
}

TEST_CASE("what a group archives and erases again is no history") {
    Fixture kv(Kind::no_history);
    REQUIRE(kv.put("k", "old", Ttl::after(10)));
    kv.clock.pass(10s);
    const auto replies = kv.together({kv.put_request("k", "new"), kv.delete_request("k"), kv.delete_request("k", true)});
    CHECK(code_of(replies[0]) == "ok");
    CHECK(code_of(replies[1]) == "ok");
    CHECK(code_of(replies[2]) == "not-found");
    CHECK(kv.rows() == "k v4 deleted\n");
}

// ---- bulk ----

TEST_CASE("an atomic bulk is judged as a whole: first who may, then form, then state") {
    Fixture kv;
    REQUIRE(kv.put("a/stale", "v"));
    Grant grant;
    grant.permissions = {Permission::entry_write};
    grant.keys = {*KeyPattern::parse("a/**")};
    const Actor writer = Actor::with_grants("writer", {grant});
    BulkSet set = kv.bulk_set_request({{"a/ok", "1"}, {"a/stale", "2"}, {"a/number", "x"}, {"a/rotate", "3"}, {"b/denied", "4"}});
    set.entries[1].precondition.expected_version = 9;
    set.entries[2].value.type = ValueType::number;
    auto reply = kv.call_as(writer, set);
    REQUIRE(reply == Errc::permission_denied);
    REQUIRE(reply.error().items.size() == 1);
    CHECK(reply.error().items[0].key_path == "b/denied");
    set.entries.pop_back();
    reply = kv.call_as(writer, set);
    REQUIRE(reply == Errc::reserved_key_segment);
    REQUIRE(reply.error().items.size() == 2);  // what is wrong with the value of another one, too
    CHECK(reply.error().items[0].key_path == "a/rotate");
    CHECK(reply.error().items[1].key_path == "a/number");
    set.entries.pop_back();
    reply = kv.call_as(writer, set);
    REQUIRE(reply == Errc::invalid_request);
    REQUIRE(reply.error().items.size() == 1);
    CHECK(reply.error().items[0].code == Errc::invalid_value);
    set.entries.pop_back();
    reply = kv.call_as(writer, set);
    REQUIRE(reply == Errc::bulk_failed);
    REQUIRE(reply.error().items.size() == 1);
    CHECK(reply.error().items[0].code == Errc::version_conflict);
    CHECK(reply.error().items[0].current_version == 1);
    CHECK(kv.rows() == "a/stale v1 v\n");
    set.entries.pop_back();
    CHECK(kv.call_as(writer, set)->results[0].status == BulkSetResult::Status::created);
}

TEST_CASE("the items of a bulk that is not atomic stand each on their own") {
    Fixture kv;
    REQUIRE(kv.put("a/old", "v"));
    REQUIRE(kv.put("a/stale", "v"));
    Grant grant;
    grant.permissions = {Permission::entry_write, Permission::entry_delete};
    grant.keys = {*KeyPattern::parse("a/**")};
    const Actor writer = Actor::with_grants("writer", {grant});
    BulkSet set = kv.bulk_set_request({{"a/new", "1"}, {"a/stale", "2"}, {"a/rotate", "3"}, {"b/denied", "4"}, {"a/old", "5"}}, false);
    set.entries[1].precondition.expected_version = 9;
    kv.new_audit();
    auto reply = kv.call_as(writer, set);
    REQUIRE(reply);
    std::string out;
    for (const BulkSetResult& result : reply->results) {
        out += result.key_path + " " + (result.error ? std::string(code_name(result.error->code)) : "v" + std::to_string(result.version)) + "\n";
    }
    CHECK(out == "a/new v1\na/stale version-conflict\na/rotate reserved-key-segment\nb/denied permission-denied\na/old v2\n");
    CHECK(kv.new_audit() == "audit WRITE a/new v1 ok\n"
                            "audit WRITE a/stale version-conflict\n"
                            "audit WRITE a/rotate reserved-key-segment\n"
                            "audit WRITE b/denied permission-denied\n"
                            "audit WRITE a/old v2 ok\n");
    auto removed = kv.call_as(writer, kv.bulk_delete_request({"a/new", "a/none", "b/denied", "a/rotate"}, false));
    REQUIRE(removed);
    CHECK(removed->deleted == std::vector<std::string>{"a/new"});
    CHECK(removed->missing == std::vector<std::string>{"a/none"});
    REQUIRE(removed->failed.size() == 2);
    CHECK(removed->failed[0].key_path == "b/denied");
    CHECK(removed->failed[1].key_path == "a/rotate");
}

TEST_CASE("an atomic bulk delete removes all or, where one is denied, none") {
    Fixture kv;
    for (const char* key : {"a/1", "a/2", "b/1"}) REQUIRE(kv.put(key, "v"));
    Grant grant;
    grant.permissions = {Permission::entry_delete};
    grant.keys = {*KeyPattern::parse("a/**")};
    const Actor cleaner = Actor::with_grants("cleaner", {grant});
    CHECK(kv.call_as(cleaner, kv.bulk_delete_request({"a/1", "b/1"})) == Errc::permission_denied);
    CHECK(kv.get("a/1") == "v");
    auto removed = kv.call_as(cleaner, kv.bulk_delete_request({"a/1", "a/2", "a/none"}));
    REQUIRE(removed);
    CHECK(removed->deleted.size() == 2);
    CHECK(removed->missing == std::vector<std::string>{"a/none"});
    CHECK(kv.call(kv.bulk_delete_request({"b/1", "b/1"})) == Errc::invalid_request);
}

TEST_CASE("destroying history needs the right to rotate, deleting does not") {
    Fixture kv;
    REQUIRE(kv.put("once", "v"));
    REQUIRE(kv.put("twice", "v"));
    REQUIRE(kv.put("twice", "w"));
    Grant grant;
    grant.permissions = {Permission::entry_delete};
    const Actor cleaner = Actor::with_grants("cleaner", {grant});
    CHECK(kv.call_as(cleaner, kv.delete_request("once", true)));
    CHECK(kv.call_as(cleaner, kv.delete_request("twice", true)) == Errc::permission_denied);
    CHECK(kv.call_as(cleaner, kv.bulk_delete_request({"twice"}, true, true)) == Errc::permission_denied);
    CHECK(kv.call_as(cleaner, kv.delete_request("twice")));
}

// ---- rotate, rollback ----

TEST_CASE("a rotation keeps type and metadata and begins the time to live anew") {
    Fixture kv;
    PutEntry put = kv.put_request("port", "", Ttl::after(100));
    put.write.value = ValueInput::number("5432");
    put.write.metadata = R"({"owner":"db"})";
    REQUIRE(kv.call(put));
    kv.clock.pass(60s);
    auto rotated = kv.call(kv.rotate_request("port", "5433"));
    REQUIRE(rotated);
    CHECK(rotated->entry.value_type == ValueType::number);
    CHECK(rotated->entry.metadata == R"({"owner":"db"})");
    CHECK(rotated->entry.ttl_seconds == 100);
    CHECK(rotated->entry.expires_at == kv.clock.now() + 100s);
    CHECK_FALSE(rotated->entry.value);
    auto misfit = kv.call(kv.rotate_request("port", "not a number"));
    REQUIRE(misfit == Errc::invalid_value);
    RotateEntry typed = kv.rotate_request("port", "1");
    std::get<ValueInput>(typed.value).type = ValueType::string;
    CHECK(kv.call(typed) == Errc::invalid_value);
    CHECK(kv.call(kv.rotate_request("port", "5434", Ttl::never()))->entry.expires_at == std::nullopt);
    CHECK(kv.get("port") == "5434");
}

TEST_CASE("a generated secret is as long and of such characters as was asked, and new each time") {
    Fixture kv;
    REQUIRE(kv.put("key", "v"));
    std::vector<std::string> seen;
    for (const std::uint32_t length : {16u, 32u, 1024u}) {
        RotateEntry rotate = kv.rotate_request("key", "");
        rotate.value = Generate{length, Generate::Alphabet::hex};
        rotate.include_value = true;
        auto reply = kv.call(rotate);
        REQUIRE(reply);
        const std::string value(reply->entry.value->reveal());
        CHECK(value.size() == length);
        CHECK(value.find_first_not_of("0123456789abcdef") == std::string::npos);
        CHECK(kv.get("key") == value);
        CHECK(std::find(seen.begin(), seen.end(), value.substr(0, 16)) == seen.end());
        seen.push_back(value.substr(0, 16));
    }
    REQUIRE(kv.put("number", "1"));
    PutEntry number = kv.put_request("number", "1");
    number.write.value = ValueInput::number("1");
    REQUIRE(kv.call(number));
    RotateEntry rotate = kv.rotate_request("number", "");
    rotate.value = Generate{};
    CHECK(kv.call(rotate) == Errc::invalid_value);
}

TEST_CASE("a rollback restores value, type and metadata as a new version that names the old one") {
    Fixture kv;
    PutEntry first = kv.put_request("k", "", Ttl::after(100));
    first.write.value = ValueInput::json(R"({"a": 1.50})");
    first.write.metadata = R"({"m":1})";
    first.write.comment = "the first";
    REQUIRE(kv.call(first));
    REQUIRE(kv.put("k", "text"));
    RollbackEntry request = kv.rollback_request("k", 1);
    request.comment = "back";
    request.include_value = true;
    auto reply = kv.call(request);
    REQUIRE(reply);
    CHECK(reply->entry.version == 3);
    CHECK(reply->entry.value_type == ValueType::json);
    CHECK(reply->entry.value->reveal() == R"({"a": 1.50})");
    CHECK(reply->entry.metadata == R"({"m":1})");
    CHECK_FALSE(reply->entry.expires_at);  // the entry's own time to live, not the old version's
    const auto versions = kv.call(kv.versions_request("k")).value();
    REQUIRE(versions.items.size() == 3);
    CHECK(versions.items[0].reason == Reason::rollback);
    CHECK(versions.items[0].rolled_back_from == 1);
    CHECK(versions.items[0].comment == "back");
    CHECK(versions.items[0].is_current);
    CHECK(versions.items[2].comment == "the first");
    CHECK(versions.items[2].value_type == ValueType::json);
    CHECK_FALSE(versions.items[2].is_current);
    // Again without a version: the value before the current one, which is "text".
    CHECK(kv.call(kv.rollback_request("k"))->entry.version == 4);
    CHECK(kv.get("k") == "text");
}

TEST_CASE("a rollback of a deleted key brings it back as new") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.call(kv.delete_request("k")));
    kv.clock.pass(10s);
    CHECK(kv.call(kv.versions_request("k"))->items.size() == 2);
    CHECK(kv.get("k", 1) == "one");
    CHECK(kv.get("k", 2) == "!not-found");
    CHECK(kv.call(kv.rollback_request("k", 2)) == Errc::not_found);
    auto reply = kv.call(kv.rollback_request("k"));
    REQUIRE(reply);
    CHECK(reply->entry.version == 3);
    CHECK(reply->entry.created_at == kv.clock.now());
    CHECK(kv.get("k") == "one");
    CHECK(kv.call(kv.rollback_request("k", 2)) == Errc::not_found);  // there was nothing at version 2
    CHECK(kv.call(kv.rollback_request("k", 3)) == Errc::current_version);
}

// ---- history ----

TEST_CASE("a history limit keeps the newest versions and no more") {
    Fixture kv(Kind::plain);
    UpdateNamespace update;
    update.ns = kv.ns;
    update.history_limit = std::optional<std::uint64_t>(3);
    REQUIRE(kv.call(update));
    for (int i = 1; i <= 6; ++i) REQUIRE(kv.put("k", std::to_string(i)));
    CHECK(kv.rows() == "k v6 6\n  v5 UPDATE 5\n  v4 UPDATE 4\n");
    CHECK(kv.call(kv.versions_request("k"))->items.size() == 3);
    CHECK(kv.call(kv.rollback_request("k", 3)) == Errc::not_found);
    CHECK(kv.call(kv.rollback_request("k", 4)));
    CHECK(kv.rows() == "k v7 4\n  v6 UPDATE 6\n  v5 UPDATE 5\n");
    update.history_limit = std::optional<std::uint64_t>(1);
    REQUIRE(kv.call(update));
    CHECK(kv.get("k", 6) == "!not-found");  // at once, though it is erased with the next write
    CHECK(kv.put("k", "8"));
    CHECK(kv.rows() == "k v8 8\n");
}

TEST_CASE("keeping fewer versions needs the right to delete entries") {
    Fixture kv(Kind::plain);
    Grant grant;
    grant.permissions = {Permission::namespace_write};
    const Actor keeper = Actor::with_grants("keeper", {grant});
    const auto change = [&](std::optional<std::uint64_t> limit) {
        UpdateNamespace update;
        update.ns = kv.ns;
        update.history_limit = limit;
        return code_of(kv.call_as(keeper, update));
    };
    CHECK(change(30) == "ok");
    CHECK(change(29) == "permission-denied");
    CHECK(change({}) == "ok");
    CHECK(change(1'000) == "permission-denied");
    UpdateNamespace none;
    none.ns = kv.ns;
    none.keeps_history = false;
    CHECK(kv.call_as(keeper, none) == Errc::permission_denied);
    CHECK(kv.call(none));
    CHECK(kv.call(kv.rollback_request("k")) == Errc::history_disabled);
    UpdateNamespace secret;
    secret.ns = kv.ns;
    secret.is_secret = true;
    CHECK(kv.call(secret) == Errc::history_required);
}

TEST_CASE("without history there is the current version alone") {
    Fixture kv(Kind::no_history);
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.put("k", "two"));
    CHECK(kv.get("k", 1) == "!not-found");
    CHECK(kv.get("k", 2) == "two");
    CHECK(kv.call(kv.versions_request("k"))->items.size() == 1);
    REQUIRE(kv.call(kv.delete_request("k")));
    CHECK(kv.call(kv.versions_request("k")) == Errc::not_found);
    CHECK(kv.call(kv.rotate_request("k", "x")) == Errc::history_disabled);
}

TEST_CASE("a history is paged to its end at every limit") {
    Fixture kv;
    for (int i = 1; i <= 9; ++i) REQUIRE(kv.put("k", std::to_string(i)));
    REQUIRE(kv.call(kv.delete_request("k")));
    for (const bool values : {true, false}) {
        for (std::uint64_t limit = 1; limit < 12; ++limit) {
            ListVersions request = kv.versions_request("k", values);
            request.page.limit = limit;
            std::uint64_t next_version = 10;
            for (std::optional<std::string> next = ""; next;) {
                request.page.cursor = *next;
                auto page = kv.call(request);
                REQUIRE(page);
                CHECK(page->items.size() <= limit);
                for (const Version& version : page->items) {
                    CHECK(version.version == next_version--);
                    CHECK(version.is_current == (version.version == 10));
                    if (values && version.version < 10) CHECK(version.value->reveal() == std::to_string(version.version));
                }
                next = page->next_cursor;
            }
            CHECK(next_version == 0);
        }
    }
}

// ---- what a PUT may echo, times to live ----

TEST_CASE("what a reply shows may be sent back, as long as it is still true") {
    Fixture kv;
    REQUIRE(kv.put("k", "one", Ttl::after(100)));
    const Entry entry = kv.call(kv.get_request("k"))->entry;
    const auto put_with = [&](const std::string& name, std::optional<std::string> text) {
        PutEntry put = kv.put_request("k", "one", Ttl::after(100));
        put.write.echoed = {{name, std::move(text)}};
        return code_of(kv.call(put));
    };
    CHECK(put_with("id", entry.id.to_string()) == "ok");
    CHECK(put_with("id", Uuid{}.to_string()) == "read-only-field");
    CHECK(put_with("namespaceId", kv.ns.to_string()) == "ok");
    CHECK(put_with("namespaceId", "app~ns") == "read-only-field");
    CHECK(put_with("keyPath", "k") == "ok");
    CHECK(put_with("keyPath", "other") == "read-only-field");
    CHECK(put_with("createdAt", format_time(entry.created_at)) == "ok");
    CHECK(put_with("createdAt", "2020-01-01T00:00:00Z") == "read-only-field");
    CHECK(put_with("createdBy", "tester") == "ok");
    CHECK(put_with("createdBy", {}) == "read-only-field");
    CHECK(put_with("updatedBy", "somebody") == "read-only-field");
    CHECK(put_with("expiresAt", format_time(kv.clock.now() + 100s)) == "ok");
    CHECK(put_with("expiresAt", {}) == "read-only-field");
    CHECK(put_with("revision", std::to_string(kv.entry_row("k")->revision)) == "ok");
    CHECK(put_with("revision", "1") == "read-only-field");
    CHECK(put_with("unheardOf", "1") == "read-only-field");
    // A stale version is told before anything that changed with it.
    PutEntry stale = kv.put_request("k", "one");
    stale.write.precondition.expected_version = 1;
    stale.write.echoed = {{"revision", "1"}};
    CHECK(kv.call(stale) == Errc::version_conflict);
    PutEntry fresh = kv.put_request("new", "one");
    fresh.write.echoed = {{"id", {}}, {"createdAt", {}}};
    CHECK(kv.call(fresh));
}

TEST_CASE("a time to live is the request's, else the namespace's, and counts from the write") {
    Fixture kv;
    UpdateNamespace update;
    update.ns = kv.ns;
    update.default_ttl_seconds = std::optional<std::int64_t>(60);
    REQUIRE(kv.put("before", "v"));
    REQUIRE(kv.call(update));
    CHECK(kv.call(kv.get_request("before"))->entry.expires_at == std::nullopt);
    CHECK(kv.put("k", "v")->entry.expires_at == kv.clock.now() + 60s);
    CHECK(kv.put("k", "v", Ttl::after(5))->entry.expires_at == kv.clock.now() + 5s);
    CHECK(kv.put("k", "v", Ttl::never())->entry.expires_at == std::nullopt);
    CHECK(kv.call(kv.patch_request("k", {}, Ttl::after(7)))->entry.expires_at == kv.clock.now() + 7s);
    CHECK(kv.call(kv.patch_request("k", R"({"a":1})"))->entry.expires_at == kv.clock.now() + 7s);
    CHECK(kv.call(kv.patch_request("k", "null", Ttl::never()))->entry.metadata == "{}");
    CHECK(kv.entry_row("k")->version == 3);
}

// ---- namespaces ----

TEST_CASE("a namespace is created once, changed under its own version, and renamed where the new name may be written") {
    Fixture kv;
    CreateNamespace create;
    create.application_id = "app";
    create.name = "ns";
    CHECK(kv.call(create) == Errc::namespace_exists);
    create.name = "other";
    auto other = kv.call(create);
    REQUIRE(other);
    CHECK(other->ns.version == 1);
    CHECK(other->ns.history_limit == 20);
    CHECK(kv.call(GetNamespace{kv.ns, {}})->ns.history_limit == std::nullopt);

    UpdateNamespace update;
    update.ns = other->ns.id;
    update.description = std::optional<std::string>("text");
    update.precondition.expected_version = 1;
    auto updated = kv.call(update);
    REQUIRE(updated);
    CHECK(updated->ns.version == 2);
    CHECK(updated->ns.revision == 0);
    CHECK(kv.call(update) == Errc::version_conflict);
    update.precondition = {};
    update.description = std::optional<std::string>();
    CHECK(kv.call(update)->ns.description == "");
    update.application_id = "elsewhere";
    CHECK(kv.call(update) == Errc::immutable);
    update.application_id = "app";
    update.name = "ns";
    CHECK(kv.call(update) == Errc::namespace_exists);
    update.name = "third";
    CHECK(kv.call(update)->ns.name == "third");
    CHECK(kv.call(GetNamespace{NamespaceName{"app", "other"}, {}}) == Errc::not_found);
    CHECK(kv.call(GetNamespace{NamespaceName{"app", "third"}, {}}));

    Grant grant;
    grant.permissions = {Permission::namespace_write};
    grant.namespaces = NamespaceName{"app", "third"};
    const Actor bound = Actor::with_grants("bound", {grant});
    update.name = "fourth";
    CHECK(kv.call_as(bound, update) == Errc::permission_denied);
    update.name = "third";
    CHECK(kv.call_as(bound, update));
    CreateNamespace by_bound;
    by_bound.application_id = "app";
    by_bound.name = "fifth";
    CHECK(kv.call_as(bound, by_bound) == Errc::permission_denied);
}

TEST_CASE("a protected namespace is not deleted, and deleting one's entries for good needs that right") {
    Fixture kv;
    UpdateNamespace protect;
    protect.ns = kv.ns;
    protect.deletion_protection = true;
    REQUIRE(kv.call(protect));
    DeleteNamespace remove;
    remove.ns = kv.ns;
    CHECK(kv.call(remove) == Errc::deletion_protected);
    remove.purge = true;
    CHECK(kv.call(remove) == Errc::deletion_protected);
    protect.deletion_protection = false;
    REQUIRE(kv.call(protect));
    Grant grant;
    grant.permissions = {Permission::namespace_delete};
    const Actor janitor = Actor::with_grants("janitor", {grant});
    CHECK(kv.call_as(janitor, remove) == Errc::permission_denied);
    remove.purge = false;
    remove.precondition.expected_version = 1;
    CHECK(kv.call_as(janitor, remove) == Errc::version_conflict);
    remove.precondition.expected_version = 3;
    CHECK(kv.call_as(janitor, remove));
}
