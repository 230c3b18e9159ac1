#include "kvd/session.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <optional>

#include "fuzz.h"
#include "json/json.h"
#include "kvd/auth/authenticator.h"
#include "kvd/gate.h"
#include "kvd/log.h"
#include "kvd/metrics.h"
#include "kvd/routes.h"
#include "kvd/worker.h"
#include "text.h"

// Bytes into one connection of a server over memory. A second reader of HTTP, which knows nothing of the first, says what requests
// there are: those and no others are heard, in that order, with those bodies; each has one answer, which reads; and bytes of one
// request are never those of another.
// Broken on purpose: a chunk's size read one short, and an early answer that does not close before a chunked body (each found
// by the corpus); both framings at once allowed by our own check, which leaves Beast's (found in 33 s).
using namespace kv;
using namespace kv::fuzz;

namespace {

namespace net = boost::asio;

// Small, so that inputs of libFuzzer's size reach them.
constexpr std::size_t head_bytes_max = 600;
constexpr std::size_t target_bytes_max = 200;
constexpr std::size_t body_bytes_max = 300;
constexpr std::size_t requests_max = 12;

// ---- the second reader ----

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out) c = lower(c);
    return out;
}
bool is_token(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
    });
}
bool is_host(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || std::string_view("-._~!$&'()*+;=%:[]").find(c) != std::string_view::npos;
    });
}
std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

struct Head {
    enum class Verdict { incomplete, refused, accepted, either };
    Verdict verdict = Verdict::incomplete;
    std::size_t size = 0;
    std::string method, path, query, request_id;
    bool is_1_0 = false;
    bool keeps_alive = true;
    bool keeps_alive_is_known = true;
    bool expects = false;
    bool is_chunked = false;
    std::optional<std::uint64_t> length;

    bool has_body() const { return is_chunked || length.value_or(0) > 0; }
};

struct Field {
    std::string name;
    std::string_view value;
};

bool read_fields(std::string_view block, std::vector<Field>& fields) {
    while (block != "\r\n") {
        const std::size_t end = block.find("\r\n");
        const std::string_view line = block.substr(0, end);
        block.remove_prefix(end + 2);
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return false;
        const std::string_view value = line.substr(colon + 1);
        for (const char c : value) {
            const auto byte = static_cast<std::uint8_t>(c);
            if ((byte < 0x20 && byte != '\t') || byte == 0x7f) return false;
        }
        fields.push_back({lower(line.substr(0, colon)), trim(value)});
    }
    return true;
}

bool read_target(std::string_view target, Head& head) {
    for (const char c : target) {
        if (c <= 0x20 || c >= 0x7f || c == '#') return false;
    }
    for (const std::string_view scheme : {"http://", "https://"}) {
        if (lower(target.substr(0, scheme.size())) != scheme) continue;
        target.remove_prefix(scheme.size());
        const std::size_t end = std::min(target.find_first_of("/?"), target.size());
        if (end == 0 || !is_host(target.substr(0, end))) return false;
        target.remove_prefix(end);
        break;
    }
    if (target.empty() || target.front() != '/') return false;
    const std::size_t question = std::min(target.find('?'), target.size());
    head.path = target.substr(0, question);
    if (question < target.size()) head.query = target.substr(question + 1);
    return true;
}

// Which tokens a list holds; nothing if it is not plainly one.
std::optional<std::vector<std::string>> read_list(std::string_view value) {
    std::vector<std::string> tokens;
    for (;;) {
        const std::size_t comma = std::min(value.find(','), value.size());
        const std::string_view token = trim(value.substr(0, comma));
        if (!is_token(token)) return std::nullopt;
        tokens.push_back(lower(token));
        if (comma == value.size()) return tokens;
        value.remove_prefix(comma + 1);
    }
}

