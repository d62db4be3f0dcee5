// split and grow among processes, over every transport between them.
#include "tests/process/processes.h"

namespace tutti::processes {
namespace {

class Descendants : public ::testing::TestWithParam<std::string> {};

TEST_P(Descendants, SplitTwiceThenUseAll) {
  Job job(6, over(GetParam()), [](Communicator& c, Board&) -> std::string {
    const int me = static_cast<int>(c.rank());
    auto third = c.split(me % 3, -me);
    if (!third) return third.status().to_string();
    auto none = c.split(me == 0 ? Communicator::k_no_color : 4, 0);
    if (!none) return none.status().to_string();
    if ((me == 0) != (*none == nullptr)) return "k_no_color";
    auto alone = (*third)->split(me, 0);
    if (!alone) return alone.status().to_string();
    if ((*alone)->ranks() != 1) return "alone";
    for (int i = 0; i < 20; ++i) {
      std::vector<float> x(1000, static_cast<float>(me)), y(1000);
      Status s = (*third)->all_reduce(x.data(), y.data(), 1000, DType::float32, ReduceOp::sum);
      if (!s.ok()) return s.to_string();
      if (y[999] != static_cast<float>(2 * (me % 3) + 3)) return "wrong sum of a third";
      s = c.all_reduce(x.data(), y.data(), 1000, DType::float32, ReduceOp::sum);
      if (!s.ok()) return s.to_string();
      if (y[999] != 15.0f) return "wrong sum of all";
    }
    if ((*third)->rank() != (me < 3 ? 1u : 0u)) return "order by key";
    return "";
  });
  job.expect_all_well();
}

INSTANTIATE_TEST_SUITE_P(Over, Descendants, ::testing::Values("shm", "tcp"),
                         [](const auto& over) { return over.param; });

}  // namespace
}  // namespace tutti::processes
