// Making a communicator: who is where, which transports, what all ranks agree on.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>

#include "src/base/cpus.h"
#include "src/communicator/host_report.h"
#include "src/communicator/impl.h"
#include "src/communicator/tuning.h"
#include "transports/make.h"
#include "transports/tcp/tcp.h"

namespace tutti {
namespace {

// Bits of what a rank found out, combined by AND over all ranks.
constexpr uint8_t k_all_pull = 1;    // every transport in use lets receivers read senders' memory
constexpr uint8_t k_all_shared = 2;  // every rank is reached through shared windows
constexpr uint8_t k_memory_inside = 4;  // no rank talks through sockets to one of its host

// Bytes of the report on a host; the exchange takes 64 KiB of a rank, its tuning included.
constexpr size_t k_most_report = 60 * 1024, k_least_report = 4 * 1024;

// From so many ranks per CPU on, a rank that finds nothing to do blocks: yielding would pass the
// CPU through all the others that wait too, before the one that can go on gets it. Ranks that share
// windows are never so many; their flags ring no bells.
constexpr uint32_t k_block_at_once = 32;

// Cuts bits and report off the front of what a rank said in settle_paths(), and gives the report.
std::string take_report(std::string* said) {
  size_t length = 0;
  const char* end = said->data() + said->size();
  const auto [stop, error] =
      std::from_chars(std::min(said->data() + 1, said->data() + said->size()), end, length);
  const auto begin = static_cast<size_t>(stop - said->data()) + 1;
  if (error != std::errc() || begin > said->size() || length > said->size() - begin) return {};
  std::string report = said->substr(begin, length);
  said->erase(0, begin + length);
  return report;
}

// Memory that a forked child sees as zero: it must not touch connections it shares with its parent.
void* make_fork_guard() {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return nullptr;
  madvise(page, 4096, MADV_WIPEONFORK);
  *static_cast<volatile char*>(page) = 1;
  return page;
}

}  // namespace

Result<std::unique_ptr<Communicator::Impl>> Communicator::Impl::connect(
    std::unique_ptr<Bootstrap> bootstrap, Rank rank, uint32_t ranks, const Key& key,
    const Config& config, Deadline deadline, PartId leaf) {
  std::unique_ptr<Impl> impl(new Impl);
  impl->leaf_ = leaf;
  impl->rank_ = rank;
  impl->ranks_ = ranks;
  impl->messages_ = std::make_unique<MessageTallies>(rank, ranks);
  impl->config_ = config;
  impl->key_ = key;
  Status started = impl->start(std::move(bootstrap), key, deadline)
                       .with_context(fmt::format("rank {} of {}", rank, ranks));
  if (started.ok()) return impl;
  // The others may wait for this rank inside of a transport, where they see no goodbye.
  impl->bootstrap_->post_error(encode_error(started));
  return started;
}

BootstrapOptions Communicator::Impl::bootstrap_options(Rank rank, uint32_t ranks,
                                                       const Config& config) {
  return {rank,
          ranks,
          config.socket_interface,
          config.socket_family,
          after(config.init_timeout),
          k_plan_format,
          {}};
}

Result<std::unique_ptr<Communicator::Impl>> Communicator::Impl::join(const UniqueId& id, Rank rank,
                                                                     uint32_t ranks,
                                                                     const Config& config,
                                                                     PartId leaf) {
  const BootstrapOptions options = bootstrap_options(rank, ranks, config);
  Result<std::unique_ptr<Bootstrap>> bootstrap = Bootstrap::join(id, options);
  if (!bootstrap) return bootstrap.status();
  return connect(std::move(*bootstrap), rank, ranks, derive_key(id.bytes, "transports"), config,
                 options.deadline, leaf);
}

Status Communicator::Impl::start(std::unique_ptr<Bootstrap> bootstrap, const Key& key,
                                 Deadline deadline) {
  bootstrap_ = std::move(bootstrap);
  TUTTI_RETURN_IF_ERROR(open_log());
  fork_guard_ = make_fork_guard();
  Result<std::vector<TuneRule>> rules = parse_tune(config_.tune);
  if (!rules) return rules.status();
  if (!config_.gpu.empty() && normal_bus_id(config_.gpu).empty())
    return Status(Code::invalid_argument,
                  fmt::format("gpu: \"{}\" is no PCI bus id such as 0000:07:00.0", config_.gpu));

  PeerIdentity mine = PeerIdentity::of_this_process(config_);
  mine.council = bootstrap_->address();
  mine.leaf = leaf_;
  Result<std::vector<std::string>> blobs = bootstrap_->all_gather(mine.encode(), deadline);
  if (!blobs) return blobs.status();
  std::vector<PeerIdentity> peers;
  for (Rank r = 0; r < ranks_; ++r) {
    Result<PeerIdentity> p = PeerIdentity::decode((*blobs)[r]);
    if (!p) return p.status().with_context(fmt::format("peer {}", r));
    if (p->version != mine.version)
      return Status(Code::invalid_usage,
                    fmt::format("rank {} (host {}, pid {}) runs tutti {:#x}, this is {:#x}", r,
                                p->host_name, p->pid, p->version, mine.version));
    if (p->config != peers.emplace_back(*p).config || p->config != mine.config)
      return Status(
          Code::invalid_usage,
          fmt::format("rank {} (host {}, pid {}) has other settings: transports, tune, "
                      "deterministic, slot_bytes, process_vm_bytes, socket_connections must agree",
                      r, p->host_name, p->pid));
  }
  blobs->clear();
  std::vector<PackedAddress> councils;
  for (const PeerIdentity& p : peers) councils.push_back(p.council);
  TUTTI_RETURN_IF_ERROR(bootstrap_->convene(councils));
  peers_ = PeerTable(peers);
  choose_waiting(peers);
  TUTTI_RETURN_IF_ERROR(make_transports(peers, key, deadline));
  Placement placement = place(peers_);
  std::string agreed;
  TUTTI_RETURN_IF_ERROR(settle_paths(deadline, &placement, &agreed));
  TUTTI_RETURN_IF_ERROR(make_planner(std::move(placement), std::move(*rules), agreed));
  executor_ = std::make_unique<CpuExecutor>(*router_, *this, policy_);
  exchange_ = std::make_unique<Exchange>(*router_, *this, policy_);
  if (log_.on(LogLevel::info))
    log_.write(
        LogLevel::info,
        fmt::format("joined: tutti {}, {} ranks on {} hosts over {}; {} CPUs here, {}", version(),
                    ranks_, peers_.hosts(), transport_names(), available_cpus(),
                    policy_.spins == 0 ? "waiting yields at once"
                                       : fmt::format("waiting spins {} times", policy_.spins)));
  return {};
}

Status Communicator::Impl::open_log() {
  Result<LogLevel> level = parse_log_level(config_.debug);
  if (!level) return level.status();
  Result<Log> log = Log::open(*level, config_.debug_file, rank_);
  if (!log) return log.status();
  log_ = std::move(*log);
  if (log_.on(LogLevel::warn))
    for (const std::string& complaint : Config::unknown_variables())
      log_.write(LogLevel::warn, complaint);
  return {};
}

void Communicator::Impl::choose_waiting(const std::vector<PeerIdentity>& peers) {
  const auto here = std::count_if(peers.begin(), peers.end(), [&](const PeerIdentity& p) {
    return p.host == peers[rank_].host;
  });
  // A short spin catches what is already on its way; longer, it would take the CPU from the very
  // rank that is waited for whenever other programs or containers share the machine.
  const bool crowded = static_cast<uint32_t>(here) > available_cpus();
  policy_.spins = crowded ? 0 : config_.spin > 0 ? config_.spin : 200;
  if (static_cast<uint32_t>(here) >
      std::max(k_block_at_once * available_cpus(), uint32_t{SharedDirect::k_max_ranks})) {
    policy_.check_every = 2;
    policy_.block_after = {};
    policy_.block_for = std::chrono::milliseconds(100);
  }
  const bool one_host = static_cast<size_t>(here) == peers.size();
  const bool memory = one_host && (config_.transports.empty() || config_.transports[0] != "tcp");
  if (!memory) {  // every poll of a socket is a system call
    policy_.spins = std::min(policy_.spins, 16u);
    policy_.check_every = 16;
  }
}

// Where the user names several: this rank's share of them, or the one nearest to it.
void Communicator::Impl::choose_interfaces(const std::vector<PeerIdentity>& peers,
                                           TransportOptions* options) const {
  options->interface = config_.socket_interface;
  options->connections_per_peer = config_.socket_connections;
  if (peers_.hosts() < 2) return;
  uint32_t most = 1;  // both ends of a lane have as many connections
  for (uint32_t h = 0; h < peers_.hosts(); ++h) most = std::max(most, peers_.interfaces_each(h));
  options->connections_per_peer =
      std::max(config_.socket_connections,
               std::min(k_most_tcp_connections, config_.socket_connections * most));
  if (usable_interfaces(config_).size() < 2) return;
  const uint32_t each = std::min(k_most_tcp_interfaces, peers_.interfaces_each(peers_.host[rank_]));
  options->interfaces = each;
  const Result<Machine> host = look_at_host(config_, {.nics = true, .gpus = gpus_here()});
  if (!host) return;
  std::vector<PeerIdentity> here;
  uint32_t index = 0;
  for (Rank r = 0; r < ranks_; ++r) {
    if (peers_.host[r] != peers_.host[rank_]) continue;
    if (r == rank_) index = static_cast<uint32_t>(here.size());
    here.push_back(peers[r]);
  }
  const std::vector<std::string> names = nearest_interfaces(*host, here, index, each);
  if (names.empty()) return;
  options->interface = fmt::format("={}", fmt::join(names, ","));
  if (each > 1) inform("tcp uses side by side: " + options->interface.substr(1));
}

// Whether ranks of this host, of several, work on GPUs.
bool Communicator::Impl::gpus_here() const {
  for (Rank r = 0; r < ranks_ && ranks_ > 1; ++r)
    if (peers_.host[r] == peers_.host[rank_] && !peers_.gpu[r].empty()) return true;
  return false;
}

Status Communicator::Impl::make_transports(const std::vector<PeerIdentity>& peers, const Key& key,
                                           Deadline deadline) {
  bool all_one_process = true, host_one_process = true, alone_on_host = true;
  for (Rank r = 0; r < ranks_; ++r) {
    const bool same_host = peers[r].host == peers[rank_].host;
    const bool same_process = peers[r].process == peers[rank_].process;
    all_one_process &= same_process;
    if (same_host) host_one_process &= same_process;
    if (same_host && r != rank_) alone_on_host = false;
  }
  auto allowed = [&](std::string_view name) {
    return config_.transports.empty() ||
           std::find(config_.transports.begin(), config_.transports.end(), name) !=
               config_.transports.end();
  };
  // Ranks of a host use one kind among themselves, so that both ends fall back together.
  std::vector<std::string> names;
  if (!alone_on_host && host_one_process && allowed("local")) names.emplace_back("local");
  if (!alone_on_host && names.empty() && allowed("shm")) names.emplace_back("shm");
  if (!(all_one_process && !names.empty()) && ranks_ > 1 && allowed("tcp"))
    names.emplace_back("tcp");
  if (ranks_ > 1 && names.empty())
    return Status(Code::invalid_argument, "none of the allowed transports (TUTTI_TRANSPORTS) fits");

  TransportOptions options;
  options.rank = rank_;
  options.ranks = ranks_;
  options.job = fmt::format("{:08x}", static_cast<uint32_t>(peers[0].process ^ peers[0].pid));
  options.key.assign(key.begin(), key.end());
  choose_interfaces(peers, &options);
  options.family = config_.socket_family;
  options.oversubscribed = policy_.spins == 0;
  options.process_vm = config_.process_vm;
  options.host_id = config_.host_id;
  options.interrupted = [this] {
    TUTTI_RETURN_IF_ERROR(bootstrap_->progress());
    const std::optional<std::string> posted = bootstrap_->posted_error();
    return posted ? decode_error(*posted) : Status();
  };
  std::vector<std::unique_ptr<Transport>> transports;
  for (const std::string& name : names) {
    Result<std::unique_ptr<Transport>> made = make_transport(name, options, config_.fault);
    if (!made) return made.status();
    transports.push_back(std::move(*made));
  }

  // Cards: name, length, card of each transport of a rank, one after the other.
  std::string mine;
  for (const auto& t : transports) {
    const std::string card = t->card();
    mine += fmt::format("{} {} ", t->name(), card.size()) + card;
  }
  Result<std::vector<std::string>> cards = bootstrap_->all_gather(mine, deadline);
  if (!cards) return cards.status();
  std::vector<uint8_t> transport_of(ranks_, 0xff);
  for (size_t i = 0; i < transports.size(); ++i) {
    std::vector<std::string> of_kind(ranks_);
    for (Rank r = 0; r < ranks_; ++r) {
      // Only ranks of this host are candidates for memory transports.
      if (names[i] != "tcp" && peers[r].host != peers[rank_].host) continue;
      Result<std::string> card = find_card((*cards)[r], transports[i]->name());
      if (!card) return card.status().with_context(fmt::format("cards of rank {}", r));
      of_kind[r] = std::move(*card);
    }
    TUTTI_RETURN_IF_ERROR(transports[i]->connect(of_kind, deadline));
    for (Rank r = 0; r < ranks_; ++r)
      if (transport_of[r] == 0xff && (r == rank_ || transports[i]->reaches(r)))
        transport_of[r] = static_cast<uint8_t>(i);
  }
  if (ranks_ == 1) transport_of[0] = 0;
  for (Rank r = 0; r < ranks_; ++r)
    if (transport_of[r] == 0xff)
      return Status(Code::system_error, fmt::format("no transport reaches {}", describe_peer(r)));
  router_ = std::make_unique<Router>(rank_, std::move(transports), std::move(transport_of),
                                     config_.slot_bytes);
  return {};
}

// What this rank tells of its host: its first rank what it looks like, the others a spec that they
// have been given.
std::string Communicator::Impl::report_on_host(size_t room) const {
  if (peers_.first_ranks()[peers_.host[rank_]] == rank_)
    return encode_report(look_at_host(config_, {.nics = peers_.hosts() > 1, .gpus = gpus_here()}),
                         room);
  const Result<Machine> spec = own_spec(config_);
  return spec && spec->inside.empty() ? std::string() : encode_report(spec, room);
}

// What the first ranks of the hosts found out about them; an error of one of them is everyone's.
Status Communicator::Impl::learn_hosts(const std::vector<std::string>& reports) {
  std::map<std::string_view, Machine> known;  // equal hosts say the same
  for (Rank r = 0; r < ranks_; ++r) {
    if (reports[r].empty() || known.count(reports[r]) > 0) continue;
    Result<Machine> view = decode_report(reports[r]);
    if (!view) return view.status().with_context(describe_peer(r));
    known.emplace(reports[r], std::move(*view));
  }
  std::vector<Machine> views;
  const std::vector<Rank> first = peers_.first_ranks();
  for (const Rank f : first) {
    if (reports[f].empty())
      return Status(Code::remote_error, describe_peer(f) + " does not describe its host");
    views.push_back(known.at(reports[f]));
  }
  for (Rank r = 0; r < ranks_; ++r) {
    const Rank f = first[peers_.host[r]];
    if (r == f || reports[r].empty()) continue;
    const auto named = [&](Rank rank) {
      const std::string& inside = known.at(reports[rank]).inside;
      return fmt::format("{} {}", peers_.describe(rank),
                         inside.empty() ? std::string("no spec") : "\"" + inside + "\"");
    };
    if (known.at(reports[r]).inside != views[peers_.host[r]].inside)
      return Status(Code::invalid_usage,
                    fmt::format("ranks have different topologies: {}, {}", named(f), named(r)));
  }
  TUTTI_RETURN_IF_ERROR(peers_.add_views(views));
  if (!views[peers_.host[rank_]].inside.empty()) leaf_ = peers_.part[rank_];
  if (ranks_ > 1 && peers_.gpu_is_unknown(rank_))
    warn(
        fmt::format("GPU {} of {} is not in what is known of its host: the rank is placed by its "
                    "CPUs",
                    peers_.gpu[rank_], peers_.describe(rank_)));
  return {};
}

// Which shortcuts all ranks can take.
Status Communicator::Impl::settle_paths(Deadline deadline, Placement* placement,
                                        std::string* agreed) {
  uint8_t bits = k_all_pull | k_all_shared | k_memory_inside;
  for (const auto& t : router_->transports()) reads_peers_ |= t->capabilities().pull;
  for (Rank r = 0; r < ranks_ && ranks_ > 1; ++r)
    if (r != rank_ && !router_->transport(r).capabilities().pull) bits &= ~k_all_pull;
  // One transport for everybody, with windows.
  Transport* neighbour = ranks_ > 1 ? &router_->transport((rank_ + 1) % ranks_) : nullptr;
  bool one = neighbour != nullptr && SharedDirect::usable(*neighbour, ranks_);
  for (Rank r = 0; r < ranks_; ++r) one &= r == rank_ || &router_->transport(r) == neighbour;
  if (!one) bits &= ~k_all_shared;
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && peers_.host[r] == peers_.host[rank_] && router_->transport(r).name() == "tcp")
      bits &= ~k_memory_inside;
  const Tuning mine = Tuning::of_this_rank(config_, rank_, *placement);
  // Bits, the length of the report, the report of a host's first rank, the tuning.
  const std::string tuning = mine.encode(rank_);
  const std::string report =
      report_on_host(k_most_report - std::min(tuning.size(), k_most_report - k_least_report));
  Result<std::vector<std::string>> all = bootstrap_->all_gather(
      static_cast<char>(bits) + fmt::format("{} ", report.size()) + report + tuning, deadline);
  if (!all) return all.status();
  std::vector<std::string> reports;
  for (std::string& b : *all) {
    bits &= b.empty() ? uint8_t{0} : static_cast<uint8_t>(b[0]);
    reports.push_back(take_report(&b));
  }
  TUTTI_RETURN_IF_ERROR(learn_hosts(reports));
  placement->hierarchy = place(peers_).hierarchy;
  for (const std::string& complaint : mine.complaints(*all, rank_)) warn(complaint);
  *agreed = std::move(all->front());
  by_reference_ = (bits & k_all_pull) != 0;
  placement->shared = (bits & k_all_shared) != 0;
  placement->sockets_inside = (bits & k_memory_inside) == 0;
  placement->slot_bytes = config_.slot_bytes;
  placement->by_reference = by_reference_;
  TUTTI_RETURN_IF_ERROR(follow_links(peers_, placement));
  if (bits & k_all_shared)
    shared_ = std::make_unique<SharedDirect>(
        *neighbour, rank_, ranks_, *this, policy_,
        SharedDirectTuning::of(ranks_, policy_.spins == 0, config_.process_vm_bytes));
  return {};
}

}  // namespace tutti
