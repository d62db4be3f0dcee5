#include "tests/cuda/fake_cuda.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "kernels/cuda/dispatch.h"
#include "src/cuda/host_block.h"
#include "src/cuda/interpreter.h"
#include "src/cuda/launch.h"

namespace tutti::cuda {

struct FakeFunction {
  Kernel kernel;
  DType dtype;
  Family family;
  std::string name;
};

namespace {

FakeCuda* g_fake = nullptr;
// ThreadSanitizer orders accesses by address: between two mappings of the same memory in one
// process it sees neither flags nor what they order, and takes every message for a race.
#if defined(__SANITIZE_THREAD__)
constexpr bool k_one_mapping = true;
#else
constexpr bool k_one_mapping = false;
#endif
// Device memory shares no page with the host's.
constexpr std::align_val_t k_page{4096};
thread_local std::vector<Context> t_contexts;

// Of the GPUs of topology/machines/dgx-a100.xml.
constexpr int k_buses[] = {0x07, 0x0f, 0x47, 0x4e, 0x87, 0x90, 0xb7, 0xbd};

// What an IPC handle holds.
struct FakeHandle {
  DevicePtr address;
  size_t bytes;
  int process, file;
};
static_assert(sizeof(FakeHandle) <= sizeof(IpcMemHandle));

// Block after block; blocks of a plan wait for each other, so each is a thread.
void run_direct(const FakeFunction& f, const DirectCall& call, unsigned x, unsigned y) {
  dispatch(f.dtype, f.family, [&]<DType kType, Family kFamily>() {
    const uint32_t each = direct_jobs_per_rank(call.collective, call.ranks);
    for (unsigned job = 0; job < y; ++job)
      for (unsigned b = 0; b < x; ++b) {
        DirectState state;
        HostBarrier barrier(1);
        HostBlock block(barrier, 0);
        run_direct_job<kType, kFamily>(call, direct_job(call, call.here[job / each], job % each),
                                       state, block, {b, x});
      }
  });
}

void run_plan(const FakeFunction& f, const PlanLaunch& launch, unsigned blocks) {
  std::vector<std::thread> threads;
  for (unsigned b = 0; b < blocks; ++b)
    threads.emplace_back([&, b] {
      dispatch(f.dtype, f.family, [&]<DType kType, Family kFamily>() {
        BlockState state;
        HostBarrier barrier(1);
        const uint32_t worker = b % launch.cut.workers, lane_of = b / launch.cut.workers;
        Worker<kType, kFamily, HostMemory, HostBlock>(
            launch.cut, launch.calls[lane_of / launch.lanes], launch.op, lane_of % launch.lanes,
            worker, state, HostBlock(barrier, 0))
            .run(launch.range);
      });
    });
  for (std::thread& t : threads) t.join();
}

// A device's time while it runs a grid, see FakeCuda::time_slices.
class TimeSlice {
 public:
  TimeSlice(const std::string& path, int device) {
    if (path.empty()) return;
    file_ = ::open((path + std::to_string(device)).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ::flock(file_, LOCK_EX);
  }
  ~TimeSlice() {
    if (file_ >= 0) ::close(file_);
  }
  TimeSlice(const TimeSlice&) = delete;
  TimeSlice& operator=(const TimeSlice&) = delete;

 private:
  int file_ = -1;
};

}  // namespace

// The functions of the table.
struct FakeApi {
  using Fake = FakeCuda;
  static Fake& fake() { return *g_fake; }
#define ENTER(name) \
  if (const int code = fake().enter(name); code != 0) return code

