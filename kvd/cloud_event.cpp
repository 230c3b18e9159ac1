#include "kvd/cloud_event.h"

#include <string_view>

#include "json/json.h"
#include "kv/clock.h"
#include "kvd/json.h"

namespace kvd {
namespace {

constexpr std::size_t routing_key_bytes_max = 255;  // of an AMQP short string

std::string one_word(std::string_view text, std::size_t bytes_max) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    std::string word;
    for (const char c : text) {
        const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
        if (word.size() + (is_plain ? 1 : 3) > bytes_max) break;
        if (is_plain)
            word += c;
        else
            word += {'%', digits[static_cast<unsigned char>(c) >> 4], digits[static_cast<unsigned char>(c) & 15]};
    }
    return word;
}

}  // namespace

std::string cloud_event_type(kv::EventKind kind) { return "kv.entry." + std::string(kv::to_string(kind)); }

std::string write_cloud_event(const kv::Event& event, bool hides_keys) {
    const std::string ns = event.ns.to_string();
    kv::json::Writer out;
    out.begin_object();
    out.member("specversion", "1.0");
    out.member("id", event.id());
    out.member("source", "/api/v1/kv/" + ns);
    out.member("type", cloud_event_type(event.kind));
    if (!hides_keys) out.member("subject", printable(event.key_path));
    out.member("time", kv::format_time(event.at));
    out.member("datacontenttype", "application/json");
    out.key("data");
    out.begin_object();
    out.member("namespaceId", ns);
    out.member("applicationId", printable(event.application_id));
    out.member("entryId", event.entry_id.to_string());
    if (!hides_keys) out.member("keyPath", printable(event.key_path));
    out.member("version", event.version);
    out.member("revision", event.revision);
    if (!hides_keys) out.member("userId", printable(event.user_id));
    out.member("kind", kv::to_string(event.kind));
    out.end_object();
    out.end_object();
    return out.take();
}

std::string routing_key(const kv::Event& event) {
    const std::string rest = "." + event.ns.to_string() + "." + std::string(kv::to_string(event.kind));
    constexpr std::string_view prefix = "kv.";
    return std::string(prefix) + one_word(event.application_id, routing_key_bytes_max - prefix.size() - rest.size()) + rest;
}

}  // namespace kvd
