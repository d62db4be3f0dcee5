// Copying messages into slots that another core reads, and out of memory that another core wrote.
#pragma once

#include <cstddef>

namespace tutti::line {

// memcpy, or stores past the caches where that measures faster: on AMD CPUs, taking back lines that
// another core holds costs more than the trip to memory (measured between two complexes: 64 KiB and
// more at 8 GB/s instead of 3.5, copy in and out one after the other).
void copy_to_slot(std::byte* dst, const std::byte* src, size_t bytes);

// memcpy, but never by "rep movsb" on AMD CPUs: it drops to 2 GB/s there when the destination lies
// a little further into its page than the source, which is where malloc puts large buffers (16
// bytes into a page, while slots begin at one).
void copy_from_slot(std::byte* dst, const std::byte* src, size_t bytes);

}  // namespace tutti::line
