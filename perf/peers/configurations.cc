// The configurations of `tutti perf --peers`, see configurations.h.
#include "perf/peers/configurations.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "perf/ceilings.h"

namespace tutti::perf {
namespace {

namespace fs = std::filesystem;

fs::path own_program() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path("tutti") : self;
}

// Empty when `program` is not on PATH.
std::string on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path candidate = fs::path(folder) / program;
    if (access(candidate.c_str(), X_OK) == 0) return candidate.string();
  }
  return "";
}

std::string built_peer(const std::string& program) {
  const fs::path candidate = own_program().parent_path() / program;
  return access(candidate.c_str(), X_OK) == 0 ? candidate.string() : "";
}

using Words = std::vector<std::string>;

struct OpenMpiVariant {
  const char* label;
  Words flags;
};

std::vector<OpenMpiVariant> open_mpi_variants(bool tcp, Collective collective) {
  std::vector<OpenMpiVariant> variants = {{"default", {}}};
  if (collective == Collective::all_reduce) {
    const Words tuned = {"--mca", "coll_tuned_use_dynamic_rules", "1", "--mca",
                         "coll_tuned_allreduce_algorithm"};
    Words ring = tuned;
    ring.push_back("4");
    Words rabenseifner = tuned;
    rabenseifner.push_back("6");
    variants.push_back({"ring", ring});
    variants.push_back({"rabenseifner", rabenseifner});
    variants.push_back({"HAN", {"--mca", "coll_han_priority", "100"}});
  }
  // Without an RDMA device UCX only takes part when told that any transport will do.
  if (!tcp)
    variants.push_back({"pml-ucx",
                        {"--mca", "pml", "ucx", "--mca", "pml_ucx_tls", "any", "--mca",
                         "pml_ucx_devices", "any"}});
  return variants;
}

void add_open_mpi(bool tcp, uint32_t ranks, Collective collective,
                  std::vector<Configuration>* found, std::vector<std::string>* missing) {
  const std::string launcher = on_path("mpirun.openmpi");
  const std::string program = built_peer("peer_openmpi");
  if (launcher.empty() || program.empty()) {
    missing->push_back("Open MPI (libopenmpi-dev openmpi-bin)");
    return;
  }
  for (const OpenMpiVariant& variant : open_mpi_variants(tcp, collective)) {
    Words command = {launcher, "--allow-run-as-root", "--oversubscribe", "-n",
                     std::to_string(ranks)};
    // Without this 4 B at 8 ranks on 2 cores takes 32 ms.
    if (ranks > allowed_cores())
      command.insert(command.end(), {"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"});
    if (tcp) command.insert(command.end(), {"--mca", "pml", "ob1", "--mca", "btl", "tcp,self"});
    command.insert(command.end(), variant.flags.begin(), variant.flags.end());
    command.push_back(program);
    found->push_back({"openmpi", variant.label, command});
  }
}

void add_mpich(uint32_t ranks, std::vector<Configuration>* found,
               std::vector<std::string>* missing) {
  const std::string launcher = on_path("mpiexec.mpich");
  const std::string program = built_peer("peer_mpich");
  if (launcher.empty() || program.empty()) {
    missing->push_back("MPICH (libmpich-dev mpich)");
    return;
  }
  found->push_back({"mpich", "default", {launcher, "-n", std::to_string(ranks), program}});
}

void add_gloo(bool all_algorithms, uint32_t ranks, std::vector<Configuration>* found,
              std::vector<std::string>* missing) {
  const std::string program = built_peer("peer_gloo");
  if (program.empty()) {
    missing->push_back("Gloo (libgloo-dev)");
    return;
  }
  for (const char* algorithm : {"ring", "bcube", "halving_doubling"}) {
    found->push_back(
        {"gloo", algorithm, {program, "--ranks", std::to_string(ranks), "--algorithm", algorithm}});
    if (!all_algorithms) return;
  }
}

}  // namespace

std::vector<Configuration> available_configurations(const std::string& transport, uint32_t ranks,
                                                    Collective collective,
                                                    std::vector<std::string>* missing) {
  const bool tcp = transport == "tcp";
  std::vector<Configuration> found;
  Words own = {own_program().string(), "perf", "--no-ceilings", "--ranks", std::to_string(ranks)};
  if (!transport.empty()) own.insert(own.end(), {"--transport", transport});
  found.push_back({"tutti", "private", own});
  if (!tcp) {
    own.insert(own.end(), {"--buffer", "mem_alloc"});
    found.push_back({"tutti", "mem_alloc", own});
  }
  add_open_mpi(tcp, ranks, collective, &found, missing);
  // MPICH never yields: beyond the cores its figures say nothing.
  if (!tcp && ranks <= allowed_cores()) add_mpich(ranks, &found, missing);
  // Gloo has no shared memory: one configuration shows where it stands.
  add_gloo(tcp && collective == Collective::all_reduce, ranks, &found, missing);
  return found;
}

}  // namespace tutti::perf
