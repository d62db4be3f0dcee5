#include "src/nccl/fallback.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <sstream>
#include <vector>

#include "src/communicator/environment.h"
#include "src/nccl/errors.h"

namespace tutti::nccl {
namespace {

using Kind = Operation::Kind;

using Functions = RealLibrary::Functions;

struct Name {
  Kind kind;
  const char* word;      // in TUTTI_NCCL_FALLBACK
  const char* function;  // of the real library
  bool (*there)(const Functions&);
};
#define TUTTI_NCCL_KIND(kind, name)                                                \
  {                                                                                \
    Kind::kind, #kind, #name, [](const Functions& f) { return f.name != nullptr; } \
  }
constexpr Name k_names[] = {
    TUTTI_NCCL_KIND(all_reduce, ncclAllReduce),
    TUTTI_NCCL_KIND(reduce_scatter, ncclReduceScatter),
    TUTTI_NCCL_KIND(all_gather, ncclAllGather),
    TUTTI_NCCL_KIND(broadcast, ncclBroadcast),
    TUTTI_NCCL_KIND(reduce, ncclReduce),
    TUTTI_NCCL_KIND(all_to_all, ncclAlltoAll),
    TUTTI_NCCL_KIND(gather, ncclGather),
    TUTTI_NCCL_KIND(scatter, ncclScatter),
    TUTTI_NCCL_KIND(send, ncclSend),
    TUTTI_NCCL_KIND(recv, ncclRecv),
};
#undef TUTTI_NCCL_KIND

const char* name_of(Kind kind) {
  for (const Name& name : k_names)
    if (name.kind == kind) return name.function;
  return "";
}

Status add_word(std::string_view word, Kinds* kinds) {
  bool known = false;
  std::string words;
  for (const Name& name : k_names) {
    words += std::string(name.word) + ", ";
    if (word != name.word && word != "*") continue;
    kinds->add(name.kind);
    known = true;
  }
  if (known) return {};
  return invalid_usage(fmt::format("TUTTI_NCCL_FALLBACK: \"{}\" is none of {}*", word, words));
}

// What every rank brings to the making of the real communicator.
struct Card {
  ncclUniqueId id{};  // of rank 0
  uint32_t kinds = 0;
  int32_t version = 0;
  int32_t result = ncclSuccess;  // of making the id
};

// The real library works on the device of the thread that calls; this may be a thread of its own.
class OnDevice {
 public:
  explicit OnDevice(int device)
      : set_(reinterpret_cast<Set>(::dlsym(RTLD_DEFAULT, "cudaSetDevice"))) {
    const auto get = reinterpret_cast<int (*)(int*)>(::dlsym(RTLD_DEFAULT, "cudaGetDevice"));
    if (set_ == nullptr || get == nullptr || get(&before_) != 0 || before_ == device)
      set_ = nullptr;
    else
      set_(device);
  }
  ~OnDevice() {
    if (set_ != nullptr) set_(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  using Set = int (*)(int);
  Set set_;
  int before_ = 0;
};

}  // namespace

Result<Kinds> read_fallback() {
  Kinds kinds;
  const Variables variables = read_environment();
  const auto found = variables.find("TUTTI_NCCL_FALLBACK");
  if (found == variables.end()) return kinds;
  std::stringstream list(found->second);
  for (std::string word; std::getline(list, word, ',');)
    if (!word.empty()) TUTTI_RETURN_IF_ERROR(add_word(word, &kinds));
  if (kinds.has(Kind::send) != kinds.has(Kind::recv))
    return invalid_usage("TUTTI_NCCL_FALLBACK: send and recv go together");
  return kinds;
}

Result<std::shared_ptr<const RealLibrary>> RealComm::library(const Kinds& kinds) {
  auto library = RealLibrary::load();
  if (!library) return library;
  for (const Name& name : k_names)
    if (kinds.has(name.kind) && !name.there((*library)->functions()))
      return (*library)->lacks(name.function);
  return library;
}

Result<std::shared_ptr<RealComm>> RealComm::make(Communicator& communicator, const Kinds& kinds,
                                                 int device) {
  auto found = library(kinds);
  if (!found) return found.status();
  const RealLibrary& real = **found;
  const OnDevice on(device);
  Card mine;
  mine.kinds = kinds.bits();
  mine.version = real.version();
  if (communicator.rank() == 0) mine.result = real.functions().ncclGetUniqueId(&mine.id);
  Status id_status = real.status_of("ncclGetUniqueId", static_cast<ncclResult_t>(mine.result));
  std::vector<Card> all(communicator.ranks());
  TUTTI_RETURN_IF_ERROR(communicator.all_gather(&mine, all.data(), sizeof mine, DType::uint8));
  for (uint32_t r = 0; r < all.size(); ++r) {
    if (all[r].kinds != mine.kinds)
      return invalid_usage(fmt::format("rank {}: TUTTI_NCCL_FALLBACK is another list on rank {}",
                                       communicator.rank(), r));
    if (all[r].version != mine.version)
      return invalid_usage(
          fmt::format("rank {}: the real NCCL has version {} here and {} on rank {}",
                      communicator.rank(), mine.version, all[r].version, r));
  }
  TUTTI_RETURN_IF_ERROR(id_status);
  if (all[0].result != ncclSuccess)
    return Status(Code::remote_error,
                  fmt::format("rank {}: the real NCCL of rank 0 makes no id", communicator.rank()));
  std::shared_ptr<RealComm> made(new RealComm(*found, device));
  ncclComm_t comm = nullptr;
  const ncclResult_t result = real.functions().ncclCommInitRank(
      &comm, static_cast<int>(all.size()), all[0].id, static_cast<int>(communicator.rank()));
  TUTTI_RETURN_IF_ERROR(real.status_of("ncclCommInitRank", result));
  made->comm_.store(comm);
  return made;
}

RealComm::~RealComm() { end(library_->functions().ncclCommDestroy); }
void RealComm::abort() { end(library_->functions().ncclCommAbort); }

void RealComm::end(ncclResult_t (*how)(ncclComm_t)) {
  ncclComm_t comm = comm_.exchange(nullptr);
  if (comm == nullptr) return;
  const OnDevice on(device_);
  static_cast<void>(how(comm));
}

Status RealComm::state() const {
  ncclComm_t comm = comm_.load();
  ncclResult_t found = ncclSuccess;
  if (comm == nullptr) return {};
  const ncclResult_t asked = library_->functions().ncclCommGetAsyncError(comm, &found);
  TUTTI_RETURN_IF_ERROR(library_->status_of("ncclCommGetAsyncError", asked));
  return library_->status_of("an operation", found);
}

Status RealComm::run(std::span<const Operation> operations, const Kinds& kinds) {
  ncclComm_t comm = comm_.load();
  if (comm == nullptr) return Status(Code::aborted, "the communicator was aborted");
  const Functions& f = library_->functions();
  const OnDevice on(device_);
  TUTTI_RETURN_IF_ERROR(library_->status_of("ncclGroupStart", f.ncclGroupStart()));
  Status status;
  for (const Operation& op : operations)
    if (kinds.has(op.kind) && status.ok()) status = run(op, comm);
  Status ended = library_->status_of("ncclGroupEnd", f.ncclGroupEnd());
  return status.ok() ? ended : status;
}

Status RealComm::run(const Operation& op, ncclComm_t comm) {
  const Functions& f = library_->functions();
  const auto type = static_cast<ncclDataType_t>(op.datatype);
  // Operators that programs make belong to one communicator: this one is made anew there.
  auto reduction = static_cast<ncclRedOp_t>(op.op);
  const bool premul = op.reduces() && op.op >= ncclNumOps;
  if (premul) {
    if (f.ncclRedOpCreatePreMulSum == nullptr) return library_->lacks("ncclRedOpCreatePreMulSum");
    uint64_t bits = op.reduction.scalar_bits;
    const bool late = op.late_scalar != nullptr;
    const ncclResult_t made =
        f.ncclRedOpCreatePreMulSum(&reduction, late ? const_cast<void*>(op.late_scalar) : &bits,
                                   type, late ? ncclScalarDevice : ncclScalarHostImmediate, comm);
    TUTTI_RETURN_IF_ERROR(library_->status_of("ncclRedOpCreatePreMulSum", made));
  }
  Status status = library_->status_of(name_of(op.kind), call(op, type, reduction, comm));
  if (premul && f.ncclRedOpDestroy != nullptr)
    static_cast<void>(f.ncclRedOpDestroy(reduction, comm));
  return status;
}

ncclResult_t RealComm::call(const Operation& op, ncclDataType_t type, ncclRedOp_t reduction,
                            ncclComm_t comm) const {
  const Functions& f = library_->functions();
  switch (op.kind) {
    case Kind::all_reduce:
      return f.ncclAllReduce(op.send, op.recv, op.count, type, reduction, comm, op.stream);
    case Kind::reduce_scatter:
      return f.ncclReduceScatter(op.send, op.recv, op.count, type, reduction, comm, op.stream);
    case Kind::all_gather:
      return f.ncclAllGather(op.send, op.recv, op.count, type, comm, op.stream);
    case Kind::broadcast:
      return f.ncclBroadcast(op.send, op.recv, op.count, type, op.root, comm, op.stream);
    case Kind::reduce:
      return f.ncclReduce(op.send, op.recv, op.count, type, reduction, op.root, comm, op.stream);
    case Kind::all_to_all:
      return f.ncclAlltoAll(op.send, op.recv, op.count, type, comm, op.stream);
    case Kind::gather:
      return f.ncclGather(op.send, op.recv, op.count, type, op.root, comm, op.stream);
    case Kind::scatter:
      return f.ncclScatter(op.send, op.recv, op.count, type, op.root, comm, op.stream);
    case Kind::send:
      return f.ncclSend(op.send, op.count, type, op.root, comm, op.stream);
    case Kind::recv:
      return f.ncclRecv(op.recv, op.count, type, op.root, comm, op.stream);
    case Kind::put_signal:
    case Kind::signal:
    case Kind::wait_signal:
      break;  // never handed over
  }
  return ncclInternalError;
}

}  // namespace tutti::nccl
