#include "kvd/auth/permission_service.h"

#include <optional>
#include <utility>

#include "json/json.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;

constexpr std::size_t answer_bytes_max = 64u << 10;

Error silent() { return {Errc::unavailable, "the permission service does not answer"}; }
Error unintelligible() { return {Errc::unavailable, "the permission service answers what is no answer"}; }

// Neither holds a NUL.
std::string key_of(const std::string& user_id, const std::string& application_id) { return user_id + '\0' + application_id; }

}  // namespace

Result<Grants> read_permission_answer(std::string_view body, const std::string& application_id) {
    const auto document = kv::json::parse(body);
    if (!document || document->kind != Kind::object) return unintelligible();
    const Node* permissions = document->find("permissions");
    const Node* grants = document->find("grants");
    if (permissions == nullptr && grants == nullptr) return unintelligible();
    Grants all;
    if (grants != nullptr) {
        auto read = read_grants(*grants, "grants");
        if (!read) return unintelligible();
        all = limited_to(*std::move(read), application_id);
    }
    if (permissions != nullptr) {
        if (permissions->kind != Kind::array) return unintelligible();
        std::vector<std::string> names;
        for (const Node& item : permissions->items) {
            if (item.kind != Kind::string) return unintelligible();
            names.push_back(item.text);
        }
        for (kv::Grant& grant : grants_of_permissions(names, application_id)) all.push_back(std::move(grant));
    }
    return all;
}

PermissionService::PermissionService(Options options, Fetcher& fetcher) : options_(std::move(options)), fetcher_(fetcher) {}

std::shared_ptr<const Grants> PermissionService::find(const std::string& user_id, const std::string& application_id, Clock::time_point now) const {
    static const auto nothing = std::make_shared<const Grants>();
    if (application_id.empty()) return nothing;
    std::lock_guard lock(mutex_);
    const auto found = known_.find(key_of(user_id, application_id));
    if (found == known_.end() || now - found->second.asked >= options_.kept_for) return nullptr;
    return found->second.grants;
}

void PermissionService::ask(const std::string& user_id, const std::string& application_id, Done done) {
    const Clock::time_point now = Clock::now();
    if (auto grants = find(user_id, application_id, now)) return done(std::move(grants));
    const std::string key = key_of(user_id, application_id);
    bool has_failed = false;
    {
        std::lock_guard lock(mutex_);
        make_room(now);
        Known& known = known_[key];
        has_failed = known.waiting.empty() && now - known.failed < options_.silence;
        if (!has_failed) {
            known.waiting.push_back(std::move(done));
            if (known.waiting.size() > 1) return;
        }
    }
    if (has_failed) return done(silent());
    send(key, user_id, application_id, now);
}

std::shared_ptr<const Grants> PermissionService::follow(const std::string& user_id, const std::string& application_id) {
    const Clock::time_point now = Clock::now();
    auto grants = find(user_id, application_id, now);
    if (application_id.empty()) return grants;
    const std::string key = key_of(user_id, application_id);
    {
        std::lock_guard lock(mutex_);
        const auto found = known_.find(key);
        // Without anything known it is asked for at once: who is followed was served a moment ago.
        if (found == known_.end()) make_room(now);
        Known& known = found != known_.end() ? found->second : known_[key];
        const bool is_young = grants && now - known.asked < options_.kept_for / 3;
        if (is_young || !known.waiting.empty() || now - known.failed < options_.silence) return grants;
        known.waiting.push_back([](const auto&) {});
    }
    send(key, user_id, application_id, now);
    return grants;
}

void PermissionService::send(const std::string& key, const std::string& user_id, const std::string& application_id, Clock::time_point now) {
    asked_.fetch_add(1, std::memory_order_relaxed);
    Fetcher::Request request{with_parameter(with_parameter(options_.url, "userId", user_id), "applicationId", application_id), {"Accept: application/json"},
                             options_.timeout, answer_bytes_max};
    if (!options_.token.empty()) request.headers.push_back("Authorization: Bearer " + std::string(options_.token.reveal()));
    fetcher_.get(std::move(request), [this, key, application_id, now](Result<Fetcher::Answer> answer) { take(key, application_id, now, std::move(answer)); });
}

void PermissionService::take(const std::string& key, const std::string& application_id, Clock::time_point asked, Result<Fetcher::Answer> answer) {
    constexpr long ok = 200;
    Result<std::shared_ptr<const Grants>> result = silent();
    if (answer && answer->status == ok) {
        auto grants = read_permission_answer(answer->body, application_id);
        if (grants) result = std::make_shared<const Grants>(*std::move(grants));
        else result = std::move(grants).error();
    } else if (answer) {
        result = unintelligible();
    }
    if (!result) failures_.fetch_add(1, std::memory_order_relaxed);
    std::vector<Done> waiting;
    {
        std::lock_guard lock(mutex_);
        Known& known = known_[key];
        waiting.swap(known.waiting);
        // What was said before holds until it is too old.
        if (result) known.grants = *result;
        if (result) known.asked = asked;
        known.failed = result ? Clock::time_point() : Clock::now();
    }
    for (const Done& done : waiting) done(result ? Result<std::shared_ptr<const Grants>>(*result) : Result<std::shared_ptr<const Grants>>(result.error()));
}

// Under the lock. Those who are being asked for stay.
void PermissionService::make_room(Clock::time_point now) {
    if (known_.size() < options_.users_max) return;
    const auto is_over = [&](const auto& item) { return item.second.waiting.empty() && now - item.second.asked >= options_.kept_for; };
    if (std::erase_if(known_, is_over) > 0) return;
    for (auto at = known_.begin(); at != known_.end() && known_.size() > options_.users_max / 2;)
        at = at->second.waiting.empty() ? known_.erase(at) : std::next(at);
}

PermissionService::Stats PermissionService::stats() const noexcept {
    return {asked_.load(std::memory_order_relaxed), failures_.load(std::memory_order_relaxed)};
}

}  // namespace kvd
