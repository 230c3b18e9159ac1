#include "kvd/auth/fetcher.h"

#include <curl/curl.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

constexpr std::size_t header_bytes_max = 64u << 10;
constexpr int poll_milliseconds = 1000;  // woken for whatever is new
constexpr std::chrono::seconds connection_age_max{60};

// By function, for what libcurl calls CURL and CURLM is the same type.
template <auto release>
struct Release {
    template <class T>
    void operator()(T* handle) const {
        release(handle);
    }
};
using EasyHandle = std::unique_ptr<CURL, Release<curl_easy_cleanup>>;
using MultiHandle = std::unique_ptr<CURLM, Release<curl_multi_cleanup>>;
using UrlHandle = std::unique_ptr<CURLU, Release<curl_url_cleanup>>;
using HeaderList = std::unique_ptr<curl_slist, Release<curl_slist_free_all>>;
using Text = std::unique_ptr<char, Release<curl_free>>;

Error unavailable(std::string message) { return {Errc::unavailable, std::move(message)}; }

// One question, from get() until its answer.
struct Transfer {
    Fetcher::Request request;
    Fetcher::Done done;
    Fetcher::Answer answer;
    std::size_t header_bytes = 0;
    bool is_too_large = false;
    EasyHandle easy;
    HeaderList headers;

    void finish(Result<Fetcher::Answer> result) noexcept {
        try {
            done(std::move(result));
        } catch (...) {
            // Whoever asked has nothing to answer with; the next one is asked for all the same.
        }
    }
};

// What it gives back is how much was taken: less ends the transfer.
std::size_t take_body(char* bytes, std::size_t size, std::size_t count, void* given) {
    Transfer& transfer = *static_cast<Transfer*>(given);
    if (transfer.answer.body.size() + size * count > transfer.request.body_bytes_max) {
        transfer.is_too_large = true;
        return 0;
    }
    try {
        transfer.answer.body.append(bytes, size * count);
    } catch (...) {
        return 0;
    }
    return size * count;
}

std::size_t take_header(char*, std::size_t size, std::size_t count, void* given) {
    Transfer& transfer = *static_cast<Transfer*>(given);
    transfer.header_bytes += size * count;
    transfer.is_too_large = transfer.header_bytes > header_bytes_max;
    return transfer.is_too_large ? 0 : size * count;
}

bool prepare(Transfer& transfer, const std::string& ca_file) {
    CURL* easy = transfer.easy.get();
    bool is_good = true;
    const auto set = [&](CURLoption option, auto value) { is_good = is_good && curl_easy_setopt(easy, option, value) == CURLE_OK; };
    set(CURLOPT_URL, transfer.request.url.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_PROXY, "");
    set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_TIMEOUT_MS, static_cast<long>(transfer.request.timeout.count()));
    set(CURLOPT_MAXAGE_CONN, static_cast<long>(connection_age_max.count()));
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (!ca_file.empty()) set(CURLOPT_CAINFO, ca_file.c_str());
    set(CURLOPT_WRITEFUNCTION, &take_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
    set(CURLOPT_HEADERFUNCTION, &take_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
    set(CURLOPT_PRIVATE, static_cast<void*>(&transfer));
    for (const std::string& header : transfer.request.headers) {
        curl_slist* list = curl_slist_append(transfer.headers.get(), header.c_str());
        if (list == nullptr) return false;
        static_cast<void>(transfer.headers.release());  // the list goes on in the new one
        transfer.headers.reset(list);
    }
    if (transfer.headers) set(CURLOPT_HTTPHEADER, transfer.headers.get());
    return is_good;
}

}  // namespace

struct Fetcher::Impl {
    explicit Impl(Options given) : options(std::move(given)) {
        static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
        multi.reset(started == CURLE_OK ? curl_multi_init() : nullptr);
        if (!multi) kv::throw_exception(Error{Errc::internal, "libcurl does not start"});
        curl_multi_setopt(multi.get(), CURLMOPT_MAXCONNECTS, static_cast<long>(options.in_flight_max));
        thread = std::thread([this] { run(); });
    }

    void run() {
        for (;;) {
            if (!begin_waiting()) break;
            int running = 0;
            curl_multi_perform(multi.get(), &running);
            finish_ended();
            curl_multi_poll(multi.get(), nullptr, 0, poll_milliseconds, nullptr);
        }
        for (auto& transfer : under_way) {
            curl_multi_remove_handle(multi.get(), transfer->easy.get());
            transfer->finish(unavailable("stopping"));
        }
        under_way.clear();
        for (auto& transfer : waiting) transfer->finish(unavailable("stopping"));
        waiting.clear();
    }

