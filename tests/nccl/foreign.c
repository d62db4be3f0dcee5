/* Bears the name of NCCL and is not tutti. */
int ncclGetVersion(int* version) {
  *version = 1;
  return 0;
}
