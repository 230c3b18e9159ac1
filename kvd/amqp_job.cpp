#include "kvd/amqp_job.h"

#include <algorithm>
#include <chrono>

#include "kvd/cloud_event.h"

namespace kvd {

AmqpJob::AmqpJob(std::span<const kv::Event> events, bool hides_keys, bool drops_unroutable, std::size_t window)
    : drops_unroutable_(drops_unroutable), window_(window) {
    items_.reserve(events.size());
    for (const kv::Event& event : events) {
        Item item;
        item.ns = event.ns;
        item.message.routing_key = routing_key(event);
        item.message.id = event.id();
        item.message.type = cloud_event_type(event.kind);
        item.message.body = write_cloud_event(event, hides_keys);
        const auto seconds = std::chrono::floor<std::chrono::seconds>(event.at.time_since_epoch()).count();
        item.message.timestamp = seconds > 0 ? static_cast<std::uint64_t>(seconds) : 0;
        items_.push_back(std::move(item));
    }
}

bool AmqpJob::is_held(const kv::NamespaceId& ns) const { return std::find(held_.begin(), held_.end(), ns) != held_.end(); }

const AmqpConnection::Message* AmqpJob::next() {
    while (next_ < items_.size() && is_held(items_[next_].ns)) ++next_;
    if (next_ == items_.size()) return nullptr;
    const bool is_full = under_way_.size() >= window_ || bytes_under_way_ >= bytes_under_way_max;
    return is_full && !under_way_.empty() ? nullptr : &items_[next_].message;
}

void AmqpJob::published(std::uint64_t tag) {
    Item& item = items_[next_];
    item.outcome = Outcome::under_way;
    item.tag = tag;
    bytes_under_way_ += item.message.body.size();
    under_way_.push_back(next_++);
}

AmqpJob::Counts AmqpJob::confirm(std::uint64_t tag, bool is_multiple, bool is_taken) {
    Counts counts;
    for (auto at = under_way_.begin(); at != under_way_.end() && items_[*at].tag <= tag;) {
        if (!is_multiple && items_[*at].tag != tag) {
            ++at;
            continue;
        }
        settle(items_[*at], is_taken, counts);
        at = under_way_.erase(at);
    }
    return counts;
}

void AmqpJob::settle(Item& item, bool is_taken, Counts& counts) {
    bytes_under_way_ -= item.message.body.size();
    if (!is_taken) {
        ++counts.refused;
        return refuse(item, Outcome::refused);
    }
    if (item.came_back && !drops_unroutable_) return refuse(item, Outcome::returned);
    item.outcome = Outcome::taken;
    if (!item.came_back) ++counts.taken;
    if (!has_refusals_) window_ = std::min(window_ + 1, window_max);
}

void AmqpJob::refuse(Item& item, Outcome outcome) {
    item.outcome = outcome;
    has_refusals_ = true;
    window_ = 1;
    if (!is_held(item.ns)) held_.push_back(item.ns);
}

const std::string* AmqpJob::returned(std::string_view id) {
    for (const std::size_t index : under_way_) {
        if (items_[index].message.id != id) continue;
        items_[index].came_back = true;
        return &items_[index].message.routing_key;
    }
    return nullptr;
}

bool AmqpJob::has_arrived(std::string_view routing_prefix) const {
    return std::any_of(items_.begin(), items_.end(), [&](const Item& item) {
        return item.outcome == Outcome::taken && !item.came_back && item.message.routing_key.starts_with(routing_prefix);
    });
}

std::size_t AmqpJob::count(Outcome outcome) const {
    return static_cast<std::size_t>(std::count_if(items_.begin(), items_.end(), [&](const Item& item) { return item.outcome == outcome; }));
}

bool AmqpJob::is_done() { return under_way_.empty() && next() == nullptr; }

}  // namespace kvd
