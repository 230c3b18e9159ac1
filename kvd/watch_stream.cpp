#include "kvd/watch_stream.h"

#include <algorithm>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "json/json.h"
#include "kvd/json.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::WatchBatch;

// Clients wait so long before they come again: long enough for kvd to be restarted.
constexpr std::string_view retry = "retry: 1000\n";

void append_id(std::string& out, std::uint64_t revision) { out.append("id: ").append(std::to_string(revision)).append("\n"); }

void append_event(std::string& out, std::string_view name, std::string_view data) {
    out.append("event: ").append(name).append("\ndata: ").append(data).append("\n\n");
}

std::string render_end(std::string_view code) {
    kv::json::Writer data;
    data.begin_object();
    data.member("code", code);
    data.end_object();
    std::string out;
    append_event(out, "end", data.text());
    return out;
}

std::string render_gap(std::uint64_t revision) {
    kv::json::Writer data;
    data.begin_object();
    data.member("revision", revision);
    data.end_object();
    std::string out;
    append_id(out, revision);
    append_event(out, "gap", data.text());
    return out;
}

std::string render_events(const std::vector<kv::Event>& events) {
    std::string out;
    for (const kv::Event& event : events) {
        append_id(out, event.revision);
        append_event(out, kv::to_string(event.kind), write_json(event));
    }
    return out;
}

// One watch on its way out: it asks for more when what it gave was sent, so that a reader who takes nothing holds one batch, and
// nothing of his piles up. Between two pieces it asks again and again, to judge the credential and to break the silence.
//
// Threads: any, one after the other: whoever asks for a piece, then whoever the watch calls back on.
class WatchStream final : public BodySource, public std::enable_shared_from_this<WatchStream> {
public:
    WatchStream(std::shared_ptr<kv::Watch> watch, std::uint64_t position, std::shared_ptr<WatchTerms> terms)
        : watch_(std::move(watch)), terms_(std::move(terms)), told_(position), heartbeat_due_(Clock::now() + terms_->pace.heartbeat) {}

    void next(Done done) override {
        done_ = std::move(done);
        if (!end_if_revoked()) ask();
    }

private:
    using Clock = std::chrono::steady_clock;

    void ask() {
        const auto silence_left = std::chrono::ceil<std::chrono::milliseconds>(heartbeat_due_ - Clock::now());
        const auto patience = std::clamp(silence_left, std::chrono::milliseconds(0), terms_->pace.judgement);
        watch_->next(patience, [weak = weak_from_this()](Result<WatchBatch> batch) {
            if (const std::shared_ptr<WatchStream> self = weak.lock()) self->take(std::move(batch));
        });
    }

    // On a thread that others wait for, and which nothing thrown may reach.
    void take(Result<WatchBatch> batch) noexcept {
        try {
            if (!batch) return give(render_end(kv::code_name(batch.error().code)), true);
            if (end_if_revoked()) return;
            std::string text = render(*batch);
            if (text.empty()) return ask();
            give(std::move(text), false);
        } catch (const std::exception&) {
            if (done_) std::exchange(done_, nullptr)(Error{Errc::unavailable, "Out of memory."});
        }
    }

    // Empty if there is nothing to tell, and the silence was not long enough.
    std::string render(const WatchBatch& batch) {
        std::string text;
        if (batch.is_gap) {
            text = render_gap(batch.revision);
        } else if (!batch.events.empty()) {
            text = render_events(batch.events);
        } else if (Clock::now() >= heartbeat_due_) {
            text = ": heartbeat\n";
            // What others changed meanwhile need not be gone through again by a client that comes back.
            if (batch.revision > told_) append_id(text, batch.revision);
            text += '\n';
        } else {
            return text;
        }
        told_ = batch.revision;
        return text;
    }

    bool end_if_revoked() {
        if (!terms_->standing) return false;
        const Standing::Verdict verdict = terms_->standing->judge();
        if (verdict == Standing::Verdict::valid) return false;
        give(render_end(verdict == Standing::Verdict::gone ? kv::code_name(Errc::unauthenticated) : "credential-changed"), true);
        return true;
    }

    void give(std::string text, bool is_last) {
        heartbeat_due_ = Clock::now() + terms_->pace.heartbeat;
        std::exchange(done_, nullptr)(Piece{std::move(text), is_last});
    }

    const std::shared_ptr<kv::Watch> watch_;
    const std::shared_ptr<WatchTerms> terms_;
    Done done_;
    std::uint64_t told_;  // the last id that the client was told
    Clock::time_point heartbeat_due_;
};

}  // namespace

HttpResponse watch_response(std::shared_ptr<kv::Watch> watch, std::uint64_t position, std::shared_ptr<WatchTerms> terms) {
    if (!terms) terms = std::make_shared<WatchTerms>();
    HttpResponse response;
    response.content_type = "text/event-stream";
    response.headers.emplace_back("X-Accel-Buffering", "no");  // nginx would wait for more
    response.body = retry;
    append_id(response.body, position);
    response.body += '\n';
    response.source = std::make_shared<WatchStream>(std::move(watch), position, std::move(terms));
    response.is_endless = true;
    return response;
}

}  // namespace kvd