    // False: it is over.
    bool begin_waiting() {
        std::vector<std::unique_ptr<Transfer>> begun;
        {
            std::lock_guard lock(mutex);
            if (is_stopping) return false;
            while (!waiting.empty() && under_way.size() + begun.size() < options.in_flight_max) {
                begun.push_back(std::move(waiting.front()));
                waiting.pop_front();
            }
        }
        for (auto& transfer : begun) {
            transfer->easy.reset(curl_easy_init());
            if (!transfer->easy || !prepare(*transfer, options.ca_file) ||
                curl_multi_add_handle(multi.get(), transfer->easy.get()) != CURLM_OK) {
                transfer->finish(unavailable("the request cannot be sent"));
                continue;
            }
            under_way.push_back(std::move(transfer));
        }
        return true;
    }

    void finish_ended() {
        int left = 0;
        while (CURLMsg* message = curl_multi_info_read(multi.get(), &left)) {
            if (message->msg != CURLMSG_DONE) continue;
            const CURLcode code = message->data.result;  // the message is gone with its handle
            Transfer* ended = nullptr;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &ended);
            curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &ended->answer.status);
            curl_multi_remove_handle(multi.get(), message->easy_handle);
            const auto found = std::find_if(under_way.begin(), under_way.end(), [ended](const auto& one) { return one.get() == ended; });
            const std::unique_ptr<Transfer> transfer = std::move(*found);
            *found = std::move(under_way.back());
            under_way.pop_back();
            if (code == CURLE_OK) transfer->finish(std::move(transfer->answer));
            else if (transfer->is_too_large) transfer->finish(unavailable("the answer is too large"));
            else transfer->finish(unavailable(curl_easy_strerror(code)));
        }
    }

    const Options options;
    std::mutex mutex;
    std::deque<std::unique_ptr<Transfer>> waiting;
    bool is_stopping = false;
    MultiHandle multi;
    std::vector<std::unique_ptr<Transfer>> under_way;  // the thread's own; before `multi` is gone
    std::thread thread;
};

Fetcher::Fetcher(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

Fetcher::~Fetcher() { stop(); }

void Fetcher::get(Request request, Done done) {
    auto transfer = std::make_unique<Transfer>();
    transfer->request = std::move(request);
    transfer->done = std::move(done);
    {
        std::lock_guard lock(impl_->mutex);
        if (!impl_->is_stopping && impl_->waiting.size() < impl_->options.waiting_max)
            impl_->waiting.push_back(std::move(transfer));
    }
    if (transfer) return transfer->finish(unavailable("too many requests wait"));
    curl_multi_wakeup(impl_->multi.get());
}

void Fetcher::stop() {
    {
        std::lock_guard lock(impl_->mutex);
        impl_->is_stopping = true;
    }
    curl_multi_wakeup(impl_->multi.get());
    if (impl_->thread.joinable()) impl_->thread.join();
}

kv::Result<void> check_service_url(const std::string& url, bool is_plain_allowed) {
    const auto wrong = [](const char* what) { return Error{Errc::invalid_request, what}; };
    UrlHandle parsed(curl_url());
    char *scheme = nullptr, *host = nullptr, *user = nullptr, *fragment = nullptr;
    if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK)
        return wrong("must be a URL like https://permissions.example/v1/grants");
    curl_url_get(parsed.get(), CURLUPART_SCHEME, &scheme, 0);
    curl_url_get(parsed.get(), CURLUPART_HOST, &host, 0);
    curl_url_get(parsed.get(), CURLUPART_USER, &user, 0);
    curl_url_get(parsed.get(), CURLUPART_FRAGMENT, &fragment, 0);
    const Text scheme_owner(scheme), host_owner(host), user_owner(user), fragment_owner(fragment);
    if (user != nullptr) return wrong("must hold no user and no password");
    if (fragment != nullptr) return wrong("must hold no fragment");
    const std::string name = scheme != nullptr ? scheme : "";
    if (name == "https") return {};
    if (name != "http") return wrong("must begin with https://");
    std::string literal = host != nullptr ? host : "";
    if (literal.size() > 2 && literal.front() == '[') literal = literal.substr(1, literal.size() - 2);
    boost::system::error_code error;
    const auto address = boost::asio::ip::make_address(literal, error);
    if (is_plain_allowed || literal == "localhost" || (!error && address.is_loopback())) return {};
    return wrong("must begin with https:// where it goes beyond this machine");
}

std::string with_parameter(std::string url, const std::string& name, const std::string& value) {
    const Text encoded(curl_easy_escape(nullptr, value.data(), static_cast<int>(value.size())));
    if (!encoded) kv::throw_exception(Error{Errc::unavailable, "Out of memory."});
    const std::size_t question = url.find('?');
    if (question == std::string::npos) url += '?';
    else if (question + 1 != url.size() && url.back() != '&') url += '&';
    url += name + "=" + encoded.get();
    return url;
}

}  // namespace kvd
