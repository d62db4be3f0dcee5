// MemoryView: an argument's memory, whatever kind of array it came as, held while an operation uses
// it. Taken from the buffer protocol (NumPy, bytearray, array, memoryview, mmap), from DLPack, or,
// on a CUDA device, from DLPack or __cuda_array_interface__ (CuPy, torch, Numba).
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <vector>

#include "bindings/python/src/element.h"

namespace tutti::python {

namespace nb = nanobind;

// Which argument of which call, for messages: "allreduce: recvbuf"; and the stream (cudaStream_t)
// that the call was given, for arrays that ask where they will be used; null: none.
struct ArgumentName {
  const char* call;
  const char* argument;
  void* stream = nullptr;
};

// Throw what the program sees: "allreduce: recvbuf is read-only" as a BufferError, ...
[[noreturn]] void throw_type_error(const ArgumentName& name, const std::string& why);
[[noreturn]] void throw_value_error(const ArgumentName& name, const std::string& why);
[[noreturn]] void throw_buffer_error(const ArgumentName& name, const std::string& why);

class MemoryView {
 public:
  MemoryView() = default;
  // Throws TypeError for what is no array or holds objects, BufferError for what is not
  // C-contiguous or (when `writable`) read-only, and tutti.UnsupportedError for memory of devices
  // other than CUDA's.
  MemoryView(nb::handle object, bool writable, const ArgumentName& name);
  // The memory of `other`, which `owner` keeps alive.
  MemoryView(const MemoryView& other, nb::object owner);
  MemoryView(MemoryView&& other) noexcept { swap(other); }
  MemoryView& operator=(MemoryView&& other) noexcept {
    swap(other);
    return *this;
  }
  MemoryView(const MemoryView&) = delete;
  MemoryView& operator=(const MemoryView&) = delete;
  ~MemoryView() { release(); }  // needs the GIL

  bool empty() const { return data_ == nullptr && items_ == 0; }
  std::byte* data() const { return data_; }
  size_t items() const { return items_; }
  size_t count() const { return items_ * element_.per_item; }  // in wire elements
  const Element& element() const { return element_; }
  bool readonly() const { return readonly_; }
  bool on_device() const { return on_device_; }
  // On a device: the stream after which the memory holds what it shall (cudaStream_t).
  void* stream() const { return stream_; }
  // "(2, 3)"; arrays of one dimension match any shape of equally many items.
  bool same_shape(const MemoryView& other) const;
  std::string shape_text() const;

 private:
  void from_buffer(nb::handle object, const ArgumentName& name);
  void from_extension_dtype(nb::handle object, const ArgumentName& name);
  void from_dlpack(nb::handle object, const ArgumentName& name);
  void from_cuda_array(nb::handle object, const ArgumentName& name);
  void swap(MemoryView& other) noexcept;
  void release();

  std::byte* data_ = nullptr;
  size_t items_ = 0;
  Element element_;
  bool readonly_ = false;
  bool on_device_ = false;
  void* stream_ = nullptr;
  int dimensions_ = 0;
  const int64_t* shape_ = nullptr;  // owned by the view, the capsule or the next one
  std::vector<int64_t> extents_;
  bool has_view_ = false;
  Py_buffer view_{};
  nb::object owner_;  // a DLPack capsule
};

// An array looked at once and used in many calls: what register_buffer() gives.
struct RegisteredBuffer {
  MemoryView view;
  nb::object array;           // on a device: says at each call on which stream it is
  static PyTypeObject* type;  // set when the module is made
};

}  // namespace tutti::python
