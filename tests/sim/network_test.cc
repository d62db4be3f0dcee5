// Max-min fair sharing: known cases, and the incremental rates against a plain computation from
// scratch, over random histories.
#include "sim/network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace tutti::sim {
namespace {

std::vector<double> rates(Network& n, std::vector<uint32_t> flows) {
  n.settle(0, [](uint32_t, Time) {});
  std::vector<double> r;
  for (uint32_t f : flows) r.push_back(n.rate(f));
  return r;
}

uint32_t flow(Network& n, std::vector<uint32_t> path) { return n.add_flow(path); }

TEST(Network, TextbookShares) {
  // Three flows on one link of 30, of which one is held to 4 by another link.
  Network n(std::vector<double>{30, 4});
  const uint32_t a = flow(n, {0}), b = flow(n, {0}), c = flow(n, {0, 1});
  for (uint32_t f : {a, b, c}) n.start(f, 1e9, 0);
  EXPECT_EQ(rates(n, {a, b, c}), (std::vector<double>{13, 13, 4}));
  n.finish(b);
  EXPECT_EQ(rates(n, {a, c}), (std::vector<double>{26, 4}));
}

TEST(Network, TheParkingLot) {
  // A long flow over three links and a short one on each.
  Network n(std::vector<double>{10, 20, 40});
  const uint32_t whole = flow(n, {0, 1, 2}), a = flow(n, {0}), b = flow(n, {1}), c = flow(n, {2});
  for (uint32_t f : {whole, a, b, c}) n.start(f, 1e9, 0);
  EXPECT_EQ(rates(n, {whole, a, b, c}), (std::vector<double>{5, 5, 15, 35}));
}

TEST(Network, EndsFollowTheRates) {
  Network n(std::vector<double>{1000});
  const uint32_t a = flow(n, {0}), b = flow(n, {0});
  std::map<uint32_t, Time> end;
  auto moved = [&](uint32_t f, Time t) { end[f] = t; };
  n.start(a, 1000, 0);
  n.settle(0, moved);
  EXPECT_EQ(end[a], Time{1000000000000});
  // Half of it is through when another one comes: the rest takes twice as long.
  const Time half = end[a] / 2;
  n.start(b, 1000, half);
  n.settle(half, moved);
  EXPECT_EQ(end[a], half + Time{1000000000000});
  EXPECT_EQ(end[b], half + Time{2000000000000});
  n.finish(a);
  n.settle(end[a], moved);
  EXPECT_EQ(end[b], Time{2000000000000});
}

// Progressive filling without any cleverness.
std::vector<double> from_scratch(const std::vector<double>& capacity,
                                 const std::vector<std::vector<uint32_t>>& paths,
                                 const std::vector<bool>& active) {
  std::vector<double> rate(paths.size(), 0), left = capacity;
  std::vector<bool> open = active;
  while (std::count(open.begin(), open.end(), true) > 0) {
    double least = 1e300;
    std::vector<uint32_t> users(capacity.size(), 0);
    for (size_t f = 0; f < paths.size(); ++f)
      if (open[f])
        for (uint32_t l : paths[f]) ++users[l];
    for (size_t l = 0; l < capacity.size(); ++l)
      if (users[l] > 0) least = std::min(least, left[l] / users[l]);
    std::vector<bool> full(capacity.size());
    for (size_t l = 0; l < capacity.size(); ++l)
      full[l] = users[l] > 0 && left[l] / users[l] <= least * (1 + 1e-12);
    for (size_t f = 0; f < paths.size(); ++f) {
      if (!open[f] ||
          std::none_of(paths[f].begin(), paths[f].end(), [&](uint32_t l) { return full[l]; }))
        continue;
      rate[f] = least;
      open[f] = false;
      for (uint32_t l : paths[f]) left[l] -= least;
    }
  }
  return rate;
}

TEST(Network, IncrementalEqualsFromScratch) {
  std::mt19937_64 random(3);
  auto below = [&](size_t n) { return static_cast<uint32_t>(random() % n); };
  for (int world = 0; world < 60; ++world) {
    const size_t links = 1 + below(20), flows = 1 + below(40);
    std::vector<double> capacity(links);
    for (double& c : capacity) c = 1000 * (1 + below(world % 2 == 0 ? 3 : 1000));
    Network n(capacity);
    std::vector<std::vector<uint32_t>> paths(flows);
    for (auto& path : paths) {
      std::vector<uint32_t> all(links);
      for (uint32_t l = 0; l < links; ++l) all[l] = l;
      std::shuffle(all.begin(), all.end(), random);
      path.assign(all.begin(), all.begin() + 1 + below(std::min<size_t>(links, 5)));
      n.add_flow(path);
    }
    std::vector<bool> active(flows, false);
    for (int moment = 0; moment < 60; ++moment) {
      for (uint32_t changes = 1 + below(4); changes > 0; --changes) {
        const uint32_t f = below(flows);
        if (active[f]) {
          n.finish(f);
        } else {
          n.start(f, 1e12, moment);
        }
        active[f] = !active[f];
      }
      n.settle(moment, [](uint32_t, Time) {});
      const std::vector<double> expected = from_scratch(capacity, paths, active);
      for (uint32_t f = 0; f < flows; ++f) {
        if (!active[f]) continue;
        ASSERT_NEAR(n.rate(f), expected[f], 1e-6 * expected[f])
            << "world " << world << " moment " << moment << " flow " << f;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::sim
