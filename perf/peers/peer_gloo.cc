// Gloo (TCP) under tutti's measuring loop. Starts its own ranks with --ranks N, or is one of them
// with
// --rank R as well; they meet in a directory (--store).
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "perf/measure.h"
#include "perf/peers/peer_main.h"

namespace tutti::perf {
namespace {

struct GlooOptions {
  int rank = -1;
  int ranks = 1;
  std::string store;
  std::string algorithm = "ring";
  std::string interface;  // empty: 127.0.0.1
};

class GlooHarness final : public Harness {
 public:
  explicit GlooHarness(const GlooOptions& options) : algorithm_(options.algorithm) {
    gloo::transport::tcp::attr attributes;
    if (options.interface.empty())
      attributes.hostname = "127.0.0.1";
    else
      attributes.iface = options.interface;
    auto device = gloo::transport::tcp::CreateDevice(attributes);
    auto context = std::make_shared<gloo::rendezvous::Context>(options.rank, options.ranks);
    gloo::rendezvous::FileStore store(options.store);
    context->connectFullMesh(store, device);
    context_ = context;
  }
  Rank rank() const override { return static_cast<Rank>(context_->rank); }
  uint32_t ranks() const override { return static_cast<uint32_t>(context_->size); }

  bool supports(const Call& call) const override {
    switch (call.collective) {
      case Collective::all_reduce:
        return call.op == ReduceOp::sum && call.dtype == DType::float32 && call.count > 0;
      case Collective::all_gather:
      case Collective::broadcast:
      case Collective::all_to_all:
        return call.count > 0 && algorithm_ == "ring";  // one way only: run it once
      default:
        return false;
    }
  }

  bool run(const Call& call) override {
    try {
      dispatch(call);
      return true;
    } catch (const std::exception& problem) {
      error_ = problem.what();
      return false;
    }
  }
  bool barrier() override {
    gloo::BarrierOptions options(context_);
    gloo::barrier(options);
    return true;
  }
  std::vector<double> all_gather(const std::vector<double>& mine) override {
    std::vector<double> input = mine;
    std::vector<double> all(mine.size() * ranks());
    gloo::AllgatherOptions options(context_);
    options.setInput(input.data(), input.size());
    options.setOutput(all.data(), all.size());
    gloo::allgather(options);
    return all;
  }
  const std::string& error() const override { return error_; }
  void* allocate(size_t bytes, BufferKind) override { return allocate_pages(bytes); }
  void release(void* memory, size_t bytes, BufferKind) override { release_pages(memory, bytes); }
  std::string path(const Call&) override { return "tcp " + algorithm_; }

 private:
  void dispatch(const Call& call) {
    const size_t bytes = call.count * size_of(call.dtype);
    auto* send = static_cast<char*>(const_cast<void*>(call.send));
    auto* recv = static_cast<char*>(call.recv);
    if (call.collective == Collective::all_reduce) return all_reduce(call);
    if (call.collective == Collective::all_gather) {
      gloo::AllgatherOptions options(context_);
      if (send != recv + rank() * bytes) options.setInput(send, bytes);
      options.setOutput(recv, bytes * ranks());
      return gloo::allgather(options);
    }
    if (call.collective == Collective::broadcast) {
      gloo::BroadcastOptions options(context_);
      options.setRoot(static_cast<int>(call.root));
      if (send != recv && rank() == call.root) options.setInput(send, bytes);
      options.setOutput(recv, bytes);
      return gloo::broadcast(options);
    }
    gloo::AlltoallOptions options(context_);
    if (send == recv) {
      scratch_.assign(send, send + bytes * ranks());
      send = scratch_.data();
    }
    options.setInput(send, bytes * ranks());
    options.setOutput(recv, bytes * ranks());
    gloo::alltoall(options);
  }

  void all_reduce(const Call& call) {
    auto* send = static_cast<float*>(const_cast<void*>(call.send));
    auto* recv = static_cast<float*>(call.recv);
    if (algorithm_ == "halving_doubling") {
      if (send != recv) std::copy(send, send + call.count, recv);
      if (!halving_ || halving_data_ != recv || halving_count_ != call.count) {
        halving_ = std::make_unique<gloo::AllreduceHalvingDoubling<float>>(
            context_, std::vector<float*>{recv}, static_cast<int>(call.count));
        halving_data_ = recv;
        halving_count_ = call.count;
      }
      return halving_->run();
    }
    gloo::AllreduceOptions options(context_);
    options.setAlgorithm(algorithm_ == "bcube" ? gloo::AllreduceOptions::Algorithm::BCUBE
                                               : gloo::AllreduceOptions::Algorithm::RING);
    if (send != recv) options.setInput(send, call.count);
    options.setOutput(recv, call.count);
    void (*sum)(void*, const void*, const void*, size_t) = &gloo::sum<float>;
    options.setReduceFunction(sum);
    gloo::allreduce(options);
  }

  std::string algorithm_;
  std::shared_ptr<gloo::Context> context_;
  std::string error_;
  std::vector<char> scratch_;
  std::unique_ptr<gloo::AllreduceHalvingDoubling<float>> halving_;
  const float* halving_data_ = nullptr;
  size_t halving_count_ = 0;
};

int run_rank(int argc, char** argv, GlooOptions* options) {
  return peer_main(argc, argv, "gloo", nullptr, [options]() -> std::unique_ptr<Harness> {
    try {
      return std::make_unique<GlooHarness>(*options);
    } catch (const std::exception& problem) {
      std::fprintf(stderr, "# error: gloo: %s\n", problem.what());
      return nullptr;
    }
  });
}

int fork_ranks(int argc, char** argv, GlooOptions options) {
  std::string directory = (std::filesystem::temp_directory_path() / "tutti-gloo-XXXXXX").string();
  if (mkdtemp(directory.data()) == nullptr) return 3;
  options.store = directory;
  std::vector<pid_t> children;
  for (options.rank = 0; options.rank < options.ranks; ++options.rank) {
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int code = run_rank(argc, argv, &options);
      std::fflush(nullptr);
      _exit(code);
    }
    if (child > 0) children.push_back(child);
  }
  int code = children.size() == static_cast<size_t>(options.ranks) ? 0 : 3;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    if (code == 0) code = WIFEXITED(status) ? WEXITSTATUS(status) : 3;
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return code;
}

}  // namespace
}  // namespace tutti::perf

// Takes this program's own flags out of argv; the rest belongs to peer_main.
int main(int argc, char** argv) {
  tutti::perf::GlooOptions options;
  std::vector<char*> rest{argv[0]};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    bool own = true;
    if (flag == "--rank")
      options.rank = std::atoi(value);
    else if (flag == "--ranks")
      options.ranks = std::atoi(value);
    else if (flag == "--store")
      options.store = value;
    else if (flag == "--algorithm")
      options.algorithm = value;
    else if (flag == "--interface")
      options.interface = value;
    else
      own = false;
    if (own)
      ++i;
    else
      rest.push_back(argv[i]);
  }
  const int count = static_cast<int>(rest.size());
  rest.push_back(nullptr);
  return options.rank >= 0 ? tutti::perf::run_rank(count, rest.data(), &options)
                           : tutti::perf::fork_ranks(count, rest.data(), options);
}
