// Bootstrap: how ranks that share nothing but a UniqueId find, trust and tell each other things.
//
// Ranks form a tree of authenticated TCP control connections (decision 0004): the root named in the
// id redirects joiners down, so no rank serves all others. Every connection proves knowledge of the
// id's secret by a mutual HMAC challenge-response over fixed-size frames, before anything of
// variable length is read; every state has a deadline, every length a cap. The handshake carries
// wire version, endianness and k_plan_format, and refuses, by name, what does not match.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/auth.h"
#include "src/communicator/bootstrap/council.h"
#include "tutti/status.h"
#include "tutti/types.h"
#include "tutti/unique_id.h"

namespace tutti {

struct BootstrapOptions {
  Rank rank = 0;
  uint32_t ranks = 1;
  std::string interface;  // as TransportOptions
  std::string family;
  std::chrono::steady_clock::time_point deadline;
  uint32_t plan_format = 0;  // k_plan_format; ranks that differ are refused by name
  // Asked while join() waits: why there is no point in it any more.
  std::function<Status()> interrupted = {};
};

class Bootstrap {
 public:
  // Joins the job of `id`. The rank that created the id must have called UniqueId::create() in this
  // process or hold the listening socket it opened; see unique_id.h.
  // Errors name the rank, address and reason: a wrong secret, a duplicate rank, ranks that disagree
  // on `ranks`, a missing rank (after the deadline: which ones have not come).
  static Result<std::unique_ptr<Bootstrap>> join(const UniqueId& id,
                                                 const BootstrapOptions& options);
  // The same among the threads of this process, without sockets: element r is for rank r.
  static std::vector<std::unique_ptr<Bootstrap>> local(uint32_t ranks);
  // Says goodbye, so that the others see an orderly end and no lost connection.
  virtual ~Bootstrap() = default;

  // Every rank gives one blob (<= 64 KiB) and gets all, in rank order. Collective, blocking.
  virtual Result<std::vector<std::string>> all_gather(
      const std::string& mine, std::chrono::steady_clock::time_point deadline) = 0;
  virtual Status barrier(std::chrono::steady_clock::time_point deadline) = 0;

  // Out of band: tells all ranks (through the tree) that the communicator broke, and learns it.
  // Neither blocks. A lost control connection shows as an error that names the rank behind it.
  virtual void post_error(const std::string& record) = 0;
  virtual std::optional<std::string> posted_error() = 0;
  virtual Status progress() = 0;

  // The council of these ranks (council.h), which does not need the tree. Every rank tells all
  // others its address (nothing among threads) and then convenes with everybody's, in rank order.
  virtual PackedAddress address() const { return {}; }
  virtual Status convene(const std::vector<PackedAddress>&) { return {}; }
  // Runs `act` on the council of this rank; what it says goes out. From any thread.
  virtual void consult(const std::function<void(Council&)>& act) = 0;
  // Blocks until done(council), asked after every event, or the deadline: then false.
  virtual bool await(const std::function<bool(Council&)>& done,
                     std::chrono::steady_clock::time_point deadline) = 0;
  // The record of a revocation that has reached this rank, or null. Costs one load until then.
  virtual const std::string* revoked() const = 0;
  // Ranks whose control connections have ended without goodbye.
  virtual std::vector<Rank> lost() { return {}; }

  // Descendants: some of these ranks, under new numbers, with a bootstrap of their own. Who will be
  // rank 0 there founds it and hands the ticket (ticket_bytes() long) to the others; all of them,
  // rank 0 too, enter with it. The secret is derived from `key` and never part of the ticket, so
  // that only ranks with the same key meet. options.rank and .ranks are those of the descendant.
  virtual size_t ticket_bytes() const = 0;
  virtual Result<std::string> found(const Key& key, const BootstrapOptions& options) = 0;
  virtual Result<std::unique_ptr<Bootstrap>> enter(std::string_view ticket, const Key& key,
                                                   const BootstrapOptions& options) = 0;
};

}  // namespace tutti
