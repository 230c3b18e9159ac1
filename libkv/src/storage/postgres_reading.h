#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "storage/postgres_connection.h"
#include "storage/rows.h"

// How rows are read from an answer, and what the SQL texts of several files share.
namespace kv::postgres {

// The server's integers have a sign: a bound beyond them means "no bound".
inline std::int64_t bound(std::uint64_t value) {
    constexpr std::uint64_t integer_max = std::numeric_limits<std::int64_t>::max();
    return static_cast<std::int64_t>(std::min(value, integer_max));
}

template <class Row, class Exchange>
Row read_row(Rows& rows, Exchange&& exchange) {
    Row row;
    exchange(row, [&](auto&&... fields) { rows.read(fields...); });
    return row;
}

inline NamespaceRow read_namespace(Rows& rows) {
    return read_row<NamespaceRow>(rows, [](auto& row, auto&& io) { exchange_namespace(row, io); });
}
inline EntryRow read_entry(Rows& rows) {
    return read_row<EntryRow>(rows, [](auto& row, auto&& io) { exchange_entry(row, io); });
}
inline VersionRow read_version(Rows& rows) {
    return read_row<VersionRow>(rows, [](auto& row, auto&& io) { exchange_version(row, io); });
}
// With the key of its entry behind it.
inline VersionRow read_named_version(Rows& rows) {
    VersionRow row = read_version(rows);
    rows.read(row.key_path);
    return row;
}
inline KeyRow read_key(Rows& rows) {
    return read_row<KeyRow>(rows, [](auto& row, auto&& io) { exchange_key(row, io); });
}
inline EventRow read_event(Rows& rows) {
    return read_row<EventRow>(rows, [](auto& row, auto&& io) { exchange_event(row, io); });
}
inline SinkRow read_sink(Rows& rows) {
    return read_row<SinkRow>(rows, [](auto& row, auto&& io) { exchange_sink(row, io); });
}
inline TokenRow read_token(Rows& rows) {
    return read_row<TokenRow>(rows, [](auto& row, auto&& io) { exchange_token(row, io); });
}
inline SinkCursorRow read_cursor(Rows& rows) {
    return read_row<SinkCursorRow>(rows, [](auto& row, auto&& io) { exchange_cursor(row, io); });
}
inline AuditHead read_head(Rows& rows) {
    return read_row<AuditHead>(rows, [](auto& row, auto&& io) { exchange_head(row, io); });
}
inline AuditRow read_audit(Rows& rows) {
    AuditRow row = read_row<AuditRow>(rows, [](auto& fields, auto&& io) { exchange_audit(fields, io); });
    rows.read(row.position);
    return row;
}

template <class Read>
auto read_all(Rows rows, Read&& read) {
    std::vector<decltype(read(rows))> all;
    all.reserve(rows.size());
    while (rows.next()) all.push_back(read(rows));
    return all;
}

// "id, name" of the table "n": "n.id, n.name".
inline std::string of(std::string_view table, std::string_view columns) {
    std::string text(table);
    text += '.';
    for (const char c : columns) {
        text += c;
        if (c == ' ') text.append(table).push_back('.');
    }
    return text;
}
constexpr int column_count(std::string_view columns) {
    return 1 + static_cast<int>(std::count(columns.begin(), columns.end(), ','));
}

// A page ends after the row whose value crosses the bytes: `rows` gives the columns, the value, and as "before" how many bytes
// of values come before each row in the order of the page. What is left out is left out by the server.
inline std::string within_bytes(const std::string& columns, const std::string& rows, std::string_view bytes) {
    return "select " + columns + " from (" + rows + ") page where coalesce(before, 0) <= " + std::string(bytes);
}
inline std::string bytes_before(std::string_view value, std::string_view order) {
    return "sum(octet_length(" + std::string(value) + ")) over (order by " + std::string(order) +
           " rows between unbounded preceding and 1 preceding) as before";
}
// Bytes count only where values are asked for.
inline std::int64_t byte_bound(bool with_values, std::size_t bytes) {
    return with_values ? bound(bytes) : std::numeric_limits<std::int64_t>::max();
}

}  // namespace kv::postgres