bool read_framing(const std::vector<Field>& fields, Head& head, bool& is_odd) {
    constexpr std::string_view single[] = {"host",     "content-length", "transfer-encoding", "authorization", "content-type",
                                           "if-match", "if-none-match",  "last-event-id",  "expect",        "x-request-id"};
    std::optional<std::string_view> host, encoding, length;
    bool closes = false;
    bool keeps = false;
    for (const Field& field : fields) {
        const bool is_single = std::find(std::begin(single), std::end(single), field.name) != std::end(single);
        if (is_single && std::count_if(fields.begin(), fields.end(), [&](const Field& other) { return other.name == field.name; }) > 1) {
            return false;
        }
        if (field.name == "host") host = field.value;
        if (field.name == "content-length") length = field.value;
        if (field.name == "transfer-encoding") encoding = field.value;
        if (field.name == "expect" && lower(field.value) == "100-continue") head.expects = !head.is_1_0;
        if (field.name == "x-request-id") {
            const bool is_visible = std::all_of(field.value.begin(), field.value.end(), [](char c) { return c > 0x20 && c < 0x7f; });
            if (is_visible && field.value.size() <= 128) head.request_id = field.value;
        }
        if (field.name == "connection" || field.name == "proxy-connection") {
            const auto tokens = read_list(field.value);
            if (!tokens) is_odd = true;
            for (const std::string& token : tokens.value_or(std::vector<std::string>())) {
                closes = closes || token == "close";
                keeps = keeps || token == "keep-alive";
            }
        }
    }
    if (is_odd) head.keeps_alive_is_known = false;
    head.keeps_alive = head.is_1_0 ? keeps && !closes : !closes;
    if (head.is_1_0 && keeps && closes) head.keeps_alive_is_known = false;
    if (host ? !is_host(*host) : !(head.is_1_0 && (head.path == "/healthz" || head.path == "/readyz"))) return false;
    if (encoding) {
        if (*encoding != "chunked" || head.is_1_0 || length) return false;
        head.is_chunked = true;
    }
    if (length) {
        if (length->empty() || length->size() > 18 || length->find_first_not_of("0123456789") != std::string_view::npos) return false;
        head.length = std::stoull(std::string(*length));
    }
    return true;
}

Head read_head(std::string_view input) {
    Head head;
    if (input.empty()) return head;
    head.verdict = Head::Verdict::refused;
    if (!is_token(input.substr(0, 1))) return head;
    // No line feed but behind a carriage return, up to the first empty line.
    for (std::size_t at = 0, line = 0;;) {
        const std::size_t feed = input.find('\n', at);
        if (feed == std::string_view::npos) break;
        if (input[feed - 1] != '\r') return head;
        at = feed + 1;
        if (feed - line == 1) {
            head.size = at;
            break;
        }
        line = at;
    }
    if (head.size == 0) {
        // Too much that never ends is refused as soon as it is seen; how soon depends on how it arrives.
        const bool may_be_refused = input.size() > head_bytes_max || std::min(input.find('\n'), input.size()) > target_bytes_max;
        head.verdict = may_be_refused ? Head::Verdict::either : Head::Verdict::incomplete;
        return head;
    }
    if (head.size > head_bytes_max) return head;
    const std::string_view block = input.substr(0, head.size);
    const std::size_t line_end = block.find("\r\n");
    const std::string_view line = block.substr(0, line_end);
    const std::size_t first = line.find(' ');
    const std::size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
    if (second == std::string_view::npos || !is_token(line.substr(0, first))) return head;
    const std::string_view version = line.substr(second + 1);
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return head;
    head.is_1_0 = version.back() == '0';
    head.method = line.substr(0, first);
    const std::string_view target = line.substr(first + 1, second - first - 1);
    if (target.size() > target_bytes_max || !read_target(target, head)) return head;
    std::vector<Field> fields;
    bool is_odd = head.method.size() > 30 && line.size() > target_bytes_max;
    if (!read_fields(block.substr(line_end + 2), fields) || !read_framing(fields, head, is_odd)) return head;
    head.verdict = is_odd ? Head::Verdict::either : Head::Verdict::accepted;
    return head;
}

struct Body {
    enum class State { incomplete, malformed, complete };
    State state = State::incomplete;
    std::size_t size = 0;  // on the wire
    std::string bytes;
};

