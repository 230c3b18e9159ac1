#pragma once
#include <cstddef>
#include <utility>
#include <vector>

namespace kv {

// Collects the rows of a scan until there are `limit` of them, or until their values hold more than `bytes`.
template <class Row>
class Batch {
public:
    Batch(std::size_t limit, std::size_t bytes) : limit_(limit), bytes_(bytes) {}

    bool is_full() const { return rows_.size() >= limit_ || held_ > bytes_; }
    void add(Row row) {
        held_ += row.value.size();
        rows_.push_back(std::move(row));
    }
    std::vector<Row> take() { return std::move(rows_); }

private:
    const std::size_t limit_;
    const std::size_t bytes_;
    std::size_t held_ = 0;
    std::vector<Row> rows_;
};

}  // namespace kv