  static int init(unsigned) {
    ENTER("cuInit");
    return 0;
  }
  static int driver_version(int* v) {
    *v = fake().version;
    return 0;
  }
  static int error_name(int code, const char** name) {
    *name = code == k_out_of_memory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
    return 0;
  }
  static int error_string(int, const char** text) {
    *text = "as the test asked";
    return 0;
  }
  static int device_count(int* n) {
    *n = static_cast<int>(fake().contexts_.size());
    return 0;
  }
  static int device_get(int* device, int ordinal) {
    *device = ordinal;
    return 0;
  }
  static int device_attribute(int* value, int attribute, int device) {
    *value = attribute == k_multiprocessors    ? fake().multiprocessors
             : attribute == k_pci_bus          ? k_buses[device % 8]
             : attribute == k_pci_device       ? 0
             : attribute == k_pci_domain       ? 0
             : attribute == k_capability_major ? fake().capability / 10
             : attribute == k_capability_minor ? fake().capability % 10
                                               : 1;
    return 0;
  }
  static int device_name(char* text, int bytes, int) {
    std::strncpy(text, "Fake GPU", static_cast<size_t>(bytes));
    return 0;
  }
  static int device_uuid(DeviceUuid* uuid, int device) {
    std::memset(uuid, device + 1, sizeof *uuid);
    return 0;
  }
  static int device_can_access_peer(int* can, int, int) {
    *can = fake().peers_reach ? 1 : 0;
    return 0;
  }
  static int primary_retain(Context* context, int device) {
    ENTER("cuDevicePrimaryCtxRetain");
    *context = reinterpret_cast<Context>(fake().contexts_[static_cast<size_t>(device)].get());
    return 0;
  }
  static int primary_release(int) { return 0; }
  static int context_push(Context context) {
    t_contexts.push_back(context);
    return 0;
  }
  static int context_pop(Context* context) {
    if (t_contexts.empty()) return k_invalid_context;
    *context = t_contexts.back();
    t_contexts.pop_back();
    return 0;
  }
  static int context_current(Context* context) {
    *context = t_contexts.empty() ? nullptr : t_contexts.back();
    return 0;
  }
  static int context_device(int* device) {
    if (t_contexts.empty()) return k_invalid_context;
    *device = reinterpret_cast<ContextHandle*>(t_contexts.back())->device;
    return 0;
  }
  static int enable_peer_access(Context, unsigned) { return 0; }
  static int stream_create(Stream* out, unsigned) {
    ENTER("cuStreamCreate");
    int device = 0;
    context_device(&device);
    *out = fake().stream(device);
    return 0;
  }
  static int stream_destroy(Stream) { return 0; }
  static int stream_synchronize(Stream s) {
    fake().synchronize(s);
    return 0;
  }
  static int stream_query(Stream s) {
    ENTER("cuStreamQuery");
    std::lock_guard lock(fake().mutex_);
    auto* stream = fake().of(s);
    return stream->queue.empty() && !stream->running ? k_success : k_not_ready;
  }
  static int stream_context(Stream s, Context* context) {
    ENTER("cuStreamGetCtx");
    std::lock_guard lock(fake().mutex_);
    *context = reinterpret_cast<Context>(
        fake().contexts_[static_cast<size_t>(fake().of(s)->device)].get());
    return 0;
  }
  static int stream_is_capturing(Stream s, int* state) {
    ENTER("cuStreamIsCapturing");
    std::lock_guard lock(fake().mutex_);
    *state = fake().of(s)->capture != nullptr ? k_capture_active : k_capture_none;
    return 0;
  }
  static int stream_memory_ops(Stream s, unsigned n, StreamMemOp* ops, unsigned) {
    ENTER("cuStreamBatchMemOp");
    std::vector<StreamMemOp> copy(ops, ops + n);
    fake().enqueue(s, [copy] {
      for (const StreamMemOp& op : copy) {
        std::atomic_ref<uint32_t> word(*reinterpret_cast<uint32_t*>(op.address));
        if (op.operation == k_write_value_32) {
          word.store(static_cast<uint32_t>(op.value));
        } else {
          const auto passes = [&] {
            const uint32_t difference = word.load() - static_cast<uint32_t>(op.value);
            return op.flags == k_wait_equal ? difference == 0
                                            : static_cast<int32_t>(difference) >= 0;
          };
          while (!passes()) HostMemory::pause();
        }
      }
    });
    return 0;
  }
  static int stream_begin_capture(Stream s, int) {
    std::lock_guard lock(fake().mutex_);
    auto* stream = fake().of(s);
    stream->capture = new Fake::FakeGraph;
    stream->origin = true;
    return 0;
  }
  static int stream_end_capture(Stream s, Graph* graph) {
    std::lock_guard lock(fake().mutex_);
    Fake::FakeGraph* mine = fake().of(s)->capture;
    for (auto& stream : fake().streams_)
      if (stream->capture == mine) stream->capture = nullptr;
    *graph = reinterpret_cast<Graph>(mine);
    return 0;
  }
  static int exchange_capture_mode(int*) { return 0; }
  static int graph_instantiate(GraphExec* exec, Graph graph, unsigned long long) {
    *exec = reinterpret_cast<GraphExec>(
        new Fake::FakeGraph(*reinterpret_cast<Fake::FakeGraph*>(graph)));
    return 0;
  }
  static int graph_launch(GraphExec exec, Stream s) {
    auto* graph = reinterpret_cast<Fake::FakeGraph*>(exec);
    fake().enqueue(s, [work = graph->work] {
      for (const auto& w : work) w();
    });
    return 0;
  }
  static int graph_exec_destroy(GraphExec exec) {
    delete reinterpret_cast<Fake::FakeGraph*>(exec);
    return 0;
  }
  static int graph_destroy(Graph graph) {
    delete reinterpret_cast<Fake::FakeGraph*>(graph);
    return 0;
  }
  // Work that is enqueued keeps its events, destroyed or not.
  using EventHolder = std::shared_ptr<Fake::FakeEvent>;
  static EventHolder& held(Event event) { return *reinterpret_cast<EventHolder*>(event); }
  static int event_create(Event* event, unsigned) {
    ENTER("cuEventCreate");
    *event = reinterpret_cast<Event>(new EventHolder(std::make_shared<Fake::FakeEvent>()));
    return 0;
  }
  static int event_destroy(Event event) {
    delete reinterpret_cast<EventHolder*>(event);
    return 0;
  }
  static int event_record(Event e, Stream s) {
    ENTER("cuEventRecord");
    const EventHolder event = held(e);
    uint64_t mine = 0;
    {
      std::lock_guard lock(fake().mutex_);
      event->captured_in = fake().of(s)->capture;
      if (event->captured_in != nullptr) return 0;  // order within a graph is that of capture
      mine = ++event->recorded;
    }
    fake().enqueue(s, [event, mine] {
      std::lock_guard lock(fake().mutex_);
      event->reached = std::max(event->reached, mine);
      fake().changed_.notify_all();
    });
    return 0;
  }
  static int stream_wait_event(Stream s, Event e, unsigned) {
    ENTER("cuStreamWaitEvent");
    const EventHolder event = held(e);
    uint64_t wanted = 0;
    {
      std::lock_guard lock(fake().mutex_);
      if (event->captured_in != nullptr) {  // the stream joins the capture
        fake().of(s)->capture = event->captured_in;
        return 0;
      }
      wanted = event->recorded;
    }
    fake().enqueue(s, [event, wanted] {
      std::unique_lock lock(fake().mutex_);
      fake().changed_.wait(lock, [&] { return event->reached >= wanted; });
    });
    return 0;
  }
  static int event_query(Event e) {
    std::lock_guard lock(fake().mutex_);
    const EventHolder event = held(e);
    return event->reached == event->recorded ? k_success : k_not_ready;
  }
  static int event_synchronize(Event e) {
    const EventHolder event = held(e);
    std::unique_lock lock(fake().mutex_);
    fake().changed_.wait(lock, [&] { return event->reached == event->recorded; });
    return 0;
  }
  static int event_elapsed(float* ms, Event, Event) {
    *ms = 1;
    return 0;
  }
  static int memory_alloc(DevicePtr* p, size_t bytes) {
    ENTER("cuMemAlloc");
    int device = 0;
    if (const int code = context_device(&device); code != 0) return code;
    *p = reinterpret_cast<DevicePtr>(fake().allocate(bytes, device));
    return 0;
  }
  static int memory_free(DevicePtr p) {
    fake().free(reinterpret_cast<void*>(p));
    return 0;
  }
  static int memory_range(DevicePtr* begin, size_t* bytes, DevicePtr p) {
    std::lock_guard lock(fake().mutex_);
    const Fake::Allocated* m = fake().find(p, begin);
    if (m == nullptr) return k_invalid_value;
    *bytes = m->bytes;
    return 0;
  }
  static int host_alloc(void** p, size_t bytes, unsigned) {
    ENTER("cuMemHostAlloc");
    *p = fake().allocate(bytes, -1);
    return 0;
  }
  static int host_free(void* p) {
    fake().free(p);
    return 0;
  }
  static int host_register(void* p, size_t bytes, unsigned) {
    ENTER("cuMemHostRegister");
    fake().count(fake().registered);
    std::lock_guard lock(fake().mutex_);
    fake().registered_ranges_[reinterpret_cast<uint64_t>(p)] = bytes;
    return 0;
  }
  static int host_unregister(void* p) {
    std::lock_guard lock(fake().mutex_);
    --fake().registered;
    fake().registered_ranges_.erase(reinterpret_cast<uint64_t>(p));
    fake().frees_.fetch_add(1, std::memory_order_relaxed);
    return 0;
  }
  static int host_device_pointer(DevicePtr* out, void* p, unsigned) {
    *out = reinterpret_cast<DevicePtr>(p);
    return 0;
  }
  static int copy_any(Stream s, void* to, const void* from, size_t bytes) {
    fake().enqueue(s, [=] { std::memcpy(to, from, bytes); });
    return 0;
  }
  static int copy(DevicePtr to, DevicePtr from, size_t bytes, Stream s) {
    ENTER("cuMemcpyAsync");
    fake().count(fake().engine_copies);
    return copy_any(s, reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  }
  static int copy_to_device(DevicePtr to, const void* from, size_t bytes, Stream s) {
    ENTER("cuMemcpyHtoDAsync");
    return copy_any(s, reinterpret_cast<void*>(to), from, bytes);
  }
  static int copy_to_host(void* to, DevicePtr from, size_t bytes, Stream s) {
    ENTER("cuMemcpyDtoHAsync");
    return copy_any(s, to, reinterpret_cast<const void*>(from), bytes);
  }
  static int memory_set(DevicePtr to, unsigned char value, size_t bytes, Stream s) {
    fake().enqueue(s, [=] { std::memset(reinterpret_cast<void*>(to), value, bytes); });
    return 0;
  }
  static int pointer_attributes(unsigned n, int* attributes, void** data, DevicePtr p) {
    std::lock_guard lock(fake().mutex_);
    uint64_t begin = 0;
    const Fake::Allocated* m = fake().find(p, &begin);
    for (unsigned i = 0; i < n; ++i) {
      switch (attributes[i]) {
        case k_attribute_memory_type:
          *static_cast<uint32_t*>(data[i]) = m == nullptr    ? 0
                                             : m->device < 0 ? k_memory_type_host
                                                             : k_memory_type_device;
          break;
        case k_attribute_is_managed:
          *static_cast<uint32_t*>(data[i]) = 0;
          break;
        case k_attribute_device:
          *static_cast<int*>(data[i]) = m == nullptr ? -2 : m->device;
          break;
        case k_attribute_range_start:
          *static_cast<DevicePtr*>(data[i]) = begin;
          break;
        case k_attribute_range_size:
          *static_cast<size_t*>(data[i]) = m == nullptr ? 0 : m->bytes;
          break;
        default:
          return k_invalid_value;
      }
    }
    return 0;
  }
  static int ipc_get(IpcMemHandle* handle, DevicePtr p) {
    ENTER("cuIpcGetMemHandle");
    std::lock_guard lock(fake().mutex_);
    uint64_t begin = 0;
    const Fake::Allocated* m = fake().find(p, &begin);
    if (m == nullptr || m->device < 0 || !m->own) return k_invalid_value;
    const FakeHandle content{p, m->bytes, ::getpid(), m->file};
    std::memset(handle, 0, sizeof *handle);
    std::memcpy(handle, &content, sizeof content);
    return 0;
  }
  static int ipc_open(DevicePtr* p, IpcMemHandle handle, unsigned) {
    ENTER("cuIpcOpenMemHandle");
    FakeHandle content{};
    std::memcpy(&content, &handle, sizeof content);
    if (content.file < 0) return k_invalid_value;
    if (k_one_mapping && content.process == ::getpid()) {
      *p = content.address;
      std::lock_guard lock(fake().mutex_);
      ++fake().mappings;
      return 0;
    }
    const std::string path =
        "/proc/" + std::to_string(content.process) + "/fd/" + std::to_string(content.file);
    const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) return k_invalid_value;
    std::byte* memory = fake().map(file, content.bytes);
    if (memory == nullptr) return k_out_of_memory;
    int device = 0;
    context_device(&device);
    *p = reinterpret_cast<DevicePtr>(memory);
    std::lock_guard lock(fake().mutex_);
    fake().memory_[*p] = {content.bytes, device, file, false};
    ++fake().mappings;
    return 0;
  }
  static int ipc_close(DevicePtr p) {
    bool own = false;  // not a mapping of its own
    {
      std::lock_guard lock(fake().mutex_);
      --fake().mappings;
      const auto found = fake().memory_.find(p);
      own = found == fake().memory_.end() || found->second.own;
    }
    if (!own) fake().free(reinterpret_cast<void*>(p));
    return 0;
  }
  static int module_load(Module* module, const void* image, unsigned, int*, void**) {
    ENTER("cuModuleLoadDataEx");
    *module = reinterpret_cast<Module>(const_cast<void*>(image));
    return 0;
  }
  static int module_unload(Module) { return 0; }
  static int module_function(Function* function, Module, const char* name) {
    ENTER("cuModuleGetFunction");
    const std::string text = name;
    FakeFunction f{text.rfind("tutti_plan_", 0) == 0    ? Kernel::plan
                   : text.rfind("tutti_shots_", 0) == 0 ? Kernel::shots
                                                        : Kernel::direct,
                   DType::int8, Family::sum, text};
    if (text == "tutti_transfers") f.kernel = Kernel::transfers;
    const size_t family = text.find('_', 6) + 1, dtype = text.find('_', family) + 1;
    for (Family one : {Family::sum, Family::prod, Family::extremum})
      if (text.compare(family, dtype - 1 - family, cuda::name(one)) == 0) f.family = one;
    const auto parsed =
        f.kernel == Kernel::transfers ? DType::int8 : parse_dtype(text.substr(dtype));
    if (!parsed) return k_invalid_value;
    f.dtype = *parsed;
    static std::vector<std::unique_ptr<FakeFunction>> functions;
    std::lock_guard lock(fake().mutex_);
    functions.push_back(std::make_unique<FakeFunction>(f));
    *function = reinterpret_cast<Function>(functions.back().get());
    return 0;
  }
  static int occupancy(int* blocks, Function, int, size_t) {
    *blocks = fake().blocks_per_multiprocessor;
    return 0;
  }
  static int launch(Function f, unsigned x, unsigned y, unsigned, unsigned threads, unsigned,
                    unsigned, unsigned, Stream s, void** parameters, void**) {
    ENTER("cuLaunchKernel");
    fake().count(fake().kernels, x * y);
    fake().start_grid(s, *reinterpret_cast<FakeFunction*>(f), parameters[0],
                      {x, y, threads, false});
    return 0;
  }
  static int launch_cooperative(Function f, unsigned x, unsigned, unsigned, unsigned threads,
                                unsigned, unsigned, unsigned, Stream s, void** parameters) {
    ENTER("cuLaunchCooperativeKernel");
    if (static_cast<int>(x) > fake().multiprocessors * fake().blocks_per_multiprocessor)
      return k_too_large;
    fake().count(fake().cooperative, x);
    fake().start_grid(s, *reinterpret_cast<FakeFunction*>(f), parameters[0], {x, 1, threads, true});
    return 0;
  }
  static int launch_host(Stream s, HostFunction function, void* data) {
    ENTER("cuLaunchHostFunc");
    fake().enqueue(s, [=] { function(data); });
    return 0;
  }
#undef ENTER
};

std::shared_ptr<Runtime> FakeCuda::runtime() const {
  Result<std::shared_ptr<Runtime>> made = Runtime::open(driver_);
  return made ? *made : nullptr;
}

FakeCuda::FakeCuda(int devices) : driver_(std::make_shared<Driver>()) {
  g_fake = this;
#define FAKE_MEMBER(member, symbol, arguments) driver_->member = FakeApi::member;
  TUTTI_CUDA_FUNCTIONS(FAKE_MEMBER)
#undef FAKE_MEMBER
  for (int d = 0; d < devices; ++d)
    contexts_.push_back(std::make_unique<ContextHandle>(ContextHandle{d}));
}

FakeCuda::~FakeCuda() {
  {
    std::lock_guard lock(mutex_);
    for (auto& s : streams_) s->ends = true;
    changed_.notify_all();
  }
  for (auto& s : streams_) s->worker.join();
  for (auto& [address, m] : memory_) release(address, m);
  g_fake = nullptr;
}

int FakeCuda::enter(const char* function) {
  std::lock_guard lock(mutex_);
  ++calls_[function];
  auto found = failures_.find(function);
  if (found == failures_.end() || found->second.times == 0) return 0;
  if (found->second.after > 0) {
    --found->second.after;
    return 0;
  }
  --found->second.times;
  return found->second.code;
}

void FakeCuda::fail(const std::string& function, int code, int times, int after) {
  std::lock_guard lock(mutex_);
  failures_[function] = {code, times, after};
}

void FakeCuda::count(int& what, unsigned grid) {
  std::lock_guard lock(mutex_);
  ++what;
  largest_grid = std::max(largest_grid, grid);
}

int FakeCuda::calls(const std::string& function) const {
  std::lock_guard lock(mutex_);
  auto found = calls_.find(function);
  return found == calls_.end() ? 0 : found->second;
}

Stream FakeCuda::stream(int device) {
  std::lock_guard lock(mutex_);
  return reinterpret_cast<Stream>(start(device));
}

// Locked by the caller.
FakeCuda::FakeStream* FakeCuda::start(int device) {
  streams_.push_back(std::make_unique<FakeStream>());
  FakeStream* s = streams_.back().get();
  s->device = device;
  s->worker = std::thread([this, s] { work_loop(s); });
  return s;
}

// A default stream (null, legacy, per thread) is that of the current context's device. Locked by
// the caller.
FakeCuda::FakeStream* FakeCuda::of(Stream stream) {
  if (reinterpret_cast<uintptr_t>(stream) > 2) return reinterpret_cast<FakeStream*>(stream);
  int device = 0;
  FakeApi::context_device(&device);
  FakeStream*& known = default_streams_[device];
  if (known == nullptr) known = start(device);
  return known;
}

int FakeCuda::device_of(Stream stream) {
  std::lock_guard lock(mutex_);
  return of(stream)->device;
}

void FakeCuda::enqueue(Stream stream, Work work) {
  std::lock_guard lock(mutex_);
  FakeStream* s = of(stream);
  if (s->capture != nullptr) {
    s->capture->work.push_back(std::move(work));
    return;
  }
  s->queue.push_back(std::move(work));
  changed_.notify_all();
}

void FakeCuda::start_grid(Stream stream, const FakeFunction& f, const void* arguments,
                          ptx::Grid grid) {
  Work blocks;
  if (f.kernel == Kernel::shots) count(shots);
  if (compiled_ != nullptr) {
    blocks = compiled_->grid(f.name, arguments, grid, *this);
  } else if (f.kernel == Kernel::transfers) {
    blocks = transfer_grid(arguments, grid.x);
  } else if (f.kernel == Kernel::shots) {
    blocks = shot_grid(f.dtype, f.family, arguments, grid.x);
  } else if (f.kernel == Kernel::direct) {
    blocks = [f, grid, call = *static_cast<const DirectCall*>(arguments)] {
      run_direct(f, call, grid.x, grid.y);
    };
  } else {
    blocks = [f, grid, launch = *static_cast<const PlanLaunch*>(arguments)] {
      run_plan(f, launch, grid.x);
    };
  }
  enqueue(stream, [this, blocks = std::move(blocks), device = device_of(stream)] {
    const TimeSlice slice(time_slices, device);
    blocks();
  });
}

void FakeCuda::work_loop(FakeStream* s) {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return s->ends || !s->queue.empty(); });
    if (s->queue.empty()) return;
    Work work = std::move(s->queue.front());
    s->queue.pop_front();
    s->running = true;
    lock.unlock();
    work();
    lock.lock();
    s->running = false;
    changed_.notify_all();
  }
}

