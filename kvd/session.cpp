#include "kvd/session.h"

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

#include "json/json.h"
#include "kvd/log.h"
#include "kvd/metrics.h"
#include "kvd/response.h"
#include "kvd/worker.h"

namespace kvd {
namespace {

namespace net = boost::asio;
using boost::system::error_code;
using kv::Errc;
using kv::Error;
using kv::Result;

// How much is read at once behind a header that may be incomplete, and of a body.
constexpr std::size_t head_slack_bytes = 4u << 10;
constexpr std::size_t body_read_bytes = 64u << 10;
// Bodies up to this size are bounded by the number of connections alone and not counted.
constexpr std::size_t small_body_bytes = 4u << 10;
// What the kernel holds of an answer without an end.
constexpr int send_buffer_bytes = 64 << 10;
// What is read for longer is perhaps not waited for any more.
constexpr std::chrono::seconds patience_of_peers{5};

// As the access log shows it: what is no method may be anything, the middle of a body, say, if its length was wrong.
std::string shown_method(const std::string& method) {
    constexpr const char* known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"};
    return std::find(std::begin(known), std::end(known), method) != std::end(known) ? method : "other";
}

Error overloaded() { return {Errc::overloaded, "too many bytes of bodies and answers are under way"}; }

}  // namespace

HeldBytes::HeldBytes(std::atomic<std::uint64_t>& total, std::size_t bytes) noexcept : total_(&total), bytes_(bytes) {
    total.fetch_add(bytes, std::memory_order_relaxed);
}

Session::Session(Connection connection, Worker& worker, SessionContext& context)
    : connection_(std::move(connection)), worker_(worker), context_(context), scanner_(context.limits.framing) {}

Session::~Session() { close(); }

void Session::start() {
    if (connection_.open(peer_)) return close();  // gone already
    worker_.add(shared_from_this());
    deadline_ = Clock::now() + context_.limits.idle_timeout;
    if (!peer_.is_unix) is_counted_ = context_.addresses.enter(peer_.address);
    if (!peer_.is_unix && !is_counted_) {
        context_.metrics.connections_refused.fetch_add(1, std::memory_order_relaxed);
        if (connection_.is_tls()) return close();  // before the handshake nothing can be said
        return run([this] { return answer_unheard({Errc::overloaded, "too many connections from this address"}); });
    }
    if (connection_.is_tls()) {
        phase_ = Phase::handshake;
        deadline_ = Clock::now() + context_.limits.header_timeout;
    }
    run([this] { return step(); });
}

void Session::close() noexcept {
    if (phase_ == Phase::closed) return;
    phase_ = Phase::closed;
    log_end();
    connection_.close();
    if (answer_) answer_->source.reset();  // what it holds is not waited for by anybody
    body_held_ = {};
    answer_held_ = {};
    context_.metrics.connections.fetch_sub(1, std::memory_order_relaxed);
    context_.sessions.fetch_sub(1, std::memory_order_release);
    if (std::exchange(is_counted_, false)) context_.addresses.leave(peer_.address);
    worker_.remove(*this);
}

void Session::drain() {
    if (phase_ == Phase::handshake || (phase_ == Phase::head && input_.empty())) return close();
    if (phase_ == Phase::writing && is_endless_) close();  // its reader takes nothing now, not even that it ends
}

// Every way into a session goes through here: one thing after the other until an operation is under way, and nothing
// that is thrown gets further.
template <class First>
void Session::run(First first) {
    const std::shared_ptr<Session> self = shared_from_this();
    running_ = true;
    try {
        for (Step next = first(); next == Step::again;) next = step();
    } catch (...) {
        context_.metrics.exceptions.fetch_add(1, std::memory_order_relaxed);
        close();
        try {
            context_.log.error("an exception ended a connection");
        } catch (...) {
            // There may be no memory for that either.
        }
    }
    running_ = false;
}

Session::Step Session::step() {
    switch (phase_) {
        case Phase::handshake:
            return shake_hands();
        case Phase::head:
        case Phase::judging:
            return take_head();
        case Phase::body:
            return take_body();
        case Phase::handling:
            return await_answer();
        case Phase::writing:
            return write_some();
        case Phase::pulling:
            return await_piece();
        case Phase::lingering:
            input_.consume(input_.view().size());
            arm_read();
            return Step::wait;
        case Phase::closed:
            break;
    }
    return Step::wait;
}

// ---- reading ----

Session::Step Session::shake_hands() {
    const error_code error = connection_.handshake(peer_);
    if (!error) {
        phase_ = Phase::head;
        deadline_ = Clock::now() + context_.limits.idle_timeout;
        return Step::again;
    }
    if (error != net::error::would_block) {
        context_.metrics.handshake_failures.fetch_add(1, std::memory_order_relaxed);
        close();
        return Step::wait;
    }
    connection_.wait([self = shared_from_this()](error_code failed) {
        if (failed) return self->close();
        self->run([&self] { return self->step(); });
    });
    return Step::wait;
}

void Session::arm_read() {
    const std::size_t capacity_max =
        phase_ == Phase::head ? context_.limits.framing.head_bytes_max + head_slack_bytes : body_read_bytes;
    const InputBuffer::Room room = input_.prepare(capacity_max);
    reading_ = true;
    connection_.async_read_some(net::buffer(room.data, room.size),
                            [self = shared_from_this()](error_code error, std::size_t size) {
                                self->on_read(size, static_cast<bool>(error));
                            });
}

void Session::on_read(std::size_t size, bool failed) {
    reading_ = false;
    if (phase_ == Phase::closed) return;
    input_.commit(size);
    if (std::exchange(timed_out_, false)) return run([this] { return on_timeout(); });
    if (failed) return close();
    run([this] { return step(); });
}

void Session::check_deadline(Clock::time_point now) {
    const bool awaits_us = phase_ == Phase::judging || phase_ == Phase::handling || phase_ == Phase::pulling;
    const bool is_long = phase_ == Phase::handling ? is_read_ && now - began_ > patience_of_peers : is_endless_;
    if (awaits_us && !watching_ && is_long) watch_peer();
    if (phase_ == Phase::judging && is_delayed_ && now >= deadline_) {
        is_delayed_ = false;
        has_verdict_ = true;
        return run([this] { return step(); });
    }
    if (now < deadline_ || awaits_us || phase_ == Phase::closed) return;
    if (!reading_) {  // the peer does not take its answer
        context_.metrics.timeouts.fetch_add(1, std::memory_order_relaxed);
        if (answer_ && answer_->source)
            context_.log.warning("an answer was cut off: its reader is too slow",
                                 {{"operation", context_.metrics.name_of(operation_)}, {"requestId", request_id_}});
        return close();
    }
    timed_out_ = true;
    connection_.cancel();
}

Session::Step Session::on_timeout() {
    const bool is_idle = phase_ == Phase::head && input_.empty();
    if (is_idle || phase_ == Phase::lingering) {
        close();
        return Step::wait;
    }
    context_.metrics.timeouts.fetch_add(1, std::memory_order_relaxed);
    Error error{Errc::request_timeout, "the request did not arrive in time"};
    if (phase_ == Phase::head) return answer_unheard(error);
    closing_ = true;
    return refuse(std::move(error));
}

Session::Step Session::take_head() {
    if (phase_ == Phase::judging) {
        if (!has_verdict_) return Step::wait;
        scanner_.reset();  // the head once more
    }
    const SessionLimits& limits = context_.limits;
    const Result<std::size_t> size = scanner_.scan(input_.view());
    if (!size) {
        context_.metrics.framing_errors.fetch_add(1, std::memory_order_relaxed);
        return answer_unheard(size.error());
    }
    if (*size == 0) {
        if (input_.empty()) {
            if (context_.draining.load(std::memory_order_relaxed)) {
                close();
                return Step::wait;
            }
            input_.shrink();
        } else if (!std::exchange(head_begun_, true)) {
            deadline_ = Clock::now() + limits.header_timeout;
        }
        arm_read();
        return Step::wait;
    }
    const Result<Head> head = parse_head(input_.view().substr(0, *size), limits.framing);
    if (!head) {
        context_.metrics.framing_errors.fetch_add(1, std::memory_order_relaxed);
        return answer_unheard(head.error());
    }
    return phase_ == Phase::judging ? act_on_verdict(*head, *size) : judge(*head, *size);
}

void Session::read_request(const Head& head) {
    request_ = HttpRequest();
    request_.method = head.method;
    request_.path = head.path;
    request_.query = head.query;
    request_.has_query = head.has_query;
    request_.is_http_1_0 = head.is_http_1_0;
    request_.content_type = head.content_type;
    request_.accept = head.accept;
    request_.accept_encoding = head.accept_encoding;
    request_.if_match = head.if_match;
    request_.if_none_match = head.if_none_match;
    request_.last_event_id = head.last_event_id;
    request_.origin = head.origin;
    request_.is_preflight = head.method == "OPTIONS" && !head.cors_method.empty();
    request_.request_id = head.request_id.empty() ? worker_.draw_id() : std::string(head.request_id);
    request_.peer = peer_.address;
    method_ = head.method;
    request_id_ = request_.request_id;
    is_http_1_0_ = head.is_http_1_0;
}

Session::Step Session::judge(const Head& head, std::size_t head_bytes) {
    began_ = Clock::now();
    ++sequence_;
    closing_ = !head.keeps_alive;
    read_request(head);
    verdict_ = context_.service.judge(request_, {.authorization = head.authorization,
                                                  .user_id = head.user_id,
                                                  .application_id = head.application_id,
                                                  .forwarded_for = head.forwarded_for,
                                                  .is_ambiguous = head.is_identity_ambiguous,
                                                  .peer = &peer_});
    return verdict_.is_open ? await_verdict(head, head_bytes) : act_on_verdict(head, head_bytes);
}

// Nothing is read meanwhile, and the head stays in the buffer, to be looked at again.
Session::Step Session::await_verdict(const Head& head, std::size_t head_bytes) {
    phase_ = Phase::judging;
    has_verdict_ = false;
    context_.service.resolve(std::move(verdict_),
                             [worker = &worker_, weak = weak_from_this(), sequence = sequence_](Service::Verdict verdict) {
                                 deliver(*worker, weak, sequence, &Session::complete_verdict, std::move(verdict));
                             });
    return has_verdict_ ? act_on_verdict(head, head_bytes) : Step::wait;
}

void Session::complete_verdict(std::uint64_t sequence, Service::Verdict verdict) {
    if (phase_ != Phase::judging || sequence != sequence_ || has_verdict_) return;
    verdict_ = std::move(verdict);
    has_verdict_ = true;
    if (!running_) run([this] { return step(); });
}

Session::Step Session::act_on_verdict(const Head& head, std::size_t head_bytes) {
    if (verdict_.wait.count() > 0) {
        phase_ = Phase::judging;
        has_verdict_ = false;
        deadline_ = Clock::now() + std::exchange(verdict_.wait, {});
        is_delayed_ = true;
        return Step::wait;
    }
    operation_ = verdict_.operation;
    cors_origin_ = std::move(verdict_.cors_origin);
    std::optional<Error> error = std::move(verdict_.refusal);
    if (!error && !verdict_.answer) error = judge_body(head);
    is_read_ = verdict_.match.route != nullptr && verdict_.match.route->action == kv::AuditAction::read;

    // From here on the views of `head` into the buffer are gone; its figures stay.
    const bool wants_continue = !head.expect.empty();
    input_.consume(head_bytes);
    scanner_.reset();
    head_begun_ = false;
    if (error || verdict_.answer) skip_body(head);
    if (error) return refuse(*std::move(error));
    if (verdict_.answer) return answer_now(*std::move(verdict_.answer));
    if (!head.has_body()) return dispatch();
    if (wants_continue && input_.empty()) {
        static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        error_code failed;
        // The connection is quiet: so few bytes always fit.
        if (connection_.write_some({net::buffer(go_on), {}}, failed) != go_on.size()) {
            close();
            return Step::wait;
        }
    }
    return begin_body(head);
}

std::optional<Error> Session::judge_body(const Head& head) const {
    if (!head.expect.empty() && !equals_ignoring_case(head.expect, "100-continue"))
        return Error{Errc::expectation_failed, "the only expectation we meet is 100-continue"};
    if (!verdict_.has_body) {
        if (head.has_body()) return Error{Errc::invalid_request, "this request takes no body"};
        if (!has_room()) return overloaded();
        return std::nullopt;
    }
    // Clients that leave out an optional body say nothing of its length.
    if (!head.has_length() && verdict_.needs_body)
        return Error{Errc::length_required, "Content-Length is needed, also where it is 0"};
    if (head.content_length.value_or(0) > verdict_.body_bytes_max)
        return Error{.code = Errc::too_large, .message = "the body is too large", .limit = verdict_.body_bytes_max};
    if (!has_room()) return overloaded();
    return std::nullopt;
}

// An answer that comes before the body: either the body is here already, or the connection cannot go on.
void Session::skip_body(const Head& head) {
    if (!head.has_body()) return;
    if (head.content_length && *head.content_length <= input_.view().size()) {
        input_.consume(static_cast<std::size_t>(*head.content_length));
    } else {
        closing_ = true;
    }
}

Session::Step Session::begin_body(const Head& head) {
    body_left_ = head.content_length.value_or(0);
    chunked_.reset();
    if (head.is_chunked) chunked_.emplace(verdict_.body_bytes_max);
    phase_ = Phase::body;
    phase_began_ = began_;
    return Step::again;
}

Session::Step Session::take_body() {
    if (chunked_) {
        if (const Step next = take_chunks(); phase_ != Phase::body) return next;
    } else {
        const std::string_view part = input_.view().substr(
            0, static_cast<std::size_t>(std::min<std::uint64_t>(body_left_, input_.view().size())));
        append_wiped(request_.body, part);
        body_left_ -= part.size();
        input_.consume(part.size());
        if (body_left_ == 0) return dispatch();
    }
    hold(request_.body, body_held_);
    if (!has_room()) {
        closing_ = true;
        return refuse(overloaded());
    }
    // A body may be slow, but not slower than the rate: the deadline moves with what arrived.
    const std::chrono::milliseconds earned(request_.body.size() * 1000 / context_.limits.bytes_per_second_min);
    deadline_ = phase_began_ + context_.limits.body_timeout + earned;
    arm_read();
    return Step::wait;
}

Session::Step Session::take_chunks() {
    std::string_view input = input_.view();
    const ChunkedDecoder::Status status = chunked_->feed(input, request_.body);
    input_.consume(input_.view().size() - input.size());
    switch (status) {
        case ChunkedDecoder::Status::more:
            return Step::wait;
        case ChunkedDecoder::Status::done:
            return dispatch();
        case ChunkedDecoder::Status::malformed:
            closing_ = true;
            context_.metrics.framing_errors.fetch_add(1, std::memory_order_relaxed);
            return refuse({Errc::invalid_request, "the chunked body is malformed"});
        case ChunkedDecoder::Status::too_large:
            break;
    }
    closing_ = true;
    return refuse({.code = Errc::too_large, .message = "the body is too large", .limit = verdict_.body_bytes_max});
}

// ---- the budget of bytes under way ----

bool Session::has_room() const noexcept {
    return context_.metrics.bytes_of_bodies.load(std::memory_order_relaxed) <= context_.limits.body_bytes_in_flight_max;
}

void Session::hold(const std::string& bytes, HeldBytes& held) noexcept {
    if (bytes.capacity() <= small_body_bytes || bytes.capacity() == held.bytes()) return;
    held = HeldBytes(context_.metrics.bytes_of_bodies, bytes.capacity());
}

// Slow readers share one budget, so that the answers they do not take cannot fill the memory. A read whose answer finds no room is
// refused after the fact: its audit row stands, as it does for an answer that gets lost on the way. Counted, and let go of, on
// the thread that made it: the connection's own may be behind.
Session::Counted Session::count(HttpResponse response, SessionContext& context, bool may_be_dropped) {
    Counted counted{std::move(response), {}, false};
    if (counted.response.body.capacity() <= small_body_bytes) return counted;
    counted.held = HeldBytes(context.metrics.bytes_of_bodies, counted.response.body.capacity());
    const std::uint64_t total = context.metrics.bytes_of_bodies.load(std::memory_order_relaxed);
    if (!may_be_dropped || total <= context.limits.body_bytes_in_flight_max) return counted;
    context.metrics.answers_dropped.fetch_add(1, std::memory_order_relaxed);
    return {{}, {}, true};
}

// ---- handling ----

Session::Step Session::dispatch() {
    phase_ = Phase::handling;
    try {
        context_.service.handle(std::move(verdict_), std::move(request_), completion());
    } catch (...) {
        context_.metrics.exceptions.fetch_add(1, std::memory_order_relaxed);
        answer_ = problem({Errc::internal, "the request could not be handled"}, request_id_);
    }
    return await_answer();
}

Session::Step Session::refuse(Error error) {
    phase_ = Phase::handling;
    try {
        context_.service.refuse(std::move(verdict_), request_, std::move(error), completion());
    } catch (...) {
        context_.metrics.exceptions.fetch_add(1, std::memory_order_relaxed);
        answer_ = problem({Errc::internal, "the request could not be handled"}, request_id_);
    }
    return await_answer();
}

// Input that never became a request: nobody is known, nothing is recorded, and what follows cannot be trusted.
Session::Step Session::answer_unheard(const Error& error) {
    began_ = Clock::now();
    ++sequence_;
    closing_ = true;
    is_http_1_0_ = false;
    cors_origin_.clear();
    method_.clear();
    request_id_ = worker_.draw_id();
    operation_ = Metrics::operation_of(Metrics::no_route);
    input_.consume(input_.view().size());
    return answer_now(problem(error, request_id_));
}

Session::Step Session::answer_now(HttpResponse response) {
    phase_ = Phase::handling;
    answer_ = std::move(response);
    return await_answer();
}

Session::Step Session::await_answer() {
    if (!answer_) return Step::wait;
    return begin_write();
}

// Completions may be called, and die, on any thread, so they hold no share in the session.
Service::Done Session::completion() {
    return [worker = &worker_, weak = weak_from_this(), sequence = sequence_, context = &context_,
            is_read = is_read_](HttpResponse response) {
        deliver(*worker, weak, sequence, &Session::complete, count(std::move(response), *context, is_read));
    };
}

template <class T>
void Session::deliver(Worker& worker, const std::weak_ptr<Session>& weak, std::uint64_t sequence,
                      void (Session::*take)(std::uint64_t sequence, T given), T given) {
    if (worker.is_current()) {
        const std::shared_ptr<Session> session = weak.lock();
        if (!session) return;
        if (session->running_ || worker.is_answering()) return ((*session).*take)(sequence, std::move(given));
    }
    net::post(worker.context(), [weak, sequence, take, given = std::move(given)]() mutable {
        if (const std::shared_ptr<Session> session = weak.lock()) ((*session).*take)(sequence, std::move(given));
    });
}

void Session::complete(std::uint64_t sequence, Counted answer) {
    if (phase_ != Phase::handling || sequence != sequence_ || answer_) return;
    answer_ = answer.was_dropped ? problem(overloaded(), request_id_) : std::move(answer.response);
    answer_held_ = std::move(answer.held);
    if (!running_) run([this] { return step(); });
}

// ---- writing ----

Session::Step Session::begin_write() {
    const SessionLimits& limits = context_.limits;
    const Clock::time_point now = Clock::now();
    if (context_.draining.load(std::memory_order_relaxed) || sequence_ >= limits.requests_max) closing_ = true;
    // Without chunks the end would look like a connection that broke.
    if (answer_->source && is_http_1_0_)
        answer_ = problem({Errc::invalid_request, "this answer needs HTTP/1.1"}, request_id_);
    is_endless_ = answer_->is_endless && answer_->source;
    context_.metrics.request(operation_, answer_->status, now - began_, !answer_->was_awaited);
    log_due_ = context_.logs_requests && answer_->source;
    if (context_.logs_requests && !log_due_) log_request(now - began_);
    if (!cors_origin_.empty()) Cors::add_to(*answer_, cors_origin_);
    render_response_head(*answer_, {request_id_, closing_, is_http_1_0_}, head_out_);
    if (method_ == "HEAD" || !has_content(answer_->status)) {
        kv::json::wipe(answer_->body);
        answer_->source.reset();
    }
    chunk_begun_ = false;
    if (answer_->source && !answer_->body.empty()) begin_chunk();
    phase_ = Phase::writing;
    phase_began_ = now;
    deadline_ = now + (is_endless_ ? limits.stall_timeout : limits.write_timeout);
    written_ = 0;
    if (is_endless_) prepare_endless();
    return write_some();
}

// A peer that takes nothing is not to fill the kernel's memory either, and one that is gone without a word, so that it
// acknowledges nothing, is to be noticed before megabytes wait for it.
void Session::prepare_endless() {
    connection_.limit_sending(send_buffer_bytes, 2 * context_.limits.stall_timeout);  // after ours
}

Session::Step Session::write_some() {
    const std::string& body = answer_->body;
    const std::size_t size = head_out_.size() + body.size();
    const std::size_t written_before = written_;
    while (written_ < size) {
        const std::size_t of_body = written_ > head_out_.size() ? written_ - head_out_.size() : 0;
        const Connection::Parts parts = {net::buffer(head_out_) + written_, net::buffer(body) + of_body};
        error_code error;
        written_ += connection_.write_some(parts, error);
        if (error == net::error::would_block) return await_room(written_ > written_before);
        if (error) {
            close();
            return Step::wait;
        }
    }
    return answer_->source ? pull() : finish_write();
}

Session::Step Session::await_room(bool took_some) {
    const SessionLimits& limits = context_.limits;
    if (!is_endless_) {
        const std::chrono::milliseconds earned(written_ * 1000 / limits.bytes_per_second_min);
        deadline_ = phase_began_ + limits.write_timeout + earned;
    } else if (context_.draining.load(std::memory_order_relaxed)) {
        close();
        return Step::wait;
    } else if (took_some) {
        deadline_ = Clock::now() + limits.stall_timeout;
    }
    connection_.wait([self = shared_from_this()](error_code failed) {
        if (failed) return self->close();
        self->run([&self] { return self->step(); });
    });
    return Step::wait;
}

// While a peer waits for its answer nothing is read from it, so that its end would not be noticed. One that has shut down its
// side, which only means that it asks for no more, counts as gone where it waits for long: it is seldom anything else.
void Session::watch_peer() {
    watching_ = true;
    connection_.wait_for_peer([self = shared_from_this()](error_code error) {
        self->watching_ = false;
        if (!error) self->look_at_peer();
    });
}

void Session::look_at_peer() {
    if (phase_ != Phase::handling && phase_ != Phase::pulling) return;
    if (connection_.is_peer_gone()) close();
}

// ---- an answer in pieces ----

Session::Step Session::pull() {
    phase_ = Phase::pulling;
    // The reader owes no more for what it took, nor for the time that the next piece takes us; what it took faster than it had to
    // is no credit for later.
    const std::chrono::milliseconds earned(written_ * 1000 / context_.limits.bytes_per_second_min);
    phase_began_ = std::min(phase_began_ + earned, Clock::now());
    pull_began_ = Clock::now();
    piece_.reset();
    try {
        answer_->source->next([worker = &worker_, weak = weak_from_this(),
                               sequence = sequence_](Result<BodySource::Piece> piece) {
            deliver(*worker, weak, sequence, &Session::complete_piece, std::move(piece));
        });
    } catch (...) {
        context_.metrics.exceptions.fetch_add(1, std::memory_order_relaxed);
        piece_ = Error{Errc::internal, "the next piece could not be made"};
    }
    return await_piece();
}

void Session::complete_piece(std::uint64_t sequence, Result<BodySource::Piece> piece) {
    if (phase_ != Phase::pulling || sequence != sequence_ || piece_) return;
    piece_ = std::move(piece);
    if (!running_) run([this] { return step(); });
}

Session::Step Session::await_piece() {
    if (!piece_) return Step::wait;
    if (!*piece_) {
        // The status is out. A body without its end tells the reader, and the log tells why.
        context_.log.error("an answer was cut off", {{"operation", context_.metrics.name_of(operation_)},
                                                     {"code", std::string(kv::code_name(piece_->error().code))},
                                                     {"reason", piece_->error().message},
                                                     {"requestId", request_id_}});
        close();
        return Step::wait;
    }
    begin_piece(*std::move(*piece_));
    piece_.reset();
    if (is_endless_ && answer_held_.bytes() > 0 && !has_room()) {
        // There are others who do not take theirs: this reader comes again, and goes on from where it was.
        context_.metrics.answers_dropped.fetch_add(1, std::memory_order_relaxed);
        close();
        return Step::wait;
    }
    return write_some();
}

void Session::begin_chunk() {
    append_chunk_head(head_out_, answer_->body.size(), std::exchange(chunk_begun_, true));
    // Its end goes out with the next one's beginning, which saves a copy; but where that may be long in coming there are readers
    // who wait for it.
    if (is_endless_ && std::exchange(chunk_begun_, false)) answer_->body += "\r\n";
}

void Session::begin_piece(BodySource::Piece piece) {
    head_out_.clear();
    answer_->body = std::move(piece.bytes);
    if (!answer_->body.empty()) begin_chunk();
    if (piece.is_last) {
        append_chunk_head(answer_->body, 0, chunk_begun_);
        answer_->source.reset();
    }
    hold(answer_->body, answer_held_);
    const Clock::time_point now = Clock::now();
    phase_ = Phase::writing;
    phase_began_ += now - pull_began_;
    deadline_ = now + (is_endless_ ? context_.limits.stall_timeout : context_.limits.write_timeout);
    written_ = 0;
}

Session::Step Session::finish_write() {
    log_end();
    answer_.reset();
    kv::json::wipe(request_.body);  // that of a refused request
    body_held_ = {};
    answer_held_ = {};
    constexpr std::size_t head_out_bytes_kept = 1024;
    if (head_out_.capacity() > head_out_bytes_kept) head_out_ = std::string();
    if (!closing_) {
        phase_ = Phase::head;
        deadline_ = phase_began_ + context_.limits.idle_timeout;
        return Step::again;
    }
    // Closing with input unread would make the kernel reset the connection and the peer lose the answer: say that we are
    // done, and wait for the peer to be.
    error_code error;
    connection_.shutdown(error);
    if (error) {
        close();
        return Step::wait;
    }
    phase_ = Phase::lingering;
    deadline_ = Clock::now() + context_.limits.linger_timeout;
    return Step::again;
}

// An answer in pieces takes as long as its reader, so that it is logged when it ends, be it cut off.
void Session::log_end() noexcept {
    if (!std::exchange(log_due_, false)) return;
    try {
        log_request(Clock::now() - began_);
    } catch (...) {
        context_.metrics.exceptions.fetch_add(1, std::memory_order_relaxed);
    }
}

void Session::log_request(Clock::duration took) {
    const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
    context_.log.info("request", {{"method", shown_method(method_)},
                                  {"operation", context_.metrics.name_of(operation_)},
                                  {"status", std::to_string(answer_->status)},
                                  {"microseconds", std::to_string(microseconds)},
                                  {"requestId", request_id_}});
}

}  // namespace kvd
