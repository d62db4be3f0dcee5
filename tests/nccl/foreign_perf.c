/* A benchmark of NCCL as others write them: the CUDA runtime, threads with several devices each,
 * ids handed over in a file, every collective in and out of place, results checked. It knows
 * nothing of tutti: it is compiled against NVIDIA's headers and linked with NVIDIA's libraries
 * where they are.
 *
 *   foreign_perf THREADS DEVICES_PER_THREAD BYTES        RANK and WORLD_SIZE: one of several
 * processes, which meet by the file $ID_FILE */
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/nccl/cudart.h"

#define MOST 16
#define CUDA(call)                                                                  \
  do {                                                                              \
    cudaError_t e_ = (call);                                                        \
    if (e_ != cudaSuccess) {                                                        \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
      exit(2);                                                                      \
    }                                                                               \
  } while (0)
#define NCCL(call)                                                                     \
  do {                                                                                 \
    ncclResult_t e_ = (call);                                                          \
    if (e_ != ncclSuccess && e_ != ncclInProgress) {                                   \
      printf("%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, ncclGetErrorString(e_), \
             ncclGetLastError(NULL));                                                  \
      exit(3);                                                                         \
    }                                                                                  \
  } while (0)

static int g_threads, g_devices, g_processes = 1, g_process = 0, g_ranks;
static size_t g_bytes;
static ncclUniqueId g_id;
static pthread_barrier_t g_barrier;
static long g_wrong;
static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;

typedef struct {
  int first; /* rank of the first device */
  ncclComm_t comm[MOST];
  cudaStream_t stream[MOST];
  float *send[MOST], *recv[MOST];
} Worker;

/* As benchmarks wait: the stream, and the communicator's errors meanwhile. */
static void wait_for(Worker* w) {
  int d;
  for (d = 0; d < g_devices; ++d) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
      NCCL(ncclCommGetAsyncError(w->comm[d], &state));
      if (state == ncclInProgress) usleep(50);
    }
    NCCL(state);
    while (cudaStreamQuery(w->stream[d]) == cudaErrorNotReady) usleep(50);
    CUDA(cudaStreamSynchronize(w->stream[d]));
  }
}

enum { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, REDUCE, SEND_RECV, OPERATIONS };
static const char* k_names[] = {"all_reduce", "all_gather", "reduce_scatter",
                                "broadcast",  "reduce",     "sendrecv"};

static float value(int rank, size_t i) { return (float)(rank + 1) * (float)(i % 31 + 1); }

/* Elements of send and receive buffers for `count` of the operation. */
static size_t sends(int operation, size_t count) {
  return operation == REDUCE_SCATTER ? count * (size_t)g_ranks : count;
}
static size_t receives(int operation, size_t count) {
  return operation == ALL_GATHER ? count * (size_t)g_ranks : count;
}

static float expected(int operation, int rank, size_t count, size_t i) {
  const float all = (float)(g_ranks * (g_ranks + 1) / 2);
  switch (operation) {
    case ALL_REDUCE:
    case REDUCE:
      return all * (float)(i % 31 + 1);
    case ALL_GATHER:
      return value((int)(i / count), i % count);
    case REDUCE_SCATTER:
      return all * (float)((i + (size_t)rank * count) % 31 + 1);
    case BROADCAST:
      return value(1 % g_ranks, i);
    default:
      return value((rank + g_ranks - 1) % g_ranks, i);
  }
}

static void launch(Worker* w, int operation, size_t count, int in_place) {
  int d;
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d) {
    const int rank = w->first + d, root = 1 % g_ranks;
    float* send = w->send[d];
    float* recv = w->recv[d];
    if (in_place && operation == ALL_GATHER) send = recv + (size_t)rank * count;
    if (in_place && operation == REDUCE_SCATTER) recv = send + (size_t)rank * count;
    if (in_place && operation != ALL_GATHER && operation != REDUCE_SCATTER) send = recv;
    switch (operation) {
      case ALL_REDUCE:
        NCCL(ncclAllReduce(send, recv, count, ncclFloat, ncclSum, w->comm[d], w->stream[d]));
        break;
      case ALL_GATHER:
        NCCL(ncclAllGather(send, recv, count, ncclFloat, w->comm[d], w->stream[d]));
        break;
      case REDUCE_SCATTER:
        NCCL(ncclReduceScatter(send, recv, count, ncclFloat, ncclSum, w->comm[d], w->stream[d]));
        break;
      case BROADCAST:
        NCCL(ncclBroadcast(send, recv, count, ncclFloat, root, w->comm[d], w->stream[d]));
        break;
      case REDUCE:
        NCCL(ncclReduce(send, recv, count, ncclFloat, ncclSum, root, w->comm[d], w->stream[d]));
        break;
      default:
        NCCL(
            ncclSend(w->send[d], count, ncclFloat, (rank + 1) % g_ranks, w->comm[d], w->stream[d]));
        NCCL(ncclRecv(w->recv[d], count, ncclFloat, (rank + g_ranks - 1) % g_ranks, w->comm[d],
                      w->stream[d]));
    }
  }
  NCCL(ncclGroupEnd());
  wait_for(w);
}