void FakeCuda::synchronize(Stream stream) {
  std::unique_lock lock(mutex_);
  FakeStream* s = of(stream);
  changed_.wait(lock, [&] { return s->queue.empty() && !s->running; });
}

std::byte* FakeCuda::allocate(size_t bytes, int device) {
  Allocated record{bytes, device, -1, true};
  std::byte* memory = nullptr;
  if (shared_memory && device >= 0) {
    record.file = ::memfd_create("fake device memory", MFD_CLOEXEC);
    if (record.file < 0 || ::ftruncate(record.file, static_cast<off_t>(bytes + 1)) != 0)
      return nullptr;
    memory = map(record.file, bytes);
  } else {
    memory = static_cast<std::byte*>(::operator new[]((bytes + 4096) / 4096 * 4096, k_page));
  }
  std::lock_guard lock(mutex_);
  memory_[reinterpret_cast<uint64_t>(memory)] = record;
  return memory;
}

std::byte* FakeCuda::map(int file, size_t bytes) {
  void* memory = ::mmap(nullptr, bytes + 1, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

void FakeCuda::release(uint64_t address, const Allocated& memory) {
  if (memory.file < 0) {
    ::operator delete[](reinterpret_cast<std::byte*>(address), k_page);
    return;
  }
  ::munmap(reinterpret_cast<void*>(address), memory.bytes + 1);
  ::close(memory.file);
}

void FakeCuda::free(void* memory) {
  std::lock_guard lock(mutex_);
  const auto found = memory_.find(reinterpret_cast<uint64_t>(memory));
  if (found == memory_.end()) return;
  release(found->first, found->second);
  memory_.erase(found);
  frees_.fetch_add(1, std::memory_order_relaxed);
}

const FakeCuda::Allocated* FakeCuda::find(uint64_t address, uint64_t* begin) const {
  auto after = memory_.upper_bound(address);
  if (after == memory_.begin()) return nullptr;
  --after;
  if (address >= after->first + after->second.bytes) return nullptr;
  *begin = after->first;
  return &after->second;
}

std::optional<ptx::Memory::Range> FakeCuda::find(uint64_t address) const {
  std::lock_guard lock(mutex_);
  uint64_t begin = 0;
  if (const Allocated* m = find(address, &begin); m != nullptr)
    return Range{begin, begin + m->bytes};
  auto after = registered_ranges_.upper_bound(address);
  if (after == registered_ranges_.begin()) return std::nullopt;
  --after;
  if (address >= after->first + after->second) return std::nullopt;
  return Range{after->first, after->first + after->second};
}

}  // namespace tutti::cuda
