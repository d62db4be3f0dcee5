// The simulator against SimGrid (flow model CM02): the same plan on the same platform, where flows
// contend. Built only where SimGrid is found. Both divide links max-min fairly. Messages of one
// connection follow one another, as in a socket or a queue pair; to SimGrid they would be flows
// that share its links, so every connection is an actor there that sends one at a time.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <simgrid/s4u.hpp>
#include <string>
#include <utility>
#include <vector>

#include "sim/simulator.h"
#include "src/algorithms/algorithms.h"
#include "src/plan/layout.h"
#include "src/plan/plan_index.h"
#include "topology/spec.h"

namespace tutti {
namespace {

namespace sg = simgrid::s4u;

// A world of SimGrid actors, one per lane, that run a plan with eager sends and any credits, and
// one per connection.
class SimGridWorld {
 public:
  SimGridWorld(const Plan& plan, const Topology& topology, uint64_t bytes, double gamma)
      : plan_(plan), index_(plan), layout_(plan.shape(), bytes / 4, 4, 0), gamma_(gamma) {
    int argc = 1;
    char program[] = "cross_check";
    char* arguments[] = {program, nullptr};
    engine_ = std::make_unique<sg::Engine>(&argc, arguments);
    for (const char* setting :
         {"network/model:CM02", "network/crosstraffic:0", "network/TCP-gamma:0",
          "network/latency-factor:1", "network/bandwidth-factor:1", "network/weight-S:0",
          "surf/precision:1e-11", "contexts/stack-size:64"})
      sg::Engine::set_config(setting);
    build(topology);
  }

  double run() {
    const uint32_t lanes = plan_.shape().lanes;
    for (uint32_t c = 0; c < index_.channels().size(); ++c) {
      mailboxes_.push_back(sg::Mailbox::by_name(std::to_string(c)));
      tokens_.push_back(sg::Semaphore::create(0));
    }
    connections_.resize(index_.channels().size());
    std::vector<sg::ActorPtr> actors;
    for (uint32_t id = 0; id < index_.lanes(); ++id)
      actors.push_back(
          sg::Actor::create(std::to_string(id), hosts_[id / lanes], [this, id] { lane(id); }));
    // Messages start when they are sent, not when they are received.
    for (uint32_t c = 0; c < index_.channels().size(); ++c)
      mailboxes_[c]->set_receiver(actors[index_.channels()[c].to]);
    engine_->run();
    return end_;
  }

 private:
  void build(const Topology& topology) {
    sg::NetZone* zone = sg::create_full_zone("zone");
    for (Rank r = 0; r < plan_.shape().ranks; ++r) {
      hosts_.push_back(zone->create_host("rank" + std::to_string(r), 1e9));
      hosts_.back()->seal();
    }
    std::vector<sg::Link*> links;
    for (LinkId l = 0; l < topology.links().size(); ++l) {
      const Link& link = topology.links()[l];
      links.push_back(zone->create_link("link" + std::to_string(l), link.bandwidth));
      links.back()->set_latency(0);  // connections add it, as a queue of messages pays it once
      links.back()->seal();
    }
    Routes routes(topology);
    std::vector<LinkId> way;
    for (const Channel& c : index_.channels()) {
      const Rank a = index_.rank_of(c.from), b = index_.rank_of(c.to);
      if (c.signal || latencies_.count({a, b}) > 0) continue;
      if (!routes.find(a, b, &way)) std::abort();
      std::vector<sg::LinkInRoute> route;
      double& latency = latencies_[{a, b}];
      for (LinkId l : way) {
        route.emplace_back(links[l]);
        latency += topology.links()[l].latency;
      }
      zone->add_route(hosts_[a]->get_netpoint(), hosts_[b]->get_netpoint(), nullptr, nullptr, route,
                      false);
    }
    zone->seal();
  }

  // What is sent through a channel and has not left yet: when, and how many bytes.
  struct Connection {
    std::deque<std::pair<double, uint64_t>> queue;
    sg::SemaphorePtr filled;
  };

  void send(uint32_t channel, uint64_t bytes) {
    Connection& c = connections_[channel];
    c.queue.emplace_back(sg::Engine::get_clock(), bytes);
    if (c.filled == nullptr) {
      c.filled = sg::Semaphore::create(0);
      sg::Actor::create("connection", sg::this_actor::get_host(), [this, channel] {
        connection(channel);
      })->daemonize();
    }
    c.filled->release();
  }

  void connection(uint32_t channel) {
    const Channel& ends = index_.channels()[channel];
    const double latency = latencies_[{index_.rank_of(ends.from), index_.rank_of(ends.to)}];
    for (Connection& c = connections_[channel];;) {
      c.filled->acquire();
      const auto [sent, bytes] = c.queue.front();
      c.queue.pop_front();
      if (sent + latency > sg::Engine::get_clock()) sg::this_actor::sleep_until(sent + latency);
      mailboxes_[channel]->put(&payload_, bytes);
    }
  }

