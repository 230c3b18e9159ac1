#include "kvd/input_buffer.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kv/secret.h"

namespace kvd {
namespace {

// Most requests fit, and ten thousand idle connections cost 20 MB.
constexpr std::size_t capacity_min = 2048;

}  // namespace

InputBuffer::Room InputBuffer::prepare(std::size_t capacity_max) {
    assert(end_ - begin_ < capacity_max);
    if (end_ == capacity_) {
        const std::size_t size = end_ - begin_;
        // Much free space in front: shifting is enough. Otherwise every byte is copied a bounded number of times.
        if (begin_ > capacity_ / 2) {
            std::memmove(data_.get(), data_.get() + begin_, size);
            kv::secure_wipe(data_.get() + size, end_ - size);
            begin_ = 0;
            end_ = size;
        } else {
            move_to(std::clamp(capacity_ * 2, capacity_min, std::max(capacity_max, capacity_min)));
        }
    }
    return {data_.get() + end_, capacity_ - end_};
}

void InputBuffer::move_to(std::size_t capacity) {
    const std::size_t size = end_ - begin_;
    auto larger = std::make_unique_for_overwrite<char[]>(capacity);
    if (size > 0) std::memcpy(larger.get(), data_.get() + begin_, size);
    if (data_) kv::secure_wipe(data_.get(), end_);
    data_ = std::move(larger);
    capacity_ = capacity;
    begin_ = 0;
    end_ = size;
}

void InputBuffer::consume(std::size_t size) noexcept {
    assert(size <= end_ - begin_);
    if (size > 0) kv::secure_wipe(data_.get() + begin_, size);
    begin_ += size;
    if (begin_ == end_) begin_ = end_ = 0;
}

void InputBuffer::shrink() noexcept {
    consume(end_ - begin_);
    if (capacity_ <= capacity_min) return;
    data_.reset();
    capacity_ = 0;
}

}  // namespace kvd
