#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kv/storage.h"
#include "storage/postgres_params.h"

namespace kv::postgres {

// One statement that makes many changes, each a part of its own ("with" ...), over arrays. It fails where a condition does not
// hold: the server itself judges, so that a commit may follow without waiting for an answer.
struct Statement {
    Params params;
    std::string parts;
    std::string conditions;

    // The place of the parameter that is added next: "$7".
    std::string next(std::size_t ahead = 0) const { return "$" + std::to_string(params.size() + 1 + ahead); }
    void add_part(std::string_view name, const std::string& sql);
    // `count` must be `expected`, or the statement fails with state_head_moved or state_nothing_to_archive.
    void require_heads(const std::string& count, std::size_t expected);
    void require_archived(const std::string& count, std::size_t expected);
    std::string sql() const { return "with " + parts + " select true" + conditions; }
};

void put_namespaces(Statement& statement, const std::vector<NamespaceRow>& rows);
// archive, versions, entries, erase_versions and erase_entries; of the entries `marked` only whether they have a history.
void change_entries(Statement& statement, const Changeset& changes, const std::vector<EntryId>& marked);
void reseal(Statement& statement, const std::vector<Reseal>& reseals);
void erase_namespaces(Statement& statement, const std::vector<NamespaceId>& ids);
void add_events(Statement& statement, const std::vector<EventRow>& rows);
void put_keys(Statement& statement, const std::vector<KeyRow>& rows);
void erase_keys(Statement& statement, const std::vector<KeyRef>& refs);
void put_meta(Statement& statement, const std::vector<MetaRow>& rows);
void erase_meta(Statement& statement, const std::vector<std::string>& names);
void add_audit(Statement& statement, const std::vector<AuditRow>& rows);
void erase_audit(Statement& statement, std::uint64_t to, bool newest_too);
void move_heads(Statement& statement, const std::vector<HeadChange>& changes);
void erase_heads(Statement& statement, const std::vector<StreamId>& streams);
void erase_events(Statement& statement, const std::vector<EventErase>& erases);
void put_sinks(Statement& statement, const std::vector<SinkRow>& rows);
void put_cursors(Statement& statement, const std::vector<SinkCursorRow>& rows);
void erase_cursors(Statement& statement, const std::vector<CursorErase>& erases);
void erase_sinks(Statement& statement, const std::vector<std::string>& names);
void put_tokens(Statement& statement, const std::vector<TokenRow>& rows);
void erase_tokens(Statement& statement, const std::vector<Uuid>& ids);
void note_token_uses(Statement& statement, const std::vector<TokenUse>& uses);

}  // namespace kv::postgres
