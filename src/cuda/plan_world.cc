#include "src/cuda/plan_world.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "src/cuda/shot_launches.h"

namespace tutti::cuda {

Result<std::unique_ptr<PlanWorld>> PlanWorld::make(Runtime& runtime, Device& device,
                                                   const WindowShape& shape) {
  if (shape.ranks > k_max_grid_ranks)
    return Status(Code::unsupported,
                  fmt::format("{} ranks on one device, at most {}", shape.ranks, k_max_grid_ranks));
  std::unique_ptr<PlanWorld> world(new PlanWorld(runtime, device, shape));
  const uint64_t bytes = shape.bytes() * shape.ranks;
  auto windows = Allocation::on_device(runtime, device, bytes);
  if (!windows) return windows.status();
  world->windows_ = std::move(*windows);
  auto controls = Allocation::pinned(runtime, device, sizeof(Control) * shape.ranks);
  if (!controls) return controls.status();
  world->controls_ = std::move(*controls);
  std::memset(world->controls_->data(), 0, sizeof(Control) * shape.ranks);
  TUTTI_RETURN_IF_ERROR(world->windows_->zero(0, bytes));
  return world;
}

Result<std::shared_ptr<PlanWorld::Bound>> PlanWorld::bind(const PlanCall& call) {
  const Shape& shape = call.plan->shape();
  if (shape.ranks != shape_.ranks)
    return Status(Code::invalid_argument,
                  fmt::format("a plan of {} ranks for {}", shape.ranks, shape_.ranks));
  Result<DeviceCut> cut = cut_of(call, shape_);
  if (!cut) return cut.status();
  auto bound = std::make_shared<Bound>();
  bound->lanes_ = shape.lanes;
  bound->cut_ = *cut;
  bound->op_ = operator_of(call);
  Result<Function> function = device_.function(Kernel::plan, call.dtype, family_of(call.op));
  if (!function) return function.status();
  bound->function_ = *function;
  Result<uint32_t> fit = device_.resident_blocks(*function);
  if (!fit) return fit.status();
  const uint64_t blocks = uint64_t{shape.ranks} * shape.lanes * call.workers;
  if (blocks > *fit)
    return Status(
        Code::unsupported,
        fmt::format("{} ranks x {} lanes x {} workers are {} blocks, device {} runs {} at once",
                    shape.ranks, shape.lanes, call.workers, blocks, device_.ordinal(), *fit));
  TUTTI_RETURN_IF_ERROR(place_programs(call.plan, *bound));
  return bound;
}

std::vector<std::byte*> PlanWorld::windows() const {
  std::vector<std::byte*> windows;
  for (Rank r = 0; r < shape_.ranks; ++r) windows.push_back(windows_->data() + r * shape_.bytes());
  return windows;
}

Status PlanWorld::place_programs(const PlanPtr& plan, Bound& bound) {
  const uint32_t ranks = shape_.ranks;
  const uint64_t scratch =
      (bound.cut_.layout.scratch_bytes(plan->shape().scratch) + 255) / 256 * 256;
  auto memory = Allocation::on_device(runtime_, device_, scratch * ranks + 256);
  if (!memory) return memory.status();
  bound.scratch_ = std::move(*memory);

  BuildRequest request;
  request.plan = plan;
  request.window = shape_;
  request.windows = windows();
  const auto request_of = [&](Rank r) -> const BuildRequest& {
    request.rank = r;
    request.scratch = bound.scratch_->data() + r * scratch;
    request.control = control(r);
    return request;
  };
  std::vector<uint64_t> begins;
  uint64_t total = 0;
  for (Rank r = 0; r < ranks; ++r) {
    Result<uint64_t> bytes = program_bytes(request_of(r));
    if (!bytes) return bytes.status();
    begins.push_back(total);
    total += (*bytes + 255) / 256 * 256;
  }
  auto programs = Allocation::on_device(runtime_, device_, total);
  if (!programs) return programs.status();
  bound.programs_ = std::move(*programs);
  std::vector<std::byte> bytes(total);
  for (Rank r = 0; r < ranks; ++r) {
    Result<ProgramImage> image =
        build_program(request_of(r), bound.programs_->address() + begins[r]);
    if (!image) return image.status();
    std::memcpy(bytes.data() + begins[r], image->bytes.data(), image->bytes.size());
    bound.program_.push_back(reinterpret_cast<const DeviceProgram*>(bound.programs_->address() +
                                                                    begins[r] + image->program));
  }
  return bound.programs_->write(0, bytes);
}

Status PlanWorld::launch(const Bound& bound, const std::vector<const void*>& inputs,
                         const std::vector<void*>& outputs, Stream stream, uint32_t ranks) {
  if (inputs.size() != shape_.ranks || outputs.size() != shape_.ranks)
    return Status(Code::invalid_argument, "a buffer for every rank is needed");
  PlanLaunch launch{};
  launch.lanes = bound.lanes_;
  launch.cut = bound.cut_;
  launch.op = bound.op_;
  for (Rank r = 0; r < shape_.ranks; ++r) {
    launch.calls[r].program = bound.program_[r];
    launch.calls[r].buffers.base[0] = static_cast<std::byte*>(const_cast<void*>(inputs[r]));
    launch.calls[r].buffers.base[1] = static_cast<std::byte*>(outputs[r]);
    launch.calls[r].signature = 1;
  }
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  void* parameters[] = {&launch};
  const uint32_t blocks = (ranks == 0 ? shape_.ranks : ranks) * bound.lanes_ * bound.cut_.workers;
  return driver.check(driver.launch_cooperative(bound.function_, blocks, 1, 1, k_block_threads, 1,
                                                1, 0, stream, parameters),
                      "cuLaunchCooperativeKernel");
}

Status PlanWorld::launch_shots(const PlanCall& call, const std::vector<const void*>& inputs,
                               const std::vector<void*>& outputs, Stream stream, uint32_t ranks) {
  const uint32_t all = shape_.ranks;
  if (inputs.size() != all || outputs.size() != all)
    return Status(Code::invalid_argument, "a buffer for every rank is needed");
  Result<Function> function = device_.function(Kernel::shots, call.dtype, family_of(call.op));
  if (!function) return function.status();
  Result<uint32_t> fit = device_.resident_blocks(*function);
  if (!fit) return fit.status();
  Result<DeviceCut> cut = fit_cut(call.plan, call.count, call.dtype, shape_, *fit / all, {});
  if (!cut) return cut.status();
  const std::optional<ShotCut> shots = shot_cut(call.plan, *cut, shape_, *fit / all);
  if (!shots || all > k_shot_ranks)
    return Status(
        Code::unsupported,
        fmt::format("{} of {} {} among {} ranks on device {}: not in shots", call.plan->algorithm(),
                    call.count, name(call.dtype), all, device_.ordinal()));
  ShotLaunch launch = shot_launch(*shots, operator_of(call), shape_, windows());
  for (Rank r = 0; r < all; ++r)
    launch.calls[r] = {static_cast<const std::byte*>(inputs[r]),
                       static_cast<std::byte*>(outputs[r]),
                       1,
                       {},
                       control(r),
                       r};
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  void* parameters[] = {&launch};
  return driver.check(
      driver.launch_cooperative(*function, (ranks == 0 ? all : ranks) * shots->blocks, 1, 1,
                                shots->threads, 1, 1, 0, stream, parameters),
      "cuLaunchCooperativeKernel");
}

void PlanWorld::abort() {
  for (Rank r = 0; r < shape_.ranks; ++r)
    std::atomic_ref<uint64_t>(control(r)->abort).store(1, std::memory_order_release);
}

uint64_t PlanWorld::mismatch(Rank rank) const {
  return std::atomic_ref<uint64_t>(control(rank)->mismatch).load(std::memory_order_acquire);
}

}  // namespace tutti::cuda
