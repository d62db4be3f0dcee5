// The machine's own tests, on PTX written by hand: what it computes, and that it stops at every
// kind of fault that it is there to find.
#include "tests/ptx/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

namespace tutti::ptx {
namespace {

using testing::HasSubstr;

class Allocations : public Memory {
 public:
  template <class T>
  void add(std::vector<T>& v) {
    begins_[reinterpret_cast<uint64_t>(v.data())] = v.size() * sizeof(T);
  }
  std::optional<Range> find(uint64_t address) const override {
    auto after = begins_.upper_bound(address);
    if (after == begins_.begin()) return std::nullopt;
    --after;
    if (address >= after->first + after->second) return std::nullopt;
    return Range{after->first, after->first + after->second};
  }
  uint64_t frees() const override { return 0; }

 private:
  std::map<uint64_t, uint64_t> begins_;
};

// A kernel of one parameter, the address of `out`; registers of all kinds are declared.
std::string kernel(const std::string& body, const std::string& variables = "") {
  return ".version 9.0\n.target sm_90\n.address_size 64\n"
         ".visible .entry test(\n  .param .u64 test_param_0\n)\n.maxntid 64, 1, 1\n{\n" +
         variables +
         "\n  .reg .pred %p<9>;\n  .reg .b16 %rs<9>;\n  .reg .f32 %f<9>;\n  .reg .f64 %fd<9>;\n"
         "  .reg .b32 %r<30>;\n  .reg .b64 %rd<30>;\n"
         "  ld.param.u64 %rd1, [test_param_0];\n  mov.u32 %r1, %tid.x;\n" +
         body + "\n  ret;\n}\n";
}
// Puts %r2 where thread %r1 has its result.
constexpr const char* k_store =
    "\n  mul.wide.u32 %rd2, %r1, 4;\n  add.s64 %rd3, %rd1, %rd2;\n  st.global.u32 [%rd3], %r2;\n";

std::optional<Fault> run(const std::string& ptx, std::vector<uint32_t>& out,
                         Grid grid = {1, 1, 64, false}, Counts* counts = nullptr) {
  auto machine = Machine::load(ptx);
  EXPECT_TRUE(machine.ok()) << machine.status().to_string();
  auto program = (*machine)->kernel("test");
  EXPECT_TRUE(program.ok()) << program.status().to_string();
  if (!program) return Fault{};
  Allocations memory;
  memory.add(out);
  const uint32_t* address = out.data();
  std::vector<std::byte> parameters(sizeof address);
  std::memcpy(parameters.data(), &address, sizeof address);
  return run_grid(**program, grid, parameters, memory, counts);
}
std::vector<uint32_t> results(const std::string& body, const std::string& variables = "") {
  std::vector<uint32_t> out(64, 0xABCDABCD);
  const auto fault = run(kernel(body + k_store, variables), out);
  EXPECT_FALSE(fault) << fault->to_string();
  return out;
}
std::string fault_of(const std::string& body, const std::string& variables = "") {
  std::vector<uint32_t> out(64);
  const auto fault = run(kernel(body, variables), out);
  return fault ? fault->to_string() : "no fault";
}

TEST(Machine, LanesGoTheirOwnWaysAndMeetAgain) {
  // Thread t: t times the sum of a loop of t turns; odd ones one more.
  const auto out = results(R"(
  mov.u32 %r2, 0;
  mov.u32 %r3, 0;
$L_loop:
  setp.ge.u32 %p1, %r3, %r1;
  @%p1 bra $L_done;
  add.s32 %r2, %r2, %r1;
  add.s32 %r3, %r3, 1;
  bra.uni $L_loop;
$L_done:
  and.b32 %r4, %r1, 1;
  setp.eq.s32 %p2, %r4, 0;
  @!%p2 add.s32 %r2, %r2, 1;)");
  for (uint32_t t = 0; t < 64; ++t) EXPECT_EQ(out[t], t * t + t % 2);
}

TEST(Machine, CarriesRunThroughAdditionAndSubtraction) {
  // 128 bits: (2^64 - 1 + t) - 2^64, whose low word is t - 1; then the carry of the subtraction
  // itself.
  const auto out = results(R"(
  add.cc.u32 %r3, -1, %r1;
  addc.cc.u32 %r4, -1, 0;
  addc.u32 %r5, 0, 0;
  sub.cc.u32 %r6, %r3, 0;
  subc.cc.u32 %r7, %r4, 0;
  subc.cc.u32 %r8, %r5, 1;
  addc.u32 %r9, 0, 0;
  shl.b32 %r9, %r9, 16;
  and.b32 %r10, %r3, 0xFFFF;
  or.b32 %r2, %r9, %r10;)");
  EXPECT_EQ(out[0], 0xFFFFu) << "a borrow leaves no carry";
  for (uint32_t t = 1; t < 64; ++t) EXPECT_EQ(out[t], 0x10000 + t - 1);
}

TEST(Machine, WordsAreTakenApartAndPutTogether) {
  const auto out = results(R"(
  mul.lo.s32 %r3, %r1, 65537;
  mov.b32 {%rs1, %rs2}, %r3;
  add.s16 %rs1, %rs1, -1;
  mov.b32 %r4, {%rs2, %rs1};
  mov.u32 %r6, 1;
  prmt.b32 %r5, %r4, %r6, 0x4321;
  shf.l.wrap.b32 %r2, %r5, %r4, 8;)");
  for (uint32_t t = 0; t < 64; ++t) {
    const uint32_t swapped = t | (t - 1) << 16;
    const uint32_t permuted = swapped >> 8 | 1u << 24;
    EXPECT_EQ(out[t], swapped << 8 | permuted >> 24);
  }
}

TEST(Machine, FieldsOfBitsKeepTheirSign) {
  // Bits 2 to 4 of t, signed; then bits 28 to 39 of t << 26, of which there are four.
  const auto out = results(R"(
  bfe.s32 %r3, %r1, 2, 3;
  shl.b32 %r4, %r1, 26;
  bfe.s32 %r5, %r4, 28, 12;
  shl.b32 %r5, %r5, 8;
  and.b32 %r3, %r3, 255;
  or.b32 %r2, %r5, %r3;)");
  for (int32_t t = 0; t < 64; ++t) {
    const int32_t field = (t >> 2 & 7) >= 4 ? (t >> 2 & 7) - 8 : (t >> 2 & 7);
    const int32_t top = (t >> 2 & 15) >= 8 ? (t >> 2 & 15) - 16 : (t >> 2 & 15);
    EXPECT_EQ(static_cast<int32_t>(out[static_cast<size_t>(t)]), top * 256 | (field & 255)) << t;
  }
}

TEST(Machine, NarrowFloatsRoundToNearestEven) {
  // fp16 of 2048 + t: steps of two from there on, ties to even; and fp8 of t.
  const auto out = results(R"(
  add.s32 %r3, %r1, 2048;
  cvt.rn.f32.u32 %f1, %r3;
  cvt.rn.f16.f32 %rs1, %f1;
  cvt.rn.f32.u32 %f2, %r1;
  mov.f32 %f3, 0f00000000;
  cvt.rn.satfinite.e4m3x2.f32 %rs2, %f3, %f2;
  mov.b32 %r2, {%rs1, %rs2};)");
  for (uint32_t t = 0; t < 64; ++t) {
    const auto half = static_cast<_Float16>(static_cast<float>(2048 + t));
    EXPECT_EQ(out[t] & 0xFFFF, std::bit_cast<uint16_t>(half)) << t;
  }
  EXPECT_EQ(out[1] >> 16, 0x38u);
  EXPECT_EQ(out[17] >> 16, 0x58u) << "17 lies between 16 and 18: to even";
  EXPECT_EQ(out[19] >> 16, 0x5Au) << "19 lies between 18 and 20: to even";
  EXPECT_EQ(out[63] >> 16, 0x68u) << "63 becomes 64";
}

TEST(Machine, EveryNanOfAFloatIsTheCanonicalOne) {
  const auto out = results(R"(
  mov.b32 %f1, 0x7F800001;
  mov.f32 %f2, 0f3F800000;
  add.rn.f32 %f3, %f1, %f2;
  mov.b32 %r2, %f3;)");
  EXPECT_EQ(out[5], 0x7FFFFFFFu);
}

TEST(Machine, BarriersOrderAndVote) {
  // Every thread's word to its neighbour; then whether one of them was 63.
  const auto out = results(R"(
  shl.b32 %r3, %r1, 2;
  mov.u32 %r4, words;
  add.s32 %r5, %r4, %r3;
  st.shared.u32 [%r5], %r1;
  bar.sync 0;
  xor.b32 %r6, %r3, 4;
  add.s32 %r7, %r4, %r6;
  ld.shared.u32 %r8, [%r7];
  setp.eq.s32 %p1, %r8, 63;
  bar.red.or.pred %p2, 0, %p1;
  selp.u32 %r9, 1000, 0, %p2;
  add.s32 %r2, %r8, %r9;)",
                           ".shared .align 4 .b8 words[256];");
  for (uint32_t t = 0; t < 64; ++t) EXPECT_EQ(out[t], (t ^ 1) + 1000);
}

TEST(Machine, FunctionsAreCalledWithTheirArguments) {
  const std::string function = R"(
.func (.param .b32 func_retval0) twice(
  .param .b64 twice_param_0
)
{
  .reg .b32 %r<3>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [twice_param_0];
  cvt.u32.u64 %r1, %rd1;
  shl.b32 %r2, %r1, 1;
  st.param.b32 [func_retval0+0], %r2;
  ret;
}
)";
  std::string text = kernel(std::string(R"(
  cvt.u64.u32 %rd5, %r1;
  { // callseq 0, 0
  .param .b64 param0;
  st.param.b64 [param0+0], %rd5;
  .param .b32 retval0;
  call.uni (retval0),
  twice,
  (
  param0
  );
  ld.param.b32 %r2, [retval0+0];
  })") + k_store);
  text.insert(text.find(".visible"), function);
  std::vector<uint32_t> out(64);
  const auto fault = run(text, out);
  ASSERT_FALSE(fault) << fault->to_string();
  for (uint32_t t = 0; t < 64; ++t) EXPECT_EQ(out[t], 2 * t);
}

// Block 1 waits for what block 0 stores, which waits for block 1's: only at the same time do they
// end.
TEST(Machine, BlocksOfACooperativeGridWaitForEachOther) {
  std::vector<uint32_t> out(64, 0);
  Counts counts;
  const auto fault = run(kernel(R"(
  mov.u32 %r3, %ctaid.x;
  xor.b32 %r4, %r3, 1;
  mul.wide.u32 %rd4, %r3, 4;
  add.s64 %rd5, %rd1, %rd4;
  mul.wide.u32 %rd6, %r4, 4;
  add.s64 %rd7, %rd1, %rd6;
  st.release.sys.global.u32 [%rd5], 7;
$L_wait:
  ld.acquire.sys.global.u32 %r5, [%rd7];
  setp.ne.s32 %p1, %r5, 7;
  @%p1 bra $L_wait;)"),
                         out, {2, 1, 1, true}, &counts);
  EXPECT_FALSE(fault) << fault->to_string();
  EXPECT_EQ(counts.global_stores, 8u);
  EXPECT_GE(counts.global_loads, 8u);
}

TEST(Machine, StopsAtBadAddresses) {
  EXPECT_THAT(fault_of("  ld.global.u32 %r2, [%rd1+2];"), HasSubstr("is not a multiple of 4"));
  EXPECT_THAT(
      fault_of("  add.s64 %rd2, %rd1, 8;\n  ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd2];"),
      HasSubstr("is not a multiple of 16"));
  EXPECT_THAT(fault_of("  st.global.u64 [%rd1+252], %rd1;"), HasSubstr("not a multiple of 8"));
  EXPECT_THAT(fault_of("  st.global.u32 [%rd1+256], %r1;"), HasSubstr("no memory of the device"));
  EXPECT_THAT(fault_of("  mov.u64 %rd2, 4096;\n  ld.u32 %r2, [%rd2];"),
              HasSubstr("no memory of the device"));
  EXPECT_THAT(fault_of("  ld.shared.u32 %r2, [words+8];", ".shared .align 4 .b8 words[8];"),
              HasSubstr("offset 8 of shared memory, which has 8 bytes"));
  EXPECT_THAT(fault_of("  ld.param.u64 %rd2, [test_param_0+8];"), HasSubstr("parameters"));
}

TEST(Machine, StopsAtRacesInSharedMemory) {
  const char* shared = ".shared .align 4 .b8 words[256];";
  EXPECT_THAT(fault_of("  st.shared.u32 [words], %r1;", shared),
              HasSubstr("race: thread 0 wrote byte 0"));
  EXPECT_THAT(
      fault_of("  shl.b32 %r3, %r1, 2;\n  mov.u32 %r4, words;\n  add.s32 %r5, %r4, %r3;\n"
               "  st.shared.u32 [%r5], %r1;\n  xor.b32 %r3, %r3, 128;\n  add.s32 %r5, %r4, %r3;\n"
               "  ld.shared.u32 %r2, [%r5];",
               shared),
      HasSubstr("race: thread"));
  EXPECT_THAT(fault_of("  ld.shared.u32 %r2, [words];\n  setp.eq.s32 %p1, %r1, 33;\n"
                       "  @%p1 st.shared.u32 [words], %r1;",
                       shared),
              HasSubstr("read byte 0 of shared memory since the last barrier"));
  EXPECT_EQ(
      fault_of("  setp.eq.s32 %p1, %r1, 33;\n  @%p1 st.shared.u32 [words], %r1;\n  bar.sync 0;\n"
               "  ld.shared.u32 %r2, [words];",
               shared),
      "no fault");
}

TEST(Machine, StopsWhereThreadsMissABarrier) {
  EXPECT_THAT(fault_of("  setp.eq.s32 %p1, %r1, 5;\n  @%p1 ret;\n  bar.sync 0;"),
              HasSubstr("thread 5: left"));
  EXPECT_THAT(fault_of("  setp.eq.s32 %p1, %r1, 5;\n  @%p1 bra $L_other;\n  bar.sync 0;\n  "
                       "ret;\n$L_other:\n  bar.sync 0;"),
              HasSubstr("this one at another"));
}

TEST(Machine, DividesByZeroOnPurposeOnly) {
  EXPECT_THAT(fault_of("  mov.u32 %r3, 0;\n  div.u32 %r2, %r1, %r3;"),
              HasSubstr("division by zero"));
}

TEST(Machine, RefusesWhatItDoesNotKnow) {
  const auto refusal = [](const std::string& body) {
    auto machine = Machine::load(kernel(body));
    if (!machine) return machine.status().message();
    auto program = (*machine)->kernel("test");
    return program ? std::string("taken") : program.status().message();
  };
  EXPECT_THAT(refusal("  setp.eq.s32 %p1, %r1, 0;\n  vote.sync.ballot.b32 %r2, %p1, -1;"),
              HasSubstr("line 19: vote.sync.ballot.b32: not known"));
  EXPECT_THAT(refusal("  mov.f32 %f1, 0f00000000;\n  add.rz.f32 %f2, %f1, %f1;"),
              HasSubstr("add.rz.f32"));
  EXPECT_THAT(refusal("  mov.f32 %f1, 0f00000000;\n  cvt.rzi.s32.f32 %r2, %f1;"),
              HasSubstr("cvt.rzi.s32.f32"));
  EXPECT_THAT(refusal("  mov.u32 %r2, %smid;"), HasSubstr("what is %smid"));
  EXPECT_THAT(refusal("  add.s32 %r2, %r3, 1;"), HasSubstr("before anything wrote it"));
  EXPECT_THAT(refusal("  bra $L_nowhere;"), HasSubstr("no label $L_nowhere"));
  EXPECT_FALSE(Machine::load("not PTX").ok());
  auto machine = Machine::load(kernel(""));
  ASSERT_TRUE(machine.ok());
  EXPECT_THAT((*machine)->kernel("other").status().message(), HasSubstr("no function other"));
  std::vector<uint32_t> out(64);
  EXPECT_THAT(run(kernel(""), out, {1, 1, 128, false})->to_string(),
              HasSubstr("cannot have 128 threads"));
}

}  // namespace
}  // namespace tutti::ptx
