// Config: every setting of a communicator, with its environment name. Passed by value; two
// communicators may differ. src/communicator/config.cc is the only file that reads the environment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tutti/status.h"

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

struct Config {
  // Transports allowed, in order of preference; empty: all. TUTTI_TRANSPORTS=shm,tcp.
  std::vector<std::string> transports;
  // Network interfaces for tcp and bootstrap. Where it names several and they outnumber the ranks
  // of a host, each rank's tcp uses several side by side, else the one nearest to the rank.
  // TUTTI_SOCKET_IFNAME or NCCL_SOCKET_IFNAME.
  std::string socket_interface;
  // AF_INET or AF_INET6. TUTTI_SOCKET_FAMILY or NCCL_SOCKET_FAMILY.
  std::string socket_family;
  // tcp connections per peer, over each interface. TUTTI_SOCKET_CONNECTIONS.
  uint32_t socket_connections = 1;
  // Distinguishes hosts that look the same, or joins what looks different. TUTTI_HOST_ID or
  // NCCL_HOSTID.
  std::string host_id;
  // What this rank's host looks like, instead of what its kernel shows: a file (NCCL's or hwloc's
  // XML, or a spec), the name of a recorded machine (`tutti topo --list`) or a spec. Read by the
  // first rank of each host. A spec of one host takes its ranks at its leaves, in order of rank; a
  // spec of several describes the whole job, rank r at leaf r, and all ranks must have the same.
  // TUTTI_TOPO or NCCL_TOPO_FILE; a NCCL_TOPO_FILE that does not exist is left aside, as NCCL does.
  std::string topology;
  // PCI bus id of the GPU that this rank works on, "0000:07:00.0": where on its host the rank is.
  // Empty: where its CPUs are (through NCCL's functions: the current device). TUTTI_GPU.
  std::string gpu;
  // The switches above this rank's host, outermost first: "core.rack3". Hosts below the same ones
  // are a group of the hierarchy. Read by the first rank of each host. TUTTI_SWITCHES, or what
  // Slurm says.
  std::string switches;
  // Allow process_vm_readv/writev between ranks of a host where a probe succeeds.
  // TUTTI_PROCESS_VM=0.
  bool process_vm = true;
  // From this many bytes on, ranks that share windows reduce private buffers through
  // process_vm_readv/writev instead of copying them through the windows. TUTTI_PROCESS_VM_BYTES.
  size_t process_vm_bytes = size_t{1} << 40;
  // Seconds until joining gives up. TUTTI_INIT_TIMEOUT.
  double init_timeout = 120;
  // Seconds after which a late operation is reported by the watchdog. TUTTI_LATE_AFTER.
  double late_after = 10;
  // Seconds after which a late operation fails; 0: never. TUTTI_TIMEOUT.
  double timeout = 0;
  // Algorithm override, "all_reduce:0-64K:direct_one_shot;64K-inf:ring". TUTTI_TUNE.
  std::string tune;
  // A file of this machine's prices, as `tutti tune` writes it; empty: those built in.
  // TUTTI_PROFILE (a path, or "none"); unset: tutti/profile.json below $XDG_CACHE_HOME or ~/.cache,
  // where that exists. Rank 0's counts for all; ranks with another one are named in a warning.
  // docs/simulator.md.
  std::string profile;
  // "on": where prices are close, calls are measured and the fastest algorithm stays ("off":
  // never). Empty: on where rank 0 has a profile, beside which what was learnt is kept. Never with
  // `deterministic`. TUTTI_FEEDBACK=0|1.
  std::string feedback;
  // Same algorithm and order across sizes. TUTTI_DETERMINISTIC=1.
  bool deterministic = false;
  // Bytes of an eager slot, per message in flight. TUTTI_SLOT_BYTES.
  size_t slot_bytes = 256 * 1024;
  // Spin iterations before yielding while ranks fit the CPUs; 0: decide. TUTTI_SPIN.
  uint32_t spin = 0;
  // Fault injection for tests, see transports/faulty/README.md. TUTTI_FAULT.
  std::string fault;
  // Several ranks may share a GPU. TUTTI_MULTI_RANK_GPU=1 or NCCL_MULTI_RANK_GPU_ENABLE=1.
  bool multi_rank_gpu = false;
  // The most thread blocks that a collective may take on a GPU; 0: decide. TUTTI_GPU_BLOCKS or
  // NCCL_MAX_CTAS.
  uint32_t gpu_blocks = 0;
  // Small all_reduces between GPUs of a host run in kernels of their own; false on any rank: plans
  // run as others do, with the same results. TUTTI_GPU_SHOTS=0|1.
  bool gpu_shots = true;
  // From this many bytes per rank on, collectives that only copy use the GPU's copy engines and no
  // multiprocessor. TUTTI_GPU_COPY_ENGINE_BYTES; NCCL_CTA_POLICY=2: from the first byte.
  size_t gpu_copy_engine_bytes = size_t{64} << 20;
  // WARN | INFO | TRACE | "" (quiet), and where to. TUTTI_DEBUG or NCCL_DEBUG; *_DEBUG_FILE.
  std::string debug;
  std::string debug_file;

  // Reads the environment. Errors: invalid_argument naming the variable and the bad value.
  static Result<Config> from_environment();
  // One sentence for each TUTTI_* variable that nothing reads: "TUTTI_SOKET_IFNAME is not a setting
  // of tutti; did you mean TUTTI_SOCKET_IFNAME?"
  static std::vector<std::string> unknown_variables();
};

}  // namespace tutti
