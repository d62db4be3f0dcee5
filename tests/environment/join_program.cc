// What the launcher tests start: joins as the environment says, tells who it is, N times over.
#include <cstdio>
#include <cstdlib>

#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/environment.h"

namespace {

int fail(const tutti::Status& status) {
  std::printf("error %s\n", status.to_string().c_str());
  return 1;
}

int join_once() {
  using namespace tutti;
  Result<LaunchInfo> info = launch_from_environment();
  if (!info.ok()) return fail(info.status());
  BootstrapOptions options;
  options.rank = info->rank;
  options.ranks = info->ranks;
  options.deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  auto joined = Bootstrap::join(info->id, options);
  if (!joined.ok()) return fail(joined.status());
  auto all = (*joined)->all_gather(std::to_string(info->rank), options.deadline);
  if (!all.ok()) return fail(all.status());
  std::string text = info->launcher + " rank " + std::to_string(info->rank) + " local " +
                     std::to_string(info->local_rank) + "/" + std::to_string(info->local_ranks) +
                     (info->weak_secret ? " weak:" : ":");
  for (const std::string& rank : *all) text += " " + rank;
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  Status met = (*joined)->barrier(options.deadline);
  return met.ok() ? 0 : fail(met);
}

}  // namespace

int main(int argc, char** argv) {
  int times = argc > 1 ? std::atoi(argv[1]) : 1;
  for (int i = 0; i < times; ++i) {
    if (int code = join_once()) return code;
  }
  return 0;
}
