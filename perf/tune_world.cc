#include "perf/tune_world.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "perf/launch.h"
#include "perf/statistics.h"
#include "src/communicator/environment.h"
#include "src/communicator/peers.h"

namespace tutti::perf {
namespace {

// Memory that the ranks' processes share with this one: the measured seconds, and how far
// repetitions differ.
class Board {
 public:
  static constexpr size_t k_most = 2048;  // probes
  Board()
      : cells_(static_cast<double*>(
            mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Board() { munmap(cells_, bytes()); }
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  void write(const std::vector<Probe>& all, const std::vector<Probe>& measured) {
    for (size_t i = 0, m = 0; i < all.size() && m < measured.size(); ++i)
      if (all[i].same_call(measured[m])) {
        cells_[k_most + i] = measured[m].spread;
        cells_[i] = measured[m++].seconds;
      }
  }
  // What was measured of the i-th probe; 0 seconds: nothing.
  double seconds(size_t i) const { return cells_[i]; }
  double spread(size_t i) const { return cells_[k_most + i]; }
  void clear() { std::fill_n(cells_, 2 * k_most, 0.0); }

 private:
  static size_t bytes() { return 2 * k_most * sizeof(double); }
  double* cells_;
};

// Where the system puts the processes of one launch decides, for as long as they live, in which
// order ranks that share CPUs have their turns, and a chain of them takes half or twice as long.
constexpr uint32_t k_launches = 3;

// One launch; what rank 0 measures is on the board then.
Status measure_once(uint32_t ranks, bool tcp, const std::vector<Probe>& wanted,
                    const ProbeOptions& options, Board& board) {
  setenv("TUTTI_TRANSPORTS", tcp ? "tcp" : "shm", 1);
  const auto fail = [](const std::string& message) {
    fmt::print(stderr, "tutti tune: {}\n", message);
    return 1;
  };
  const int code = launch({ranks, false, 1}, [&](std::unique_ptr<Communicator> c) {
    std::vector<Probe> probes = wanted;
    const Result<Config> config = Config::from_environment();
    if (!config) return fail(config.status().message());
    if (const Status s = measure_probes(*c, *config, options, probes); !s.ok())
      return fail(s.to_string());
    if (c->rank() == 0) board.write(wanted, probes);
    return 0;
  });
  unsetenv("TUTTI_TRANSPORTS");
  return code == 0 ? Status()
                   : Status(Code::system_error, fmt::format("the ranks ended with {}", code));
}

}  // namespace

Placement local_placement(uint32_t ranks, bool tcp) {
  Placement p;
  p.ranks = ranks;
  p.host.assign(ranks, 0);
  p.cpu_pools = p.host;
  const Result<Config> config = Config::from_environment();
  p.cpus = PeerIdentity::of_this_process(config ? *config : Config()).cpus;
  p.hierarchy.level.push_back(p.host);
  p.sockets_inside = tcp;
  p.shared = !tcp && ranks > 1 && ranks <= 64;
  p.by_reference = !tcp;
  return p;
}

Result<ProbeSet> measure_here(uint32_t ranks, bool tcp, const std::vector<Probe>& wanted,
                              const ProbeOptions& options) {
  if (wanted.size() > Board::k_most)
    return Status(Code::invalid_argument,
                  fmt::format("{} figures to measure, at most {}: fewer --sizes", wanted.size(),
                              Board::k_most));
  const uint32_t launches = std::min(k_launches, options.repetitions);
  ProbeOptions each = options;
  each.repetitions = (options.repetitions + launches - 1) / launches;
  Board board;
  std::vector<std::vector<double>> seconds(wanted.size()), spreads(wanted.size());
  for (uint32_t i = 0; i < launches; ++i) {
    board.clear();
    TUTTI_RETURN_IF_ERROR(measure_once(ranks, tcp, wanted, each, board));
    for (size_t p = 0; p < wanted.size(); ++p)
      if (board.seconds(p) > 0) {
        seconds[p].push_back(board.seconds(p));
        spreads[p].push_back(board.spread(p));
      }
  }
  ProbeSet set{local_placement(ranks, tcp), {}};
  for (size_t p = 0; p < wanted.size(); ++p) {
    if (seconds[p].empty()) continue;
    set.probes.push_back(wanted[p]);
    set.probes.back().seconds = median(seconds[p]);
    set.probes.back().spread = median(spreads[p]);
  }
  return set;
}

}  // namespace tutti::perf
