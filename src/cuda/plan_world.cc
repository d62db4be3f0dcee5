#include "src/cuda/plan_world.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

namespace tutti::cuda {

Result<std::unique_ptr<Allocation>> Allocation::on_device(Runtime& runtime, Device& device,
                                                          uint64_t bytes) {
  Scope scope(runtime.driver(), device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  DevicePtr memory = 0;
  TUTTI_RETURN_IF_ERROR(
      runtime.driver()
          .check(runtime.driver().memory_alloc(&memory, bytes), "cuMemAlloc")
          .with_context(fmt::format("{} bytes on device {}", bytes, device.ordinal())));
  return std::unique_ptr<Allocation>(
      new Allocation(runtime, device, reinterpret_cast<std::byte*>(memory), false));
}

Result<std::unique_ptr<Allocation>> Allocation::pinned(Runtime& runtime, Device& device,
                                                       uint64_t bytes) {
  Scope scope(runtime.driver(), device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  void* memory = nullptr;
  TUTTI_RETURN_IF_ERROR(runtime.driver().check(
      runtime.driver().host_alloc(&memory, bytes, k_host_portable | k_host_mapped),
      "cuMemHostAlloc"));
  return std::unique_ptr<Allocation>(
      new Allocation(runtime, device, static_cast<std::byte*>(memory), true));
}

Allocation::~Allocation() {
  Scope scope(runtime_.driver(), device_.context());
  if (pinned_) {
    runtime_.driver().host_free(data_);
  } else {
    runtime_.driver().memory_free(address());
  }
}

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
  const Driver& driver = runtime.driver();
  Scope scope(driver, device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  Stream stream = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver.check(driver.stream_create(&stream, k_stream_non_blocking), "cuStreamCreate"));
  Status status = driver.check(driver.memory_set(world->windows_->address(), 0, bytes, stream),
                               "cuMemsetD8Async");
  if (status.ok()) status = driver.check(driver.stream_synchronize(stream), "cuStreamSynchronize");
  driver.stream_destroy(stream);
  TUTTI_RETURN_IF_ERROR(status);
  return world;
}

Result<std::shared_ptr<PlanWorld::Bound>> PlanWorld::bind(const Request& request) {
  const Shape& shape = request.plan->shape();
  if (shape.ranks != shape_.ranks)
    return Status(Code::invalid_argument,
                  fmt::format("a plan of {} ranks for {}", shape.ranks, shape_.ranks));
  auto bound = std::make_shared<Bound>();
  bound->lanes_ = shape.lanes;
  bound->workers_ = request.workers;
  bound->op_ = {request.op == ReduceOp::avg ? shape.ranks : 0, request.op == ReduceOp::max};
  Result<Function> function = device_.function(Kernel::plan, request.dtype, family_of(request.op));
  if (!function) return function.status();
  bound->function_ = *function;
  Result<uint32_t> fit = device_.resident_blocks(*function);
  if (!fit) return fit.status();
  const uint64_t blocks = uint64_t{shape.ranks} * shape.lanes * request.workers;
  if (blocks > *fit)
    return Status(
        Code::unsupported,
        fmt::format("{} ranks x {} lanes x {} workers are {} blocks, device {} runs {} at once",
                    shape.ranks, shape.lanes, request.workers, blocks, device_.ordinal(), *fit));

  BuildRequest build;
  build.plan = request.plan;
  build.count = request.count;
  build.dtype = request.dtype;
  build.wire = request.wire;
  build.workers = request.workers;
  build.window = shape_;
  for (Rank r = 0; r < shape.ranks; ++r)
    build.windows.push_back(windows_->data() + r * shape_.bytes());
  const Layout layout = device_layout(*request.plan, request.count, request.dtype, request.wire,
                                      shape_, request.workers);
  const uint64_t scratch = (layout.scratch_bytes(shape.scratch) + 255) / 256 * 256;
  auto memory = Allocation::on_device(runtime_, device_, scratch * shape.ranks + 256);
  if (!memory) return memory.status();
  bound->scratch_ = std::move(*memory);

  std::vector<uint64_t> begins;
  uint64_t total = 0;
  const auto request_of = [&](Rank r) {
    BuildRequest mine = build;
    mine.rank = r;
    mine.scratch = bound->scratch_->data() + r * scratch;
    mine.control = control(r);
    return mine;
  };
  for (Rank r = 0; r < shape.ranks; ++r) {
    Result<uint64_t> bytes = program_bytes(request_of(r));
    if (!bytes) return bytes.status();
    begins.push_back(total);
    total += (*bytes + 255) / 256 * 256;
  }
  auto programs = Allocation::on_device(runtime_, device_, total);
  if (!programs) return programs.status();
  bound->programs_ = std::move(*programs);
  std::vector<std::byte> bytes(total);
  for (Rank r = 0; r < shape.ranks; ++r) {
    Result<ProgramImage> image =
        build_program(request_of(r), bound->programs_->address() + begins[r]);
    if (!image) return image.status();
    std::memcpy(bytes.data() + begins[r], image->bytes.data(), image->bytes.size());
    bound->program_.push_back(reinterpret_cast<const DeviceProgram*>(bound->programs_->address() +
                                                                     begins[r] + image->program));
  }
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  Stream stream = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver.check(driver.stream_create(&stream, k_stream_non_blocking), "cuStreamCreate"));
  Status status =
      driver.check(driver.copy_to_device(bound->programs_->address(), bytes.data(), total, stream),
                   "cuMemcpyHtoDAsync");
  if (status.ok()) status = driver.check(driver.stream_synchronize(stream), "cuStreamSynchronize");
  driver.stream_destroy(stream);
  TUTTI_RETURN_IF_ERROR(status);
  return bound;
}

Status PlanWorld::launch(const Bound& bound, const std::vector<const void*>& inputs,
                         const std::vector<void*>& outputs, Stream stream, uint32_t ranks) {
  if (inputs.size() != shape_.ranks || outputs.size() != shape_.ranks)
    return Status(Code::invalid_argument, "a buffer for every rank is needed");
  PlanLaunch launch{};
  launch.lanes = bound.lanes_;
  launch.workers = bound.workers_;
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
  const uint32_t blocks = (ranks == 0 ? shape_.ranks : ranks) * bound.lanes_ * bound.workers_;
  return driver.check(driver.launch_cooperative(bound.function_, blocks, 1, 1, k_block_threads, 1,
                                                1, 0, stream, parameters),
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