Body read_chunks(std::string_view input) {
    Body body;
    std::size_t at = 0;
    for (;;) {
        std::uint64_t size = 0;
        std::size_t digits = 0;
        for (; at < input.size() && digits <= 8; ++at, ++digits) {
            const std::size_t digit = std::string_view("0123456789abcdef").find(lower(input[at]));
            if (digit == std::string_view::npos) break;
            size = size * 16 + digit;
        }
        if (digits > 8) body.state = Body::State::malformed;
        if (at == input.size() || digits > 8) return body;
        const std::string_view line_end = input.substr(at, 2);
        if (digits == 0 || !std::string_view("\r\n").starts_with(line_end)) body.state = Body::State::malformed;
        if (body.state == Body::State::malformed || line_end.size() < 2) return body;
        at += 2;
        const std::string_view data = input.substr(at, static_cast<std::size_t>(size));
        body.bytes += data;
        at += data.size();
        const std::string_view data_end = input.substr(at, 2);
        if (data.size() == size && !std::string_view("\r\n").starts_with(data_end)) body.state = Body::State::malformed;
        if (body.state == Body::State::malformed || data_end.size() < 2) return body;
        at += 2;
        if (size == 0) break;
    }
    body.state = Body::State::complete;
    body.size = at;
    return body;
}

Body read_body(const Head& head, std::string_view input) {
    if (head.is_chunked) return read_chunks(input);
    Body body;
    const auto length = head.length.value_or(0);
    body.bytes = input.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(length, input.size())));
    body.size = body.bytes.size();
    if (body.size == length) body.state = Body::State::complete;
    return body;
}

// ---- what the server heard ----

struct Heard {
    std::string method, path, query, request_id;
    std::optional<std::string> body;  // it was handed over whole
    bool is_answered = false;         // at once, or refused
};

// What stands for a watch, which would never end: a piece, and the end with another.
class BriefSource final : public kvd::BodySource {
public:
    void next(Done done) override { done(Piece{": heartbeat\n\n", std::exchange(is_told_, true)}); }

private:
    bool is_told_ = false;
};

// Notes what goes by.
class Witness final : public kvd::Service {
public:
    explicit Witness(Service& inner) : inner_(inner) {}

    Verdict judge(const kvd::HttpRequest& request, const kvd::Presented& presented) override {
        heard.push_back({request.method, request.path, request.query, request.request_id, std::nullopt, false});
        Verdict verdict = inner_.judge(request, presented);
        heard.back().is_answered = verdict.answer.has_value();
        return verdict;
    }
    void resolve(Verdict verdict, std::function<void(Verdict)> done) override { inner_.resolve(std::move(verdict), std::move(done)); }
    void handle(Verdict&& verdict, kvd::HttpRequest&& request, Done done) override {
        KV_PROPERTY(!heard.empty() && !heard.back().body && !heard.back().is_answered);
        heard.back().body = request.body;
        inner_.handle(std::move(verdict), std::move(request), counted(std::move(done)));
    }
    void refuse(Verdict verdict, const kvd::HttpRequest& request, Error error, Done done) override {
        KV_PROPERTY(!heard.empty() && !heard.back().body && !heard.back().is_answered);
        heard.back().is_answered = true;
        inner_.refuse(std::move(verdict), request, std::move(error), counted(std::move(done)));
    }

    std::vector<Heard> heard;
    std::atomic<int> pending{0};

private:
    Done counted(Done done) {
        ++pending;
        return [this, done = std::move(done)](kvd::HttpResponse response) {
            if (response.source) response.source = std::make_shared<BriefSource>();
            done(std::move(response));
            --pending;
        };
    }
    Service& inner_;
};

// ---- the server ----

// Asks a store for its answers at once, or on threads of its own.
class EitherClient final : public Client {
public:
    explicit EitherClient(Client& inner) : inner_(inner), waiting_(inner) {}
    void submit(Actor actor, Request request, Completion done) override {
        // Nothing is ever going to happen here.
        if (auto* list = std::get_if<ListEntries>(&request)) list->wait_revision.reset();
        (is_async ? inner_ : static_cast<Client&>(waiting_)).submit(std::move(actor), std::move(request), std::move(done));
    }
    Result<Reply> wait(const Actor& actor, Request request) override { return inner_.wait(actor, std::move(request)); }
    bool is_async = false;

private:
    Client& inner_;
    WaitingClient waiting_;
};

