#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "storage/sqlite_questions.h"
#include "storage/sqlite_reading.h"

// The questions of Questions about events, and about who is told them.
namespace kv::sqlite {

// ---- events ----

std::vector<EventRow> Questions::scan_events(const EventRange& range) {
    std::vector<EventRow> rows;
    for (const EventRange::From& from : range.from) {
        const std::size_t left = std::min(range.limit - rows.size(), range.limit_each);
        if (left == 0) break;
        Run run = connection_.run("select " KV_EVENT_COLUMNS
                                  " from outbox where namespace_id = ?1 and revision > ?2 order by revision limit ?3",
                                  from.ns, bound(from.after), bound(left));
        read_all(run, rows, read_event);
    }
    return rows;
}

namespace {

struct FoundSpan {
    std::string stored_id;  // goes on behind it even if it is no id
    EventSpan span;
};

// Of the first namespace with events behind a place: three searches, however many events there are.
template <class Place>
std::optional<FoundSpan> find_span(Connection& connection, const Place& place) {
    Run run = connection.run("select namespace_id, namespace_id, revision, at,"
                             " (select n.revision from outbox n where n.namespace_id = o.namespace_id order by n.revision desc limit 1),"
                             " not exists (select 1 from namespaces where id = o.namespace_id)"
                             " from outbox o where namespace_id > ?1 order by namespace_id, revision limit 1",
                             place);
    if (!run.next()) return std::nullopt;
    FoundSpan found;
    run.read(Blob{found.stored_id}, found.span.ns, found.span.oldest, found.span.oldest_at, found.span.newest, found.span.is_gone);
    return found;
}

}  // namespace

std::vector<EventSpan> Questions::scan_event_spans(const EventSpanRange& range) {
    std::vector<EventSpan> spans;
    std::optional<FoundSpan> found;
    while (spans.size() < range.limit) {
        if (found) {
            found = find_span(connection_, Blob{std::as_const(found->stored_id)});
        } else {
            found = range.after ? find_span(connection_, *range.after) : find_span(connection_, before_all_ids);
        }
        if (!found) break;
        if (!found->span.ns.is_nil()) spans.push_back(found->span);
    }
    return spans;
}

// ---- sinks ----

std::vector<SinkRow> Questions::scan_sinks() {
    return read_all(connection_.run("select " KV_SINK_COLUMNS " from sinks order by name"), read_sink);
}

std::optional<SinkRow> Questions::find_sink(std::string_view name) {
    Run run = connection_.run("select " KV_SINK_COLUMNS " from sinks where name = ?1", name);
    if (!run.next()) return std::nullopt;
    return read_sink(run);
}

// ---- tokens ----

std::vector<TokenRow> Questions::get_tokens(std::span<const Uuid> ids) {
    std::vector<TokenRow> rows;
    for (const Uuid& id : ids) {
        Run run = connection_.run("select " KV_TOKEN_COLUMNS " from tokens where id = ?1", id);
        read_all(run, rows, read_token);
    }
    return rows;
}

std::vector<TokenRow> Questions::scan_tokens(const TokenRange& range) {
    if (range.expired_before) {
        return read_all(connection_.run("select " KV_TOKEN_COLUMNS " from tokens where expires_at < ?1 and id > coalesce(?2, x'')"
                                        " order by id limit ?3",
                                        *range.expired_before, range.after, bound(range.limit)),
                        read_token);
    }
    return read_all(connection_.run("select " KV_TOKEN_COLUMNS " from tokens where id > coalesce(?1, x'') order by id limit ?2", range.after,
                                    bound(range.limit)),
                    read_token);
}

// Without the rows that somebody made unreadable: no page could begin behind one.
#define KV_CURSORS "select " KV_CURSOR_COLUMNS " from sink_cursors where length(namespace_id) = 16 and "

std::vector<SinkCursorRow> Questions::scan_cursors(const CursorRange& range) {
    const std::string first = range.after ? range.after->sink : std::string();
    const auto read_behind = [&](Run run, bool is_behind) {
        if (is_behind) {
            run.bind(range.after->ns);
        } else {
            run.bind(before_all_ids);
        }
        run.bind(bound(range.limit));
        return read_all(std::move(run), read_cursor);
    };
    if (range.ns) {
        return read_behind(connection_.run(KV_CURSORS "namespace_id = ?1 and (?2 is null or sink = ?2) and sink >= ?3"
                                                      " and (sink > ?3 or namespace_id > ?4) order by sink limit ?5",
                                           *range.ns, range.sink, first),
                           range.after.has_value());
    }
    if (!range.sink) {
        return read_behind(connection_.run(KV_CURSORS "(sink, namespace_id) > (?1, ?2) order by sink, namespace_id limit ?3", first),
                           range.after.has_value());
    }
    if (first > *range.sink) return {};
    return read_behind(connection_.run(KV_CURSORS "sink = ?1 and namespace_id > ?2 order by namespace_id limit ?3", *range.sink),
                       first == *range.sink);
}

// Two walks in the order of the ids: one of the namespaces that are there, one of the sink's cursors in those that are not.
std::vector<Backlog> Questions::scan_backlog(const BacklogRange& range) {
    const auto read = [&](Run run, bool is_gone) {
        if (range.after) {
            run.bind(*range.after);
        } else {
            run.bind(before_all_ids);
        }
        run.bind(bound(range.limit));
        return read_all(std::move(run), [&](Run& row) {
            Backlog backlog;
            row.read(backlog.ns, backlog.application_id, backlog.confirmed, backlog.newest);
            backlog.is_gone = is_gone;
            return backlog;
        });
    };
    const std::vector<Backlog> there = read(
        connection_.run("select n.id, n.application_id, coalesce(c.revision, 0), n.revision from namespaces n"
                        " left join sink_cursors c on c.sink = ?1 and c.namespace_id = n.id"
                        " where n.id > ?2 and n.revision > coalesce(c.revision, 0) and length(n.id) = 16 order by n.id limit ?3",
                        range.sink),
        false);
    const std::vector<Backlog> gone = read(
        connection_.run("select c.namespace_id, c.application_id, c.revision,"
                        " (select o.revision from outbox o where o.namespace_id = c.namespace_id order by o.revision desc limit 1) as newest"
                        " from sink_cursors c where c.sink = ?1 and c.namespace_id > ?2"
                        " and not exists (select 1 from namespaces n where n.id = c.namespace_id) and newest > c.revision"
                        " and length(c.namespace_id) = 16"
                        " order by c.namespace_id limit ?3",
                        range.sink),
        true);
    std::vector<Backlog> all;
    std::merge(there.begin(), there.end(), gone.begin(), gone.end(), std::back_inserter(all),
               [](const Backlog& a, const Backlog& b) { return a.ns < b.ns; });
    all.resize(std::min(all.size(), range.limit));
    return all;
}

}  // namespace kv::sqlite
