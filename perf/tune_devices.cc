#include "perf/tune_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "perf/statistics.h"
#include "src/algorithms/algorithms.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/plan_world.h"

namespace tutti::perf {
namespace {

using namespace cuda;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A stream of a device whose context is current for as long.
class Side {
 public:
  static Result<std::unique_ptr<Side>> open(Runtime& runtime, int ordinal) {
    Result<Device*> device = runtime.device(ordinal);
    if (!device) return device.status();
    std::unique_ptr<Side> side(new Side(runtime, **device));
    Scope scope(side->driver_, (*device)->context());
    TUTTI_RETURN_IF_ERROR(scope.status());
    TUTTI_RETURN_IF_ERROR(side->driver_.check(
        side->driver_.stream_create(&side->stream_, k_stream_non_blocking), "cuStreamCreate"));
    return side;
  }
  ~Side() {
    if (stream_ == nullptr) return;
    Scope scope(driver_, device_.context());
    driver_.stream_synchronize(stream_);
    driver_.stream_destroy(stream_);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  Device& device() { return device_; }
  Stream stream() const { return stream_; }
  Result<std::byte*> memory(uint64_t bytes) {
    Result<std::unique_ptr<Allocation>> got = Allocation::on_device(runtime_, device_, bytes);
    if (!got) return got.status();
    // Numbers of any kind: no reduction meets what is not one.
    TUTTI_RETURN_IF_ERROR((*got)->zero(0, bytes));
    memory_.push_back(std::move(*got));
    return memory_.back()->data();
  }
  // Errors: device_error; timeout: what was launched does not end.
  Status wait(double patience) {
    const Clock::time_point start = Clock::now();
    for (;;) {
      const int code = driver_.stream_query(stream_);
      if (code != k_not_ready) return driver_.check(code, "cuStreamQuery");
      if (since(start) > patience)
        return {Code::timeout, fmt::format("device {}: no end of what was launched in {} s",
                                           device_.ordinal(), patience)};
      std::this_thread::yield();
    }
  }

 private:
  Side(Runtime& runtime, Device& device)
      : runtime_(runtime), driver_(runtime.driver()), device_(device) {}
  Runtime& runtime_;
  const Driver& driver_;
  Device& device_;
  Stream stream_ = nullptr;
  std::vector<std::unique_ptr<Allocation>> memory_;
};

// Two ranks pass one chunk to and fro: messages that each wait for the one before.
PlanPtr chain(uint32_t messages) {
  Shape shape;
  shape.ranks = 2;
  TablePlan::Table table(2, std::vector<std::vector<Step>>(1));
  for (uint32_t i = 0; i < messages; ++i) {
    const uint32_t from = i % 2, to = 1 - from;
    Step send{Op::send}, recv{Op::recv, Buffer::output};
    send.src_buffer = i == 0 ? Buffer::input : Buffer::output;
    send.count = recv.count = 1;
    send.peer = to;
    recv.peer = from;
    table[from][0].push_back(send);
    table[to][0].push_back(recv);
  }
  return std::make_shared<TablePlan>(fmt::format("chain of {}", messages), shape, std::move(table));
}
constexpr uint64_t k_chain_count = 2;  // float32 in a message of chains

class Prober {
 public:
  Prober(Runtime& runtime, const DeviceProbe& probe) : runtime_(runtime), probe_(probe) {}

  DeviceFindings run() {
    if (runtime_.devices() == 0) {
      left_out("prices of devices", Status(Code::device_error, "there is no device"));
      return std::move(found_);
    }
    const Result<Device*> first = runtime_.device(0);
    if (!first) {
      left_out("prices of devices", first.status());
      return std::move(found_);
    }
    found_.cost.name = (*first)->name();
    left_out("bytes copied and reduced", bytes());
    double packet = 0, slot = 0;  // of a message of a chain on one device
    left_out("a launch and flags", flags(&packet, &slot));
    left_out("what lies between two devices", between(packet, slot));
    if (!found_.cost.measured()) found_.cost.name.clear();
    return std::move(found_);
  }

 private:
  void left_out(const char* what, const Status& status) {
    if (!status.ok()) found_.left_out.push_back(fmt::format("{}: {}", what, status.message()));
  }

  // Median seconds of one `launch` among several; `wait`: until all of them have ended.
  Result<double> seconds(uint32_t launches, const std::function<Status()>& launch,
                         const std::function<Status()>& wait) {
    TUTTI_RETURN_IF_ERROR(launch());  // loads what is loaded at first use
    TUTTI_RETURN_IF_ERROR(wait());
    std::vector<double> all;
    for (uint32_t r = 0; r < probe_.repetitions; ++r) {
      const Clock::time_point start = Clock::now();
      for (uint32_t l = 0; l < launches; ++l) TUTTI_RETURN_IF_ERROR(launch());
      TUTTI_RETURN_IF_ERROR(wait());
      all.push_back(since(start) / launches);
    }
    return median(all);
  }
  // Seconds that each of `more` adds.
  static Result<double> each(double less, double greater, double more, const char* what) {
    if (greater > less) return (greater - less) / more;
    return Status(Code::device_error,
                  fmt::format("{} took {:.3g} s, not more than {:.3g} s without: this machine is "
                              "too busy to measure",
                              what, greater, less));
  }

