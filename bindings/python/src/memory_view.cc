#include "bindings/python/src/memory_view.h"

#include <fmt/format.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "bindings/python/src/errors.h"

namespace tutti::python {
namespace {

// https://dmlc.github.io/dlpack/latest/c_api.html
struct DlDevice {
  int32_t type;
  int32_t id;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManagedTensor*);
};
struct DlManagedTensorVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlManagedTensorVersioned*);
  uint64_t flags;
  DlTensor tensor;
};
constexpr uint64_t k_dlpack_read_only = 1;
constexpr int32_t k_device_cpu = 1;
constexpr int32_t k_device_cuda = 2;
constexpr int32_t k_device_cuda_host = 3;

const char* python_type(nb::handle object) { return Py_TYPE(object.ptr())->tp_name; }

bool c_contiguous(const DlTensor& t) {
  if (t.strides == nullptr) return true;
  int64_t expected = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    if (t.shape[d] == 0) return true;
    if (t.shape[d] != 1 && t.strides[d] != expected) return false;
    expected *= t.shape[d];
  }
  return true;
}

// The stream that the array's library works on now, as DLPack numbers it (1: the default one).
uintptr_t current_stream(nb::handle array) {
  return nb::cast<uintptr_t>(nb::module_::import_("tutti._arrays").attr("current_stream")(array));
}

}  // namespace

void throw_type_error(const ArgumentName& n, const std::string& why) {
  throw nb::type_error(fmt::format("{}: {} {}", n.call, n.argument, why).c_str());
}
void throw_value_error(const ArgumentName& n, const std::string& why) {
  throw nb::value_error(fmt::format("{}: {} {}", n.call, n.argument, why).c_str());
}
void throw_buffer_error(const ArgumentName& n, const std::string& why) {
  throw nb::buffer_error(fmt::format("{}: {} {}", n.call, n.argument, why).c_str());
}

MemoryView::MemoryView(nb::handle object, bool writable, const ArgumentName& name) {
  if (Py_TYPE(object.ptr()) == RegisteredBuffer::type) {
    const auto* registered = nb::inst_ptr<RegisteredBuffer>(object);
    *this = MemoryView(registered->view, nb::borrow(object));
    if (element_.name.empty()) throw_value_error(name, "was deregistered");
    if (on_device_) stream_ = reinterpret_cast<void*>(current_stream(registered->array));
  } else if (PyObject_CheckBuffer(object.ptr())) {
    from_buffer(object, name);
  } else if (PyObject_HasAttrString(object.ptr(), "__cuda_array_interface__") &&
             !PyObject_HasAttrString(object.ptr(), "__dlpack__")) {
    from_cuda_array(object, name);
  } else if (PyObject_HasAttrString(object.ptr(), "__dlpack__")) {
    from_dlpack(object, name);
  } else {
    throw_type_error(name, fmt::format("must be an array (NumPy, the buffer protocol, DLPack or "
                                       "__cuda_array_interface__), "
                                       "not {}",
                                       python_type(object)));
  }
  if (writable && readonly_) {
    release();
    throw_buffer_error(name, "is read-only");
  }
}

MemoryView::MemoryView(const MemoryView& o, nb::object owner)
    : data_(o.data_),
      items_(o.items_),
      element_(o.element_),
      readonly_(o.readonly_),
      on_device_(o.on_device_),
      stream_(o.stream_),
      dimensions_(o.dimensions_),
      shape_(o.shape_),
      owner_(std::move(owner)) {}

PyTypeObject* RegisteredBuffer::type = nullptr;

