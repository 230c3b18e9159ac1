#include "kvd/admin.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "json/json.h"
#include "kvd/header_fields.h"
#include "kvd/json.h"
#include "kvd/gate.h"
#include "kvd/metrics.h"
#include "kvd/query.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

constexpr std::size_t call_threads = 4;  // two backups and some room
constexpr std::size_t calls_waiting_max = 256;
constexpr std::size_t backups_max = 2;  // each holds a snapshot, and with it the write-ahead log
constexpr const char* backup_retry_seconds = "60";

HttpResponse json(unsigned status, std::string body) {
    HttpResponse response;
    response.status = status;
    response.content_type = "application/json";
    response.body = std::move(body);
    return response;
}

HttpResponse accepted(const Job& job) {
    HttpResponse response = json(202, write_json(job));
    response.headers.emplace_back("Location", "/api/v1/kv/admin/jobs/" + job.id);
    return response;
}

// "kvd-20241231T235959Z.backup"
std::string backup_name(kv::Time taken_at) {
    std::string name = "kvd-";
    for (char letter : kv::format_time(taken_at).substr(0, 19))
        if (letter != '-' && letter != ':') name += letter;
    return name + "Z.backup";
}

// ---- reading ----

Result<void> require_json(const HttpRequest& request) {
    KV_TRY(const std::string type, parse_content_type(request.content_type));
    if (type.empty() || type == "application/json") return {};
    Error error{Errc::unsupported_media_type, "the body must be application/json"};
    error.field = "Content-Type";
    return error;
}

template <class T>
Result<AdminRequest> body_of(const HttpRequest& request, T read) {
    KV_CHECK(require_json(request));
    KV_CHECK(read_body(request.body, read));
    return AdminRequest(std::move(read));
}

}  // namespace

Result<AdminRequest> parse_admin_request(const RouteMatch& match, const HttpRequest& request) {
    if (match.fault) return *match.fault;
    KV_CHECK(Query::parse(request.query, match.route->query));
    const std::string_view operation = match.route->operation;
    if (operation == "admin.forget-master-key") return body_of(request, ForgetMasterKey{});
    if (operation == "admin.verify") {
        if (request.body.empty()) return AdminRequest(StartVerification{});
        return body_of(request, StartVerification{});
    }
    if (operation == "admin.job") return AdminRequest(ShowJob{match.ns});
    if (operation == "admin.backup") {
        if (request.is_http_1_0)
            return Error{Errc::invalid_request, "a backup is sent in pieces, whose end only HTTP/1.1 can tell"};
        return AdminRequest(SendBackup{});
    }
    if (!request.body.empty()) {
        KV_CHECK(require_json(request));
        KV_CHECK(read_empty_body(request.body));
    }
    // What is neither form is a name that cannot be: the store answers so after it judged the rest.
    return AdminRequest(RotateDataKey{kv::parse_namespace_ref(match.ns).value_or(kv::NamespaceName{})});
}

std::string write_forgotten(const ForgetMasterKey& forget, std::uint64_t wraps_dropped) {
    kv::json::Writer out;
    out.begin_object();
    out.member("keyId", forget.key_id);
    out.member("wrapsDropped", wraps_dropped);
    out.end_object();
    return out.take();
}

std::string write_rotated(const kv::NamespaceId& ns) {
    kv::json::Writer out;
    out.begin_object();
    out.member("namespaceId", ns.to_string());
    out.end_object();
    return out.take();
}

// ---- a backup under way ----

class BackupStream final : public BodySource, public std::enable_shared_from_this<BackupStream> {
public:
    BackupStream(std::unique_ptr<kv::BackupReader> reader, TaskPool& calls)
        : reader_(std::move(reader)), calls_(calls) {}

    void next(Done done) override {
        if (!calls_.post([self = shared_from_this(), done] { done(self->read()); }))
            done(Error{Errc::shutting_down, "kvd is shutting down"});
    }

