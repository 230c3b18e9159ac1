#include <atomic>
#include <chrono>
#include <future>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "kvd/jobs.h"
#include "kvd/task_pool.h"

using kv::Errc;
using kv::Error;
using kv::Result;
using kvd::Job;
using kvd::Jobs;

namespace {

// Polls until the job ended, and gives it.
Job ended(const Jobs& jobs, const std::string& id) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
        const auto job = jobs.find(id);
        REQUIRE(job);
        if (job->finished_at) return *job;
        std::this_thread::yield();
    }
    FAIL("the job does not end");
    return {};
}

Result<std::string> nothing(const Jobs::Report&) { return std::string("{}"); }

// Work that runs until it is let go, or told to stop.
struct Gate {
    std::promise<void> begun, opened;
    Jobs::Work work() {
        return [this](const Jobs::Report& report) -> Result<std::string> {
            begun.set_value();
            opened.get_future().wait();
            if (!report("rows", 7)) return Error{Errc::invalid_state, "told to stop"};
            return std::string("{}");
        };
    }
};

}  // namespace

TEST_CASE("a job runs and its result is kept") {
    Jobs jobs;
    const auto begun = jobs.run("verify", "request-1", [](const Jobs::Report& report) -> Result<std::string> {
        report("entries", 42);
        return std::string(R"({"sound":true})");
    });
    REQUIRE(begun);
    CHECK(begun->kind == "verify");
    CHECK(begun->request_id == "request-1");
    const Job job = ended(jobs, begun->id);
    CHECK(job.status == Job::Status::done);
    CHECK(job.result == R"({"sound":true})");
    CHECK(job.stage == "entries");
    CHECK(job.done == 42);
    CHECK(*job.finished_at >= job.created_at);
    CHECK_FALSE(jobs.find("another"));
}

TEST_CASE("a job that fails tells why, also if it throws") {
    Jobs jobs;
    const auto refused = jobs.run("verify", "r", [](const Jobs::Report&) -> Result<std::string> {
        return Error{Errc::unavailable, "no disk"};
    });
    REQUIRE(refused);
    CHECK(ended(jobs, refused->id).error->code == Errc::unavailable);
    const auto thrown = jobs.run("verify", "r", [](const Jobs::Report&) -> Result<std::string> { throw std::bad_alloc(); });
    REQUIRE(thrown);
    CHECK(ended(jobs, thrown->id).status == Job::Status::failed);
    CHECK(ended(jobs, thrown->id).error->code == Errc::internal);
}

TEST_CASE("a job that would do what a waiting one will do is that one; a running one has begun too early") {
    Gate gate;
    Jobs jobs;
    const auto running = jobs.run("verify", "r", gate.work());
    REQUIRE(running);
    gate.begun.get_future().wait();
    const auto waiting = jobs.run("verify", "r", nothing);
    const auto joined = jobs.run("verify", "r", nothing);
    const auto other = jobs.run("another", "r", nothing);
    REQUIRE((waiting && joined && other));
    CHECK(waiting->id != running->id);
    CHECK(joined->id == waiting->id);
    CHECK(other->id != waiting->id);
    CHECK(jobs.find(waiting->id)->status == Job::Status::queued);
    gate.opened.set_value();
    CHECK(ended(jobs, running->id).status == Job::Status::done);
    CHECK(ended(jobs, waiting->id).status == Job::Status::done);
}

TEST_CASE("only so many wait") {
    Gate gate;
    Jobs jobs({.waiting_max = 2});
    REQUIRE(jobs.run("first", "r", gate.work()));
    gate.begun.get_future().wait();
    CHECK(jobs.run("a", "r", nothing));
    CHECK(jobs.run("b", "r", nothing));
    const auto refused = jobs.run("c", "r", nothing);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::overloaded);
    gate.opened.set_value();
}