  // --- one device

  Status bytes() {
    constexpr uint32_t k_most_sources = 4;
    auto side = Side::open(runtime_, 0);
    if (!side) return side.status();
    GroupCall call;
    call.collective = Collective::reduce;
    call.dtype = DType::float32;
    std::vector<const void*> sources;
    for (uint32_t i = 0; i < k_most_sources; ++i) {
      Result<std::byte*> memory = (*side)->memory(probe_.large);
      if (!memory) return memory.status();
      sources.push_back(*memory);
    }
    Result<std::byte*> out = (*side)->memory(probe_.large);
    if (!out) return out.status();
    // Seconds of a byte of a pass over so many sources.
    const auto pass = [&](uint32_t sources_of_pass) -> Result<double> {
      call.ranks.clear();
      for (uint32_t i = 0; i < sources_of_pass; ++i)
        call.ranks.push_back(
            {0, (*side)->stream(), sources[i], i == 0 ? static_cast<void*>(*out) : nullptr});
      double took[2] = {};
      for (const bool large : {false, true}) {
        call.count = (large ? probe_.large : probe_.small) / size_of(call.dtype);
        Result<double> s = seconds(
            probe_.launches,
            [&] {
              return launch_group(runtime_, call, {0, ~size_t{0}});
            },
            [&] { return (*side)->wait(probe_.patience); });
        if (!s) return s;
        took[large] = *s;
      }
      return each(took[0], took[1], static_cast<double>(probe_.large - probe_.small),
                  "a pass over more bytes");
    };
    Result<double> copy = pass(1);
    if (!copy) return copy.status();
    found_.cost.copy = *copy;
    Result<double> two = pass(2), four = pass(k_most_sources);
    if (!two || !four) return two ? four.status() : two.status();
    // Of each operand beyond the rank's own, as collectives of two and of several ranks have them.
    found_.cost.reduce = (*two + *four / (k_most_sources - 1)) / 2;
    return {};
  }

  Status flags(double* packet, double* slot) {
    auto side = Side::open(runtime_, 0);
    if (!side) return side.status();
    auto world = PlanWorld::make(runtime_, (*side)->device(), {2, 1, 1, 4, 256, 256});
    if (!world) return world.status();
    std::vector<const void*> in;
    std::vector<void*> out;
    for (int i = 0; i < 4; ++i) {
      Result<std::byte*> memory = (*side)->memory(256);
      if (!memory) return memory.status();
      if (i < 2) in.push_back(*memory);
      if (i >= 2) out.push_back(*memory);
    }
    const auto took = [&](uint32_t messages, Wire wire) -> Result<double> {
      auto bound =
          (*world)->bind({chain(messages), k_chain_count, DType::float32, ReduceOp::sum, wire, 1});
      if (!bound) return bound.status();
      Result<double> s = seconds(
          probe_.launches, [&] { return (*world)->launch(**bound, in, out, (*side)->stream()); },
          [&] { return (*side)->wait(probe_.patience); });
      if (!s) {
        (*world)->abort();
        static_cast<void>((*side)->wait(probe_.patience));
      }
      return s;
    };
    for (const Wire wire : {Wire::packets, Wire::slots}) {
      Result<double> few = took(probe_.few, wire), many = took(probe_.many, wire);
      if (!few || !many) return few ? many.status() : few.status();
      Result<double> hop = each(*few, *many, probe_.many - probe_.few, "a longer chain");
      if (!hop) return hop.status();
      // One of its ends sends, the other takes.
      (wire == Wire::packets ? found_.cost.packet : found_.cost.slot) = *hop / 2;
      *(wire == Wire::packets ? packet : slot) = *hop;
    }
    Result<double> one = took(1, Wire::packets);
    if (!one) return one.status();
    Result<double> launch = each(*packet, *one, 1, "a launch");
    if (!launch) return launch.status();
    found_.cost.launch = *launch;
    return {};
  }

  // --- two devices

  // Ranks of this thread, a device each.
  struct Pair {
    std::unique_ptr<Side> side[2];  // outlive the worlds on them
    std::unique_ptr<PeerWorld> world[2];
    std::byte *in[2] = {}, *out[2] = {};
    // Kernels that wait for one that was never launched leave.
    void abort() {
      for (auto& w : world) w->abort();
    }
  };

