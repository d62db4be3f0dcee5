// Harness over tutti::Communicator.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "perf/harness.h"
#include "tutti/communicator.h"

namespace tutti::perf {

class TuttiHarness final : public Harness {
 public:
  explicit TuttiHarness(std::unique_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}

  Rank rank() const override { return communicator_->rank(); }
  uint32_t ranks() const override { return communicator_->ranks(); }
  bool supports(const Call&) const override { return true; }
  bool run(const Call& call) override;
  bool barrier() override { return keep(communicator_->barrier()); }
  std::vector<double> all_gather(const std::vector<double>& mine) override;
  const std::string& error() const override { return error_; }
  void* allocate(size_t bytes, BufferKind kind) override;
  void release(void* memory, size_t bytes, BufferKind kind) override;
  std::string path(const Call& call) override;

  Communicator& communicator() { return *communicator_; }

 private:
  Status exchange(const Call& call);
  Status shift(const Call& call);
  Status dispatch(const Call& call);
  bool keep(const Status& status) {
    if (!status.ok()) error_ = status.to_string();
    return status.ok();
  }

  std::unique_ptr<Communicator> communicator_;
  std::string error_;
  // all_to_all_v's arguments for the last block size.
  size_t block_ = 0;
  std::vector<size_t> counts_;
  std::vector<size_t> offsets_;
};

}  // namespace tutti::perf
