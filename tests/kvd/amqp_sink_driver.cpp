// Drives kvd's sink of events against a RabbitMQ, as tests/kvd/amqp_sink.py tells it to on stdin:
//
//   amqp_sink_driver URI [NAME=VALUE]...    ca, cert, key, exchange, heartbeat (seconds), unroutable=drop, padding (bytes of
//                                           each key path)
//
//   deliver NS FIRST COUNT [NS FIRST COUNT]...    one delivery: events of namespace NS (a number) from revision FIRST on, those
//                                                 of several namespaces in turns
//   stats
//
// Each is answered by a line of JSON. The end of stdin ends it. The password comes from KVD_AMQP_PASSWORD.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "json/json.h"
#include "kvd/amqp_sink.h"
#include "kvd/config.h"
#include "kvd/log.h"

namespace {

using kvd::AmqpSettings;

struct Span {
    std::uint64_t ns = 0;
    std::uint64_t first = 0;
    std::uint64_t count = 0;
};

kv::Event make_event(std::uint64_t ns, std::uint64_t revision, std::size_t padding) {
    kv::Event event;
    char id[37];
    std::snprintf(id, sizeof id, "01900000-0000-7000-8000-%012llx", static_cast<unsigned long long>(ns));
    event.ns = *kv::Uuid::parse(id);
    event.application_id = "app-" + std::to_string(ns);
    event.revision = revision;
    event.entry_id = event.ns;
    event.key_path = std::string(padding, 'k') + "folder/key-" + std::to_string(revision);
    event.kind = revision % 2 == 0 ? kv::EventKind::updated : kv::EventKind::rolled_back;
    event.version = revision;
    event.at = kv::Time(std::chrono::microseconds(1'790'000'000'123'456));
    event.user_id = "alice";
    return event;
}

std::vector<kv::Event> make_events(std::vector<Span> spans, std::size_t padding) {
    std::vector<kv::Event> events;
    for (bool is_more = true; is_more;) {
        is_more = false;
        for (Span& span : spans) {
            if (span.count == 0) continue;
            events.push_back(make_event(span.ns, span.first++, padding));
            is_more = --span.count > 0 || is_more;
        }
        for (const Span& span : spans) is_more = is_more || span.count > 0;
    }
    return events;
}

void answer_delivery(kvd::AmqpSink& sink, std::istringstream& words, std::size_t padding) {
    std::vector<Span> spans;
    for (Span span; words >> span.ns >> span.first >> span.count;) spans.push_back(span);
    const std::vector<kv::Event> events = make_events(spans, padding);
    std::vector<bool> confirmed(events.size());
    const auto began = std::chrono::steady_clock::now();
    const kv::Result<void> delivered = sink.deliver(events, confirmed);
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
    std::string flags;
    for (const bool is_confirmed : confirmed) flags += is_confirmed ? '1' : '0';
    kv::json::Writer out;
    out.begin_object();
    out.member("success", delivered.has_value());
    out.member("message", delivered ? "" : delivered.error().message);
    out.member("confirmed", flags);
    out.member("microseconds", std::int64_t{took.count()});
    out.end_object();
    std::cout << out.take() << std::endl;
}

void answer_stats(const kvd::AmqpSink& sink) {
    const kvd::Metrics::AmqpStats stats = sink.stats();
    kv::json::Writer out;
    out.begin_object();
    out.member("published", stats.published);
    out.member("confirmed", stats.confirmed);
    out.member("returned", stats.returned);
    out.member("nacked", stats.nacked);
    out.member("reconnects", stats.reconnects);
    out.member("connected", stats.is_connected);
    out.member("blocked", stats.is_blocked);
    out.end_object();
    std::cout << out.take() << std::endl;
}

// As the command line of kvd has them.
struct Asked {
    kvd::Settings settings;
    std::chrono::seconds heartbeat{10};
    std::size_t padding = 0;
};
Asked read_arguments(int argc, char** argv) {
    Asked asked;
    kvd::Settings& settings = asked.settings;
    settings.amqp = argv[1];
    for (int i = 2; i < argc; ++i) {
        const std::string given = argv[i];
        const std::string name = given.substr(0, given.find('='));
        const std::string value = given.substr(name.size() + 1);
        if (name == "ca") settings.amqp_ca = value;
        if (name == "cert") settings.amqp_certificate = value;
        if (name == "key") settings.amqp_key = value;
        if (name == "exchange") settings.amqp_exchange = value;
        if (name == "unroutable") settings.amqp_drops_unroutable = value == "drop";
        if (name == "heartbeat") asked.heartbeat = std::chrono::seconds(std::stol(value));
        if (name == "padding") asked.padding = std::stoul(value);
    }
    return asked;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return kvd::exit_usage;
    const Asked asked = read_arguments(argc, argv);
    const kvd::SecretVariables variables = kvd::SecretVariables::take();
    auto loaded = kvd::load_amqp(asked.settings, variables.amqp_password);
    if (!loaded) {
        std::fprintf(stderr, "%s\n", loaded.error().message.c_str());
        return kvd::exit_config;
    }
    AmqpSettings settings = *std::move(*loaded);
    settings.heartbeat = asked.heartbeat;
    kvd::Log log(kv::LogLevel::debug, kvd::LogFormat::json);
    kvd::AmqpSink sink(std::move(settings), log);
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "deliver") answer_delivery(sink, words, asked.padding);
        if (command == "stats") answer_stats(sink);
    }
    return kvd::exit_ok;
}
