#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kv/events.h"
#include "kvd/amqp_settings.h"
#include "kvd/metrics.h"

namespace kvd {

class Log;

// AmqpSink publishes events to a topic exchange of a RabbitMQ, each as a CloudEvent (see cloud_event.h): persistent, mandatory,
// and confirmed by the broker before it counts as arrived. A broker that is away delays nobody but the events.
//
// A thread of the sink's own holds the connection, keeps it alive while there is nothing to send, and makes a new one
// when it is lost, after 100 ms at first and 10 s at last. It alone uses the library.
//
// Up to 256 messages are under way at a time. What is refused (by a full queue), or what no queue takes, is not confirmed, and
// the store delivers it again with all that follows in its namespace. What was under way behind it may have arrived
// before; from then on one message goes at a time until they are taken again.
//
// Threads: as EventSink; stats() any.
class AmqpSink final : public kv::EventSink {
public:
    // Borrows the log. Does not wait for the broker.
    AmqpSink(AmqpSettings settings, Log& log);
    // Waits some seconds for the thread. Where it still asks a name server then, it is left behind.
    ~AmqpSink() override;
    AmqpSink(const AmqpSink&) = delete;
    AmqpSink& operator=(const AmqpSink&) = delete;

    const std::string& name() const override;
    // Within some five seconds, after which the connection is given up.
    kv::Result<void> deliver(std::span<const kv::Event> events, std::vector<bool>& confirmed) override;
    void stop() noexcept override;

    Metrics::AmqpStats stats() const;

private:
    struct State;

    std::shared_ptr<State> state_;  // shared with the thread, which may be left behind
    std::thread thread_;
};

}  // namespace kvd
