#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace kv::conformance {

// Stands between a storage and its PostgreSQL, on a port of its own: counts round trips, and cuts connections around a commit.
class Proxy {
public:
    enum class Commit {
        pass,
        lose_answer,  // it reaches the server; its answer does not come back
        hold,         // it has not reached the server yet when the client's connection breaks; see release()
    };

    Proxy(std::string host, int port) : host_(std::move(host)), port_(port), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_, 16) != 0) fail();
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        own_port_ = ntohs(address.sin_port);
        acceptor_ = std::thread([this] { accept_all(); });
    }
    ~Proxy() {
        is_over_ = true;
        ::shutdown(listener_, SHUT_RDWR);
        acceptor_.join();
        for (std::thread& link : links_) link.join();
        ::close(listener_);
    }
    Proxy(const Proxy&) = delete;

    int port() const { return own_port_; }
    void next_commit(Commit how) { commit_ = how; }
    // Lets what was held go on to the server.
    void release() { is_released_ = true; }
    // Messages by which a client waits for an answer: one a round trip.
    int round_trips() const { return round_trips_; }

private:
    [[noreturn]] static void fail() { throw std::runtime_error("the proxy has no socket"); }

    struct Link {
        int client;
        int server;
        std::string unread;  // of the client: the beginning of a message
        bool has_started = false;
        std::string commit_name;  // of the prepared statement that commits; empty: there is none yet
        std::string commit;       // from where the commit begins in a pipeline
    };

    void accept_all() {
        for (;;) {
            const int client = ::accept(listener_, nullptr, nullptr);
            if (client < 0) return;
            links_.emplace_back([this, client] { serve(client); });
        }
    }
    int connect() const {
        const int server = ::socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port_));
        ::inet_pton(AF_INET, host_.c_str(), &address.sin_addr);
        if (::connect(server, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail();
        return server;
    }
    static bool send_all(int to, std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }

    void serve(int client) {
        Link link{client, connect(), {}, false, {}, {}};
        char buffer[65536];
        bool is_open = true;
        while (is_open && !is_over_) {
            pollfd both[] = {{link.client, POLLIN, 0}, {link.server, POLLIN, 0}};
            ::poll(both, 2, 20);
            for (const pollfd& one : both) {
                if (one.revents == 0 || !is_open) continue;
                const ssize_t got = ::recv(one.fd, buffer, sizeof buffer, 0);
                if (got <= 0) {
                    is_open = false;
                } else if (one.fd == link.server) {
                    is_open = send_all(link.client, {buffer, static_cast<std::size_t>(got)});
                } else {
                    link.unread.append(buffer, static_cast<std::size_t>(got));
                    is_open = forward(link);
                }
            }
        }
        if (link.client >= 0) ::close(link.client);
        ::close(link.server);
    }

    // Message by message: a letter, then a length that counts itself. The first has no letter.
    bool forward(Link& link) {
        for (;;) {
            const std::size_t head = link.has_started ? 1 : 0;
            if (link.unread.size() < head + 4) return true;
            std::uint32_t length = 0;
            for (std::size_t i = 0; i < 4; ++i) length = (length << 8) | static_cast<unsigned char>(link.unread[head + i]);
            if (link.unread.size() < head + length) return true;
            const std::string message = link.unread.substr(0, head + length);
            link.unread.erase(0, head + length);
            if (!link.has_started && length > 8) link.has_started = true;  // not the question whether there is TLS
            if (head == 1 && (message[0] == 'Q' || message[0] == 'S')) ++round_trips_;
            const bool is_commit = head == 1 && message[0] == 'Q' && message.substr(5, 6) == "commit";
            if (is_commit && commit_ != Commit::pass) return cut(link, message);
            if (head == 1 && is_of_piped_commit(link, message)) {
                link.commit += message;
                if (message[0] == 'S') return cut(link, link.commit);
            } else if (!send_all(link.server, message)) {
                return false;
            }
        }
    }

    // Parse names a statement and gives its text, Bind names a portal and its statement: names and texts end with a zero.
    bool is_of_piped_commit(Link& link, const std::string& message) const {
        const std::string first(message.c_str() + 5);
        const std::string second(message[0] == 'P' || message[0] == 'B' ? message.c_str() + 5 + first.size() + 1 : "");
        if (message[0] == 'P' && second == "commit") link.commit_name = first;
        const bool begins = message[0] == 'B' && !second.empty() && second == link.commit_name;
        return commit_ != Commit::pass && (begins || !link.commit.empty());
    }

    bool cut(Link& link, const std::string& commit) {
        if (commit_.exchange(Commit::pass) == Commit::hold) {
            ::close(std::exchange(link.client, -1));
            while (!is_released_ && !is_over_) std::this_thread::yield();
        }
        char answer[1024];
        if (send_all(link.server, commit)) (void)::recv(link.server, answer, sizeof answer, 0);
        return false;
    }

    const std::string host_;
    const int port_;
    const int listener_;
    int own_port_ = 0;
    std::atomic<Commit> commit_ = Commit::pass;
    std::atomic<bool> is_released_ = false;
    std::atomic<bool> is_over_ = false;
    std::atomic<int> round_trips_ = 0;
    std::thread acceptor_;
    std::vector<std::thread> links_;  // the acceptor's, until it has ended
};

}  // namespace kv::conformance