  Status open(Pair& pair) {
    std::vector<PeerWorld::Member> members;
    for (int r = 0; r < 2; ++r) {
      Result<std::unique_ptr<Side>> side = Side::open(runtime_, r);
      if (!side) return side.status();
      pair.side[r] = std::move(*side);
      Result<std::byte*> in = pair.side[r]->memory(probe_.large),
                         out = pair.side[r]->memory(probe_.large);
      if (!in || !out) return in ? out.status() : in.status();
      pair.in[r] = *in;
      pair.out[r] = *out;
      members.push_back(PeerWorld::describe(runtime_, pair.side[r]->device(), 1, 0));
    }
    if (const std::string why = PeerWorld::obstacle(members); !why.empty())
      return {Code::unsupported, why};
    // The worlds find each other, each in a thread of its own.
    std::barrier meet(2);
    std::vector<std::byte> told[2];
    Status status[2];
    const auto make = [&](uint32_t r) {
      const auto gather = [&](const void* mine, void* all, size_t size) {
        told[r].assign(static_cast<const std::byte*>(mine),
                       static_cast<const std::byte*>(mine) + size);
        meet.arrive_and_wait();
        for (uint32_t from = 0; from < 2; ++from)
          std::memcpy(static_cast<std::byte*>(all) + from * size, told[from].data(), size);
        meet.arrive_and_wait();
        return Status();
      };
      auto made = PeerWorld::make(runtime_, pair.side[r]->device(), r, members,
                                  PeerWorld::default_shape(2), gather);
      status[r] = made.status();
      if (made) pair.world[r] = std::move(*made);
    };
    std::thread other(make, 1);
    make(0);
    other.join();
    return status[0].ok() ? status[1] : status[0];
  }

  Result<double> took(Pair& pair, const PlanPtr& plan, uint64_t count, Wire wire) {
    for (auto& world : pair.world) TUTTI_RETURN_IF_ERROR(world->prepare(plan));
    const auto launch = [&] {
      for (int r = 0; r < 2; ++r) {
        PeerWorld::Call call;
        call.plan = plan;
        call.count = count;
        call.dtype = DType::float32;
        call.input = pair.in[r];
        call.output = pair.out[r];
        call.signature = 1;
        call.wire = wire;
        TUTTI_RETURN_IF_ERROR(pair.world[r]->launch(call, pair.side[r]->stream()));
      }
      return Status();
    };
    const auto wait = [&] {
      for (auto& side : pair.side) TUTTI_RETURN_IF_ERROR(side->wait(probe_.patience));
      return pair.world[0]->error().ok() ? pair.world[1]->error() : pair.world[0]->error();
    };
    Result<double> s = seconds(probe_.launches, launch, wait);
    if (!s) pair.abort();
    return s;
  }

  Status between(double packet, double slot) {
    if (runtime_.devices() < 2) return {Code::unsupported, "there is one device"};
    Pair pair;
    TUTTI_RETURN_IF_ERROR(open(pair));
    PlanRequest request;
    request.collective = Collective::broadcast;
    request.ranks = 2;
    const Result<PlanPtr> plan = make_plan("direct", request);
    if (!plan) return plan.status();
    Result<double> small = took(pair, *plan, probe_.small / 4, Wire::slots);
    if (!small) return small.status();
    Result<double> large = took(pair, *plan, probe_.large / 4, Wire::slots);
    if (!large) return large.status();
    Result<double> byte = each(*small, *large, static_cast<double>(probe_.large - probe_.small),
                               "a message of more bytes");
    if (!byte) return byte.status();
    found_.cost.peer_byte = *byte;
    // What a chain between devices takes beyond one between blocks is the way between them.
    if (packet == 0 || slot == 0)
      return {Code::device_error, "the time of a flag: it was not measured on one device either"};
    std::vector<double> ways;
    for (const Wire wire : {Wire::packets, Wire::slots}) {
      Result<double> few = took(pair, chain(probe_.few), k_chain_count, wire);
      if (!few) return few.status();
      Result<double> many = took(pair, chain(probe_.many), k_chain_count, wire);
      if (!many) return many.status();
      Result<double> hop = each(*few, *many, probe_.many - probe_.few, "a longer chain");
      if (!hop) return hop.status();
      ways.push_back(*hop - (wire == Wire::packets ? packet : slot));
    }
    if (median(ways) <= 0)
      return {Code::device_error, "a flag between devices took no longer than one on a device"};
    found_.cost.peer = median(ways);
    return {};
  }

  Runtime& runtime_;
  const DeviceProbe& probe_;
  DeviceFindings found_;
};

}  // namespace

DeviceFindings measure_devices(Runtime& runtime, const DeviceProbe& probe) {
  return Prober(runtime, probe).run();
}

}  // namespace tutti::perf