static void fill(float* device, int rank, size_t count) {
  float* host = malloc(count * sizeof(float));
  size_t i;
  for (i = 0; i < count; ++i) host[i] = value(rank, i);
  CUDA(cudaMemcpy(device, host, count * sizeof(float), cudaMemcpyHostToDevice));
  free(host);
}

static void check(Worker* w, int operation, size_t count, int in_place) {
  const size_t received = receives(operation, count);
  float* host = malloc(received * sizeof(float));
  int d;
  size_t i;
  for (d = 0; d < g_devices; ++d) {
    const int rank = w->first + d;
    const float* at =
        in_place && operation == REDUCE_SCATTER ? w->send[d] + (size_t)rank * count : w->recv[d];
    long wrong = 0;
    if (operation == REDUCE && rank != 1 % g_ranks) continue;
    CUDA(cudaMemcpy(host, at, received * sizeof(float), cudaMemcpyDeviceToHost));
    for (i = 0; i < received; ++i) wrong += host[i] != expected(operation, rank, count, i);
    if (wrong > 0)
      printf("rank %d: %s of %zu: %ld wrong\n", rank, k_names[operation], count, wrong);
    pthread_mutex_lock(&g_mutex);
    g_wrong += wrong;
    pthread_mutex_unlock(&g_mutex);
  }
  free(host);
}

static void measure(Worker* w, int operation, size_t count, int in_place) {
  cudaEvent_t start, stop;
  float ms = 0;
  int d, i;
  for (d = 0; d < g_devices; ++d) {
    CUDA(cudaMemset(w->recv[d], 0, receives(operation, count) * sizeof(float)));
    fill(w->send[d], w->first + d, sends(operation, count));
    if (in_place && operation == ALL_GATHER)
      fill(w->recv[d] + (size_t)(w->first + d) * count, w->first + d, count);
    else if (in_place && operation != REDUCE_SCATTER)
      fill(w->recv[d], w->first + d, count);
  }
  CUDA(cudaEventCreate(&start));
  CUDA(cudaEventCreate(&stop));
  CUDA(cudaEventRecord(start, w->stream[0]));
  launch(w, operation, count, in_place);
  check(w, operation, count, in_place);
  /* Some more, for the time: out of place, where repetition changes no input. */
  for (i = 0; i < 3 && !in_place; ++i) launch(w, operation, count, 0);
  CUDA(cudaEventRecord(stop, w->stream[0]));
  CUDA(cudaEventSynchronize(stop));
  CUDA(cudaEventElapsedTime(&ms, start, stop));
  CUDA(cudaEventDestroy(start));
  CUDA(cudaEventDestroy(stop));
  if (ms < 0) exit(4);
}

/* Split by parity, odd ranks with reversed order, rank 0 nowhere; then everything is put away. */
static void divide(Worker* w) {
  ncclComm_t part[MOST];
  int d, place[MOST], count[MOST], device = -1;
  float one[MOST], sum[MOST];
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d) {
    const int rank = w->first + d;
    part[d] = (ncclComm_t)0x1;
    NCCL(ncclCommSplit(w->comm[d], rank == 0 ? NCCL_SPLIT_NOCOLOR : rank % 2,
                       rank % 2 == 1 ? -rank : rank, &part[d], &config));
  }
  NCCL(ncclGroupEnd());
  for (d = 0; d < g_devices; ++d) {
    const int rank = w->first + d;
    if ((part[d] == NULL) != (rank == 0)) exit(5);
    if (rank == 0) continue;
    NCCL(ncclCommUserRank(part[d], &place[d]));
    NCCL(ncclCommCount(part[d], &count[d]));
    NCCL(ncclCommCuDevice(part[d], &device));
    if (count[d] != (rank % 2 == 1 ? g_ranks / 2 : (g_ranks + 1) / 2 - 1)) exit(6);
    if (rank % 2 == 1 && place[d] != g_ranks / 2 - 1 - rank / 2) exit(7);
  }
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d) {
    one[d] = 1;
    if (part[d] != NULL)
      NCCL(ncclAllReduce(&one[d], &sum[d], 1, ncclFloat, ncclSum, part[d], w->stream[d]));
  }
  NCCL(ncclGroupEnd());
  for (d = 0; d < g_devices; ++d)
    if (part[d] != NULL && sum[d] != (float)count[d]) exit(8);
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d)
    if (part[d] != NULL) NCCL(ncclCommDestroy(part[d]));
  NCCL(ncclGroupEnd());
}

