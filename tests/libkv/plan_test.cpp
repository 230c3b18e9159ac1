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
    Precondition out;
    switch (asked) {
        case Asked::nothing: break;
        case Asked::version_right: out.expected_version = before.is_live() || before.state == State::deleted ? before.version() : 0; break;
        case Asked::version_wrong: out.expected_version = before.version() + 7; break;
        case Asked::version_zero: out.expected_version = 0; break;
        case Asked::etag_right: out.if_match = std::vector<std::string>{entry_etag(epoch, revision)}; break;
        case Asked::etag_among: out.if_match = std::vector<std::string>{entry_etag(epoch, revision + 9), entry_etag(epoch, revision)}; break;
        case Asked::etag_stale: out.if_match = std::vector<std::string>{entry_etag(epoch, revision + 9), entry_etag("0000", revision)}; break;
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
