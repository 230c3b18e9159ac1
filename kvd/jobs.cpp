#include "kvd/jobs.h"

#include <algorithm>
#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <exception>
#include <utility>
#include <vector>

#include "json/json.h"
#include "kvd/routes.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

kv::Time now() { return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()); }

std::string_view name_of(Job::Status status) {
    switch (status) {
        case Job::Status::queued:
            return "queued";
        case Job::Status::running:
            return "running";
        case Job::Status::done:
            return "done";
        case Job::Status::failed:
            return "failed";
    }
    return "failed";
}

Error too_many() { return {Errc::overloaded, "too many jobs wait already"}; }
Error cancelled() { return {Errc::shutting_down, "kvd is shutting down"}; }

template <class Call>
auto guarded(const Call& call) -> decltype(call()) {
    try {
        return call();
    } catch (const std::exception&) {
        return Error{Errc::internal, "the job could not go on"};
    }
}

}  // namespace

std::string write_json(const Job& job) {
    kv::json::Writer out;
    out.begin_object();
    out.member("id", job.id);
    out.member("kind", job.kind);
    out.member("status", name_of(job.status));
    out.member("createdAt", kv::format_time(job.created_at));
    out.key("finishedAt");
    if (job.finished_at)
        out.string(kv::format_time(*job.finished_at));
    else
        out.null();
    out.key("progress");
    if (job.stage.empty()) {
        out.null();
    } else {
        out.begin_object();
        out.member("stage", job.stage);
        out.member("done", job.done);
        out.end_object();
    }
    out.key("result");
    if (job.result.empty())
        out.null();
    else
        out.raw(job.result);
    out.key("error");
    if (job.error)
        out.raw(problem(*job.error, job.request_id).body);
    else
        out.null();
    out.end_object();
    return out.take();
}

Jobs::Jobs(const Limits& limits) : limits_(limits) {
    worker_ = std::thread([this] { work_loop(); });
    watcher_ = std::thread([this] { watch_loop(); });
}

Result<Job> Jobs::run(std::string_view kind, std::string request_id, Work work) {
    std::lock_guard lock(mutex_);
    if (is_cancelled_) return cancelled();
    for (const Record* waiting : waiting_)
        if (waiting->job.kind == kind) return waiting->job;
    if (waiting_.size() >= limits_.waiting_max) return too_many();
    Record& record = add(kind, std::move(request_id));
    record.work = std::move(work);
    waiting_.push_back(&record);
    changed_.notify_all();
    return record.job;
}

Result<Job> Jobs::watch(std::string_view kind, std::string request_id, const std::function<Result<Begun>()>& begin) {
    {
        std::lock_guard lock(mutex_);
        if (is_cancelled_) return cancelled();
        if (watched_ >= limits_.watched_max) return too_many();
        ++watched_;  // a place, so that what was begun is also watched
    }
    Result<Begun> begun = guarded(begin);
    std::lock_guard lock(mutex_);
    if (!begun) {
        --watched_;
        return std::move(begun).error();
    }
    Record& record = add(kind, std::move(request_id));
    record.job.status = Job::Status::running;
    record.job.result = std::move(begun->result);
    record.is_over = std::move(begun->is_over);
    record.is_watched = true;
    changed_.notify_all();
    Job job = record.job;
    job.result.clear();  // shown at the end
    return job;
}

std::optional<Job> Jobs::find(std::string_view id) const {
    std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(records_.begin(), records_.end(), [id](const Record& record) { return record.job.id == id; });
    if (found == records_.end()) return std::nullopt;
    Job job = found->job;
    if (job.status != Job::Status::done) job.result.clear();
    return job;
}

void Jobs::cancel() {
    std::lock_guard lock(mutex_);
    is_cancelled_ = true;
    changed_.notify_all();
}

void Jobs::stop() {
    cancel();
    if (worker_.joinable()) worker_.join();
    if (watcher_.joinable()) watcher_.join();
}

Jobs::Record& Jobs::add(std::string_view kind, std::string request_id) {
    Record& record = records_.emplace_back();
    record.job.id = boost::uuids::to_string(boost::uuids::random_generator()());
    record.job.kind = kind;
    record.job.created_at = now();
    record.job.request_id = std::move(request_id);
    return record;
}

void Jobs::finish(Record& record, Result<std::string> outcome) {
    record.job.finished_at = now();
    record.job.status = outcome ? Job::Status::done : Job::Status::failed;
    if (outcome) {
        record.job.result = *std::move(outcome);
    } else {
        record.job.error = std::move(outcome).error();
    }
    record.work = {};
    record.is_over = {};
    forget_old();
}

// The longest ended first: whoever started a job comes back for its outcome soon.
void Jobs::forget_old() {
    for (;;) {
        std::size_t ended = 0;
        auto oldest = records_.end();
        for (auto at = records_.begin(); at != records_.end(); ++at) {
            if (!at->job.finished_at) continue;
            ++ended;
            if (oldest == records_.end() || *at->job.finished_at < *oldest->job.finished_at) oldest = at;
        }
        if (ended <= limits_.kept_max) return;
        records_.erase(oldest);
    }
}

void Jobs::work_loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return is_cancelled_ || !waiting_.empty(); });
        if (is_cancelled_) return;
        Record& record = *waiting_.front();
        waiting_.pop_front();
        record.job.status = Job::Status::running;
        const Work work = std::move(record.work);
        const Report report = [this, &record](std::string_view stage, std::uint64_t done) {
            std::lock_guard guard(mutex_);
            record.job.stage = stage;
            record.job.done = done;
            return !is_cancelled_;
        };
        lock.unlock();
        Result<std::string> outcome = guarded([&] { return work(report); });
        lock.lock();
        finish(record, std::move(outcome));
    }
}

void Jobs::watch_loop() {
    std::unique_lock lock(mutex_);
    while (!is_cancelled_) {
        if (watched_ == 0) {
            changed_.wait(lock);
        } else {
            changed_.wait_for(lock, limits_.watch_interval);
            watch_once(lock);
        }
    }
}

// The probes are asked without the lock. Nothing but this thread ends a watched record, so that none goes meanwhile.
void Jobs::watch_once(std::unique_lock<std::mutex>& lock) {
    std::vector<Record*> watched;
    for (Record& record : records_)
        if (record.is_watched) watched.push_back(&record);
    for (Record* record : watched) {
        if (is_cancelled_) return;
        lock.unlock();
        Result<bool> over = guarded(record->is_over);
        lock.lock();
        if (over && !*over) continue;
        record->is_watched = false;
        --watched_;
        finish(*record, over ? Result<std::string>(std::move(record->job.result))
                             : Result<std::string>(std::move(over).error()));
    }
}

}  // namespace kvd
