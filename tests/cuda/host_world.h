// A world of device ranks on the host: windows in plain memory, every worker's threads as threads.
#pragma once

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cuda/dispatch.h"
#include "src/cuda/build.h"
#include "src/cuda/host_block.h"
#include "src/cuda/interpreter.h"
#include "tests/cuda/host_windows.h"

namespace tutti::cuda {

class HostWorld {
 public:
  HostWorld(uint32_t ranks, WindowShape shape)
      : shape_(shape), controls_(ranks), windows_(shape, ranks) {
    shape_.ranks = ranks;
  }

  struct Call : PlanCall {
    uint32_t threads = 1;  // of a block
    std::vector<std::byte*> inputs, outputs;
    std::vector<uint64_t> signatures;  // empty: all alike
    std::vector<Factor> factors;       // of premul_sum, by rank
  };

  Control& control(Rank r) { return controls_[r]; }
  const WindowShape& shape() const { return shape_; }

  // Runs every worker of every lane of every rank to its end.
  Status run(const Call& call) {
    const auto ranks = static_cast<uint32_t>(windows_.all().size());
    Result<DeviceCut> cut = cut_of(call, shape_);
    if (!cut) return cut.status();
    std::vector<std::vector<std::byte>> scratch;
    std::vector<ProgramImage> images;
    std::vector<DeviceCall> calls;
    for (Rank r = 0; r < ranks; ++r) {
      scratch.emplace_back(cut->layout.scratch_bytes(call.plan->shape().scratch), std::byte{0xEE});
      BuildRequest request{call.plan,     r, shape_, windows_.all(), scratch[r].data(),
                           &controls_[r], {}};
      Result<uint64_t> bytes = program_bytes(request);
      if (!bytes) return bytes.status();
      places_.emplace_back(new (std::align_val_t{16}) std::byte[*bytes]);
      Result<ProgramImage> image =
          build_program(request, reinterpret_cast<uint64_t>(places_.back().get()));
      if (!image) return image.status();
      std::memcpy(places_.back().get(), image->bytes.data(), image->bytes.size());
      DeviceCall c;
      c.program = reinterpret_cast<const DeviceProgram*>(places_.back().get() + image->program);
      c.buffers.base[0] = call.inputs[r];
      c.buffers.base[1] = call.outputs[r];
      c.signature = call.signatures.empty() ? 1 : call.signatures[r];
      if (!call.factors.empty()) c.factor = call.factors[r];
      calls.push_back(c);
    }
    launch(call, *cut, calls);
    places_.clear();
    return {};
  }

 private:
  void launch(const Call& call, const DeviceCut& cut, const std::vector<DeviceCall>& calls) {
    const Operator op = operator_of(call);
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<HostBarrier>> barriers;
    std::vector<std::unique_ptr<BlockState>> states;
    for (const DeviceCall& c : calls)
      for (uint32_t lane = 0; lane < c.program->lanes; ++lane)
        for (uint32_t worker = 0; worker < call.workers; ++worker) {
          if (c.program->lane[lane].action_count == 0) continue;
          barriers.push_back(std::make_unique<HostBarrier>(call.threads));
          states.push_back(std::make_unique<BlockState>());
          for (uint32_t t = 0; t < call.threads; ++t)
            threads.emplace_back([&call, &cut, &c, op, lane, worker, t,
                                  barrier = barriers.back().get(), state = states.back().get()] {
              dispatch(call.dtype, family_of(call.op), [&]<DType kType, Family kFamily>() {
                Worker<kType, kFamily, HostMemory, HostBlock>(cut, c, op, lane, worker, *state,
                                                              HostBlock(*barrier, t))
                    .run(PlanRange{});
              });
            });
        }
    for (std::thread& t : threads) t.join();
  }

  struct FreeSmall {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{16}); }
  };
  WindowShape shape_;
  std::vector<Control> controls_;
  HostWindows windows_;
  std::vector<std::unique_ptr<std::byte, FreeSmall>> places_;
};

}  // namespace tutti::cuda
