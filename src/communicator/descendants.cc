// Communicators from a communicator: split and grow. Both are collective over a healthy parent:
// what its ranks must know of each other travels in all_gathers, then the descendant connects like
// any other communicator.
#include <fmt/format.h>

#include <algorithm>

#include "src/communicator/bootstrap/id.h"
#include "src/communicator/impl.h"

namespace tutti {
namespace {

struct ColorKey {
  int32_t color;
  int32_t key;
};

// The ranks of a color by (key, rank): their new order.
std::vector<Rank> members_of(int color, const std::vector<ColorKey>& choices) {
  std::vector<Rank> members;
  for (Rank r = 0; r < choices.size(); ++r)
    if (choices[r].color == color) members.push_back(r);
  std::stable_sort(members.begin(), members.end(),
                   [&](Rank a, Rank b) { return choices[a].key < choices[b].key; });
  return members;
}

// What a rank brings to grow(). The id's secret is masked with a key that only the ranks of this
// communicator know: data connections are not encrypted.
struct Growth {
  uint32_t ranks = 0;
  uint32_t has_id = 0;
  std::array<std::byte, 16> nonce{};
  UniqueId masked{};
};

UniqueId mask(const UniqueId& id, const Key& key, std::span<const std::byte> nonce) {
  UniqueId masked;
  for (size_t at = 0; at < id.bytes.size(); at += sizeof(Mac)) {
    const uint64_t block = at;
    const Mac stream =
        hmac_sha256(derive_key(key, "grow"), {nonce, std::as_bytes(std::span(&block, 1))});
    for (size_t i = 0; i < stream.size(); ++i) masked.bytes[at + i] = id.bytes[at + i] ^ stream[i];
  }
  return masked;
}
static_assert(sizeof(UniqueId) % sizeof(Mac) == 0);

}  // namespace

Status Communicator::Impl::no_open_group(const char* what) const {
  if (group_depth_ == 0) return {};
  return Status(Code::invalid_usage, fmt::format("rank {}: {} inside of a group", rank_, what));
}

Result<std::string> Communicator::Impl::share_bytes(const std::string& mine) {
  std::string all(mine.size() * ranks_, '\0');
  TUTTI_RETURN_IF_ERROR(
      run({Collective::all_gather, mine.data(), all.data(), mine.size(), DType::uint8, {}, 0}));
  return all;
}

Communicator::Impl::Descendant Communicator::Impl::split(int color, int key, const Config* config) {
  TUTTI_RETURN_IF_ERROR(no_open_group("split"));
  Result<std::vector<ColorKey>> choices = share(ColorKey{color, key});
  if (!choices) return choices.status();
  for (Rank r = 0; r < ranks_; ++r)
    if ((*choices)[r].color < 0 && (*choices)[r].color != k_no_color)
      return Status(Code::invalid_argument,
                    fmt::format("rank {}: split: rank {} passes color {}, which is neither "
                                "non-negative nor k_no_color ({})",
                                rank_, r, (*choices)[r].color, k_no_color));

  const std::vector<Rank> members =
      color == k_no_color ? std::vector<Rank>() : members_of(color, *choices);
  const Config settings = settings_of_descendant(config);
  const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
  const BootstrapOptions options =
      bootstrap_options(static_cast<Rank>(place), static_cast<uint32_t>(members.size()), settings);
  std::string ticket(bootstrap_->ticket_bytes(), '\0');
  Status founded;
  if (options.ranks > 1 && options.rank == 0) {
    Result<std::string> made = bootstrap_->found(key_, options);
    founded = made.status();
    if (made) ticket = std::move(*made);
  }
  Result<std::string> tickets = share_bytes(ticket);
  if (!tickets) return tickets.status();
  if (members.empty()) return std::unique_ptr<Impl>();
  const size_t width = ticket.size();
  ticket = tickets->substr(members[0] * width, width);
  tickets = std::string();
  TUTTI_RETURN_IF_ERROR(founded.with_context(fmt::format("rank {}: split", rank_)));
  if (options.ranks > 1 && ticket == std::string(width, '\0'))
    return Status(Code::remote_error, fmt::format("rank {}: split: {} cannot open its listener",
                                                  rank_, describe_peer(members[0])));
  Descendant made = enter(ticket, key_, options, settings);
  if (!made) return made.status().with_context(fmt::format("rank {}: split", rank_));
  return made;
}

Communicator::Impl::Descendant Communicator::Impl::enter(const std::string& ticket, const Key& key,
                                                         const BootstrapOptions& options,
                                                         const Config& config) {
  Result<std::unique_ptr<Bootstrap>> bootstrap = options.ranks == 1
                                                     ? std::move(Bootstrap::local(1).front())
                                                     : bootstrap_->enter(ticket, key, options);
  if (!bootstrap) return bootstrap.status();
  const Key of_this_ticket = hmac_sha256(key, {std::as_bytes(std::span(ticket))});
  return connect(std::move(*bootstrap), options.rank, options.ranks,
                 derive_key(of_this_ticket, "transports"), config, options.deadline,
                 leaf_in(config));
}

// A rank stays on its GPU, and at its place in a topology spec.
Config Communicator::Impl::settings_of_descendant(const Config* config) const {
  Config settings = config != nullptr ? *config : config_;
  if (settings.gpu.empty()) settings.gpu = config_.gpu;
  return settings;
}

PartId Communicator::Impl::leaf_in(const Config& descendant) const {
  return descendant.topology == config_.topology ? leaf_ : k_no_part;
}

Result<UniqueId> Communicator::Impl::grow_id() const {
  IdOptions options;
  options.interface = config_.socket_interface;
  options.family = config_.socket_family;
  return create_id(options);
}

Communicator::Impl::Descendant Communicator::Impl::grow(uint32_t ranks, const UniqueId* id,
                                                        const Config* config) {
  TUTTI_RETURN_IF_ERROR(no_open_group("grow"));
  auto bad = [&](Code code, std::string why) {
    return Status(code, fmt::format("rank {}: grow: {}", rank_, why));
  };
  Growth mine;
  mine.ranks = ranks;
  mine.has_id = id != nullptr;
  if (id != nullptr) {
    fill_random(mine.nonce);
    mine.masked = mask(*id, key_, mine.nonce);
  }
  // Bad arguments travel too, so that no rank waits for one that has given up.
  Result<std::vector<Growth>> all = share(mine);
  if (!all) return all.status();
  std::optional<Rank> founder;
  for (Rank r = 0; r < ranks_; ++r) {
    const Growth& g = (*all)[r];
    if (g.ranks != (*all)[0].ranks)
      return bad(Code::invalid_usage, fmt::format("rank {} asks for {} ranks, rank 0 for {}", r,
                                                  g.ranks, (*all)[0].ranks));
    if (g.has_id == 0) continue;
    if (founder)
      return bad(Code::invalid_usage, fmt::format("ranks {} and {} both pass an id", *founder, r));
    founder = r;
  }
  if (ranks <= ranks_)
    return bad(Code::invalid_argument, fmt::format("to {} ranks from {}", ranks, ranks_));
  if (!founder)
    return bad(Code::invalid_usage, "no rank passes an id (the one that called grow_id() does)");
  const UniqueId common = mask((*all)[*founder].masked, key_, (*all)[*founder].nonce);
  if (Status sound = decode_id(common).status(); !sound.ok())
    return sound.with_context(fmt::format("rank {}: grow: the id of rank {}", rank_, *founder));
  const Config settings = settings_of_descendant(config);
  return join(common, rank_, ranks, settings, leaf_in(settings));
}

}  // namespace tutti
