#pragma once
#include <memory>
#include <optional>
#include <string>

#include "event_feed.h"
#include "kv/events.h"

namespace kv {

// A watch of an actor that was judged already: kv-namespace:read somewhere in `ns`. It begins behind `from`, or now. The feed is
// shared, because whoever holds a watch may keep it for longer than the store lives.
std::shared_ptr<Watch> begin_watch(std::shared_ptr<EventFeed> feed, const NamespaceRow& ns, Actor actor, std::string prefix,
                                   std::optional<std::uint64_t> from);

}  // namespace kv