TEST_CASE("the jobs that ended first are forgotten") {
    Jobs jobs({.kept_max = 2});
    std::vector<std::string> ids;
    for (int i = 0; i < 3; ++i) {
        const auto job = jobs.run("verify", "r", nothing);
        REQUIRE(job);
        ids.push_back(job->id);
        if (i < 2) ended(jobs, job->id);
    }
    ended(jobs, ids[2]);
    CHECK_FALSE(jobs.find(ids[0]));
    CHECK(jobs.find(ids[1]));
    CHECK(jobs.find(ids[2]));
}

TEST_CASE("what goes on elsewhere is watched until it is over") {
    std::atomic<bool> over{false};
    Jobs jobs({.watch_interval = std::chrono::milliseconds(1)});
    const auto job = jobs.watch("rotate-data-key", "r", [&]() -> Result<Jobs::Begun> {
        return Jobs::Begun{R"({"n":1})", [&over]() -> Result<bool> { return over.load(); }};
    });
    REQUIRE(job);
    CHECK(job->status == Job::Status::running);
    CHECK(job->result.empty());
    CHECK(jobs.find(job->id)->result.empty());
    over = true;
    CHECK(ended(jobs, job->id).result == R"({"n":1})");
}

TEST_CASE("what fails to begin leaves no job and no place taken") {
    Jobs jobs({.watched_max = 1, .watch_interval = std::chrono::milliseconds(1)});
    const auto fails = []() -> Result<Jobs::Begun> { return Error{Errc::not_found, "no such namespace"}; };
    CHECK(jobs.watch("rotate-data-key", "r", fails).error().code == Errc::not_found);
    const auto begins = []() -> Result<Jobs::Begun> { return Jobs::Begun{"{}", []() -> Result<bool> { return false; }}; };
    CHECK(jobs.watch("rotate-data-key", "r", begins));
    bool was_begun = false;
    const auto refused = jobs.watch("rotate-data-key", "r", [&]() -> Result<Jobs::Begun> {
        was_begun = true;
        return begins();
    });
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::overloaded);
    CHECK_FALSE(was_begun);
}

TEST_CASE("a probe that fails ends its job") {
    Jobs jobs({.watch_interval = std::chrono::milliseconds(1)});
    const auto job = jobs.watch("rotate-data-key", "r", []() -> Result<Jobs::Begun> {
        return Jobs::Begun{"{}", []() -> Result<bool> { return Error{Errc::integrity, "a value does not open"}; }};
    });
    REQUIRE(job);
    CHECK(ended(jobs, job->id).error->code == Errc::integrity);
}

TEST_CASE("a cancelled job is told at its next report, and none begins any more") {
    Gate gate;
    Jobs jobs;
    const auto running = jobs.run("verify", "r", gate.work());
    REQUIRE(running);
    gate.begun.get_future().wait();
    const auto waiting = jobs.run("verify", "r", nothing);
    REQUIRE(waiting);
    jobs.cancel();
    CHECK(jobs.run("verify", "r", nothing).error().code == Errc::shutting_down);
    CHECK(jobs.watch("w", "r", []() -> Result<Jobs::Begun> { return Jobs::Begun{}; }).error().code == Errc::shutting_down);
    gate.opened.set_value();
    jobs.stop();
    CHECK(jobs.find(running->id)->error->code == Errc::invalid_state);
    CHECK(jobs.find(waiting->id)->status == Job::Status::queued);
}

TEST_CASE("a pool runs tasks on its threads and refuses more than may wait") {
    std::promise<std::thread::id> begun;
    std::promise<void> opened;
    std::atomic<bool> has_run{false};
    kvd::TaskPool pool(1, 1);
    REQUIRE(pool.post([&] {
        begun.set_value(std::this_thread::get_id());
        opened.get_future().wait();
    }));
    CHECK(begun.get_future().get() != std::this_thread::get_id());
    CHECK(pool.post([&] { has_run = true; }));
    CHECK_FALSE(pool.post([] {}));
    opened.set_value();
    pool.stop();
    CHECK_FALSE(pool.post([] {}));
}