  void lane(uint32_t id) {
    const uint32_t lanes = plan_.shape().lanes, steps = plan_.steps(id / lanes, id % lanes);
    uint32_t out_hint = 0, in_hint = 0;
    double reduce = 0;  // of the pass at hand
    for (uint32_t i = 0; i < steps; ++i) {
      const Step step = plan_.step_at(id / lanes, id % lanes, i);
      const uint64_t bytes = layout_.bytes(reads_src(step.op) ? step.src : step.dst, step.count, 0);
      if (step.count > 0 && bytes == 0) continue;
      const uint32_t key = index_.peer_key(step);
      switch (step.op) {
        case Op::send:
          send(index_.out_channel(id, key, out_hint), bytes);
          break;
        case Op::signal:
          tokens_[index_.out_channel(id, key, out_hint)]->release();
          break;
        case Op::wait:
          tokens_[index_.in_channel(id, key, in_hint)]->acquire();
          break;
        case Op::recv:
        case Op::recv_reduce:
          mailboxes_[index_.in_channel(id, key, in_hint)]->get<int>();
          break;
        case Op::copy:
        case Op::reduce:
          break;
      }
      if (step.op != Op::recv_reduce && step.op != Op::reduce) continue;
      reduce += gamma_ * static_cast<double>(bytes);
      if (i + 1 < steps && continues_pass(step, plan_.step_at(id / lanes, id % lanes, i + 1)))
        continue;
      if (reduce > 0) sg::this_actor::sleep_for(reduce);
      reduce = 0;
    }
    end_ = std::max(end_, sg::Engine::get_clock());
  }

  const Plan& plan_;
  PlanIndex index_;
  Layout layout_;
  double gamma_;
  std::unique_ptr<sg::Engine> engine_;
  std::vector<sg::Host*> hosts_;
  std::vector<sg::Mailbox*> mailboxes_;
  std::vector<sg::SemaphorePtr> tokens_;
  std::vector<Connection> connections_;
  std::map<std::pair<Rank, Rank>, double> latencies_;  // of the routes
  int payload_ = 0;
  double end_ = 0;
};

// SimGrid has one engine per process: every run has a process of its own.
double by_simgrid(const Plan& plan, const Topology& topology, uint64_t bytes, double gamma) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    try {
      const double seconds = SimGridWorld(plan, topology, bytes, gamma).run();
      _exit(write(ends[1], &seconds, sizeof seconds) == sizeof seconds ? 0 : 1);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "SimGrid: %s\n", e.what());
      _exit(1);
    }
  }
  close(ends[1]);
  double seconds = -1;
  if (read(ends[0], &seconds, sizeof seconds) != sizeof seconds) seconds = -1;
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? seconds : -1;
}

constexpr double k_tolerance = 0.01;

struct Case {
  const char* cluster;
  Collective collective;
  const char* algorithm;
  uint64_t bytes;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << fmt::format("{} {}, {} B on {}", c.algorithm, name(c.collective), c.bytes, c.cluster);
}

class CrossCheck : public testing::TestWithParam<Case> {};

TEST_P(CrossCheck, WithinTolerance) {
  const Case& c = GetParam();
  const Result<Topology> topology = make_cluster(c.cluster);
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  PlanRequest q{c.collective, topology->ranks(), 0, false, 0, {}};
  if (std::string_view(c.algorithm).starts_with("hierarchical")) q.hierarchy = {topology->groups()};
  const Result<PlanPtr> plan = make_plan(c.algorithm, q);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  Profile profile;
  profile.gamma = 1e-11;
  profile.serial_lanes = false;
  profile.credits = 1 << 20;
  SimOptions options;
  options.segments = {{0, c.bytes}};
  const Result<SimReport> ours = simulate(**plan, *topology, profile, options);
  ASSERT_TRUE(ours.ok()) << ours.status().message();
  const double theirs = by_simgrid(**plan, *topology, c.bytes, profile.gamma);
  ASSERT_GT(theirs, 0) << "SimGrid did not finish";
  const double error = ours->seconds / theirs - 1;
  std::printf("%5u ranks %-30s %-10s %10lu B  tutti %.6f ms  SimGrid %.6f ms  %+.2f %%\n",
              topology->ranks(), c.algorithm, std::string(name(c.collective)).c_str(),
              static_cast<unsigned long>(c.bytes), ours->seconds * 1e3, theirs * 1e3, error * 100);
  EXPECT_LE(std::abs(error), k_tolerance);
}

constexpr char k_shared_nic[] = "node:4{bw=100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}";
constexpr char k_rails[] = "node:8{nics=4x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}";
constexpr char k_oversubscribed[] =
    "rack:4{over=4,lat=3us} node:4{bw=100Gb/s,lat=2us} gpu:4{bw=24GB/s,lat=1us}";
constexpr char k_large[] =
    "rack:8{bw=400Gb/s,lat=3us} node:16{nics=8x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}";

INSTANTIATE_TEST_SUITE_P(
    Plans, CrossCheck,
    testing::Values(Case{k_shared_nic, Collective::all_reduce, "ring", 8 << 20},
                    Case{k_shared_nic, Collective::all_reduce, "halving_doubling", 8 << 20},
                    Case{k_shared_nic, Collective::all_reduce, "hierarchical_scatter", 8 << 20},
                    Case{k_shared_nic, Collective::all_reduce, "direct_two_shot", 8 << 20},
                    Case{k_rails, Collective::all_reduce, "hierarchical_scatter", 32 << 20},
                    Case{k_rails, Collective::all_reduce, "halving_doubling", 1 << 20},
                    Case{k_rails, Collective::all_to_all, "pairwise", 1 << 18},
                    Case{k_oversubscribed, Collective::all_reduce, "ring", 16 << 20},
                    Case{k_oversubscribed, Collective::all_reduce, "halving_doubling", 16 << 20},
                    Case{k_oversubscribed, Collective::all_to_all, "direct", 1 << 18},
                    Case{k_oversubscribed, Collective::all_gather, "bruck", 1 << 16},
                    Case{k_large, Collective::all_reduce, "halving_doubling", 64 << 20}),
    [](const testing::TestParamInfo<Case>& one) {
      return fmt::format("{}_{}_{}", one.index, name(one.param.collective), one.param.algorithm);
    });

}  // namespace
}  // namespace tutti
