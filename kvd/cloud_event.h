#pragma once
#include <string>

#include "kv/events.h"

namespace kvd {

// How the rest of the world is told of an event: CloudEvents 1.0, structured JSON. It holds no value of an entry.

// "kv.entry.updated".
std::string cloud_event_type(kv::EventKind kind);
// `hides_keys`: neither the key path nor who did it.
std::string write_cloud_event(const kv::Event& event, bool hides_keys);
// "kv.APPLICATION.NAMESPACE.KIND", 255 bytes at most. Of the application's id every byte but A-Z, a-z, 0-9, '-' and '_' is
// written %XX, so that it is one word to a topic exchange; an id that is too long is cut.
std::string routing_key(const kv::Event& event);

}  // namespace kvd
