#include <algorithm>
#include <limits>
#include <string>

#include "storage/postgres_questions.h"
#include "storage/postgres_reading.h"

// The questions of Questions about events, and about who is told them.
namespace kv::postgres {

// ---- events ----

// The namespaces come in their order and each one's events are sorted among themselves, so that nothing is read beyond the limit.
std::vector<EventRow> Questions::scan_events(const EventRange& range) {
    static const std::string sql =
        "select " + of("e", KV_EVENT_COLUMNS) +
        " from (select * from unnest($1::uuid[], $2::bigint[]) with ordinality g(ns, after, place) order by place offset 0) r"
        " cross join lateral (select * from outbox o where o.namespace_id = r.ns and o.revision > r.after"
        " order by o.revision limit $3) e order by r.place, e.revision limit $4";
    if (range.from.empty()) return {};
    Params params;
    params.add_array(range.from, [](const EventRange::From& from) { return from.ns; });
    params.add_array(range.from, [](const EventRange::From& from) { return bound(from.after); });
    params.add(bound(std::min(range.limit, range.limit_each)));
    params.add(bound(range.limit));
    return read_all(connection_.run(sql.c_str(), params), read_event);
}

// From one namespace to the next, three searches each, however many events they have.
std::vector<EventSpan> Questions::scan_event_spans(const EventSpanRange& range) {
    static constexpr const char* sql =
        "with recursive spans(ns, oldest, at, place) as ("
        "(select namespace_id, revision, at, 1::bigint from outbox where (namespace_id, revision) > ($1::uuid, $2::bigint)"
        " order by namespace_id, revision limit 1) union all"
        " select n.namespace_id, n.revision, n.at, s.place + 1 from spans s cross join lateral"
        " (select o.namespace_id, o.revision, o.at from outbox o where o.namespace_id > s.ns"
        " order by o.namespace_id, o.revision limit 1) n where s.place < $3)"
        " select s.ns, s.oldest, s.at,"
        " (select o.revision from outbox o where o.namespace_id = s.ns order by o.revision desc limit 1),"
        " (select true from namespaces n where n.id = s.ns limit 1) is null from spans s order by s.place";
    if (range.limit == 0) return {};
    constexpr std::int64_t before_all = std::numeric_limits<std::int64_t>::min();
    Params params(range.after.value_or(NamespaceId{}), range.after ? bound(UINT64_MAX) : before_all, bound(range.limit));
    return read_all(connection_.run(sql, params), [](Rows& rows) {
        EventSpan span;
        rows.read(span.ns, span.oldest, span.oldest_at, span.newest, span.is_gone);
        return span;
    });
}

// ---- sinks ----

std::vector<SinkRow> Questions::scan_sinks() {
    return read_all(connection_.run("select " KV_SINK_COLUMNS " from sinks order by name"), read_sink);
}

// A row that had to be waited for comes as it is afterwards. Where there is none, nothing holds up who makes one: then there is
// a lock by its name, behind which one looks again, because the first look was too early.
std::optional<SinkRow> Questions::lock_sink(std::string_view name) {
    const auto look = [&]() -> std::optional<SinkRow> {
        Rows rows = connection_.run("select " KV_SINK_COLUMNS " from sinks where name = $1 for update", Params(name));
        if (!rows.next()) return std::nullopt;
        return read_sink(rows);
    };
    if (auto found = look()) return found;
    connection_.run("select pg_advisory_xact_lock(hashtext('kv sink ' || $1::text), hashtext(current_schema()))", Params(name));
    return look();
}

// ---- tokens ----

std::vector<TokenRow> Questions::get_tokens(std::span<const Uuid> ids) {
    Params params;
    params.add_array(ids, [](const Uuid& id) { return id; });
    return read_all(connection_.run("select " KV_TOKEN_COLUMNS " from tokens where id = any ($1::uuid[])", params), read_token);
}

std::vector<TokenRow> Questions::scan_tokens(const TokenRange& range) {
    const Uuid first = range.after.value_or(Uuid{});
    if (range.expired_before) {
        return read_all(connection_.run("select " KV_TOKEN_COLUMNS " from tokens where expires_at < $1 and id > $2 order by id limit $3",
                                        Params(*range.expired_before, first, bound(range.limit))),
                        read_token);
    }
    return read_all(connection_.run("select " KV_TOKEN_COLUMNS " from tokens where id > $1 order by id limit $2", Params(first, bound(range.limit))),
                    read_token);
}

// ---- cursors ----

std::vector<SinkCursorRow> Questions::scan_cursors(const CursorRange& range) {
    static constexpr const char* of_namespace =
        "select " KV_CURSOR_COLUMNS " from sink_cursors where namespace_id = $1::uuid and ($2::text is null or sink = $2)"
        " and sink >= $3 and (sink > $3 or namespace_id > $4) order by sink limit $5";
    static constexpr const char* of_sink = "select " KV_CURSOR_COLUMNS
                                           " from sink_cursors where sink = $1 and namespace_id > $2 order by namespace_id limit $3";
    static constexpr const char* of_all =
        "select " KV_CURSOR_COLUMNS
        " from sink_cursors where (sink, namespace_id) > ($1::text collate \"C\", $2::uuid) order by sink, namespace_id limit $3";
    const std::string first = range.after ? range.after->sink : std::string();
    const NamespaceId behind = range.after ? range.after->ns : NamespaceId{};
    if (range.ns) {
        return read_all(connection_.run(of_namespace, Params(*range.ns, range.sink, first, behind, bound(range.limit))), read_cursor);
    }
    if (!range.sink) return read_all(connection_.run(of_all, Params(first, behind, bound(range.limit))), read_cursor);
    if (first > *range.sink) return {};
    return read_all(connection_.run(of_sink, Params(*range.sink, first == *range.sink ? behind : NamespaceId{}, bound(range.limit))),
                    read_cursor);
}

// One pass over the namespaces and the sink's cursors, each from the page's beginning on: a full join does that in a quarter of
// the time that it takes to look for the one row of each other.
std::vector<Backlog> Questions::scan_backlog(const BacklogRange& range) {
    static constexpr const char* sql =
        "select * from (select coalesce(n.id, c.namespace_id) as id, coalesce(n.application_id, c.application_id),"
        " coalesce(c.revision, 0) as confirmed, case when n.id is not null then n.revision else"
        " (select o.revision from outbox o where o.namespace_id = c.namespace_id order by o.revision desc limit 1) end as newest,"
        " n.id is null from (select id, application_id, revision from namespaces where id > $2) n full join"
        " (select namespace_id, application_id, revision from sink_cursors where sink = $1 and namespace_id > $2) c"
        " on c.namespace_id = n.id) b where newest > confirmed order by id limit $3";
    Params params(range.sink, range.after.value_or(NamespaceId{}), bound(range.limit));
    return read_all(connection_.run(sql, params), [](Rows& rows) {
        Backlog backlog;
        rows.read(backlog.ns, backlog.application_id, backlog.confirmed, backlog.newest, backlog.is_gone);
        return backlog;
    });
}

}  // namespace kv::postgres
