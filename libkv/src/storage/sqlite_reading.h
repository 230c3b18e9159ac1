#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "storage/rows.h"
#include "storage/sqlite_connection.h"

// How rows are read from a statement, and what the SQL texts of several files share.
namespace kv::sqlite {

inline constexpr std::int64_t integer_max = std::numeric_limits<std::int64_t>::max();

// SQLite's integers have a sign: a bound beyond them means "no bound".
inline std::int64_t bound(std::uint64_t value) {
    return static_cast<std::int64_t>(std::min<std::uint64_t>(value, static_cast<std::uint64_t>(integer_max)));
}

// For SQLite every number is less than every BLOB: a place before any id, also before one that is too short.
inline constexpr std::int64_t before_all_ids = 0;

template <class Row, class Exchange>
Row read_row(Run& run, Exchange&& exchange) {
    Row row;
    exchange(row, [&](auto&&... fields) { run.read(fields...); });
    return row;
}

inline NamespaceRow read_namespace(Run& run) {
    return read_row<NamespaceRow>(run, [](auto& row, auto&& io) { exchange_namespace(row, io); });
}
inline EntryRow read_entry(Run& run) {
    return read_row<EntryRow>(run, [](auto& row, auto&& io) { exchange_entry(row, io); });
}
inline VersionRow read_version(Run& run) {
    return read_row<VersionRow>(run, [](auto& row, auto&& io) { exchange_version(row, io); });
}
inline KeyRow read_key(Run& run) {
    return read_row<KeyRow>(run, [](auto& row, auto&& io) { exchange_key(row, io); });
}
inline EventRow read_event(Run& run) {
    return read_row<EventRow>(run, [](auto& row, auto&& io) { exchange_event(row, io); });
}
inline SinkRow read_sink(Run& run) {
    return read_row<SinkRow>(run, [](auto& row, auto&& io) { exchange_sink(row, io); });
}
inline TokenRow read_token(Run& run) {
    return read_row<TokenRow>(run, [](auto& row, auto&& io) { exchange_token(row, io); });
}
inline SinkCursorRow read_cursor(Run& run) {
    return read_row<SinkCursorRow>(run, [](auto& row, auto&& io) { exchange_cursor(row, io); });
}
inline AuditHead read_head(Run& run) {
    return read_row<AuditHead>(run, [](auto& row, auto&& io) { exchange_head(row, io); });
}
inline AuditRow read_audit(Run& run) {
    AuditRow row = read_row<AuditRow>(run, [](auto& fields, auto&& io) { exchange_audit(fields, io); });
    run.read(row.position);
    return row;
}

template <class Row, class Read>
void read_all(Run& run, std::vector<Row>& rows, Read&& read) {
    while (run.next()) rows.push_back(read(run));
}
template <class Read>
auto read_all(Run run, Read&& read) {
    std::vector<decltype(read(run))> rows;
    read_all(run, rows, read);
    return rows;
}

// A page behind whose last row the next begins. A row is lost if somebody made its place in the order unreadable, so that
// nothing can begin behind it: it stands in the page of the next row that is not lost, before it, without its value and
// if there is room. Where there is no such row any more, the lost ones are the last page.
template <class Row, class Read, class IsLost>
std::vector<Row> read_page(Run run, std::size_t limit, std::size_t bytes, Read&& read, IsLost&& is_lost) {
    std::vector<Row> rows;
    std::vector<Row> lost;  // since the last of `rows`
    std::size_t held = 0;
    while (rows.size() < limit && held <= bytes && run.next()) {
        Row row = read(run);
        if (is_lost(row)) {
            if constexpr (requires { row.value; }) row.value.clear();
            if (lost.size() < limit) lost.push_back(std::move(row));
            continue;
        }
        lost.resize(std::min(lost.size(), limit - rows.size() - 1));
        std::move(lost.begin(), lost.end(), std::back_inserter(rows));
        lost.clear();
        if constexpr (requires { row.value; }) held += row.value.size();
        rows.push_back(std::move(row));
    }
    return rows.empty() ? lost : rows;
}

}  // namespace kv::sqlite
