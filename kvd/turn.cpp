#include "kvd/turn.h"

#include <span>
#include <utility>
#include <variant>

namespace kvd {
namespace {

thread_local Turn* turn_of_this_thread = nullptr;

// What is larger is made into an answer where it was read, and counted there: this loop may be behind.
constexpr std::size_t small_value_bytes = 4u << 10;

bool is_small(const kv::Result<kv::Reply>& reply) {
    if (!reply) return reply.error().items.empty();
    if (std::holds_alternative<kv::Done>(*reply)) return true;
    const auto* entry = std::get_if<kv::EntryReply>(&*reply);
    return entry != nullptr && (!entry->entry.value || entry->entry.value->size() <= small_value_bytes);
}

}  // namespace

void Turn::enter() noexcept { turn_of_this_thread = this; }
void Turn::leave() noexcept { turn_of_this_thread = nullptr; }

void Turn::submit(kv::Client& client, kv::Submission submission) {
    Turn* turn = turn_of_this_thread;
    if (turn == nullptr) return client.submit(std::move(submission.actor), std::move(submission.request), std::move(submission.done));
    if (turn->client_ != &client && !turn->gathered_.empty()) turn->hand_over();
    turn->client_ = &client;
    submission.done = turn->returning(std::move(submission.done));
    turn->gathered_.push_back(std::move(submission));
    if (std::exchange(turn->is_handing_over_, true)) return;
    try {
        turn->post_(&Turn::hand_over);
    } catch (...) {
        turn->is_handing_over_ = false;  // the next one tries again, or catch_up() does it
    }
}

kv::Completion Turn::returning(kv::Completion done) {
    return [this, done = std::move(done)](kv::Result<kv::Reply> reply) mutable {
        if (is_small(reply)) return take_back(done, reply);
        done(std::move(reply));
    };
}

void Turn::take_back(kv::Completion& done, kv::Result<kv::Reply>& reply) {
    bool posts = false;
    try {
        std::lock_guard lock(mutex_);
        // Before anything is moved: without memory the answer is made here.
        if (answered_.size() == answered_.capacity()) answered_.reserve(answered_.size() * 2 + 16);
        answered_.push_back({std::move(done), std::move(reply)});
        posts = !std::exchange(is_answer_posted_, true);
    } catch (...) {
        return done(std::move(reply));
    }
    if (!posts) return;
    try {
        post_(&Turn::answer);
    } catch (...) {
        std::lock_guard lock(mutex_);
        is_answer_posted_ = false;
    }
}

void Turn::hand_over() {
    is_handing_over_ = false;
    std::vector<kv::Submission> batch;
    batch.swap(gathered_);
    if (batch.empty()) return;
    try {
        client_->submit(std::span(batch));
    } catch (...) {
        for (kv::Submission& left : batch)
            if (left.done) left.done(kv::Error{kv::Errc::unavailable, "Out of memory."});
    }
    batch.clear();
    if (gathered_.empty()) gathered_.swap(batch);  // for its memory
}

void Turn::answer() {
    std::vector<Answered> batch;
    {
        std::lock_guard lock(mutex_);
        batch.swap(answered_);
        is_answer_posted_ = false;
    }
    is_answering_ = true;
    for (Answered& one : batch) {
        try {
            one.done(std::move(one.reply));
        } catch (...) {
            // The others are to be answered all the same.
        }
    }
    is_answering_ = false;
    batch.clear();
    std::lock_guard lock(mutex_);
    if (answered_.empty()) answered_.swap(batch);  // for its memory
}

void Turn::catch_up() {
    hand_over();
    answer();
}

}  // namespace kvd
