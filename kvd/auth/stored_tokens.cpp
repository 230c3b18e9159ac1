#include "kvd/auth/stored_tokens.h"

#include <algorithm>
#include <utility>

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

constexpr std::size_t looked_at_once = 1000;

kv::Time wall_now() { return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()); }

}  // namespace

StoredTokens::StoredTokens(kv::Store& store, Options options) : store_(store), options_(options), thread_([this] { run(); }) {}

StoredTokens::~StoredTokens() { stop(); }

bool StoredTokens::is_stored(std::string_view token) noexcept { return token.starts_with("kvt_"); }

bool StoredTokens::is_young(const Known& known, Clock::time_point now) const {
    return now - known.asked < (known.token ? options_.kept_for : options_.absent_for);
}

StoredTokens::State StoredTokens::find(const TokenHash& hash, kv::Actor& actor) const {
    std::shared_lock lock(known_mutex_);
    const auto found = known_.find(hash);
    if (found == known_.end() || !is_young(*found->second, Clock::now())) return State::unknown;
    const Known& known = *found->second;
    if (!known.token || (known.token->expires_at && *known.token->expires_at <= wall_now())) return State::absent;
    // Written only when it changes: the line is read by every thread.
    if (!known.is_used.load(std::memory_order_relaxed)) known.is_used.store(true, std::memory_order_relaxed);
    actor.user_id = known.token->user_id;
    actor.credential_id = known.credential_id;
    actor.grants = known.grants;
    return State::present;
}

void StoredTokens::ask(const TokenHash& hash, std::function<void(Result<void>)> done) {
    {
        std::lock_guard lock(mutex_);
        if (!is_stopping_ && waiting_.size() < options_.waiting_max) {
            waiting_.push_back({hash, std::move(done)});
            done = nullptr;
        }
    }
    if (done) return done(Error{Errc::overloaded, "too many tokens are being looked for"});
    wake_.notify_one();
}

void StoredTokens::stop() {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
    for (const Question& question : std::exchange(waiting_, {})) question.done(Error{Errc::shutting_down, "kvd is shutting down"});
}

void StoredTokens::run() {
    Clock::time_point due = Clock::now() + options_.refresh;
    std::unique_lock lock(mutex_);
    while (!is_stopping_) {
        wake_.wait_until(lock, due, [&] { return is_stopping_ || !waiting_.empty(); });
        if (is_stopping_) return;
        std::vector<Question> questions = std::exchange(waiting_, {});
        lock.unlock();
        if (!questions.empty()) answer(std::move(questions));
        if (Clock::now() >= due) {
            refresh();
            note_uses();
            due = Clock::now() + options_.refresh;
        }
        lock.lock();
    }
}

void StoredTokens::answer(std::vector<Question> questions) {
    std::vector<TokenHash> hashes;
    for (const Question& question : questions) hashes.push_back(question.hash);
    std::sort(hashes.begin(), hashes.end());
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
    const Result<void> looked = look(hashes);
    for (const Question& question : questions) question.done(looked ? Result<void>() : Result<void>(Error{Errc::unavailable, "the token cannot be looked for now"}));
}

// Asks about what is in use; what is not, and what is too old, goes.
void StoredTokens::refresh() {
    std::vector<TokenHash> hashes;
    {
        std::lock_guard lock(known_mutex_);
        const Clock::time_point now = Clock::now();
        std::erase_if(known_, [&](const auto& item) { return !is_young(*item.second, now); });
        for (const auto& [hash, known] : known_)
            if (known->token && known->is_used.exchange(false, std::memory_order_relaxed)) hashes.push_back(hash);
    }
    // Without an answer all of it grows too old by itself.
    [[maybe_unused]] const Result<void> looked = look(hashes);
}

Result<void> StoredTokens::look(const std::vector<TokenHash>& hashes) {
    for (std::size_t at = 0; at < hashes.size(); at += looked_at_once) {
        const std::span<const TokenHash> some(hashes.data() + at, std::min(looked_at_once, hashes.size() - at));
        const Clock::time_point asked = Clock::now();
        KV_TRY(auto tokens, store_.find_tokens(some));
        std::lock_guard lock(known_mutex_);
        if (known_.size() + some.size() > options_.tokens_max) std::erase_if(known_, [&](const auto& item) { return !item.second->token || !is_young(*item.second, asked); });
        if (known_.size() + some.size() > options_.tokens_max) known_.clear();
        for (std::size_t i = 0; i < some.size(); ++i) {
            auto& known = known_[some[i]];
            if (!known) known = std::make_unique<Known>();
            known->asked = asked;
            if (!tokens[i]) {
                known->token = nullptr;
                known->grants = nullptr;
                continue;
            }
            // The same one as before keeps its grants: who goes by them compares no more than that.
            if (known->token && known->token->id == tokens[i]->id) continue;
            known->token = std::make_shared<const kv::Token>(*std::move(tokens[i]));
            known->grants = {known->token, &known->token->grants};
            known->credential_id = "token:" + known->token->id.to_string();
        }
    }
    return {};
}

void StoredTokens::note_uses() {
    std::vector<kv::TokenUse> uses;
    {
        std::lock_guard lock(known_mutex_);
        const Clock::time_point now = Clock::now();
        const kv::Time at = wall_now();
        for (const auto& [hash, known] : known_) {
            const bool is_due = known->noted == Clock::time_point() || now - known->noted >= options_.use_noted_each;
            if (!known->token || !is_due) continue;
            known->noted = now;
            uses.push_back({known->token->id, at});
        }
    }
    // Of no consequence where it fails: the next one tells.
    [[maybe_unused]] const Result<void> noted = store_.note_token_uses(uses);
}

}  // namespace kvd
