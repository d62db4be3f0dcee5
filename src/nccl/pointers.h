// Whether a buffer can be touched by this process: host memory yes, device memory and addresses
// that nobody mapped no. Without a driver, answers are remembered per thread, so that a
// buffer in use costs a compare.
#pragma once

#include <cstddef>

#include "tutti/status.h"

namespace tutti::nccl {

enum class Place : unsigned char { host, device, nowhere };

// Where [buffer, buffer + bytes) is. Its first and last byte are looked at; `writable` asks whether
// they may be written. bytes == 0 is always host.
Place place_of(const void* buffer, size_t bytes, bool writable);

// Whether this process has loaded CUDA's driver; without it there is no device memory.
bool driver_is_loaded();

// Memory was given back: nothing remembered is true any more.
void forget_places();

// Where all given buffers are: host, or device. Errors: invalid_usage when they are mixed,
// invalid_argument when one is nowhere. Pass null and 0 for a buffer that is not used.
Result<Place> common_place(const void* send, size_t send_bytes, const void* recv,
                           size_t recv_bytes);

// ok when all given buffers are on the host. Otherwise says which is not, and whether host and
// device are mixed. Pass null and 0 for a buffer that is not used.
Status check_places(const void* send, size_t send_bytes, const void* recv, size_t recv_bytes);

}  // namespace tutti::nccl
