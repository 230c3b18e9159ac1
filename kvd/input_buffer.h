#pragma once
#include <cstddef>
#include <memory>
#include <string_view>

namespace kvd {

// What a connection received and nobody has used yet, in one piece. Holds credentials and values, so everything that
// leaves it is overwritten. Threads: one at a time.
class InputBuffer {
public:
    InputBuffer() = default;
    ~InputBuffer() { shrink(); }
    InputBuffer(const InputBuffer&) = delete;
    InputBuffer& operator=(const InputBuffer&) = delete;

    std::string_view view() const noexcept { return {data_.get() + begin_, end_ - begin_}; }
    bool empty() const noexcept { return begin_ == end_; }

    struct Room {
        char* data;
        std::size_t size;
    };
    // Room behind what is there, at least one byte: grows by doubling up to `capacity_max`, which view() must be below.
    Room prepare(std::size_t capacity_max);
    void commit(std::size_t size) noexcept { end_ += size; }
    void consume(std::size_t size) noexcept;
    // Gives the memory of an empty buffer back, as far as a connection that waits can do without.
    void shrink() noexcept;

private:
    void move_to(std::size_t capacity);

    std::unique_ptr<char[]> data_;
    std::size_t capacity_ = 0;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

}  // namespace kvd
