#include "kvd/worker.h"

#include <boost/asio/post.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <utility>

#include "kvd/metrics.h"
#include "kvd/session.h"

namespace kvd {
namespace {

namespace net = boost::asio;
using boost::system::error_code;

thread_local const Worker* worker_of_this_thread = nullptr;

}  // namespace

Worker::Worker(Metrics& metrics, std::chrono::milliseconds tick)
    : metrics_(metrics), tick_(tick), turn_([this](void (Turn::*call)()) { net::post(context_, [this, call] { (turn_.*call)(); }); }) {}

// Closed here, sessions whose last handler dies with the context have nothing left to do with the list.
Worker::~Worker() {
    while (!sessions_.empty()) {
        const std::shared_ptr<Session> session = sessions_.back();
        session->close();
    }
}

bool Worker::is_current() const noexcept { return worker_of_this_thread == this; }

void Worker::run() {
    worker_of_this_thread = this;
    turn_.enter();
    const auto work = net::make_work_guard(context_);
    for (;;) {
        try {
            context_.run();
            break;
        } catch (...) {
            metrics_.exceptions.fetch_add(1, std::memory_order_relaxed);
        }
    }
    turn_.leave();
    worker_of_this_thread = nullptr;
}

void Worker::add(std::shared_ptr<Session> session) {
    session->place = sessions_.size();
    sessions_.push_back(std::move(session));
    if (!tick_armed_) arm_tick();
}

void Worker::remove(const Session& session) noexcept {
    const std::size_t place = session.place;
    if (place >= sessions_.size() || sessions_[place].get() != &session) return;
    // Swapped out first: the session may be destroyed here, and must not find the list half changed.
    std::swap(sessions_[place], sessions_.back());
    sessions_[place]->place = place;
    const std::shared_ptr<Session> removed = std::move(sessions_.back());
    sessions_.pop_back();
}

std::string Worker::draw_id() { return boost::uuids::to_string(ids_()); }

void Worker::arm_tick() {
    timer_.expires_after(tick_);
    timer_.async_wait([this](error_code error) {
        tick_armed_ = false;
        if (error) return;
        check_deadlines();
        if (!sessions_.empty()) arm_tick();
    });
    tick_armed_ = true;
}

// Backwards, because a session that is closed leaves the list and the last one takes its place.
template <class Visit>
void Worker::for_each_session(Visit visit) {
    for (std::size_t i = sessions_.size(); i > 0; --i) {
        if (i > sessions_.size()) continue;
        const std::shared_ptr<Session> session = sessions_[i - 1];
        visit(*session);
    }
}

void Worker::check_deadlines() {
    turn_.catch_up();
    for_each_session([now = std::chrono::steady_clock::now()](Session& session) { session.check_deadline(now); });
}

void Worker::drain() {
    net::post(context_, [this] { for_each_session([](Session& session) { session.drain(); }); });
}

void Worker::close_all() {
    net::post(context_, [this] { for_each_session([](Session& session) { session.close(); }); });
}

}  // namespace kvd
