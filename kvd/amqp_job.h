#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/events.h"
#include "kvd/amqp_connection.h"

namespace kvd {

// AmqpJob is one delivery: its messages, what became of each, and which may go next. It knows no socket and no thread.
//
// The window is how many messages may be under way. It is 1 after a refusal, so that nothing overtakes what is tried again, and
// grows with every message that is taken.
class AmqpJob {
public:
    static constexpr std::size_t window_max = 256;
    static constexpr std::size_t bytes_under_way_max = 1u << 20;

    enum class Outcome : std::uint8_t { waiting, under_way, taken, returned, refused };

    // `window`: how many may be under way at first. `drops_unroutable`: what comes back counts as taken.
    AmqpJob(std::span<const kv::Event> events, bool hides_keys, bool drops_unroutable, std::size_t window);

    // The message that may be published now; null: none. Those behind a refused one of their namespace stay behind.
    const AmqpConnection::Message* next();
    // next() was published, and this is its tag.
    void published(std::uint64_t tag);
    // How many of those under way the broker now has, or will not have.
    struct Counts {
        std::uint64_t taken = 0;
        std::uint64_t refused = 0;
    };
    Counts confirm(std::uint64_t tag, bool is_multiple, bool is_taken);
    // The message of this id came back. Its routing key; null: it is not under way.
    const std::string* returned(std::string_view id);

    // Nothing is under way, and nothing may go any more.
    bool is_done();
    bool has_refusals() const noexcept { return has_refusals_; }
    // Whether a message whose routing key begins like this is in a queue now.
    bool has_arrived(std::string_view routing_prefix) const;
    std::size_t count(Outcome outcome) const;
    std::size_t window() const noexcept { return window_; }
    std::size_t size() const noexcept { return items_.size(); }
    bool is_confirmed(std::size_t index) const { return items_[index].outcome == Outcome::taken; }

private:
    struct Item {
        AmqpConnection::Message message;
        kv::NamespaceId ns;
        Outcome outcome = Outcome::waiting;
        std::uint64_t tag = 0;
        bool came_back = false;
    };
    void settle(Item& item, bool is_taken, Counts& counts);
    void refuse(Item& item, Outcome outcome);
    bool is_held(const kv::NamespaceId& ns) const;

    std::vector<Item> items_;
    const bool drops_unroutable_;
    std::size_t window_;
    std::size_t next_ = 0;
    std::deque<std::size_t> under_way_;  // by tag
    std::size_t bytes_under_way_ = 0;
    std::vector<kv::NamespaceId> held_;  // of which something was refused
    bool has_refusals_ = false;
};

}  // namespace kvd
