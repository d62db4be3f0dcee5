/* A program in C as users write it: NCCL's calls only. Two ranks of one thread, or one rank of a
 * process when it is started with RANK and WORLD_SIZE and NCCL_COMM_ID. Prints "ok" at the end. */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/nccl/abi.h"

#define CHECK(call)                                                                                \
  do {                                                                                             \
    ncclResult_t result_ = (call);                                                                 \
    if (result_ != ncclSuccess) {                                                                  \
      fprintf(stderr, "%s: %s: %s\n", #call, ncclGetErrorString(result_), ncclGetLastError(NULL)); \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static void expect(int condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "wrong: %s\n", what);
  exit(1);
}

static void one_thread(void) {
  ncclComm_t comms[2];
  float send[2][4], recv[2][4];
  int r, i;
  CHECK(ncclCommInitAll(comms, 2, NULL));
  for (r = 0; r < 2; ++r)
    for (i = 0; i < 4; ++i) send[r][i] = (float)(r * 10 + i);
  CHECK(ncclGroupStart());
  for (r = 0; r < 2; ++r)
    CHECK(ncclAllReduce(send[r], recv[r], 4, ncclFloat, ncclSum, comms[r], (cudaStream_t)0x1));
  CHECK(ncclGroupEnd());
  for (r = 0; r < 2; ++r)
    for (i = 0; i < 4; ++i) expect(recv[r][i] == (float)(10 + 2 * i), "all_reduce");
  for (r = 0; r < 2; ++r) CHECK(ncclCommDestroy(comms[r]));
}

static void one_rank(int rank, int ranks) {
  ncclUniqueId id;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm;
  double x = rank + 1.0, sum = 0;
  int count = 0;
  CHECK(ncclGetUniqueId(&id));
  CHECK(ncclCommInitRankConfig(&comm, ranks, id, rank, &config));
  CHECK(ncclCommCount(comm, &count));
  expect(count == ranks, "count");
  CHECK(ncclAllReduce(&x, &sum, 1, ncclDouble, ncclSum, comm, NULL));
  expect(sum == ranks * (ranks + 1) / 2.0, "sum over processes");
  CHECK(ncclCommFinalize(comm));
  CHECK(ncclCommDestroy(comm));
}

int main(void) {
  const char* rank = getenv("RANK");
  const char* ranks = getenv("WORLD_SIZE");
  int version = 0;
  CHECK(ncclGetVersion(&version));
  if (rank != NULL && ranks != NULL)
    one_rank(atoi(rank), atoi(ranks));
  else
    one_thread();
  printf("ok %d\n", version);
  return 0;
}
