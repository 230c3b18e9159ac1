#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "kv/events.h"
#include "kvd/auth/authenticator.h"
#include "kvd/http.h"

namespace kvd {

struct WatchPace {
    std::chrono::milliseconds heartbeat = std::chrono::seconds(15);  // after so long a silence
    std::chrono::milliseconds judgement = std::chrono::seconds(1);   // so often at least is the credential looked at
};

// What a watch is kept under.
struct WatchTerms {
    WatchTerms() = default;
    WatchTerms(const WatchPace& how_often, Standing whose) : pace(how_often), standing(std::move(whose)) {}

    WatchPace pace;
    std::optional<Standing> standing;  // empty: not judged again
};

// The answer to a watch: what a kv::Watch tells, as server-sent events (WHATWG HTML, 9.2). `position` is where the watch begins:
// it is sent at once, so that a client which loses the connection before the first event goes on from there.
HttpResponse watch_response(std::shared_ptr<kv::Watch> watch, std::uint64_t position, std::shared_ptr<WatchTerms> terms);

}  // namespace kvd
