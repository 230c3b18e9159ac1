#include "kvd/auth/key_source.h"

#include <functional>
#include <future>
#include <memory>
#include <utility>

#include "kvd/files.h"
#include "kvd/log.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

constexpr std::chrono::seconds fetch_patience(5);
constexpr std::chrono::seconds pause_without_keys(2);
constexpr std::chrono::seconds pause_with_keys(10);

Result<std::string> read_text(const std::string& path) {
    KV_TRY(const kv::SecretBytes file, read_file(path, Jwks::set_bytes_max));
    return std::string(file.reveal());
}

Result<std::string> text_of(Result<Fetcher::Answer> answer) {
    constexpr long ok = 200;
    if (!answer) return std::move(answer).error();
    if (answer->status != ok) return Error{Errc::unavailable, "it answers " + std::to_string(answer->status)};
    return std::move(answer->body);
}

}  // namespace

KeySource::KeySource(std::string where, Fetcher* fetcher, JwtVerifier& verifier, Log& log)
    : where_(std::move(where)), fetcher_(fetcher), verifier_(verifier), log_(log) {}

void KeySource::open() {
    auto first = std::make_shared<std::promise<void>>();
    const auto ready = first->get_future();
    fetch([first] { first->set_value(); });
    ready.wait_for(fetch_patience);
}

void KeySource::refresh() { fetch([] {}); }

void KeySource::refresh_if_needed() {
    const bool has_keys = verifier_.has_keys();
    {
        std::lock_guard lock(mutex_);
        if (has_keys && verifier_.unknown_keys() == unknown_keys_) return;
        if (Clock::now() - asked_ < (has_keys ? pause_with_keys : pause_without_keys)) return;
    }
    refresh();
}

void KeySource::fetch(std::function<void()> done) {
    {
        std::lock_guard lock(mutex_);
        if (std::exchange(is_under_way_, true)) return done();
        asked_ = Clock::now();
        unknown_keys_ = verifier_.unknown_keys();
    }
    if (fetcher_ == nullptr) {
        take(read_text(where_));
        return done();
    }
    fetcher_->get({where_, {"Accept: application/json"}, fetch_patience, Jwks::set_bytes_max}, [this, done = std::move(done)](Result<Fetcher::Answer> answer) {
        take(text_of(std::move(answer)));
        done();
    });
}

void KeySource::take(Result<std::string> text) {
    refreshes_.fetch_add(1, std::memory_order_relaxed);
    std::lock_guard lock(mutex_);
    is_under_way_ = false;
    if (text && verifier_.has_keys() && *text == text_) return;
    auto keys = text ? Jwks::parse(*text) : Result<std::shared_ptr<const Jwks>>(text.error());
    if (!keys) {
        failures_.fetch_add(1, std::memory_order_relaxed);
        log_.error("the key set for JWTs cannot be had; the old one stays", {{"reason", keys.error().message}});
        return;
    }
    log_.info("the key set for JWTs was read", {{"keys", std::to_string((*keys)->size())}});
    text_ = *std::move(text);
    verifier_.replace(*std::move(keys));
}

KeySource::Stats KeySource::stats() const {
    return {refreshes_.load(std::memory_order_relaxed), failures_.load(std::memory_order_relaxed), verifier_.has_keys()};
}

}  // namespace kvd