void MemoryView::from_buffer(nb::handle object, const ArgumentName& name) {
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_RECORDS_RO) != 0) {
    if (PyObject_HasAttrString(object.ptr(), "dtype")) {
      PyErr_Clear();
      return from_extension_dtype(object, name);
    }
    throw nb::python_error();
  }
  has_view_ = true;
  const auto item = static_cast<size_t>(view_.itemsize);
  if (!element_from_format(view_.format, item, &element_)) {
    const std::string format = view_.format;
    release();
    throw_type_error(name, fmt::format("has items of format '{}', which cannot be sent: Python "
                                       "objects and foreign byte orders stay at home",
                                       format));
  }
  if (!PyBuffer_IsContiguous(&view_, 'C')) {
    release();
    throw_buffer_error(name, "is not C-contiguous; numpy.ascontiguousarray() makes a copy that is");
  }
  data_ = static_cast<std::byte*>(view_.buf);
  items_ = item == 0 ? 0 : static_cast<size_t>(view_.len) / item;
  readonly_ = view_.readonly != 0;
  dimensions_ = view_.ndim;
  static_assert(sizeof(Py_ssize_t) == sizeof(int64_t));
  shape_ = reinterpret_cast<const int64_t*>(view_.shape);
}

// NumPy cannot describe ml_dtypes' types (and its own dates) to the buffer protocol: their bytes
// it can.
void MemoryView::from_extension_dtype(nb::handle object, const ArgumentName& name) {
  nb::object dtype = object.attr("dtype");
  const auto item = nb::cast<size_t>(dtype.attr("itemsize"));
  const auto text = nb::cast<std::string>(nb::str(dtype.attr("name")));
  Element element;
  if (!element_from_name(text, item, &element))
    throw_type_error(name, fmt::format("has dtype {}, which cannot be sent", text));
  if (!nb::cast<bool>(object.attr("flags").attr("c_contiguous")))
    throw_buffer_error(name, "is not C-contiguous; numpy.ascontiguousarray() makes a copy that is");
  nb::object bytes = object.attr("view")("V" + std::to_string(item));
  from_buffer(bytes, name);
  element_ = element;
}

void MemoryView::from_dlpack(nb::handle object, const ArgumentName& name) {
  nb::object device = object.attr("__dlpack_device__")();
  const int type = nb::cast<int>(nb::int_(device[0]));
  on_device_ = type == k_device_cuda;
  if (type != k_device_cpu && type != k_device_cuda_host && !on_device_)
    throw_status(Status(Code::unsupported,
                        fmt::format("{}: {} is memory of a device of DLPack's type {}: tutti "
                                    "serves host memory and CUDA devices",
                                    name.call, name.argument, type)));
  nb::object method = object.attr("__dlpack__");
  nb::dict options;
  if (on_device_) {
    const uintptr_t stream =
        name.stream != nullptr ? reinterpret_cast<uintptr_t>(name.stream) : current_stream(object);
    options["stream"] = stream;  // the array's library makes it wait for its own
    stream_ = reinterpret_cast<void*>(stream);
  }
  nb::object capsule;
  try {
    nb::dict newest = nb::borrow<nb::dict>(options.attr("copy")());
    newest["max_version"] = nb::make_tuple(1, 0);
    capsule = method(**newest);
  } catch (nb::python_error& e) {
    if (!e.matches(PyExc_TypeError)) throw;
    capsule = method(**options);  // from before DLPack 1.0
  }
  const DlTensor* tensor = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    const auto* managed = static_cast<DlManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->major != 1)
      throw_type_error(name, fmt::format("speaks DLPack version {}", managed->major));
    tensor = &managed->tensor;
    readonly_ = (managed->flags & k_dlpack_read_only) != 0;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    tensor =
        &static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor;
  } else {
    throw_type_error(name, "gave no DLPack capsule");
  }
  if (!element_from_dlpack(tensor->code, tensor->bits, tensor->lanes, &element_))
    throw_type_error(name, fmt::format("has DLPack type code {} of {} bits, which cannot be sent",
                                       tensor->code, tensor->bits));
  if (!c_contiguous(*tensor)) throw_buffer_error(name, "is not C-contiguous");
  items_ = 1;
  for (int d = 0; d < tensor->ndim; ++d) items_ *= static_cast<size_t>(tensor->shape[d]);
  data_ = static_cast<std::byte*>(tensor->data) + tensor->byte_offset;
  dimensions_ = tensor->ndim;
  shape_ = tensor->shape;
  owner_ = std::move(capsule);  // not consumed: its destructor frees the tensor
}

// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, versions 0 to 3.
void MemoryView::from_cuda_array(nb::handle object, const ArgumentName& name) {
  const nb::dict array = nb::cast<nb::dict>(object.attr("__cuda_array_interface__"));
  if (array.contains("mask") && !array["mask"].is_none()) throw_type_error(name, "has a mask");
  const auto type = nb::cast<std::string>(array["typestr"]);
  // "<f4": byte order, kind, bytes; as the buffer protocol would say it.
  const size_t item = type.size() > 2 ? std::strtoul(type.c_str() + 2, nullptr, 10) : 0;
  const char kind = type.size() > 2 ? type[1] : '\0';
  const char* format = kind == 'i'   ? "i"
                       : kind == 'u' ? "I"
                       : kind == 'f' ? "f"
                       : kind == 'b' ? "?"
                       : kind == 'c' ? "Zf"
                       : kind == 'V' ? "V"
                                     : nullptr;
  const bool foreign = !type.empty() && type[0] == '>' && item > 1;
  if (format == nullptr || foreign || item == 0 || !element_from_format(format, item, &element_))
    throw_type_error(name, fmt::format("has items of type '{}', which cannot be sent", type));
  const nb::tuple shape = nb::cast<nb::tuple>(array["shape"]);
  items_ = 1;
  for (nb::handle n : shape) {
    extents_.push_back(nb::cast<int64_t>(n));
    items_ *= static_cast<size_t>(extents_.back());
  }
  if (array.contains("strides") && !array["strides"].is_none() && items_ > 0) {
    const nb::tuple strides = nb::cast<nb::tuple>(array["strides"]);
    auto expected = static_cast<int64_t>(item);
    for (size_t d = extents_.size(); d-- > 0; expected *= extents_[d])
      if (extents_[d] != 1 && nb::cast<int64_t>(strides[d]) != expected)
        throw_buffer_error(name, "is not C-contiguous");
  }
  const nb::tuple data = nb::cast<nb::tuple>(array["data"]);
  data_ = reinterpret_cast<std::byte*>(nb::cast<uintptr_t>(data[0]));
  readonly_ = nb::cast<bool>(data[1]);
  on_device_ = true;
  stream_ = reinterpret_cast<void*>(current_stream(object));
  dimensions_ = static_cast<int>(extents_.size());
  shape_ = extents_.data();
  owner_ = nb::borrow(object);
}

bool MemoryView::same_shape(const MemoryView& o) const {
  if (items_ != o.items_) return false;
  if (dimensions_ <= 1 || o.dimensions_ <= 1) return true;
  return dimensions_ == o.dimensions_ && std::equal(shape_, shape_ + dimensions_, o.shape_);
}

std::string MemoryView::shape_text() const {
  std::string text;
  for (int d = 0; d < dimensions_; ++d)
    text += (d == 0 ? "" : ", ") +
            std::to_string(shape_ == nullptr ? static_cast<int64_t>(items_) : shape_[d]);
  return "(" + text + (dimensions_ == 1 ? ",)" : ")");
}

void MemoryView::swap(MemoryView& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(items_, o.items_);
  std::swap(element_, o.element_);
  std::swap(readonly_, o.readonly_);
  std::swap(on_device_, o.on_device_);
  std::swap(stream_, o.stream_);
  std::swap(extents_, o.extents_);
  std::swap(dimensions_, o.dimensions_);
  std::swap(shape_, o.shape_);
  std::swap(has_view_, o.has_view_);
  // A view of one dimension may point at its own length for its shape.
  const bool own = view_.shape == &view_.len, others = o.view_.shape == &o.view_.len;
  std::swap(view_, o.view_);
  if (others) shape_ = reinterpret_cast<const int64_t*>(view_.shape = &view_.len);
  if (own) o.shape_ = reinterpret_cast<const int64_t*>(o.view_.shape = &o.view_.len);
  std::swap(owner_, o.owner_);
}

void MemoryView::release() {
  if (has_view_) PyBuffer_Release(&view_);
  has_view_ = false;
  owner_.reset();
  on_device_ = false;
  data_ = nullptr;
  items_ = 0;
}

}  // namespace tutti::python
