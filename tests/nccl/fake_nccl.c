/* A library of NCCL's name that stands for the real one: ranks of this host meet in a file of
 * shared memory named by the id. It writes every call as a line to $FAKE_NCCL_LOG. Host memory, up
 * to 8 ranks and 64 KiB a rank; floats and ints; sums. -DFAKE_PARTIAL: an old release, without
 * ncclAlltoAll. It calls itself by its exported names, as NVIDIA's does. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <nccl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 8
#define SLOT 65536

typedef struct {
  _Atomic int arrived, turn;
  _Atomic int full[MOST][MOST];
  char slot[MOST][SLOT];
  char mail[MOST][MOST][SLOT / MOST];
} Meeting;

struct ncclComm {
  Meeting* meeting;
  int rank, ranks;
  float scalar; /* of operator ncclNumOps */
};

static void record(const char* call, size_t count) {
  const char* path = getenv("FAKE_NCCL_LOG");
  char line[128];
  int fd, length;
  if (path == NULL || (fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600)) < 0) return;
  length = snprintf(line, sizeof line, "%s %zu\n", call, count);
  if (write(fd, line, (size_t)length) != length) abort();
  close(fd);
}

static void barrier(ncclComm_t c) {
  const int turn = atomic_load(&c->meeting->turn);
  if (atomic_fetch_add(&c->meeting->arrived, 1) == c->ranks - 1) {
    atomic_store(&c->meeting->arrived, 0);
    atomic_fetch_add(&c->meeting->turn, 1);
  }
  while (atomic_load(&c->meeting->turn) == turn) sched_yield();
}

static size_t size_of(ncclDataType_t type) { return type == ncclChar || type == ncclUint8 ? 1 : 4; }

/* Calls of an open group wait for its end. */
typedef struct {
  int send, peer;
  void* data;
  size_t bytes;
  ncclComm_t comm;
} Transfer;
static _Thread_local Transfer t_transfers[64];
static _Thread_local int t_count, t_depth;

ncclResult_t ncclGetVersion(int* version) {
  *version = 22800;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "fine" : "a fake error";
}
const char* ncclGetLastError(ncclComm_t comm) { return comm == NULL ? "the fake says why" : ""; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  record("ncclGetUniqueId", 0);
  memset(id, 0, sizeof *id);
  if (getenv("FAKE_NCCL_BROKEN") != NULL) return ncclUnhandledCudaError;
  snprintf(id->internal, sizeof id->internal, "/fake_nccl_%d_%p", (int)getpid(), (void*)id);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* out, int ranks, ncclUniqueId id, int rank) {
  ncclComm_t c = calloc(1, sizeof *c);
  int fd = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
  record("ncclCommInitRank", (size_t)ranks);
  if (c == NULL || fd < 0 || ranks > MOST || ftruncate(fd, sizeof(Meeting)) != 0) {
    free(c);
    return ncclSystemError;
  }
  c->meeting = mmap(NULL, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  c->rank = rank;
  c->ranks = ranks;
  barrier(c);
  if (rank == 0) shm_unlink(id.internal);
  *out = c;
  return ncclSuccess;
}
static ncclResult_t end(const char* how, ncclComm_t c) {
  record(how, 0);
  munmap(c->meeting, sizeof(Meeting));
  free(c);
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) { return end("ncclCommDestroy", c); }
ncclResult_t ncclCommAbort(ncclComm_t c) { return end("ncclCommAbort", c); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t* error) {
  *error = c != NULL ? ncclSuccess : ncclInvalidArgument;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
  ++t_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
  int pass, i;
  if (--t_depth > 0) return ncclSuccess;
  for (pass = 1; pass >= 0; --pass)
    for (i = 0; i < t_count; ++i) {
      Transfer* t = &t_transfers[i];
      const int me = t->comm->rank, from = t->send ? me : t->peer, to = t->send ? t->peer : me;
      char* mail = t->comm->meeting->mail[from][to];
      _Atomic int* full = &t->comm->meeting->full[from][to];
      if (t->send != pass) continue;
      while (atomic_load(full) == t->send) sched_yield();
      memcpy(t->send ? mail : t->data, t->send ? t->data : mail, t->bytes);
      atomic_store(full, t->send);
    }
  t_count = 0;
  return ncclSuccess;
}
static ncclResult_t transfer(int send, void* data, size_t bytes, int peer, ncclComm_t c) {
  ncclResult_t result = ncclGroupStart();
  if (t_count == 64 || bytes > SLOT / MOST) return ncclInvalidArgument;
  t_transfers[t_count++] = (Transfer){send, peer, data, bytes, c};
  return result == ncclSuccess ? ncclGroupEnd() : result;
}
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t c,
                      cudaStream_t stream) {
  record(stream == (cudaStream_t)0x5 ? "ncclSend on stream 5" : "ncclSend", count);
  return transfer(1, (void*)data, count * size_of(type), peer, c);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t c,
                      cudaStream_t stream) {
  record(stream == (cudaStream_t)0x5 ? "ncclRecv on stream 5" : "ncclRecv", count);
  return transfer(0, data, count * size_of(type), peer, c);
}

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                      ncclScalarResidence_t where, ncclComm_t c) {
  if (type != ncclFloat || where != ncclScalarHostImmediate) return ncclInvalidArgument;
  memcpy(&c->scalar, scalar, sizeof c->scalar);
  *op = (ncclRedOp_t)ncclNumOps;
  return ncclSuccess;
}
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t c) {
  return (int)op == ncclNumOps && c != NULL ? ncclSuccess : ncclInvalidArgument;
}

