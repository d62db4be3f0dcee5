// LD_AUDIT library: whoever asks for libnccl.so.2, by name or by path, gets the one beside this
// file.
//
// Frameworks load NCCL from their own folders, by DT_RPATH or by absolute path, where neither
// LD_LIBRARY_PATH nor always LD_PRELOAD reaches. The dynamic linker asks an auditor about every
// library first. It runs in a namespace of its own: C only, no C++ library, no allocation.
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <unistd.h>

namespace {

char g_replacement[4096];  // "" when there is none

bool is_nccl(const char* name) {
  const char* slash = strrchr(name, '/');
  const char* base = slash != nullptr ? slash + 1 : name;
  return strcmp(base, "libnccl.so.2") == 0 || strcmp(base, "libnccl.so") == 0;
}

void find_replacement() {
  static const char k_name[] = "libnccl.so.2";
  Dl_info own;
  if (dladdr(reinterpret_cast<void*>(&find_replacement), &own) == 0 || own.dli_fname == nullptr)
    return;
  const char* slash = strrchr(own.dli_fname, '/');
  const size_t folder = slash != nullptr ? static_cast<size_t>(slash - own.dli_fname) + 1 : 0;
  if (folder + sizeof k_name > sizeof g_replacement) return;
  memcpy(g_replacement, own.dli_fname, folder);
  memcpy(g_replacement + folder, k_name, sizeof k_name);
  if (access(g_replacement, R_OK) != 0) g_replacement[0] = '\0';
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) unsigned int la_version(unsigned int) {
  find_replacement();
  return LAV_CURRENT;
}

__attribute__((visibility("default"))) char* la_objsearch(const char* name, uintptr_t*,
                                                          unsigned int) {
  if (g_replacement[0] != '\0' && is_nccl(name)) return g_replacement;
  return const_cast<char*>(name);
}
}
