/* Every operation once, checked; "ok" at the end. One rank of a process that is started with RANK
 * and WORLD_SIZE and NCCL_COMM_ID; without them three ranks of one thread, all calls in groups. */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST 8
#define CHECK(call)                                                        \
  do {                                                                     \
    ncclResult_t result_ = (call);                                         \
    if (result_ != ncclSuccess) {                                          \
      printf("%s: %d: %s\n", #call, (int)result_, ncclGetLastError(NULL)); \
      exit(1);                                                             \
    }                                                                      \
  } while (0)
/* One call for each rank of this process. */
#define ALL(call)                               \
  do {                                          \
    CHECK(ncclGroupStart());                    \
    for (r = first; r < last; ++r) CHECK(call); \
    CHECK(ncclGroupEnd());                      \
  } while (0)
#define EXPECT(condition)                              \
  do {                                                 \
    for (r = first; r < last; ++r)                     \
      if (!(condition)) {                              \
        printf("rank %d: wrong: %s\n", r, #condition); \
        exit(1);                                       \
      }                                                \
  } while (0)

int main(void) {
  const char *rank = getenv("RANK"), *world = getenv("WORLD_SIZE");
  const int ranks = world != NULL ? atoi(world) : 3;
  const int first = rank != NULL ? atoi(rank) : 0, last = rank != NULL ? first + 1 : ranks;
  cudaStream_t stream = (cudaStream_t)0x5;
  ncclComm_t comm[MOST];
  ncclRedOp_t twice[MOST];
  float in[MOST][MOST], out[MOST][MOST], two = 2;
  int r, i, b[MOST];
  if (rank != NULL) {
    ncclUniqueId id;
    CHECK(ncclGetUniqueId(&id));
    CHECK(ncclCommInitRank(&comm[first], ranks, id, first));
  } else {
    CHECK(ncclCommInitAll(comm, ranks, NULL));
  }
  for (r = first; r < last; ++r) {
    b[r] = r == 1 ? 42 : 0;
    for (i = 0; i < ranks; ++i) in[r][i] = (float)(10 * r + i);
  }
  ALL(ncclAllReduce(in[r], out[r], 2, ncclFloat, ncclSum, comm[r], stream));
  EXPECT(out[r][1] == (float)(10 * ranks * (ranks - 1) / 2 + ranks));
  for (r = first; r < last; ++r)
    CHECK(ncclRedOpCreatePreMulSum(&twice[r], &two, ncclFloat, ncclScalarHostImmediate, comm[r]));
  ALL(ncclAllReduce(in[r], out[r], 1, ncclFloat, twice[r], comm[r], stream));
  EXPECT(out[r][0] == (float)(2 * 10 * ranks * (ranks - 1) / 2));
  ALL(ncclReduceScatter(in[r], out[r], 1, ncclFloat, ncclSum, comm[r], stream));
  EXPECT(out[r][0] == (float)(10 * ranks * (ranks - 1) / 2 + r * ranks));
  ALL(ncclReduce(in[r], out[r], 1, ncclFloat, ncclSum, 0, comm[r], stream));
  EXPECT(r != 0 || out[r][0] == (float)(10 * ranks * (ranks - 1) / 2));
  ALL(ncclAllGather(&in[r][1], out[r], 1, ncclFloat, comm[r], stream));
  EXPECT(out[r][ranks - 1] == (float)(10 * (ranks - 1) + 1));
  ALL(ncclAlltoAll(in[r], out[r], 1, ncclFloat, comm[r], stream));
  EXPECT(out[r][ranks - 1] == (float)(10 * (ranks - 1) + r));
  ALL(ncclBroadcast(&b[r], &b[r], 1, ncclInt, 1, comm[r], stream));
  EXPECT(b[r] == 42);
  ALL(ncclGather(in[r], out[r], 1, ncclFloat, 1, comm[r], stream));
  EXPECT(r != 1 || out[r][ranks - 1] == (float)(10 * (ranks - 1)));
  ALL(ncclScatter(in[r], out[r], 1, ncclFloat, 1, comm[r], stream));
  EXPECT(out[r][0] == (float)(10 + r));
  /* A ring, with a collective in the same group. */
  CHECK(ncclGroupStart());
  for (r = first; r < last; ++r) {
    CHECK(ncclSend(in[r], 2, ncclFloat, (r + 1) % ranks, comm[r], stream));
    CHECK(ncclRecv(out[r], 2, ncclFloat, (r + ranks - 1) % ranks, comm[r], stream));
    CHECK(ncclAllReduce(&b[r], &b[r], 1, ncclInt, ncclSum, comm[r], stream));
  }
  CHECK(ncclGroupEnd());
  EXPECT(out[r][1] == (float)(10 * ((r + ranks - 1) % ranks) + 1) && b[r] == 42 * ranks);
  for (r = first; r < last; ++r) {
    CHECK(ncclRedOpDestroy(twice[r], comm[r]));
    CHECK(ncclCommDestroy(comm[r]));
  }
  printf("ok\n");
  return 0;
}
