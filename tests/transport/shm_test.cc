// shm: the conformance suite between threads, and what only real processes can show.
#include "transports/shm/shm_transport.h"

#include "tests/transport/conformance.h"

namespace tutti::conformance {
namespace {

TransportFactory factory(bool process_vm = true) {
  return {process_vm ? "shm" : "shm_without_process_vm", make_shm_transport,
          [=](TransportOptions& o) { o.process_vm = process_vm; }, true};
}

INSTANTIATE_TEST_SUITE_P(shm, TransportConformance, testing::Values(factory(), factory(false)),
                         TransportFactory::test_name);

}  // namespace
}  // namespace tutti::conformance