std::unique_ptr<kvd::TokenStore> make_tokens() {
    char path[] = "/tmp/kv-fuzz-tokens-XXXXXX";
    const int file = mkstemp(path);
    const auto hash = kvd::hash_token("u");
    const std::string grant = kvd::parse_grant("permissions=kv-entry:read,kv-entry:write;applicationId=a;keys=d/**").value();
    const std::string text = "[" + kvd::token_line("ann", hash, "", {grant}) + "]";
    KV_PROPERTY(file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    close(file);
    auto tokens = kvd::TokenStore::open({path, kvd::hash_token("r")});
    unlink(path);
    KV_PROPERTY(tokens.has_value());
    return *std::move(tokens);
}

kvd::SessionLimits small_limits() {
    kvd::SessionLimits limits;
    limits.framing = {head_bytes_max, target_bytes_max};
    limits.requests_max = requests_max;
    return limits;
}

class Server {
public:
    Server()
        : client_(*fill(small_)),
          router_(client_),
          api_(router_, gate_, health_, kvd::Limits{body_bytes_max, 2 * body_bytes_max}),
          witness(api_),
          context{witness, metrics(), log(), small_limits()} {}

    void answer_from_other_threads(bool is_async) { client_.is_async = is_async; }

    static kvd::Metrics& metrics() {
        static kvd::Metrics one;
        return one;
    }
    static kvd::Log& log() {
        static kvd::Log one(LogLevel::error, kvd::LogFormat::text);
        return one;
    }

private:
    static const kvd::TokenStore& tokens() {
        static const std::unique_ptr<kvd::TokenStore> one = make_tokens();
        return *one;
    }
    static Client* fill(SmallStore& small) {
        const NamespaceId ns = small.make_namespace("n", true);
        small.make_namespace("p", false, false);
        for (const char* key : {"k", "d/e"}) {
            small.put(ns, key, "one");
            small.put(ns, key, "two");
        }
        return small.store.get();
    }

    SmallStore small_;
    EitherClient client_;
    kvd::Router router_;
    kvd::Health health_{[] { return Result<void>(); }};
    kvd::Authenticator authenticator_{{.tokens = &tokens()}};
    kvd::Gate gate_{authenticator_, {}, metrics()};
    kvd::ApiService api_;

public:
    Witness witness;
    kvd::SessionContext context;
};

// ---- the client's end ----

class Peer {
public:
    explicit Peer(int socket) : socket_(socket) {}
    ~Peer() { close(); }

    void write(std::string_view bytes) {
        // A server that closed takes no more; a full socket is the server's to empty.
        while (!bytes.empty() && !is_broken_) {
            const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent <= 0) return;
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
    }
    // True if something came.
    bool read() {
        bool came = false;
        char buffer[64 << 10];
        for (;;) {
            const ssize_t size = recv(socket_, buffer, sizeof buffer, MSG_DONTWAIT);
            if (size == 0) is_ended = true;
            if (size < 0 && errno != EAGAIN) is_broken_ = true;
            if (size <= 0) return came;
            received.append(buffer, static_cast<std::size_t>(size));
            came = true;
        }
    }
    void close() {
        if (socket_ >= 0) ::close(std::exchange(socket_, -1));
    }

    std::string received;
    bool is_ended = false;

private:
    int socket_;
    bool is_broken_ = false;
};

// Runs what is ready until nothing is and every answer is there and read.
void settle(Server& server, net::io_context& context, Peer& peer) {
    for (;;) {
        std::size_t ran = context.poll();
        if (server.witness.pending > 0) ran += context.run_one_for(std::chrono::milliseconds(1));
        if (peer.read() || ran > 0) continue;
        if (server.witness.pending == 0) return;
    }
}

// How the input arrives.
struct Manner {
    std::size_t piece = 0;  // 0: all at once
    bool is_async = false;
    bool drains = false;  // the server stops half-way
};

Manner read_manner(std::uint8_t byte) {
    constexpr std::size_t pieces[] = {0, 1, 2, 3, 7, 16, 61, 250};
    return {pieces[byte % 8], (byte & 8) != 0 && (byte & 16) != 0, (byte & 32) != 0 && (byte & 8) != 0};
}

// ---- answers ----

struct Answer {
    unsigned status = 0;
    bool closes = false;
    std::string request_id;
    std::string_view body;
};

class Answers {
public:
    explicit Answers(std::string_view text) : rest_(text) {}
    bool empty() const { return rest_.empty(); }

    // True if there was "100 Continue".
    bool take_continue() {
        constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        if (!rest_.starts_with(go_on)) return false;
        rest_.remove_prefix(go_on.size());
        return true;
    }

    Answer take(std::string_view method) {
        Answer answer;
        const std::size_t end = rest_.find("\r\n\r\n");
        KV_PROPERTY(rest_.starts_with("HTTP/1.1 ") && end != std::string_view::npos);
        const std::string_view block = rest_.substr(0, end + 4);
        rest_.remove_prefix(block.size());
        answer.status = static_cast<unsigned>(std::stoul(std::string(block.substr(9, 3))));
        KV_PROPERTY(answer.status >= 200 && answer.status < 600 && block[12] == ' ');
        const std::size_t line_end = block.find("\r\n");
        std::vector<Field> fields;
        KV_PROPERTY(read_fields(block.substr(line_end + 2), fields));
        std::optional<std::size_t> length;
        bool is_stream = false;
        std::string type;
        for (const Field& field : fields) {
            KV_PROPERTY(std::count_if(fields.begin(), fields.end(), [&](const Field& other) { return other.name == field.name; }) == 1);
            if (field.name == "transfer-encoding") is_stream = field.value == "chunked";
            if (field.name == "content-length") length = std::stoull(std::string(field.value));
            if (field.name == "content-type") type = field.value;
            if (field.name == "connection") answer.closes = field.value == "close";
            if (field.name == "x-request-id") answer.request_id = field.value;
        }
        if (is_stream) {
            take_stream(type, length.has_value());
            return answer;
        }
        const bool has_body = answer.status != 204 && answer.status != 304;
        KV_PROPERTY(length.has_value() == has_body && !answer.request_id.empty());
        if (!has_body || method == "HEAD") return answer;
        KV_PROPERTY(rest_.size() >= *length);
        answer.body = rest_.substr(0, *length);
        rest_.remove_prefix(*length);
        if (type == "application/json" || type == "application/problem+json") KV_PROPERTY(json::parse(answer.body, {64, 1'000'000, 100'000}).has_value());
        return answer;
    }

private:
    // A watch's: in chunks, which end.
    void take_stream(std::string_view type, bool has_length) {
        const Body body = read_chunks(rest_);
        KV_PROPERTY(type == "text/event-stream" && !has_length && body.state == Body::State::complete);
        KV_PROPERTY(body.bytes.starts_with("retry: 1000\nid: ") && body.bytes.ends_with("\n\n: heartbeat\n\n: heartbeat\n\n"));
        rest_.remove_prefix(body.size);
    }

    std::string_view rest_;
};

// ---- what must hold ----

void check(std::string_view input, const std::vector<Heard>& heard, const Peer& peer, bool was_draining) {
    using Verdict = Head::Verdict;
    Answers answers(peer.received);
    std::size_t at = 0;
    bool is_closed = false;
    for (std::size_t i = 0; i < heard.size(); ++i) {
        KV_PROPERTY(!is_closed);
        const Heard& request = heard[i];
        const std::string_view rest = input.substr(at);
        const Head head = read_head(rest);
        KV_PROPERTY(head.size > 0 && (head.verdict == Verdict::accepted || head.verdict == Verdict::either));
        KV_PROPERTY(request.method == head.method && request.path == head.path && request.query == head.query);
        KV_PROPERTY(head.request_id.empty() ? request.request_id.size() == 36 : request.request_id == head.request_id);
        const Body body = read_body(head, rest.substr(head.size));
        if (request.body) KV_PROPERTY(body.state == Body::State::complete && *request.body == body.bytes);
        if (answers.take_continue()) KV_PROPERTY(head.expects && head.has_body());
        if (!request.body && !request.is_answered) {
            KV_PROPERTY(i + 1 == heard.size() && body.state == Body::State::incomplete && answers.empty() && !peer.is_ended);
            return;
        }
        const Answer answer = answers.take(request.method);
        KV_PROPERTY(answer.request_id == request.request_id);
        if (answer.body.find("chunked body is malformed") != std::string_view::npos) KV_PROPERTY(body.state == Body::State::malformed);
        is_closed = answer.closes;
        const bool must_close = head.keeps_alive_is_known && !head.keeps_alive;
        const bool is_early = request.is_answered && head.has_body();
        const bool may_close = must_close || !head.keeps_alive_is_known || is_early || i + 1 >= requests_max || was_draining;
        KV_PROPERTY(is_closed ? may_close : !must_close);
        if (is_closed) break;
        // Answered before its body, which must then have been passed over whole.
        KV_PROPERTY(body.state == Body::State::complete && !(is_early && head.is_chunked));
        at += head.size + body.size;
    }
    const Head next = read_head(input.substr(std::min(at, input.size())));
    if (!is_closed && !answers.empty()) {
        KV_PROPERTY(next.verdict == Verdict::refused || next.verdict == Verdict::either);
        const Answer answer = answers.take("");
        KV_PROPERTY(answer.closes && (answer.status == 400 || answer.status == 414 || answer.status == 431));
        is_closed = true;
    } else if (!is_closed && !(was_draining && peer.is_ended)) {
        KV_PROPERTY(next.verdict == Verdict::incomplete || next.verdict == Verdict::either);
    }
    KV_PROPERTY(answers.empty());
    KV_PROPERTY(peer.is_ended == is_closed || was_draining);
}

void converse(Server& server, kvd::Worker& worker, std::string_view input, const Manner& manner) {
    int ends[2];
    KV_PROPERTY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    Peer peer(ends[1]);
    server.witness.heard.clear();
    server.answer_from_other_threads(manner.is_async);
    server.context.sessions = 1;
    Server::metrics().connections = 1;
    kvd::Connection::Socket socket(worker.context(), net::generic::stream_protocol(AF_UNIX, 0), ends[0]);
    std::make_shared<kvd::Session>(kvd::Connection(std::move(socket), nullptr), worker, server.context)->start();
    bool was_draining = false;
    for (std::string_view rest = input; !rest.empty();) {
        const std::string_view piece = rest.substr(0, manner.piece == 0 ? rest.size() : manner.piece);
        rest.remove_prefix(piece.size());
        peer.write(piece);
        settle(server, worker.context(), peer);
        if (manner.drains && !was_draining && rest.size() < input.size() / 2) {
            server.context.draining = was_draining = true;
            worker.drain();
            settle(server, worker.context(), peer);
        }
    }
    settle(server, worker.context(), peer);
    check(input, server.witness.heard, peer, was_draining);
    peer.close();
    settle(server, worker.context(), peer);
    server.context.draining = false;
    KV_PROPERTY(server.context.sessions == 0 && Server::metrics().connections == 0);
    KV_PROPERTY(Server::metrics().exceptions == 0 && Server::metrics().bytes_of_bodies == 0);
}

}  // namespace

// How it arrives in the first byte, and what behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static kvd::Worker worker(Server::metrics(), std::chrono::hours(24));
    static std::unique_ptr<Server> server = std::make_unique<Server>();
    static int conversations = 0;
    if (++conversations % 100 == 0) server = std::make_unique<Server>();  // what it stored must not matter for long

    Input input(data, size);
    const Manner manner = read_manner(input.u8());
    const std::string_view bytes = input.rest();
    // Within run(), as always: answers that come at once are taken up where they were asked for.
    worker.context().restart();
    net::post(worker.context(), [&] {
        converse(*server, worker, bytes, manner);
        worker.stop();
    });
    worker.run();
    return 0;
}
