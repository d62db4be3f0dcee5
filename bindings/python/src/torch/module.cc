// tutti._torch: the extension behind `import tutti.torch`, built against one version of torch.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/python.h>
#include <torch/version.h>

#include "bindings/python/src/torch/backend.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using tutti::torch_backend::TuttiBackend;
  m.doc() = "The torch.distributed backend \"tutti\" for torch " TORCH_VERSION;
  m.def("create_backend", &TuttiBackend::create, pybind11::arg("store"), pybind11::arg("rank"),
        pybind11::arg("size"), pybind11::arg("timeout"), pybind11::arg("served") = "cuda");
  m.def("shutdown_all", &TuttiBackend::shutdown_all);
}
