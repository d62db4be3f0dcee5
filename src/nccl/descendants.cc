// Communicators from communicators: split, shrink, grow, and revoke, which makes room for a shrink.
#include <fmt/format.h>

#include <chrono>
#include <cstring>

#include "src/nccl/api.h"
#include "src/nccl/comm.h"
#include "src/nccl/group.h"
#include "src/nccl/life.h"

namespace tutti::nccl {
namespace {

using Made = Result<std::unique_ptr<Communicator>>;

// A child of `parent`, made by `make` on the parent's lane. Its rank and size are known when it is
// ready.
Status launch_child(ncclComm_t* out, const std::shared_ptr<Comm>& parent,
                    const ncclConfig_t* config, std::function<Made(Communicator&)> make) {
  Result<Settings> settings = read_config(config, parent->settings());
  if (!settings) return settings.status();
  auto child = std::make_shared<Comm>(0, 0, parent->device(), std::move(*settings));
  return launch(out, {child, parent,
                      [parent, make = std::move(make)] { return make(*parent->communicator()); }});
}

// All who live, by agreement: who they are, and afterwards that each of them has entered, since
// another rank may have died meanwhile. Every round that fails has lost a rank, or is an error on
// all.
Made survivors(Communicator& parent) {
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  const std::chrono::duration<double> patience(config->init_timeout);
  const auto limit = std::chrono::duration_cast<std::chrono::nanoseconds>(patience);
  auto before = parent.agree(1, limit);
  while (before) {
    Made left = parent.shrink(before->failed);
    auto after = parent.agree(left.ok() ? 1 : 0, limit);
    if (!after) return after.status();
    if (after->flags == 1) return left;
    if (after->failed == before->failed)
      return left.ok()
                 ? Status(Code::remote_error, fmt::format("rank {}: another survivor could not "
                                                          "enter the smaller communicator",
                                                          parent.rank()))
                 : left.status();
    before = std::move(after);
  }
  return before.status();
}

// Ranks without a color take part and get no communicator.
Status split_off(const std::shared_ptr<Comm>& parent, std::function<Made(Communicator&)> make) {
  auto body = [parent, make = std::move(make)] { return make(*parent->communicator()).status(); };
  if (!Group::open()) return parent->perform(body);
  Group::mine().add(parent, true, body);
  return {};
}

Status split(ncclComm_t handle, int color, int key, ncclComm_t* out, const ncclConfig_t* config) {
  Found found = find(handle);
  if (!found.status.ok()) return found.status;
  if (out == nullptr) return invalid_argument("the pointer to the new communicator is null");
  *out = nullptr;
  const bool part = color != NCCL_SPLIT_NOCOLOR;
  if (part && color < 0)
    return invalid_argument(
        fmt::format("rank {}: color {} is neither 0 or more nor "
                    "NCCL_SPLIT_NOCOLOR",
                    found.comm->rank(), color));
  const bool revoked = found.comm->revoked();
  if (!revoked) TUTTI_RETURN_IF_ERROR(found.comm->usable());
  auto make = [color, key, revoked, part](Communicator& parent) -> Made {
    const int wanted = part ? color : Communicator::k_no_color;
    if (!revoked) return parent.split(wanted, key);
    // A revoked communicator only shrinks: whoever lives stays, and the healthy one is split.
    Made healthy = survivors(parent);
    if (!healthy) return healthy;
    return (*healthy)->split(wanted, key);
  };
  if (!part) {
    Result<Settings> settings = read_config(config, found.comm->settings());
    if (!settings) return settings.status();
    return split_off(found.comm.shared(), make);
  }
  return launch_child(out, found.comm.shared(), config, make);
}

Status shrink(ncclComm_t handle, const int* excluded, int count, ncclComm_t* out,
              const ncclConfig_t* config, int flags) {
  Found found = find(handle);
  if (!found.status.ok()) return found.status;
  Comm& comm = *found.comm;
  if (out == nullptr) return invalid_argument("the pointer to the new communicator is null");
  *out = nullptr;
  if (flags != NCCL_SHRINK_DEFAULT && flags != NCCL_SHRINK_ABORT)
    return invalid_argument(fmt::format("unknown flags {:#x}", flags));
  const bool by_agreement = count == 0 && flags == NCCL_SHRINK_ABORT;
  if (!by_agreement && (count < 1 || excluded == nullptr))
    return invalid_argument(
        fmt::format("{} ranks to exclude (none, with NCCL_SHRINK_ABORT, lets the survivors agree)",
                    excluded == nullptr ? 0 : count));
  if (comm.suspended()) TUTTI_RETURN_IF_ERROR(comm.usable());
  std::set<Rank> out_of;
  for (int i = 0; i < count; ++i) {
    if (excluded[i] < 0 || static_cast<uint32_t>(excluded[i]) >= comm.ranks())
      return invalid_argument(
          fmt::format("excludeRanksList[{}] is {} of {} ranks", i, excluded[i], comm.ranks()));
    if (!out_of.insert(static_cast<Rank>(excluded[i])).second)
      return invalid_argument(fmt::format("excludeRanksList names rank {} twice", excluded[i]));
  }
  if (out_of.count(comm.rank()) != 0)
    return invalid_argument(
        fmt::format("rank {} excludes itself; only ranks that stay call this", comm.rank()));
  if (flags == NCCL_SHRINK_ABORT) TUTTI_RETURN_IF_ERROR(comm.revoke());
  if (by_agreement) return launch_child(out, found.comm.shared(), config, survivors);
  return launch_child(out, found.comm.shared(), config,
                      [ranks = std::vector<Rank>(out_of.begin(), out_of.end())](
                          Communicator& parent) { return parent.shrink(ranks); });
}

Status grow(ncclComm_t handle, int nranks, const ncclUniqueId* id, int rank, ncclComm_t* out,
            const ncclConfig_t* config) {
  if (out == nullptr) return invalid_argument("the pointer to the new communicator is null");
  *out = nullptr;
  if (handle == nullptr) {  // a new rank
    if (id == nullptr) return invalid_argument("a new rank needs the id of the grow");
    if (nranks < 1 || rank < 0 || rank >= nranks)
      return invalid_argument(fmt::format("rank {} of {} ranks", rank, nranks));
    Result<Settings> settings = read_config(config, Settings());
    if (!settings) return settings.status();
    return launch(out, join(nranks, *id, rank, std::move(*settings)));
  }
  Found found = find(handle);
  if (!found.status.ok()) return found.status;
  TUTTI_RETURN_IF_ERROR(found.comm->usable());
  if (rank != -1)
    return invalid_argument(
        fmt::format("rank {}: ranks of the old communicator keep their number "
                    "and pass -1, not {}",
                    found.comm->rank(), rank));
  if (found.comm->ranks() > 0 && static_cast<int64_t>(nranks) <= found.comm->ranks())
    return invalid_argument(
        fmt::format("{} ranks do not grow a communicator of {}", nranks, found.comm->ranks()));
  std::optional<UniqueId> unique;
  if (id != nullptr) {
    unique.emplace();
    std::memcpy(unique->bytes.data(), id->internal, sizeof id->internal);
  }
  return launch_child(out, found.comm.shared(), config, [unique, nranks](Communicator& parent) {
    return parent.grow(static_cast<uint32_t>(nranks), unique ? &*unique : nullptr);
  });
}

}  // namespace

// From any thread, also while an operation runs.
Status Comm::revoke() {
  Communicator* running = communicator();
  if (running == nullptr) return invalid_usage("the communicator is still being made");
  if (finalized_.load())
    return invalid_usage(fmt::format("rank {}: the communicator was finalized", rank()));
  if (revoked_.exchange(true)) return {};
  stop_device();
  running->revoke(fmt::format("revoked by rank {}", rank()));
  return {};
}

}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* newcomm,
                            ncclConfig_t* config) {
  return answer("ncclCommSplit",
                [&] { return in_group(split(comm, color, key, newcomm, config)); });
}

