#include "src/nccl/real_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "src/communicator/environment.h"
#include "src/nccl/errors.h"

namespace tutti::nccl {
namespace {

// Every build of this library carries this ELF note, so that none takes another for the real one.
struct Note {
  uint32_t name_bytes = sizeof name, content_bytes = sizeof content, type = 1;
  char name[8] = "tutti";
  uint32_t content = 1;
};
__attribute__((section(".note.tutti"), used, aligned(4))) constexpr Note k_note{};

constexpr uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~3u; }

bool holds_note(std::string_view notes) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr head;
    std::memcpy(&head, notes.data(), sizeof head);
    const size_t whole = sizeof head + size_t{padded(head.n_namesz)} + padded(head.n_descsz);
    if (head.n_namesz > notes.size() || whole > notes.size()) return false;
    const std::string_view name = notes.substr(sizeof head, head.n_namesz);
    if (name == std::string_view(k_note.name, sizeof k_note.name)) return true;
    notes.remove_prefix(whole);
  }
  return false;
}

// Whether the file is a build of tutti; read, not loaded.
bool is_tutti(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr head{};
  if (!file.read(reinterpret_cast<char*>(&head), sizeof head)) return false;
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment{};
    file.seekg(static_cast<std::streamoff>(head.e_phoff + i * sizeof segment));
    if (!file.read(reinterpret_cast<char*>(&segment), sizeof segment)) return false;
    if (segment.p_type != PT_NOTE || segment.p_filesz > (1u << 20)) continue;
    std::string notes(segment.p_filesz, '\0');
    file.seekg(static_cast<std::streamoff>(segment.p_offset));
    if (file.read(notes.data(), static_cast<std::streamsize>(notes.size())) && holds_note(notes))
      return true;
  }
  return false;
}

// Deep binding: its calls of its own functions must not end here, where names are the same.
// (Sanitizers do not allow that.)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int k_load = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int k_load = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

const void* base_of(const void* symbol) {
  Dl_info info;
  return ::dladdr(symbol, &info) != 0 ? info.dli_fbase : nullptr;
}

// Null when what answered is this very library.
void* load_another(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), k_load);
  if (handle == nullptr) return nullptr;
  const void* version = ::dlsym(handle, "ncclGetVersion");
  const void* own = base_of(reinterpret_cast<const void*>(&pncclGetVersion));
  if (version == nullptr || base_of(version) != own) return handle;
  ::dlclose(handle);
  return nullptr;
}

// Where libraries of that name are kept.
std::vector<std::string> usual_paths(const Variables& variables) {
  std::vector<std::string> paths;
  if (const auto found = variables.find("LD_LIBRARY_PATH"); found != variables.end()) {
    std::stringstream list(found->second);
    for (std::string folder; std::getline(list, folder, ':');)
      if (!folder.empty()) paths.push_back(folder + "/libnccl.so.2");
  }
  for (const char* folder : {"/usr/local/cuda/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu",
                             "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib"})
    paths.push_back(std::string(folder) + "/libnccl.so.2");
  return paths;
}

}  // namespace

Result<std::shared_ptr<const RealLibrary>> RealLibrary::load() {
  const Variables variables = read_environment();
  if (const auto named = variables.find("TUTTI_NCCL_REAL");
      named != variables.end() && !named->second.empty())
    return open(named->second);
  std::string searched;
  for (const std::string& path : usual_paths(variables)) {
    if (::access(path.c_str(), R_OK) == 0 && !is_tutti(path)) return open(path);
    searched += (searched.empty() ? "" : ", ") + path;
  }
  return invalid_usage(
      fmt::format("TUTTI_NCCL_FALLBACK: there is no libnccl.so.2 but tutti's among {}; set "
                  "TUTTI_NCCL_REAL to the path of the real one",
                  searched));
}

Result<std::shared_ptr<const RealLibrary>> RealLibrary::open(const std::string& path) {
  auto bad = [&](const std::string& why) {
    return invalid_usage(fmt::format("the real NCCL at {}: {}", path, why));
  };
  if (::access(path.c_str(), R_OK) != 0) return bad(std::strerror(errno));
  if (is_tutti(path)) return bad("that is tutti itself, or another build of it");
  static_cast<void>(::dlerror());
  void* handle = load_another(path);
  if (const char* why = ::dlerror(); handle == nullptr && why != nullptr) return bad(why);
  if (handle == nullptr) {
    // LD_AUDIT leads every request for that name back here, but not one for a descriptor.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) handle = load_another(fmt::format("/proc/self/fd/{}", fd));
    if (fd >= 0) ::close(fd);
  }
  if (handle == nullptr) return bad("a request for it is answered with tutti itself");
  std::shared_ptr<RealLibrary> library(new RealLibrary(path));
  TUTTI_RETURN_IF_ERROR(library->read_functions(handle));
  return std::shared_ptr<const RealLibrary>(std::move(library));
}

Status RealLibrary::read_functions(void* handle) {
  auto read = [&](auto* function, const char* name, bool needed) -> Status {
    *function = reinterpret_cast<std::decay_t<decltype(*function)>>(::dlsym(handle, name));
    return needed && *function == nullptr ? lacks(name) : Status();
  };
#define TUTTI_NCCL_READ(name, needed) \
  TUTTI_RETURN_IF_ERROR(read(&functions_.nccl##name, "nccl" #name, needed));
  TUTTI_NCCL_REAL_FUNCTIONS(TUTTI_NCCL_READ)
#undef TUTTI_NCCL_READ
  return status_of("ncclGetVersion", functions_.ncclGetVersion(&version_));
}

Status RealLibrary::lacks(const std::string& name) const {
  return invalid_usage(fmt::format("the real NCCL at {}{} lacks {}", path_,
                                   version_ > 0 ? fmt::format(" (version {})", version_) : "",
                                   name));
}

Status RealLibrary::status_of(const std::string& function, ncclResult_t result) const {
  const auto code = [&] {
    switch (static_cast<int>(result)) {
      case ncclSuccess:
        return Code::ok;
      case ncclInvalidArgument:
        return Code::invalid_argument;
      case ncclInvalidUsage:
        return Code::invalid_usage;
      case ncclRemoteError:
        return Code::remote_error;
      case ncclInProgress:
        return Code::in_progress;
      case ncclTimeout:
        return Code::timeout;
      case ncclInternalError:
        return Code::internal_error;
      default:
        return Code::system_error;
    }
  }();
  if (code == Code::ok) return {};
  std::string text = fmt::format("the real NCCL at {}: {} returned {} ({})", path_, function,
                                 static_cast<int>(result), functions_.ncclGetErrorString(result));
  const char* why =
      functions_.ncclGetLastError != nullptr ? functions_.ncclGetLastError(nullptr) : nullptr;
  if (why != nullptr && *why != '\0') text += fmt::format(": {}", why);
  return Status(code, text);
}

}  // namespace tutti::nccl
