#include "src/nccl/variables.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "src/communicator/environment.h"
#include "src/nccl/errors.h"
#include "src/nccl/log.h"

namespace tutti::nccl {
namespace {

constexpr const char* k_no_gpu = "belongs to GPUs, their links or their memory";
constexpr const char* k_no_ib = "there is no InfiniBand or RoCE transport yet";
constexpr const char* k_no_plugin = "plugins of NCCL are not loaded";
constexpr const char* k_own_plan = "tutti's planner has its own choices (TUTTI_TUNE)";
constexpr const char* k_own_wire = "the wire protocol is chosen per connection";
constexpr const char* k_no_graph =
    "rings and trees are tutti's own; tutti plan and tutti topo show them";
constexpr const char* k_no_ras = "there is no RAS service";
constexpr const char* k_own_tcp = "tcp has its own limits (TUTTI_SOCKET_CONNECTIONS)";
constexpr const char* k_own_join = "joining is a tree with its own pace";

constexpr Variable k_variables[] = {
    {"NCCL_ALGO", true,
     "Ring or Tree, also per collective (\"allreduce:tree;broadcast:ring\"); other names and ^ are "
     "ignored; TUTTI_TUNE wins"},
    {"NCCL_COMM_BLOCKING", true, "0 or 1: config.blocking of every communicator"},
    {"NCCL_COMM_ID", true, "address:port of every unique id; rank 0 listens there"},
    {"NCCL_CONF_FILE", true,
     "file of NAME=VALUE lines, instead of ~/.nccl.conf; then /etc/nccl.conf; variables that are "
     "set win"},
    {"NCCL_CTA_POLICY", true, "2: copies of device memory by the copy engines alone"},
    {"NCCL_DEBUG", true, "VERSION, WARN, INFO or TRACE"},
    {"NCCL_DEBUG_FILE", true, "where the log goes; %h host, %p process"},
    {"NCCL_DEBUG_SUBSYS", true, "INIT, COLL, P2P, ENV, REG, CALL, ALL; ^ inverts"},
    {"NCCL_HOSTID", true, "joins or separates hosts, as TUTTI_HOST_ID"},
    {"NCCL_MAX_CTAS", true, "the most thread blocks of a launch, as TUTTI_GPU_BLOCKS"},
    {"NCCL_MULTI_RANK_GPU_ENABLE", true,
     "1: several ranks may share a GPU, as TUTTI_MULTI_RANK_GPU"},
    {"NCCL_NSOCKS_PERTHREAD", true,
     "times NCCL_SOCKET_NTHREADS: tcp connections per peer, 64 at most"},
    {"NCCL_P2P_DISABLE", true, "1: ranks do not read each other's private memory (process_vm)"},
    {"NCCL_PARAM_DUMP_ALL", true, "1: ncclParamDumpAll also shows what is unset"},
    {"NCCL_PROTO", true,
     "of collectives on devices: LL and LL128 are packets, Simple slots; also per collective, and "
     "^; TUTTI_TUNE wins"},
    {"NCCL_SHM_DISABLE", true, "1: no shared memory between processes, tcp instead"},
    {"NCCL_SOCKET_FAMILY", true, "AF_INET or AF_INET6"},
    {"NCCL_SOCKET_IFNAME", true, "interfaces for joining and tcp: eth,ib | ^lo | =eth0"},
    {"NCCL_SOCKET_NTHREADS", true, "times NCCL_NSOCKS_PERTHREAD: tcp connections per peer"},
    {"NCCL_TOPO_FILE", true, "XML of this host's sockets and NICs; TUTTI_TOPO wins"},

    {"NCCL_ALLOC_P2P_NET_LL_BUFFERS", false, k_own_wire},
    {"NCCL_BUFFSIZE", false, "buffers are TUTTI_SLOT_BYTES"},
    {"NCCL_CGA_CLUSTER_SIZE", false, k_no_gpu},
    {"NCCL_CHECKS_DISABLE", false, "arguments are always checked"},
    {"NCCL_CHECK_POINTERS", false, "pointers are always checked"},
    {"NCCL_COLLNET_ENABLE", false, k_no_plugin},
    {"NCCL_COLLNET_NODE_THRESHOLD", false, k_no_plugin},
    {"NCCL_CROSS_NIC", false, k_own_plan},
    {"NCCL_CUMEM_ENABLE", false, k_no_gpu},
    {"NCCL_CUMEM_HOST_ENABLE", false, k_no_gpu},
    {"NCCL_DEBUG_TIMESTAMP_FORMAT", false, "lines carry no time"},
    {"NCCL_DEBUG_TIMESTAMP_LEVELS", false, "lines carry no time"},
    {"NCCL_DMABUF_ENABLE", false, k_no_gpu},
    {"NCCL_ENABLE_VERSION_CHECK", false, "the device API is not served"},
    {"NCCL_ENV_PLUGIN", false, k_no_plugin},
    {"NCCL_GRAPH_DUMP_FILE", false, k_no_graph},
    {"NCCL_GRAPH_FILE", false, k_no_graph},
    {"NCCL_GRAPH_HELPER_DISABLE", false, k_no_gpu},
    {"NCCL_GRAPH_MIXING_SUPPORT", false, k_no_gpu},
    {"NCCL_GRAPH_REGISTER", false, k_no_gpu},
    {"NCCL_IB_ADAPTIVE_ROUTING", false, k_no_ib},
    {"NCCL_IB_ADDR_FAMILY", false, k_no_ib},
    {"NCCL_IB_ADDR_RANGE", false, k_no_ib},
    {"NCCL_IB_AR_THRESHOLD", false, k_no_ib},
    {"NCCL_IB_CUDA_SUPPORT", false, k_no_ib},
    {"NCCL_IB_DISABLE", false, k_no_ib},
    {"NCCL_IB_ECE_ENABLE", false, k_no_ib},
    {"NCCL_IB_FIFO_TC", false, k_no_ib},
    {"NCCL_IB_GID_INDEX", false, k_no_ib},
    {"NCCL_IB_HCA", false, k_no_ib},
    {"NCCL_IB_MERGE_NICS", false, k_no_ib},
    {"NCCL_IB_PCI_RELAXED_ORDERING", false, k_no_ib},
    {"NCCL_IB_QPS_PER_CONNECTION", false, k_no_ib},
    {"NCCL_IB_RESILIENCY_PORT_FAILOVER", false, k_no_ib},
    {"NCCL_IB_RETRY_CNT", false, k_no_ib},
    {"NCCL_IB_RETURN_ASYNC_EVENTS", false, k_no_ib},
    {"NCCL_IB_ROCE_VERSION_NUM", false, k_no_ib},
    {"NCCL_IB_SL", false, k_no_ib},
    {"NCCL_IB_SPLIT_DATA_ON_QPS", false, k_no_ib},
    {"NCCL_IB_TC", false, k_no_ib},
    {"NCCL_IB_TIMEOUT", false, k_no_ib},
    {"NCCL_IGNORE_CPU_AFFINITY", false, "affinities are left as they are"},
    {"NCCL_IPC_USE_ABSTRACT_SOCKET", false, "always so"},
    {"NCCL_LAUNCH_MODE", false, k_no_gpu},
    {"NCCL_LAUNCH_ORDER_IMPLICIT", false, k_no_gpu},
    {"NCCL_LAUNCH_RACE_FATAL", false, k_no_gpu},
    {"NCCL_LEGACY_CUDA_REGISTER", false, k_no_gpu},
    {"NCCL_LL_THRESHOLD", false, k_own_wire},
    {"NCCL_LOCAL_REGISTER", false, "registration of host memory costs nothing"},
    {"NCCL_MAX_NCHANNELS", false, k_own_plan},
    {"NCCL_MEM_SYNC_DOMAIN", false, k_no_gpu},
    {"NCCL_MIN_CTAS", false, k_no_gpu},
    {"NCCL_MIN_NCHANNELS", false, k_own_plan},
    {"NCCL_MNNVL_CLIQUE_ID", false, k_no_gpu},
    {"NCCL_MNNVL_ENABLE", false, k_no_gpu},
    {"NCCL_MNNVL_UUID", false, k_no_gpu},
    {"NCCL_NET", false, "networks are tcp"},
    {"NCCL_NETDEVS_POLICY", false, k_no_ib},
    {"NCCL_NET_GDR_C2C", false, k_no_gpu},
    {"NCCL_NET_GDR_LEVEL", false, k_no_gpu},
    {"NCCL_NET_GDR_READ", false, k_no_gpu},
    {"NCCL_NET_PLUGIN", false, k_no_plugin},
    {"NCCL_NET_SHARED_BUFFERS", false, k_own_wire},
    {"NCCL_NET_SHARED_COMMS", false, k_own_wire},
    {"NCCL_NTHREADS", false, k_no_gpu},
    {"NCCL_NVB_DISABLE", false, k_no_gpu},
    {"NCCL_NVLS_ENABLE", false, k_no_gpu},
    {"NCCL_OOB_NET_ENABLE", false, "joining is tcp"},
    {"NCCL_OOB_NET_IFNAME", false, "joining uses NCCL_SOCKET_IFNAME"},
    {"NCCL_P2P_DIRECT_DISABLE", false, k_no_gpu},
    {"NCCL_P2P_LEVEL", false, k_no_gpu},
    {"NCCL_P2P_LL_THRESHOLD", false, k_own_wire},
    {"NCCL_P2P_NET_CHUNKSIZE", false, k_own_wire},
    {"NCCL_P2P_PXN_LEVEL", false, k_no_gpu},
    {"NCCL_PROFILER_PLUGIN", false, k_no_plugin},
    {"NCCL_PXN_C2C", false, k_no_gpu},
    {"NCCL_PXN_DISABLE", false, k_no_gpu},
    {"NCCL_RAS_ADDR", false, k_no_ras},
    {"NCCL_RAS_ENABLE", false, k_no_ras},
    {"NCCL_RAS_TIMEOUT_FACTOR", false, k_no_ras},
    {"NCCL_RUNTIME_CONNECT", false, "connections are made on first use"},
    {"NCCL_SET_THREAD_NAME", false, "threads have no names"},
    {"NCCL_SHM_LOCALITY", false, k_own_wire},
    {"NCCL_SHM_MEMCPY_MODE", false, k_no_gpu},
    {"NCCL_SHM_USE_CUDA_MEMCPY", false, k_no_gpu},
    {"NCCL_SINGLE_RING_THRESHOLD", false, k_own_plan},
    {"NCCL_SOCKET_MAGIC", false, "connections are authenticated by the secret in the id"},
    {"NCCL_SOCKET_RETRY_CNT", false, k_own_tcp},
    {"NCCL_SOCKET_RETRY_SLEEP_MSEC", false, k_own_tcp},
    {"NCCL_SYM_GIN_KERNELS_ENABLE", false, k_no_gpu},
    {"NCCL_TOPO_DUMP_FILE", false, "tutti topo --xml FILE writes it"},
    {"NCCL_TREE_THRESHOLD", false, k_own_plan},
    {"NCCL_TUNER_PLUGIN", false, k_no_plugin},
    {"NCCL_UID_STAGGER_RATE", false, k_own_join},
    {"NCCL_UID_STAGGER_THRESHOLD", false, k_own_join},
    {"NCCL_WIN_ENABLE", false, "windows of host memory cost nothing"},
};

void report() {
  if (logs(LogLevel::version, Subsystem::none))
    log_line(LogLevel::version, Subsystem::none,
             fmt::format("NCCL version {}.{}.{}+tutti", reported_version() / 10000,
                         reported_version() / 100 % 100, reported_version() % 100));
  const Variables set = read_environment();
  for (const auto& [name, value] : set) {
    if (!name.starts_with("NCCL_")) continue;
    const Variable* known = find_variable(name);
    std::string text = name + " set by environment to " + value;
    if (known == nullptr) text += ": ignored, unknown to tutti";
    if (known != nullptr && !known->honoured) text += std::string(": ignored, ") + known->what;
    log_line(LogLevel::info, Subsystem::env, text);
  }
  for (const std::string& complaint : unknown_variables(set))
    log_line(LogLevel::warn, Subsystem::none, complaint);
}

}  // namespace

std::span<const Variable> variables() { return k_variables; }

const Variable* find_variable(const std::string& name) {
  const auto* found = std::find_if(std::begin(k_variables), std::end(k_variables),
                                   [&](const Variable& v) { return name == v.name; });
  return found == std::end(k_variables) ? nullptr : found;
}

void report_variables() {
  if (!logs(LogLevel::version, Subsystem::none)) return;
  static const bool reported = (report(), true);
  static_cast<void>(reported);
}

bool several_ranks_per_device() {
  const Variables set = read_environment();
  for (const char* name : {"NCCL_MULTI_RANK_GPU_ENABLE", "TUTTI_MULTI_RANK_GPU"})
    if (const auto found = set.find(name); found != set.end() && found->second == "1") return true;
  return false;
}

}  // namespace tutti::nccl
