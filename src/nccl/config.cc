// ncclConfig_t of any version, as tutti's Settings.
#include <fmt/format.h>

#include <cstring>

#include "src/communicator/environment.h"
#include "src/nccl/comm.h"
#include "src/nccl/errors.h"

namespace tutti::nccl {
namespace {

struct Attribute {
  const char* name;
  int ncclConfig_t::*field;
  unsigned since;
  int least, most;
};

constexpr int k_any = INT_MAX;
constexpr Attribute k_attributes[] = {
    {"blocking", &ncclConfig_t::blocking, 21400, 0, 1},
    {"cgaClusterSize", &ncclConfig_t::cgaClusterSize, 21700, 0, k_any},
    {"minCTAs", &ncclConfig_t::minCTAs, 21700, 1, k_any},
    {"maxCTAs", &ncclConfig_t::maxCTAs, 21700, 1, k_any},
    {"splitShare", &ncclConfig_t::splitShare, 21700, 0, 1},
    {"trafficClass", &ncclConfig_t::trafficClass, 22500, 0, k_any},
    {"collnetEnable", &ncclConfig_t::collnetEnable, 22700, 0, 1},
    {"CTAPolicy", &ncclConfig_t::CTAPolicy, 22700, 0, 3},
    {"shrinkShare", &ncclConfig_t::shrinkShare, 22700, 0, 1},
    {"nvlsCTAs", &ncclConfig_t::nvlsCTAs, 22700, 1, k_any},
    {"nChannelsPerNetPeer", &ncclConfig_t::nChannelsPerNetPeer, 22800, 1, k_any},
    {"nvlinkCentricSched", &ncclConfig_t::nvlinkCentricSched, 22800, 0, 1},
    {"graphUsageMode", &ncclConfig_t::graphUsageMode, 22900, 0, k_any},
    {"numRmaCtx", &ncclConfig_t::numRmaCtx, 22900, 0, k_any},
    {"maxP2pPeers", &ncclConfig_t::maxP2pPeers, 23000, 0, k_any},
    {"graphStreamOrdering", &ncclConfig_t::graphStreamOrdering, 23005, 0, k_any},
    {"launchOrderImplicit", &ncclConfig_t::launchOrderImplicit, 23100, 0, k_any},
    {"numRmaSig", &ncclConfig_t::numRmaSig, 23100, 0, k_any},
    {"rmaEagerInit", &ncclConfig_t::rmaEagerInit, 23100, 0, k_any},
    {"hostCftMode", &ncclConfig_t::hostCftMode, 23100, 0, k_any},
    {"nvlsHostMode", &ncclConfig_t::nvlsHostMode, 23200, 0, k_any},
};

// The caller's structure with today's layout: what it does not have, or did not know, is undefined.
Result<ncclConfig_t> widen(const ncclConfig_t& given) {
  if (given.magic != NCCL_API_MAGIC)
    return invalid_argument(
        fmt::format("config.magic is {:#x}, not {:#x}: the structure was not "
                    "initialized with NCCL_CONFIG_INITIALIZER",
                    given.magic, NCCL_API_MAGIC));
  constexpr size_t k_header = offsetof(ncclConfig_t, blocking);
  if (given.size < k_header || given.size > (size_t{1} << 16))
    return invalid_argument(
        fmt::format("config.size is {} bytes: the structure was not "
                    "initialized with NCCL_CONFIG_INITIALIZER",
                    given.size));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  std::memcpy(&config, &given, std::min(given.size, sizeof config));
  for (const Attribute& a : k_attributes)
    if (config.version < a.since) config.*a.field = NCCL_CONFIG_UNDEF_INT;
  if (config.version < 21700) config.netName = nullptr;
  if (config.version < 22700) config.commName = nullptr;
  return config;
}

}  // namespace

Result<Settings> read_config(const ncclConfig_t* given, const Settings& defaults) {
  Settings settings = defaults;
  if (given != nullptr) {
    Result<ncclConfig_t> config = widen(*given);
    if (!config) return config.status();
    for (const Attribute& a : k_attributes) {
      const int value = (*config).*a.field;
      if (value != NCCL_CONFIG_UNDEF_INT && (value < a.least || value > a.most))
        return invalid_argument(fmt::format("config.{} is {}: {}", a.name, value,
                                            a.most == k_any
                                                ? fmt::format("at least {}", a.least)
                                                : fmt::format("{} to {}", a.least, a.most)));
    }
    const int least = config->minCTAs, most = config->maxCTAs;
    if (least != NCCL_CONFIG_UNDEF_INT && most != NCCL_CONFIG_UNDEF_INT && least > most)
      return invalid_argument(
          fmt::format("config.minCTAs is {}, more than config.maxCTAs, {}", least, most));
    if (config->blocking != NCCL_CONFIG_UNDEF_INT) settings.blocking = config->blocking == 1;
    const auto take = [](int value, auto* setting) {
      if (value != NCCL_CONFIG_UNDEF_INT) *setting = value;
    };
    take(config->numRmaCtx, &settings.rma_contexts);
    take(config->numRmaSig, &settings.rma_signals);
    take(config->rmaEagerInit, &settings.rma_eager);
    if (config->commName != nullptr) settings.name = config->commName;
  }
  // The environment wins over the program, as in NCCL.
  const Variables variables = read_environment();
  if (const auto found = variables.find("NCCL_COMM_BLOCKING"); found != variables.end()) {
    if (found->second == "0") settings.blocking = false;
    if (found->second == "1") settings.blocking = true;
  }
  Result<Kinds> fallback = read_fallback();
  if (!fallback) return fallback.status();
  settings.fallback = *fallback;
  return settings;
}

}  // namespace tutti::nccl
