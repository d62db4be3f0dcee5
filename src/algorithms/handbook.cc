// What the handbook says that the code does not: formulas as people write them, and when to choose
// what. One page for every (algorithm, collective); drawings from plans of a few ranks.
#include "src/algorithms/handbook.h"

#include <fmt/format.h>

#include "src/algorithms/algorithms.h"
#include "src/plan/draw.h"

namespace tutti {
namespace {

struct Page {
  std::string_view algorithm;
  Collective collective;
  uint32_t ranks;  // of the drawing
  std::string_view cost;
  std::string_view wins;
};

// M: bytes of one rank's block, n: ranks, C: chunks, lg: binary logarithm, rounded up.
constexpr Page k_pages[] = {
    {"ring", Collective::all_reduce, 4, "2(n-1) α + 2(n-1)/n M β + (n-1)/n M γ",
     "large blocks, few ranks, links that form a ring"},
    {"ring", Collective::reduce_scatter, 4, "(n-1)(α + M β + M γ)", "large blocks on ring links"},
    {"ring", Collective::all_gather, 4, "(n-1)(α + M β)", "large blocks on ring links"},
    {"ring", Collective::broadcast, 4, "(n-1) α + (n-2+C) M/C β",
     "large blocks: each link carries M once"},
    {"ring", Collective::reduce, 4, "(n-1) α + (n-2+C) M/C (β + γ)", "large blocks"},
    {"direct_one_shot", Collective::all_reduce, 4, "α + (n-1) M β + (n-1) M γ",
     "the smallest blocks: one message deep"},
    {"direct_two_shot", Collective::all_reduce, 4, "2 α + 2(n-1)/n M β + (n-1)/n M γ",
     "all but the smallest blocks where every pair has a link: shared memory, NVLink"},
    {"direct", Collective::reduce_scatter, 4, "α + (n-1) M β + (n-1) M γ",
     "few ranks, or every pair has a link"},
    {"direct", Collective::all_gather, 4, "α + (n-1) M β", "few ranks, or every pair has a link"},
    {"direct", Collective::broadcast, 4, "α + (n-1) M β", "few ranks"},
    {"direct", Collective::reduce, 4, "α + (n-1) M β + (n-1) M γ", "few ranks"},
    {"direct", Collective::gather, 4, "α + (n-1) M β", "large blocks; nothing is forwarded"},
    {"direct", Collective::scatter, 4, "α + (n-1) M β", "large blocks; nothing is forwarded"},
    {"direct", Collective::all_to_all, 4, "α + (n-1) M β", "small and middle blocks"},
    {"direct", Collective::barrier, 4, "α", "few ranks"},
    {"pairwise", Collective::all_to_all, 4, "(n-1)(α + M β)",
     "large blocks: no rank is rushed at, little is buffered"},
    {"pairwise", Collective::all_to_all_v, 3, "α + (bytes of the rank) β",
     "always: a lane per pair and direction, pairs do not wait for each other"},
    {"pairwise", Collective::send_recv, 3, "α + (bytes of the rank) β", "always, as all_to_all_v"},
    {"double_binary_tree", Collective::all_reduce, 6,
     "2h α + (4 lg n + 2C) M/C β, h = 1 + ⌊lg(n-1)⌋", "middle sizes, many ranks"},
    {"double_binary_tree", Collective::broadcast, 6,
     "(h+1) α + (2 lg(n-1) - 1 + C) M/C β, h = 1 + ⌊lg(n-2)⌋",
     "middle and large blocks, many ranks"},
    {"double_binary_tree", Collective::reduce, 6,
     "(h+1) α + (2 lg(n-1) - 1 + C) M/C β, h = 1 + ⌊lg(n-2)⌋",
     "middle and large blocks, many ranks"},
    {"binomial", Collective::broadcast, 8, "⌊lg n⌋ α + lg n M β", "small blocks"},
    {"binomial", Collective::reduce, 8, "lg n (α + M β) + ½ lg n (lg n + 1) M γ", "small blocks"},
    {"binomial", Collective::gather, 8, "(lg n + 1) α + (n-1) M β", "small blocks, many ranks"},
    {"binomial", Collective::scatter, 8, "(lg n + 1) α + (n-1) M β", "small blocks, many ranks"},
    {"recursive_doubling", Collective::all_reduce, 5,
     "lg n (α + M β + M γ), and 2 (α + M β) + M γ where n is not a power of two", "small blocks"},
    {"recursive_doubling", Collective::all_gather, 4, "lg n α + (n-1) M β",
     "small blocks, powers of two"},
    {"halving_doubling", Collective::all_reduce, 4,
     "2 lg n α + 2(n-1)/n M β + (n-1)/n M γ, and 2 (α + M β) + M γ where n is not a power of two",
     "middle and large blocks, powers of two"},
    {"halving_doubling", Collective::reduce_scatter, 4, "lg n α + (n-1) M β + (n-1) M γ",
     "middle blocks, powers of two"},
    {"halving_doubling", Collective::all_gather, 4, "lg n α + (n-1) M β",
     "middle blocks, powers of two"},
    {"bruck", Collective::all_gather, 5, "lg n α + (n-1) M β", "small blocks, any n"},
    {"bruck", Collective::reduce_scatter, 5, "lg n α + (n-1) M β + (n-1) M γ",
     "small blocks, any n"},
    {"bruck", Collective::all_to_all, 5, "(lg n + 1) α + about n/2 lg n M β",
     "the smallest blocks, many ranks"},
    {"hierarchical_leader", Collective::all_reduce, 6,
     "(2 + 2(m-1)) α + (2(k-1) + 2(m-1)/m) M β, m groups of k", "small blocks, many ranks"},
    {"hierarchical_leader", Collective::broadcast, 6,
     "h α + (d + f(C-1)) M/C β, h = Σ ⌊lg groups⌋, d = Σ lg groups",
     "slow links between groups: each carries M once"},
    {"hierarchical_leader", Collective::reduce, 6, "h α + (d + f(C-1)) M/C (β + γ)",
     "slow links between groups"},
    {"hierarchical_leader_doubling", Collective::all_reduce, 6,
     "(2 + 2 lg m) α + (2(k-1) + 2(m-1)/m) M β", "small blocks, very many ranks"},
    {"hierarchical_scatter", Collective::all_reduce, 6,
     "(2 + 2(m-1)) α + 2(n-1)/n M β + (n-1)/n M γ", "large blocks: every NIC works"},
    {"hierarchical_scatter_doubling", Collective::all_reduce, 4,
     "(2 + 2 lg m) α + 2(n-1)/n M β + (n-1)/n M γ", "middle blocks, many groups"},
    {"hierarchical_scatter_direct", Collective::all_reduce, 4, "4 α + 2(n-1)/n M β + (n-1)/n M γ",
     "middle blocks, few groups"},
    {"dissemination", Collective::barrier, 5, "lg n α", "always but for a few ranks"},
};

PlanRequest drawn_request(const Page& page) {
  PlanRequest q;
  q.collective = page.collective;
  q.ranks = page.ranks;
  q.chunks = 4;
  if (!page.algorithm.starts_with("hierarchical")) return q;
  q.hierarchy = Hierarchy::even(page.ranks, {page.ranks / 2});
  if (page.collective == Collective::all_reduce) q.chunks = 1;
  return q;
}

std::string section(const Page& page, const PlanRequest& q, const std::string& image) {
  const Algorithm& algorithm = *find_algorithm(page.algorithm);
  const Cost cost = algorithm.cost(q);
  std::string text = fmt::format("### {}\n\n", name(page.collective));
  text += fmt::format("T = {}\n\nWins: {}.\n\n", page.cost, page.wins);
  text += fmt::format("{} ranks, {} chunks: {:g} steps, {:.4g} M bytes", q.ranks,
                      algorithm.make(q)->shape().chunks, cost.steps, cost.bytes);
  if (cost.reduced > 0) text += fmt::format(", {:.4g} M reduced", cost.reduced);
  return text + fmt::format(".\n\n![{} {}]({})\n\n", page.algorithm, name(page.collective), image);
}

constexpr std::string_view k_preface =
    "# The algorithms\n\n"
    "This page is generated (`tutti docs`); a test holds it to the code. Each algorithm is a pure\n"
    "function in a header of its own under `src/algorithms/`, which opens with a drawing by hand "
    "and\n"
    "says how it stays in order when peers read or write memory directly.\n\n"
    "M: bytes of one rank's block; n: ranks; C: chunks; lg: binary logarithm, rounded up; α: time "
    "of\n"
    "a message; β: time per byte sent; γ: time per byte reduced. The messages of one rank that do "
    "not\n"
    "wait for each other count as one step. Formulas are for contention-free links; the simulator\n"
    "prices the rest.\n\n"
    "Drawings: one row per lane, time to the right, an arrow per message, one colour per chunk of\n"
    "data. `tutti plan --algorithm A --collective C --ranks N --svg FILE` draws any other.\n\n";

}  // namespace

Result<std::vector<HandbookFile>> handbook() {
  std::vector<HandbookFile> files(1);
  std::string text(k_preface), index, body;
  std::string_view chapter;
  for (const Page& page : k_pages) {
    if (page.algorithm != chapter) {
      chapter = page.algorithm;
      const std::string_view summary = find_algorithm(chapter)->summary;
      index += fmt::format("- [{0}](#{0}): {1}\n", chapter, summary);
      body += fmt::format("## {}\n\n{}.\n\n", chapter, summary);
    }
    const PlanRequest q = drawn_request(page);
    const Result<PlanPtr> plan = make_plan(page.algorithm, q);
    if (!plan.ok()) return Status(Code::internal_error, plan.status().message());
    const Result<std::string> svg = to_svg(**plan);
    if (!svg.ok()) return Status(Code::internal_error, svg.status().message());
    const std::string image =
        fmt::format("img/algorithms/{}.{}.svg", page.algorithm, name(page.collective));
    files.push_back({image, *svg});
    body += section(page, q, image);
  }
  while (body.ends_with("\n\n")) body.pop_back();
  files[0] = {"algorithms.md", text + index + "\n" + body};
  return files;
}

}  // namespace tutti
