#pragma once
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kv/store.h"
#include "kvd/jobs.h"
#include "kvd/service.h"
#include "kvd/task_pool.h"

namespace kvd {

class BackupStream;
class Metrics;

// One struct for each route of the admin listener.
struct StartVerification {
    std::vector<kv::AuditHead> anchors = {};
};
struct ShowJob {
    std::string id = {};
};
struct SendBackup {};
struct RotateDataKey {
    kv::NamespaceRef ns = {};
};
struct ForgetMasterKey {
    std::string key_id = {};
};
using AdminRequest = std::variant<StartVerification, ShowJob, SendBackup, RotateDataKey, ForgetMasterKey>;

// `match` is one of an admin route.
kv::Result<AdminRequest> parse_admin_request(const RouteMatch& match, const HttpRequest& request);

std::string write_forgotten(const ForgetMasterKey& forget, std::uint64_t wraps_dropped);
std::string write_rotated(const kv::NamespaceId& ns);

// The operator's listener: metrics and health for everybody who reaches it, and behind credentials what kv/admin.h offers. Who
// may do it is judged by the store. Its calls wait for disks, so that they run on threads of their own.
//
// Threads: any. Borrows everything. stop() must come before the store goes.
class AdminService final : public Service {
public:
    struct Parts {
        kv::Store& store;
        Router& router;  // for refusals
        Gate& gate;
        const Health& health;
        const Metrics& metrics;
        Limits limits;
    };

    explicit AdminService(const Parts& parts);
    ~AdminService() override;

    Verdict judge(const HttpRequest& request, const Presented& presented) override;
    void resolve(Verdict verdict, std::function<void(Verdict)> done) override;
    void handle(Verdict&& verdict, HttpRequest&& request, Done done) override;
    void refuse(Verdict verdict, const HttpRequest& request, kv::Error error, Done done) override;

    // Jobs are told to end, and none begins any more.
    void drain() { jobs_.cancel(); }
    // Waits for what runs, and lets go of the store; backups under way are cut off.
    void stop();

private:
    struct Call;
    using Answer = std::variant<HttpResponse, kv::Error>;  // the error: a refusal that is not recorded yet

    void post(std::shared_ptr<Call> call, std::function<void(Call&)> task);
    void refuse(Call& call, kv::Error error);
    Answer answer(Call& call, StartVerification& request);
    Answer answer(Call& call, const ShowJob& request);
    Answer answer(Call& call, const SendBackup& request);
    Answer answer(Call& call, const RotateDataKey& request);
    Answer answer(Call& call, const ForgetMasterKey& request);
    bool add_backup(const std::shared_ptr<BackupStream>& stream);

    Parts parts_;
    Jobs jobs_;
    TaskPool calls_;
    std::mutex mutex_;
    std::vector<std::weak_ptr<BackupStream>> backups_;  // owned by the connections that send them
};

}  // namespace kvd
