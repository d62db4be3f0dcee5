// How communicators come into the world, shared by ncclCommInit*, ncclCommSplit, Shrink and Grow.
#pragma once

#include <memory>

#include "src/nccl/comm.h"

namespace tutti::nccl {

struct Birth {
  std::shared_ptr<Comm> comm;
  std::shared_ptr<Comm> parent;  // may be null
  Comm::Make make;
};

// Rank `rank` of `nranks` that meet at `id`.
Birth join(int nranks, const ncclUniqueId& id, int rank, Settings settings);

// Runs the birth: now; at the end of an open group; or in the background when a communicator has
// blocking = 0 (in_progress). *out gets the handle, which in the last two cases is not ready yet.
Status launch(ncclComm_t* out, Birth birth);

// Gives `comm` a handle.
Status publish(ncclComm_t* out, std::shared_ptr<Comm> comm);

// Ends the registrations and windows of a communicator that is destroyed.
void forget_memory(Comm& comm);

// An error of a call inside an open group is also the group's.
Status in_group(Status status);

}  // namespace tutti::nccl