/* Everybody shows `bytes` of its own. */
static ncclResult_t show(const char* call, const void* data, size_t bytes, size_t count,
                         ncclComm_t c) {
  record(call, count);
  if (bytes > SLOT) return ncclInvalidArgument;
  if (bytes > 0) memcpy(c->meeting->slot[c->rank], data, bytes);
  barrier(c);
  return ncclSuccess;
}
static ncclResult_t done(ncclComm_t c) {
  barrier(c);
  return ncclSuccess;
}
static void add_up(void* out, size_t first, size_t count, ncclDataType_t type, ncclRedOp_t op,
                   ncclComm_t c) {
  size_t i;
  int r;
  for (i = 0; i < count; ++i) {
    double sum = 0;
    for (r = 0; r < c->ranks; ++r) {
      const char* at = c->meeting->slot[r] + (first + i) * 4;
      float f;
      int n;
      memcpy(&f, at, 4);
      memcpy(&n, at, 4);
      sum += type == ncclFloat ? f * ((int)op == ncclNumOps ? c->scalar : 1) : n;
    }
    if (type == ncclFloat)
      ((float*)out)[i] = (float)sum;
    else
      ((int*)out)[i] = (int)sum;
  }
}
ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t c, cudaStream_t stream) {
  ncclResult_t result = show("ncclAllReduce", send, count * 4, count, c);
  (void)stream;
  if (result != ncclSuccess) return result;
  add_up(recv, 0, count, type, op, c);
  return done(c);
}
ncclResult_t ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t c, cudaStream_t stream) {
  ncclResult_t result = show("ncclReduce", send, count * 4, count, c);
  (void)stream;
  if (result != ncclSuccess) return result;
  if (c->rank == root) add_up(recv, 0, count, type, op, c);
  return done(c);
}
ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t c, cudaStream_t stream) {
  ncclResult_t result = show("ncclReduceScatter", send, count * 4 * (size_t)c->ranks, count, c);
  (void)stream;
  if (result != ncclSuccess) return result;
  add_up(recv, count * (size_t)c->rank, count, type, op, c);
  return done(c);
}
/* Block `block` of rank `from`. */
static void take(void* recv, size_t at, int from, size_t block, size_t bytes, ncclComm_t c) {
  memcpy((char*)recv + at * bytes, c->meeting->slot[from] + block * bytes, bytes);
}
ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  ncclResult_t result = show("ncclAllGather", send, bytes, count, c);
  int r;
  (void)stream;
  if (result != ncclSuccess) return result;
  for (r = 0; r < c->ranks; ++r) take(recv, (size_t)r, r, 0, bytes, c);
  return done(c);
}
ncclResult_t ncclGather(const void* send, void* recv, size_t count, ncclDataType_t type, int root,
                        ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  ncclResult_t result = show("ncclGather", send, bytes, count, c);
  int r;
  (void)stream;
  if (result != ncclSuccess) return result;
  for (r = 0; r < c->ranks && c->rank == root; ++r) take(recv, (size_t)r, r, 0, bytes, c);
  return done(c);
}
ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  ncclResult_t result = show("ncclBroadcast", send, c->rank == root ? bytes : 0, count, c);
  (void)stream;
  if (result != ncclSuccess) return result;
  take(recv, 0, root, 0, bytes, c);
  return done(c);
}
ncclResult_t ncclScatter(const void* send, void* recv, size_t count, ncclDataType_t type, int root,
                         ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  ncclResult_t result =
      show("ncclScatter", send, c->rank == root ? bytes * (size_t)c->ranks : 0, count, c);
  (void)stream;
  if (result != ncclSuccess) return result;
  take(recv, 0, root, (size_t)c->rank, bytes, c);
  return done(c);
}
#ifndef FAKE_PARTIAL
ncclResult_t ncclAlltoAll(const void* send, void* recv, size_t count, ncclDataType_t type,
                          ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  ncclResult_t result = show("ncclAlltoAll", send, bytes * (size_t)c->ranks, count, c);
  int r;
  (void)stream;
  if (result != ncclSuccess) return result;
  for (r = 0; r < c->ranks; ++r) take(recv, (size_t)r, r, (size_t)c->rank, bytes, c);
  return done(c);
}
#endif
