/* Loads NCCL by an absolute path, as frameworks do, and says whose it got. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char** argv) {
  typedef int (*GetVersion)(int*);
  void* library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
  Dl_info info;
  int version = 0;
  GetVersion get = library ? (GetVersion)dlsym(library, "ncclGetVersion") : NULL;
  if (get == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  if (get(&version) != 0 || dladdr((void*)get, &info) == 0) return 2;
  printf("%d %s\n", version, info.dli_fname);
  return dlclose(library);
}
