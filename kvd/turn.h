#pragma once
#include <functional>
#include <mutex>
#include <vector>

#include "kv/store.h"

namespace kvd {

// Turn gathers what a thread with an event loop asks of a store while it goes through its ready connections, and hands
// it over together; small answers come back the same way, together and on that thread. So a hundred connections cost
// one transaction and one wake-up each way instead of a hundred.
//
// Threads: the loop's own, but for the answers, which come from any.
class Turn {
public:
    // Both run the call later on the loop's thread: after what is ready there already.
    using Post = std::function<void(void (Turn::*)())>;
    explicit Turn(Post post) : post_(std::move(post)) {}
    Turn(const Turn&) = delete;

    // From here on submit() on this thread gathers; until leave().
    void enter() noexcept;
    void leave() noexcept;
    // Nothing else is under way on this thread but the call of a completion.
    bool is_answering() const noexcept { return is_answering_; }
    // Does at once what waits for its turn. The loop calls it now and then, for what could not be posted for want of memory.
    void catch_up();

    // Hands over to the turn of the calling thread; where there is none, to the client at once.
    static void submit(kv::Client& client, kv::Submission submission);

private:
    struct Answered {
        kv::Completion done;
        kv::Result<kv::Reply> reply;
    };
    kv::Completion returning(kv::Completion done);
    void take_back(kv::Completion& done, kv::Result<kv::Reply>& reply);
    void hand_over();
    void answer();

    const Post post_;
    kv::Client* client_ = nullptr;
    std::vector<kv::Submission> gathered_;
    bool is_handing_over_ = false;  // posted
    bool is_answering_ = false;

    std::mutex mutex_;
    std::vector<Answered> answered_;
    bool is_answer_posted_ = false;
};

}  // namespace kvd