    Result<Piece> read() {
        std::lock_guard lock(mutex_);
        if (!reader_) return Error{Errc::shutting_down, "kvd is shutting down"};
        try {
            Piece piece;
            KV_TRY(const bool has_more, reader_->next(piece.bytes));
            piece.is_last = !has_more;
            return piece;
        } catch (const std::exception&) {
            return Error{Errc::internal, "the next piece of the backup could not be made"};
        }
    }

    void close() {
        std::lock_guard lock(mutex_);
        reader_.reset();
    }

private:
    std::mutex mutex_;
    std::unique_ptr<kv::BackupReader> reader_;
    TaskPool& calls_;
};

// ---- the service ----

// A request on its way. Shared because std::function copies what it holds.
struct AdminService::Call {
    RouteMatch match;
    HttpRequest request;
    kv::Actor actor;
    Done done;
};

AdminService::AdminService(const Parts& parts) : parts_(parts), calls_(call_threads, calls_waiting_max) {}

AdminService::~AdminService() { stop(); }

Service::Verdict AdminService::judge(const HttpRequest& request, const Presented& presented) {
    Verdict verdict;
    if ((verdict.answer = parts_.health.answer(request))) {
        verdict.operation = Metrics::operation_of(Metrics::health);
        return verdict;
    }
    if (request.path != "/metrics")
        return judge_route(ListenerKind::admin, request, presented, parts_.gate, parts_.limits);
    verdict.operation = Metrics::operation_of(Metrics::metrics);
    if (request.method != "GET" && request.method != "HEAD") {
        verdict.answer = method_not_allowed(request, "GET, HEAD");
        return verdict;
    }
    verdict.answer.emplace();
    verdict.answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    verdict.answer->body = parts_.metrics.render();
    return verdict;
}

void AdminService::resolve(Verdict verdict, std::function<void(Verdict)> done) {
    parts_.gate.resolve(std::move(verdict), std::move(done));
}

void AdminService::handle(Verdict&& verdict, HttpRequest&& request, Done done) {
    auto call = std::make_shared<Call>(
        Call{std::move(verdict.match), std::move(request), std::move(verdict.actor), std::move(done)});
    post(std::move(call), [this](Call& at) {
        Result<AdminRequest> parsed = parse_admin_request(at.match, at.request);
        if (!parsed) return refuse(at, std::move(parsed).error());
        Answer reply = std::visit([&](auto& asked) { return answer(at, asked); }, *parsed);
        if (auto* error = std::get_if<Error>(&reply)) return refuse(at, std::move(*error));
        at.done(std::get<HttpResponse>(std::move(reply)));
    });
}

void AdminService::refuse(Verdict verdict, const HttpRequest& request, Error error, Done done) {
    auto call = std::make_shared<Call>();
    call->match = std::move(verdict.match);
    call->request.method = request.method;
    call->request.path = request.path;
    call->request.request_id = request.request_id;
    call->actor = std::move(verdict.actor);
    call->done = std::move(done);
    post(std::move(call), [this, error = std::move(error)](Call& at) { refuse(at, error); });
}

// Everything that reaches the store does so on the threads for it: that of the connections also accepts, and hears signals.
void AdminService::post(std::shared_ptr<Call> call, std::function<void(Call&)> task) {
    const bool is_taken = calls_.post([call, task = std::move(task)] {
        try {
            task(*call);
        } catch (const std::exception&) {
            call->done(problem({Errc::internal, "the request could not be handled"}, call->request.request_id));
        }
    });
    if (!is_taken) call->done(problem({Errc::overloaded, "too many requests wait"}, call->request.request_id));
}

void AdminService::refuse(Call& call, Error error) {
    parts_.router.refuse(call.match.route, call.request, std::move(call.actor), std::move(error), call.done);
}