static void* work(void* argument) {
  Worker* w = argument;
  const size_t most = g_bytes / sizeof(float) * (size_t)g_ranks;
  void* registered[MOST];
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  int d, operation;
  size_t count;
  config.blocking = getenv("NONBLOCKING") == NULL;
  for (d = 0; d < g_devices; ++d) {
    CUDA(cudaSetDevice((w->first + d) % MOST));
    CUDA(cudaMalloc((void**)&w->send[d], most * sizeof(float)));
    CUDA(cudaStreamCreateWithFlags(&w->stream[d], cudaStreamNonBlocking));
  }
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d) {
    CUDA(cudaSetDevice((w->first + d) % MOST));
    NCCL(ncclCommInitRankConfig(&w->comm[d], g_ranks, g_id, w->first + d, &config));
  }
  NCCL(ncclGroupEnd());
  wait_for(w);
  for (d = 0; d < g_devices; ++d) {
    NCCL(ncclMemAlloc((void**)&w->recv[d], most * sizeof(float)));
    NCCL(ncclCommRegister(w->comm[d], w->send[d], most * sizeof(float), &registered[d]));
  }
  for (operation = 0; operation < OPERATIONS; ++operation)
    for (count = 1; count * sizeof(float) <= g_bytes; count *= 5) {
      measure(w, operation, count, 0);
      if (operation != SEND_RECV) measure(w, operation, count, 1);
    }
  pthread_barrier_wait(&g_barrier);
  if (config.blocking) divide(w);
  NCCL(ncclGroupStart());
  for (d = 0; d < g_devices; ++d) NCCL(ncclCommFinalize(w->comm[d]));
  NCCL(ncclGroupEnd());
  wait_for(w);
  for (d = 0; d < g_devices; ++d) {
    NCCL(ncclCommDeregister(w->comm[d], registered[d]));
    NCCL(ncclCommDestroy(w->comm[d]));
    NCCL(ncclMemFree(w->recv[d]));
    CUDA(cudaStreamDestroy(w->stream[d]));
    CUDA(cudaFree(w->send[d]));
  }
  return NULL;
}

static void exchange_id(void) {
  const char* path = getenv("ID_FILE");
  char temporary[4096];
  FILE* file;
  if (g_process == 0) NCCL(ncclGetUniqueId(&g_id));
  if (g_processes == 1) return;
  snprintf(temporary, sizeof temporary, "%s.new", path);
  if (g_process == 0) {
    file = fopen(temporary, "wb");
    if (file == NULL || fwrite(&g_id, sizeof g_id, 1, file) != 1 || fclose(file) != 0) exit(9);
    if (rename(temporary, path) != 0) exit(9);
    return;
  }
  while ((file = fopen(path, "rb")) == NULL) usleep(1000);
  if (fread(&g_id, sizeof g_id, 1, file) != 1) exit(9);
  fclose(file);
}

int main(int argc, char** argv) {
  pthread_t thread[MOST];
  static Worker workers[MOST];
  int t, devices = 0, version = 0;
  if (argc != 4) return 1;
  g_threads = atoi(argv[1]);
  g_devices = atoi(argv[2]);
  g_bytes = (size_t)atol(argv[3]);
  if (getenv("WORLD_SIZE") != NULL) {
    g_processes = atoi(getenv("WORLD_SIZE"));
    g_process = atoi(getenv("RANK"));
  }
  g_ranks = g_processes * g_threads * g_devices;
  NCCL(ncclGetVersion(&version));
  CUDA(cudaGetDeviceCount(&devices));
  exchange_id();
  pthread_barrier_init(&g_barrier, NULL, (unsigned)g_threads);
  for (t = 0; t < g_threads; ++t) {
    workers[t].first = (g_process * g_threads + t) * g_devices;
    if (pthread_create(&thread[t], NULL, work, &workers[t]) != 0) return 1;
  }
  for (t = 0; t < g_threads; ++t) pthread_join(thread[t], NULL);
  printf("# Out of bounds values : %ld %s\n", g_wrong, g_wrong == 0 ? "OK" : "FAILED");
  return g_wrong == 0 ? 0 : 1;
}
