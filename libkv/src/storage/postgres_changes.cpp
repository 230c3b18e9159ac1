#include "storage/postgres_changes.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "storage/postgres_statement.h"

namespace kv::postgres {
namespace {

// ---- what must not be one statement ----

template <class A, class B, class IdOfA, class IdOfB>
bool meet(const std::vector<A>& left, const std::vector<B>& right, IdOfA&& id_of_left, IdOfB&& id_of_right) {
    if (left.empty() || right.empty()) return false;
    std::set<std::remove_cvref_t<decltype(id_of_left(left.front()))>> ids;
    for (const A& one : left) ids.insert(id_of_left(one));
    return std::any_of(right.begin(), right.end(), [&](const B& one) { return ids.contains(id_of_right(one)); });
}

constexpr auto itself = [](const auto& id) { return id; };

bool has_entangled_sinks(const Changeset& changes) {
    if (!changes.erase_cursors.empty() && !changes.cursors.empty()) return true;
    return !changes.erase_sinks.empty() && !(changes.sinks.empty() && changes.cursors.empty() && changes.erase_cursors.empty());
}

bool has_entangled_tokens(const Changeset& changes) {
    return !changes.tokens.empty() + !changes.erase_tokens.empty() + !changes.token_uses.empty() > 1;
}

// Every part of a statement sees the rows as they were before it, and no row may be changed by two of them. That is how
// archiving and replacing go together; these do not.
bool is_entangled(const Changeset& changes) {
    const bool changes_entries = !changes.archive.empty() || !changes.versions.empty() || !changes.entries.empty() ||
                                 !changes.erase_versions.empty() || !changes.erase_entries.empty();
    const auto id = [](const auto& row) { return row.id; };
    const auto name = [](const MetaRow& row) { return row.name; };
    const auto stream = [](const HeadChange& change) { return change.after.stream; };
    return (!changes.reseals.empty() && changes_entries) || (!changes.versions.empty() && !changes.erase_versions.empty()) ||
           meet(changes.erase_entries, changes.entries, itself, id) ||
           meet(changes.erase_namespaces, changes.namespaces, itself, id) ||
           meet(changes.erase_namespaces, changes.keys, itself, [](const KeyRow& row) { return row.ns; }) ||
           (!changes.erase_keys.empty() && !changes.keys.empty()) || meet(changes.erase_meta, changes.meta, itself, name) ||
           meet(changes.erase_heads, changes.heads, itself, stream) || (!changes.erase_events.empty() && !changes.events.empty()) ||
           has_entangled_sinks(changes) || has_entangled_tokens(changes);
}

// The same in several, in the order of the members.
std::vector<Changeset> disentangled(const Changeset& changes) {
    std::vector<Changeset> steps(7);
    steps[0].namespaces = changes.namespaces;
    steps[0].archive = changes.archive;
    steps[0].versions = changes.versions;
    steps[0].entries = changes.entries;
    steps[1].reseals = changes.reseals;
    steps[2].erase_versions = changes.erase_versions;
    steps[2].erase_entries = changes.erase_entries;
    steps[2].erase_namespaces = changes.erase_namespaces;
    steps[3].events = changes.events;
    steps[3].keys = changes.keys;
    steps[3].meta = changes.meta;
    steps[3].erase_audit_to = changes.erase_audit_to;
    steps[3].audit = changes.audit;
    steps[3].heads = changes.heads;
    steps[4].erase_keys = changes.erase_keys;
    steps[4].erase_meta = changes.erase_meta;
    steps[4].erase_heads = changes.erase_heads;
    steps[4].erase_events = changes.erase_events;
    steps[4].sinks = changes.sinks;
    steps[4].cursors = changes.cursors;
    steps[5].erase_cursors = changes.erase_cursors;
    steps[6].erase_sinks = changes.erase_sinks;
    steps[4].tokens = changes.tokens;
    steps[5].erase_tokens = changes.erase_tokens;
    steps[6].token_uses = changes.token_uses;
    return steps;
}

// ---- one statement ----

// Of those whose history changes, the ones that are not written anyway.
std::vector<EntryId> entries_to_mark(const Changeset& changes) {
    std::set<EntryId> ids(changes.archive.begin(), changes.archive.end());
    for (const VersionRow& row : changes.versions) ids.insert(row.entry_id);
    for (const VersionErase& erase : changes.erase_versions) ids.insert(erase.entry_id);
    for (const EntryRow& row : changes.entries) ids.erase(row.id);
    for (const EntryId& id : changes.erase_entries) ids.erase(id);
    return {ids.begin(), ids.end()};
}

Statement statement_of(const Changeset& changes) {
    Statement statement;
    if (!changes.namespaces.empty()) put_namespaces(statement, changes.namespaces);
    change_entries(statement, changes, entries_to_mark(changes));
    if (!changes.reseals.empty()) reseal(statement, changes.reseals);
    if (!changes.erase_namespaces.empty()) erase_namespaces(statement, changes.erase_namespaces);
    if (!changes.events.empty()) add_events(statement, changes.events);
    if (!changes.keys.empty()) put_keys(statement, changes.keys);
    if (!changes.erase_keys.empty()) erase_keys(statement, changes.erase_keys);
    if (!changes.meta.empty()) put_meta(statement, changes.meta);
    if (!changes.erase_meta.empty()) erase_meta(statement, changes.erase_meta);
    if (!changes.audit.empty()) add_audit(statement, changes.audit);
    if (changes.erase_audit_to > 0) erase_audit(statement, changes.erase_audit_to, !changes.audit.empty());
    if (!changes.heads.empty()) move_heads(statement, changes.heads);
    if (!changes.erase_heads.empty()) erase_heads(statement, changes.erase_heads);
    if (!changes.erase_events.empty()) erase_events(statement, changes.erase_events);
    if (!changes.sinks.empty()) put_sinks(statement, changes.sinks);
    if (!changes.cursors.empty()) put_cursors(statement, changes.cursors);
    if (!changes.erase_cursors.empty()) erase_cursors(statement, changes.erase_cursors);
    if (!changes.erase_sinks.empty()) erase_sinks(statement, changes.erase_sinks);
    if (!changes.tokens.empty()) put_tokens(statement, changes.tokens);
    if (!changes.erase_tokens.empty()) erase_tokens(statement, changes.erase_tokens);
    if (!changes.token_uses.empty()) note_token_uses(statement, changes.token_uses);
    return statement;
}

// There are few kinds of changesets, so few texts. They are kept for good, because connections know statements by their place.
const char* kept(std::string sql) {
    static std::mutex mutex;
    static std::set<std::string> texts;
    std::lock_guard lock(mutex);
    return texts.insert(std::move(sql)).first->c_str();
}

Asked asked_of(const Changeset& changes) {
    Statement statement = statement_of(changes);
    return {kept(statement.sql()), std::move(statement.params)};
}

// At once, however much there is: no row is looked at, and none is left behind for vacuum.
void erase_all(Connection& connection) {
    connection.run("truncate namespaces, entries, versions, audit, audit_heads, outbox, sinks, sink_cursors, tokens, data_keys");
    connection.run("delete from meta where not starts_with(name, 'storage.')");
}

// What is sent together with the commit is answered together with it, so it must not take long.
constexpr std::size_t put_off_bytes_max = 4u << 20;

}  // namespace

void apply(Connection& connection, const Changeset& changes) {
    if (changes.erase_all) {
        erase_all(connection);
        Changeset rest = changes;
        rest.erase_all = false;
        return apply(connection, rest);
    }
    if (is_entangled(changes)) {
        for (const Changeset& step : disentangled(changes)) {
            if (!step.empty()) connection.run(asked_of(step));
        }
    } else if (!changes.empty()) {
        Asked asked = asked_of(changes);
        if (connection.has_begun() && asked.params.bytes() <= put_off_bytes_max) {
            connection.put_off(std::move(asked));
        } else {
            connection.run(asked);
        }
    }
}

}  // namespace kv::postgres