AdminService::Answer AdminService::answer(Call& call, StartVerification& request) {
    const std::string& id = call.request.request_id;
    const Result<void> allowed =
        parts_.store.may_administer(call.actor, kv::AuditAction::write, call.match.route->operation);
    if (!allowed) return problem(allowed.error(), id);
    // The store records each run as well, when it begins.
    auto work = [&store = parts_.store, actor = call.actor,
                 anchors = std::move(request.anchors)](const Jobs::Report& report) -> Result<std::string> {
        kv::VerifyOptions options;
        options.anchors = anchors;
        options.progress = [&report](const kv::VerifyProgress& at) { return report(at.stage, at.done); };
        KV_TRY(const kv::VerifyReport found, store.verify(actor, options));
        return write_json(found);
    };
    const Result<Job> job = jobs_.run("verify", id, std::move(work));
    return job ? accepted(*job) : problem(job.error(), id);
}

AdminService::Answer AdminService::answer(Call& call, const ShowJob& request) {
    const std::string& id = call.request.request_id;
    const Result<void> allowed =
        parts_.store.may_administer(call.actor, kv::AuditAction::read, call.match.route->operation);
    if (!allowed) return problem(allowed.error(), id);
    if (const std::optional<Job> job = jobs_.find(request.id)) return json(200, write_json(*job));
    return Error{Errc::not_found, "no such job; those that ended long ago are forgotten"};
}

AdminService::Answer AdminService::answer(Call& call, const SendBackup&) {
    const std::string& id = call.request.request_id;
    Result<std::unique_ptr<kv::BackupReader>> reader = parts_.store.backup(call.actor);
    if (!reader) return problem(reader.error(), id);
    HttpResponse response;
    response.content_type = "application/octet-stream";
    response.headers.emplace_back("Content-Disposition",
                                  "attachment; filename=\"" + backup_name((*reader)->info().taken_at) + "\"");
    const auto stream = std::make_shared<BackupStream>(*std::move(reader), calls_);
    if (!add_backup(stream)) {
        response = problem({Errc::overloaded, "as many backups are under way as may be"}, id);
        for (auto& [name, value] : response.headers)
            if (name == "Retry-After") value = backup_retry_seconds;
        return response;
    }
    // The first piece now: what fails at once is still an answer.
    Result<BodySource::Piece> first = stream->read();
    if (!first) return problem(first.error(), id);
    response.body = std::move(first->bytes);
    if (!first->is_last) response.source = stream;
    return response;
}

bool AdminService::add_backup(const std::shared_ptr<BackupStream>& stream) {
    std::lock_guard lock(mutex_);
    std::erase_if(backups_, [](const auto& other) { return other.expired(); });
    if (backups_.size() >= backups_max) return false;
    backups_.push_back(stream);
    return true;
}

AdminService::Answer AdminService::answer(Call& call, const RotateDataKey& request) {
    bool is_recorded = false;
    const Result<Job> job = jobs_.watch("rotate-data-key", call.request.request_id, [&]() -> Result<Jobs::Begun> {
        is_recorded = true;
        KV_TRY(const kv::NamespaceReply reply, parts_.store.rotate_data_key(call.actor, request.ns));
        const auto is_over = [&store = parts_.store, ns = reply.ns.id]() -> Result<bool> {
            KV_TRY(const bool goes_on, store.is_rekeying(ns));
            return !goes_on;
        };
        return Jobs::Begun{write_rotated(reply.ns.id), is_over};
    });
    if (job) return accepted(*job);
    if (!is_recorded) return job.error();
    return problem(job.error(), call.request.request_id);
}

AdminService::Answer AdminService::answer(Call& call, const ForgetMasterKey& request) {
    const Result<std::uint64_t> dropped = parts_.store.forget_master_key(call.actor, request.key_id);
    if (dropped) return json(200, write_forgotten(request, *dropped));
    Error error = dropped.error();
    // Keys are still being wrapped by the key in use: that passes.
    if (error.code == Errc::invalid_state) error.code = Errc::unavailable;
    return problem(error, call.request.request_id);
}

void AdminService::stop() {
    jobs_.cancel();
    calls_.stop();
    jobs_.stop();
    std::lock_guard lock(mutex_);
    for (const auto& backup : backups_)
        if (const auto stream = backup.lock()) stream->close();
}

}  // namespace kvd
