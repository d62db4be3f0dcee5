#include "tests/nccl/client.h"
