// Open MPI or MPICH under tutti's measuring loop: one source, built once with each.
#include <mpi.h>

#include <climits>
#include <cstring>
#include <optional>

#include "perf/measure.h"
#include "perf/peers/peer_main.h"

namespace tutti::perf {
namespace {

std::optional<MPI_Datatype> mpi_type(DType dtype) {
  switch (dtype) {
    case DType::int8:
      return MPI_INT8_T;
    case DType::uint8:
      return MPI_UINT8_T;
    case DType::int32:
      return MPI_INT32_T;
    case DType::uint32:
      return MPI_UINT32_T;
    case DType::int64:
      return MPI_INT64_T;
    case DType::uint64:
      return MPI_UINT64_T;
    case DType::float32:
      return MPI_FLOAT;
    case DType::float64:
      return MPI_DOUBLE;
    default:
      return std::nullopt;
  }
}

std::optional<MPI_Op> mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return MPI_SUM;
    case ReduceOp::prod:
      return MPI_PROD;
    case ReduceOp::min:
      return MPI_MIN;
    case ReduceOp::max:
      return MPI_MAX;
    default:
      return std::nullopt;
  }
}

class MpiHarness final : public Harness {
 public:
  MpiHarness() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
  }
  Rank rank() const override { return static_cast<Rank>(rank_); }
  uint32_t ranks() const override { return static_cast<uint32_t>(ranks_); }

  bool supports(const Call& call) const override {
    return call.count * ranks() <= INT_MAX && mpi_type(call.dtype).has_value() &&
           (!has_reduction(call.collective) || mpi_op(call.op).has_value()) &&
           call.collective != Collective::all_to_all_v;
  }

  bool run(const Call& call) override {
    const int code = dispatch(call, *mpi_type(call.dtype), mpi_op(call.op).value_or(MPI_SUM));
    if (code == MPI_SUCCESS) return true;
    error_ = "MPI error " + std::to_string(code);
    return false;
  }
  bool barrier() override { return MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS; }

  std::vector<double> all_gather(const std::vector<double>& mine) override {
    std::vector<double> all(mine.size() * ranks());
    const int count = static_cast<int>(mine.size());
    MPI_Allgather(mine.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, MPI_COMM_WORLD);
    return all;
  }
  const std::string& error() const override { return error_; }
  void* allocate(size_t bytes, BufferKind) override { return allocate_pages(bytes); }
  void release(void* memory, size_t bytes, BufferKind) override { release_pages(memory, bytes); }
  std::string path(const Call&) override { return ""; }

 private:
  int dispatch(const Call& c, MPI_Datatype type, MPI_Op op) {
    const MPI_Comm world = MPI_COMM_WORLD;
    const int count = static_cast<int>(c.count);
    const int root = static_cast<int>(c.root);
    const bool at_root = rank_ == root;
    const void* send = c.send == c.recv ? MPI_IN_PLACE : c.send;
    switch (c.collective) {
      case Collective::all_reduce:
        return MPI_Allreduce(send, c.recv, count, type, op, world);
      case Collective::reduce:
        if (!at_root) return MPI_Reduce(c.send, nullptr, count, type, op, root, world);
        return MPI_Reduce(send, c.recv, count, type, op, root, world);
      case Collective::reduce_scatter:
        return reduce_scatter(c, count, type, op);
      case Collective::all_gather:
        return MPI_Allgather(inside(c) ? MPI_IN_PLACE : c.send, count, type, c.recv, count, type,
                             world);
      case Collective::gather:
        return MPI_Gather(at_root && inside(c) ? MPI_IN_PLACE : c.send, count, type, c.recv, count,
                          type, root, world);
      case Collective::scatter:
        return MPI_Scatter(c.send, count, type, at_root && holds(c) ? MPI_IN_PLACE : c.recv, count,
                           type, root, world);
      case Collective::all_to_all:
        return MPI_Alltoall(send, count, type, c.recv, count, type, world);
      case Collective::broadcast:
        // MPI_Bcast has one buffer.
        if (at_root && c.send != c.recv) std::memcpy(c.recv, c.send, c.count * size_of(c.dtype));
        return MPI_Bcast(c.recv, count, type, root, world);
      case Collective::send_recv:
        return MPI_Sendrecv(c.send, count, type, (rank_ + 1) % ranks_, 0, c.recv, count, type,
                            (rank_ + ranks_ - 1) % ranks_, 0, world, MPI_STATUS_IGNORE);
      default:
        return MPI_Barrier(world);
    }
  }

  // MPI's in-place reduce_scatter leaves the block at the start of the buffer; tutti's at its own
  // offset, so the block is moved there.
  int reduce_scatter(const Call& c, int count, MPI_Datatype type, MPI_Op op) {
    if (!holds(c)) return MPI_Reduce_scatter_block(c.send, c.recv, count, type, op, MPI_COMM_WORLD);
    void* whole = const_cast<void*>(c.send);
    const int code = MPI_Reduce_scatter_block(MPI_IN_PLACE, whole, count, type, op, MPI_COMM_WORLD);
    if (rank_ != 0) std::memmove(c.recv, whole, c.count * size_of(c.dtype));
    return code;
  }

  bool inside(const Call& c) const { return c.send == at(c.recv, c); }
  bool holds(const Call& c) const { return c.recv == at(c.send, c); }
  const void* at(const void* base, const Call& c) const {
    return static_cast<const char*>(base) + rank() * c.count * size_of(c.dtype);
  }

  int rank_ = 0;
  int ranks_ = 1;
  std::string error_;
};

}  // namespace
}  // namespace tutti::perf

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const int code = tutti::perf::peer_main(argc, argv, TUTTI_PEER_NAME, nullptr, [] {
    return std::make_unique<tutti::perf::MpiHarness>();
  });
  MPI_Finalize();
  return code;
}
