// The fake driver as a shared library of the real one's name: what dlopen("libcuda.so.1") finds in
// tests of the whole library. Every symbol jumps through the fake's table.
#include <cstdlib>

#include "tests/cuda/fake_cuda.h"

namespace {

tutti::cuda::FakeCuda& fake() {
  static auto* instance = [] {
    auto* made = new tutti::cuda::FakeCuda(8);  // threads may outlive static destructors
    made->shared_memory = true;
    if (const char* path = std::getenv("FAKE_CUDA_TIME_SLICES")) made->time_slices = path;
    return made;
  }();
  return *instance;
}

}  // namespace

#define SLOT(member, symbol, arguments)                          \
  extern "C" {                                                   \
  decltype(tutti::cuda::Driver::member) slot_##symbol = nullptr; \
  }
TUTTI_CUDA_FUNCTIONS(SLOT)
#undef SLOT
#if defined(__x86_64__)
#define JUMP(member, symbol, arguments)                                   \
  asm(".text\n.globl " #symbol "\n.type " #symbol ", @function\n" #symbol \
      ":\n  jmp *slot_" #symbol "(%rip)\n");
#elif defined(__aarch64__)
#define JUMP(member, symbol, arguments)                                   \
  asm(".text\n.globl " #symbol "\n.type " #symbol ", %function\n" #symbol \
      ":\n  adrp x16, slot_" #symbol "\n  ldr x16, [x16, :lo12:slot_" #symbol "]\n  br x16\n");
#endif
TUTTI_CUDA_FUNCTIONS(JUMP)
#undef JUMP

namespace {

[[gnu::constructor]] void fill() {
  const tutti::cuda::Driver& table = *fake().driver();
#define FILL(member, symbol, arguments) slot_##symbol = table.member;
  TUTTI_CUDA_FUNCTIONS(FILL)
#undef FILL
}

}  // namespace

// What tests ask of the fake besides.
extern "C" {
[[gnu::visibility("default")]] void* fake_cuda_allocate(size_t bytes, int device) {
  return fake().allocate(bytes, device);
}
[[gnu::visibility("default")]] void fake_cuda_free(void* memory) { fake().free(memory); }
[[gnu::visibility("default")]] void* fake_cuda_stream(int device) { return fake().stream(device); }
[[gnu::visibility("default")]] void fake_cuda_synchronize(void* stream) {
  fake().synchronize(static_cast<tutti::cuda::Stream>(stream));
}
[[gnu::visibility("default")]] int fake_cuda_calls(const char* function) {
  return fake().calls(function);
}
[[gnu::visibility("default")]] void fake_cuda_fail(const char* function, int code) {
  fake().fail(function, code);
}
}