ncclResult_t pncclCommShrink(ncclComm_t comm, int* excludeRanksList, int excludeRanksCount,
                             ncclComm_t* newcomm, ncclConfig_t* config, int shrinkFlags) {
  return answer("ncclCommShrink", [&] {
    return in_group(
        shrink(comm, excludeRanksList, excludeRanksCount, newcomm, config, shrinkFlags));
  });
}

ncclResult_t pncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId* uniqueId) {
  return answer("ncclCommGetUniqueId", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (uniqueId == nullptr) return invalid_argument("the pointer to the id is null");
    TUTTI_RETURN_IF_ERROR(found.comm->usable());
    TUTTI_RETURN_IF_ERROR(found.comm->wait_started());
    Result<UniqueId> id = found.comm->communicator()->grow_id();
    if (!id) return id.status();
    std::memcpy(uniqueId->internal, id->bytes.data(), sizeof uniqueId->internal);
    return {};
  });
}

ncclResult_t pncclCommGrow(ncclComm_t comm, int nRanks, const ncclUniqueId* uniqueId, int rank,
                           ncclComm_t* newcomm, ncclConfig_t* config) {
  return answer("ncclCommGrow",
                [&] { return in_group(grow(comm, nRanks, uniqueId, rank, newcomm, config)); });
}

ncclResult_t pncclCommRevoke(ncclComm_t comm, int revokeFlags) {
  return answer("ncclCommRevoke", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (revokeFlags != NCCL_REVOKE_DEFAULT)
      return invalid_argument(fmt::format("flags are {:#x}, not NCCL_REVOKE_DEFAULT", revokeFlags));
    return found.comm->revoke();
  });
}

TUTTI_NCCL_DESCENDANT_NAMES(TUTTI_NCCL_WEAK_ALIAS)
