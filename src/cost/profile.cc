// Prices of links and kernels, and profiles as JSON.
#include "src/cost/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

namespace tutti {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view k_format = "tutti profile 1";
constexpr std::string_view k_directions[] = {"out", "in"};

// Reads one object: every key must be known and of the right kind.
class Reader {
 public:
  Reader(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  // The error so far; the first one stays.
  const Status& status() const { return status_; }
  void fail(std::string_view key, std::string_view expected) {
    if (!status_.ok()) return;
    const auto found = object_.is_object() ? object_.find(std::string(key)) : object_.end();
    std::string got = "nothing";
    if (!object_.is_object()) {
      got = shown(object_);
    } else if (found != object_.end()) {
      got = shown(*found);
    }
    status_ = {Code::invalid_argument,
               fmt::format("profile: {}: expected {}, found {}", full(key), expected, got)};
  }
  void take(const Status& status) {
    if (status_.ok()) status_ = status;
  }

  bool is_object() {
    if (!object_.is_object()) fail("", "an object");
    return object_.is_object();
  }
  void only(const std::vector<std::string_view>& keys) {
    if (!is_object()) return;
    for (const auto& [key, value] : object_.items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(key, fmt::format("one of the keys {}", fmt::join(keys, ", ")));
  }
  const Json* find(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() ? nullptr : &*found;
  }
  std::string full(std::string_view key) const {
    if (key.empty()) return path_.empty() ? "the profile" : path_;
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }

  void text(std::string_view key, std::string* value) {
    const Json* j = find(key);
    if (j == nullptr) return;
    if (!j->is_string()) return fail(key, "a text");
    *value = j->get<std::string>();
  }
  // A number in [least, most]; absent leaves *value alone.
  template <class T>
  void number(std::string_view key, double least, double most, std::string_view what, T* value) {
    const Json* j = find(key);
    if (j == nullptr) return;
    const double d = j->is_number() ? j->get<double>() : std::nan("");
    if (!(d >= least && d <= most)) return fail(key, what);
    *value = d;
  }
  // Knots of a curve: [[bytes, seconds], ...], sizes and seconds rising.
  void curve(std::string_view key, SizeCurve* value) {
    const Json* j = find(key);
    if (j == nullptr) return;
    constexpr size_t k_most_knots = 64;
    constexpr std::string_view k_what =
        "2 to 64 knots [bytes, seconds], bytes rising, seconds from 0 to 3600 and not falling";
    if (!j->is_array() || j->size() < 2 || j->size() > k_most_knots) return fail(key, k_what);
    for (const Json& knot : *j) {
      if (!knot.is_array() || knot.size() != 2 || !knot[0].is_number() || !knot[1].is_number())
        return fail(key, k_what);
      const double bytes = knot[0].get<double>(), s = knot[1].get<double>();
      const bool first = value->knots.empty();
      if (!(bytes >= 0 && bytes <= 1e15 && bytes == std::floor(bytes) && s >= 0 && s <= 3600) ||
          (!first && (bytes <= static_cast<double>(value->knots.back().bytes) ||
                      s < value->knots.back().seconds)))
        return fail(key, k_what);
      value->knots.push_back({static_cast<uint64_t>(bytes), s});
    }
  }
  template <class T>
  void seconds(std::string_view key, T* value) {
    number(key, 0, 3600, "seconds, 0 to 3600", value);
  }
  template <class T>
  void per_byte(std::string_view key, T* value) {
    number(key, 0, 1, "seconds per byte, 0 to 1", value);
  }

 private:
  static std::string shown(const Json& j) {
    std::string text = j.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() > 40 ? text.substr(0, 40) + "..." : text;
  }

  const Json& object_;
  std::string path_;
  Status status_;
};

Status read_link(const Json& json, const std::string& path, LinkCost* cost) {
  Reader r(json, path);
  r.only({"alpha_s", "beta_s_per_byte", "efficiency", "seconds_by_bytes"});
  if (!r.status().ok()) return r.status();
  r.seconds("alpha_s", &cost->alpha);
  r.number("beta_s_per_byte", 1e-15, 1, "seconds per byte, 1e-15 to 1", &cost->beta);
  r.number("efficiency", 1e-6, 1e3, "a factor, 0.000001 to 1000", &cost->efficiency);
  if (cost->beta && r.find("efficiency") != nullptr)
    r.fail("efficiency", "no efficiency beside beta_s_per_byte");
  r.curve("seconds_by_bytes", &cost->curve);
  if (!r.status().ok() || cost->curve.empty()) return r.status();
  for (const char* other : {"alpha_s", "beta_s_per_byte", "efficiency"})
    if (r.find(other) != nullptr) r.fail(other, "nothing beside seconds_by_bytes");
  const double slope = cost->curve.last_slope();
  if (!(slope >= 1e-15 && slope <= 1))
    r.fail("seconds_by_bytes", "a last slope of 1e-15 to 1 seconds per byte");
  for (const SizeCurve::Knot& k : cost->curve.knots)
    if (k.seconds < slope * static_cast<double>(k.bytes) * (1 - 1e-9))
      r.fail("seconds_by_bytes", "no message faster than the last slope times its bytes");
  return r.status();
}

void read_end(Reader& r, const std::string& end, double* fixed, double* per_byte,
              SizeCurve* curve) {
  r.seconds(end + "_s", fixed);
  r.per_byte(end + "_s_per_byte", per_byte);
  r.curve(end + "_s_by_bytes", curve);
  if (curve->empty()) return;
  for (const char* other : {"_s", "_s_per_byte"})
    if (r.find(end + other) != nullptr)
      r.fail(end + other, "nothing beside " + end + "_s_by_bytes");
}

Status read_links(const Json& json, Profile* profile) {
  Reader r(json, "links");
  if (!r.is_object()) return r.status();
  for (const auto& [key, directions] : json.items()) {
    LinkClass c;
    if (!parse_link_class(key, &c)) {
      r.fail(key, "memory, nvlink, pci, interconnect, nic or network");
      return r.status();
    }
    Reader d(directions, "links." + key);
    d.only({k_directions[0], k_directions[1]});
    if (!d.status().ok()) return d.status();
    for (int i = 0; i < 2; ++i)
      if (const Json* one = d.find(k_directions[i]))
        TUTTI_RETURN_IF_ERROR(
            read_link(*one, d.full(k_directions[i]), &profile->links[static_cast<int>(c)][i]));
  }
  return {};
}

Status read_kernels(const Json& json, Profile* profile) {
  Reader r(json, "reduce_s_per_byte");
  if (!r.is_object()) return r.status();
  for (const auto& [key, ops] : json.items()) {
    if (key == "default") {
      r.per_byte(key, &profile->gamma);
      continue;
    }
    const std::optional<DType> dtype = parse_dtype(key);
    if (!dtype) {
      r.fail(key, "an element type or default");
      break;
    }
    Reader o(ops, r.full(key));
    if (!o.is_object()) return o.status();
    for (const auto& [op_key, value] : ops.items()) {
      const std::optional<ReduceOp> op = parse_reduce_op(op_key);
      if (!op) {
        o.fail(op_key, "a reduction operator");
        return o.status();
      }
      o.per_byte(op_key, &profile->kernels[{*dtype, *op}]);
    }
    r.take(o.status());
  }
  return r.status();
}

Status read_ends(const Json& json, const std::string& path, EndCost* ends,
                 std::vector<std::string_view> also) {
  Reader r(json, path);
  also.insert(also.end(), {"send_s", "recv_s", "send_s_per_byte", "recv_s_per_byte",
                           "send_s_by_bytes", "recv_s_by_bytes"});
  r.only(also);
  if (!r.status().ok()) return r.status();
  read_end(r, "send", &ends->send, &ends->send_byte, &ends->send_curve);
  read_end(r, "recv", &ends->recv, &ends->recv_byte, &ends->recv_curve);
  return r.status();
}

Status read_overhead(const Json& json, Profile* profile) {
  TUTTI_RETURN_IF_ERROR(read_ends(json, "overhead", &profile->ends,
                                  {"call_s", "network", "flag_s", "flag_handover_s"}));
  Reader r(json, "overhead");
  r.seconds("call_s", &profile->call_overhead);
  r.seconds("flag_s", &profile->flag);
  r.seconds("flag_handover_s", &profile->flag_handover);
  if (!r.status().ok()) return r.status();
  const Json* network = r.find("network");
  if (network == nullptr) return {};
  return read_ends(*network, "overhead.network", &profile->network_ends.emplace(), {});
}

// The prices of devices by their keys, for reading and writing.
struct DeviceKey {
  std::string_view key;
  std::optional<double> DeviceCost::*price;
  bool per_byte;
};
constexpr DeviceKey k_device_keys[] = {{"launch_s", &DeviceCost::launch, false},
                                       {"packet_s", &DeviceCost::packet, false},
                                       {"slot_s", &DeviceCost::slot, false},
                                       {"copy_s_per_byte", &DeviceCost::copy, true},
                                       {"reduce_s_per_byte", &DeviceCost::reduce, true},
                                       {"peer_s", &DeviceCost::peer, false},
                                       {"peer_s_per_byte", &DeviceCost::peer_byte, true},
                                       {"proxy_s", &DeviceCost::proxy, false}};

Status read_device(const Json& json, DeviceCost* cost) {
  Reader r(json, "device");
  std::vector<std::string_view> keys = {"name"};
  for (const DeviceKey& k : k_device_keys) keys.push_back(k.key);
  r.only(keys);
  if (!r.status().ok()) return r.status();
  r.text("name", &cost->name);
  for (const DeviceKey& k : k_device_keys) {
    if (k.per_byte) {
      r.number(k.key, 1e-15, 1, "seconds per byte, 1e-15 to 1", &(cost->*k.price));
    } else {
      r.seconds(k.key, &(cost->*k.price));
    }
  }
  return r.status();
}

// A whole number of at most `most` behind `key`.
template <class T>
void read_whole(Reader& r, std::string_view key, double least, double most, std::string_view what,
                T* value) {
  double number = -1;
  r.number(key, least, most, what, &number);
  if (number != std::floor(number)) r.fail(key, "a whole number");
  if (r.status().ok() && number >= 0) *value = static_cast<T>(number);
}

Status read_cpus(const Json& json, Profile* profile) {
  Reader r(json, "cpus");
  r.only({"per_host", "handover_s", "cache_bytes", "beyond_cache"});
  if (!r.status().ok()) return r.status();
  read_whole(r, "per_host", 0, 1 << 20, "CPUs, 0 to 1048576", &profile->cpus);
  r.seconds("handover_s", &profile->handover);
  read_whole(r, "cache_bytes", 0, 1e18, "bytes, 0 to 1e18", &profile->cache_bytes);
  r.number("beyond_cache", 1, 1e3, "a factor, 1 to 1000", &profile->beyond_cache);
  return r.status();
}

// {"memory": {"all_reduce": {"ring": {"8": [[64, 1.2, 0.9], ...]}}}}: the world, the collective,
// the algorithm, the ranks; then bytes and the factors of what is simulated and of the closed form.
Status read_knots(const Reader& ranks, const std::string& count, const Json& json,
                  const Corrections::Key& key, Corrections* corrections) {
  constexpr std::string_view k_ranks = "a number of ranks, 2 to 1048576";
  constexpr std::string_view k_what =
      "1 to 64 knots [bytes, factor, factor], bytes rising, factors from 0.001 to 1000";
  constexpr size_t k_most_knots = 64;
  Reader r = ranks;
  uint32_t number = 0;
  const auto error = std::from_chars(count.data(), count.data() + count.size(), number).ec;
  // One spelling of each number, so that none comes twice.
  if (error != std::errc() || count != std::to_string(number) || number < 2 || number > 1 << 20) {
    r.fail(count, k_ranks);
    return r.status();
  }
  if (!json.is_array() || json.empty() || json.size() > k_most_knots) r.fail(count, k_what);
  double last = -1;
  for (const Json& knot : json) {
    if (!r.status().ok()) break;
    const bool numbers = knot.is_array() && knot.size() == 3 && knot[0].is_number() &&
                         knot[1].is_number() && knot[2].is_number();
    const double bytes = numbers ? knot[0].get<double>() : -1;
    const auto factor = [&](size_t i) { return numbers ? knot[i].get<double>() : 0; };
    const auto fine = [](double f) {
      return f >= Corrections::k_least && f <= Corrections::k_most;
    };
    if (!(bytes > last && bytes <= 1e15 && bytes == std::floor(bytes) && fine(factor(1)) &&
          fine(factor(2))))
      r.fail(count, k_what);
    last = bytes;
    if (r.status().ok())
      corrections->set(key, number, static_cast<uint64_t>(bytes), {factor(1), factor(2)});
  }
  return r.status();
}

Status read_corrections(const Json& json, Corrections* corrections) {
  const Reader worlds(json, "corrections");
  for (const auto& [world, collectives] : json.items()) {
    Reader w(collectives, worlds.full(world));
    if (!w.is_object()) return w.status();
    for (const auto& [collective, algorithms] : collectives.items()) {
      const std::optional<Collective> known = parse_collective(collective);
      Reader c(algorithms, w.full(collective));
      if (!known) w.fail(collective, "a collective");
      if (!w.status().ok() || !c.is_object()) return w.status().ok() ? c.status() : w.status();
      for (const auto& [algorithm, ranks] : algorithms.items()) {
        Reader a(ranks, c.full(algorithm));
        if (!a.is_object()) return a.status();
        for (const auto& [count, knots] : ranks.items())
          TUTTI_RETURN_IF_ERROR(
              read_knots(a, count, knots, {world, *known, algorithm}, corrections));
      }
    }
  }
  return {};
}

Status read_protocol(const Json& json, Profile* profile) {
  Reader r(json, "protocol");
  r.only({"eager_bytes", "credits", "serial_lanes"});
  if (!r.status().ok()) return r.status();
  read_whole(r, "eager_bytes", 0, 1e18, "bytes, 0 to 1e18", &profile->eager_bytes);
  read_whole(r, "credits", 1, 1 << 20, "messages, 1 to 1048576", &profile->credits);
  if (const Json* j = r.find("serial_lanes"); j != nullptr) {
    if (j->is_boolean()) {
      profile->serial_lanes = j->get<bool>();
    } else {
      r.fail("serial_lanes", "true or false");
    }
  }
  return r.status();
}

// Where a syntax error is; nlohmann tells in exceptions or events, and this room takes the events.
class SyntaxError : public nlohmann::json_sax<Json> {
 public:
  size_t at = 0;
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return ++depth_ < k_max_depth; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return depth_-- > 0; }
  bool start_array(size_t) override { return ++depth_ < k_max_depth; }
  bool end_array() override { return depth_-- > 0; }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    at = position;
    return false;
  }

 private:
  static constexpr int k_max_depth = 16;
  int depth_ = 0;
};

Json curve_json(const SizeCurve& curve) {
  Json json = Json::array();
  for (const SizeCurve::Knot& k : curve.knots) json.push_back({k.bytes, k.seconds});
  return json;
}

Json ends_json(const EndCost& ends) {
  Json json;
  const auto end = [&](const std::string& name, double fixed, double per_byte,
                       const SizeCurve& curve) {
    if (!curve.empty()) {
      json[name + "_s_by_bytes"] = curve_json(curve);
      return;
    }
    json[name + "_s"] = fixed;
    if (per_byte > 0) json[name + "_s_per_byte"] = per_byte;
  };
  end("send", ends.send, ends.send_byte, ends.send_curve);
  end("recv", ends.recv, ends.recv_byte, ends.recv_curve);
  return json;
}

}  // namespace

double SizeCurve::last_slope() const {
  const Knot &a = knots[knots.size() - 2], &b = knots.back();
  return (b.seconds - a.seconds) / static_cast<double>(b.bytes - a.bytes);
}

double SizeCurve::at(double bytes) const {
  if (bytes <= static_cast<double>(knots.front().bytes)) return knots.front().seconds;
  size_t i = 1;
  while (i + 1 < knots.size() && bytes > static_cast<double>(knots[i].bytes)) ++i;
  const Knot &a = knots[i - 1], &b = knots[i];
  return a.seconds + (bytes - static_cast<double>(a.bytes)) * (b.seconds - a.seconds) /
                         static_cast<double>(b.bytes - a.bytes);
}

std::optional<double> LinkCost::alpha_at(double bytes) const {
  if (curve.empty()) return alpha;
  return std::max(0.0, curve.at(bytes) - bytes * curve.last_slope());
}
std::optional<double> LinkCost::beta_beyond() const {
  return curve.empty() ? beta : std::optional<double>(curve.last_slope());
}

namespace {

double end_seconds(double fixed, double per_byte, const SizeCurve& curve, double bytes,
                   double dearer) {
  if (curve.empty()) return fixed + dearer * per_byte * bytes;
  const double least = curve.knots.front().seconds;
  return least + dearer * (curve.at(bytes) - least);
}

}  // namespace

double EndCost::sending(double bytes, double dearer) const {
  return end_seconds(send, send_byte, send_curve, bytes, dearer);
}
double EndCost::receiving(double bytes, double dearer) const {
  return end_seconds(recv, recv_byte, recv_curve, bytes, dearer);
}

bool Profile::by_size() const {
  for (const auto& directions : links)
    for (const LinkCost& c : directions)
      if (!c.curve.empty()) return true;
  for (const bool network : {false, true})
    if (!ends_of(network).send_curve.empty() || !ends_of(network).recv_curve.empty()) return true;
  return false;
}

double Profile::alpha(const Link& link, double bytes) const {
  const LinkCost& c = links[static_cast<int>(link.link_class)][link.outward ? 0 : 1];
  return c.alpha_at(bytes).value_or(link.latency);
}

double Profile::bandwidth(const Link& link) const {
  const LinkCost& c = links[static_cast<int>(link.link_class)][link.outward ? 0 : 1];
  const std::optional<double> beta = c.beta_beyond();
  return beta ? 1 / *beta : link.bandwidth * c.efficiency;
}

double Profile::reduce_cost(DType dtype, ReduceOp op) const {
  const auto found = kernels.find({dtype, op});
  return found == kernels.end() ? gamma : found->second;
}

Result<Profile> parse_profile(std::string_view text) {
  SyntaxError syntax;
  if (!Json::sax_parse(text, &syntax))
    return Status(Code::invalid_argument,
                  syntax.at == 0 ? std::string("profile: nested too deeply")
                                 : fmt::format("profile: not JSON at byte {}", syntax.at));
  const Json json = Json::parse(text, nullptr, false);
  Profile profile;
  Reader r(json, "");
  r.only({"format", "name", "source", "machine", "links", "overhead", "cpus", "copy_s_per_byte",
          "reduce_s_per_byte", "protocol", "device", "corrections"});
  if (!r.status().ok()) return r.status();
  std::string format;
  r.text("format", &format);
  if (format != k_format) r.fail("format", fmt::format("\"{}\"", k_format));
  r.text("name", &profile.name);
  r.text("source", &profile.source);
  r.text("machine", &profile.machine);
  r.per_byte("copy_s_per_byte", &profile.copy);
  if (!r.status().ok()) return r.status();
  if (const Json* links = r.find("links")) TUTTI_RETURN_IF_ERROR(read_links(*links, &profile));
  if (const Json* kernels = r.find("reduce_s_per_byte"))
    TUTTI_RETURN_IF_ERROR(read_kernels(*kernels, &profile));
  if (const Json* overhead = r.find("overhead"))
    TUTTI_RETURN_IF_ERROR(read_overhead(*overhead, &profile));
  if (const Json* cpus = r.find("cpus")) TUTTI_RETURN_IF_ERROR(read_cpus(*cpus, &profile));
  if (const Json* protocol = r.find("protocol"))
    TUTTI_RETURN_IF_ERROR(read_protocol(*protocol, &profile));
  if (const Json* device = r.find("device"))
    TUTTI_RETURN_IF_ERROR(read_device(*device, &profile.device));
  if (const Json* corrections = r.find("corrections")) {
    if (!corrections->is_object()) {
      r.fail("corrections", "an object");
      return r.status();
    }
    TUTTI_RETURN_IF_ERROR(read_corrections(*corrections, &profile.corrections));
  }
  return profile;
}

std::string to_json(const Profile& p, bool compact) {
  Json json;
  json["format"] = k_format;
  json["name"] = p.name;
  if (!p.source.empty()) json["source"] = p.source;
  if (!p.machine.empty()) json["machine"] = p.machine;
  for (int c = 0; c < k_link_classes; ++c)
    for (int d = 0; d < 2; ++d) {
      const LinkCost& cost = p.links[c][d];
      if (cost == LinkCost()) continue;
      Json& one =
          json["links"][std::string(name(static_cast<LinkClass>(c)))][std::string(k_directions[d])];
      one = Json::object();
      if (!cost.curve.empty()) {
        one["seconds_by_bytes"] = curve_json(cost.curve);
        continue;
      }
      if (cost.alpha) one["alpha_s"] = *cost.alpha;
      if (cost.beta) one["beta_s_per_byte"] = *cost.beta;
      if (cost.efficiency != 1) one["efficiency"] = cost.efficiency;
    }
  Json& overhead = json["overhead"] = ends_json(p.ends);
  overhead["call_s"] = p.call_overhead;
  if (p.flag > 0) overhead["flag_s"] = p.flag;
  if (p.flag_handover > 0) overhead["flag_handover_s"] = p.flag_handover;
  if (p.network_ends) overhead["network"] = ends_json(*p.network_ends);
  if (p.cpus > 0 || p.handover > 0)
    json["cpus"] = {{"per_host", p.cpus}, {"handover_s", p.handover}};
  if (p.cache_bytes != UINT64_MAX) json["cpus"]["cache_bytes"] = p.cache_bytes;
  if (p.beyond_cache != 1) json["cpus"]["beyond_cache"] = p.beyond_cache;
  json["copy_s_per_byte"] = p.copy;
  json["reduce_s_per_byte"]["default"] = p.gamma;
  for (const auto& [kernel, cost] : p.kernels)
    json["reduce_s_per_byte"][std::string(name(kernel.first))][std::string(name(kernel.second))] =
        cost;
  Json& protocol = json["protocol"];
  if (p.eager_bytes != UINT64_MAX) protocol["eager_bytes"] = p.eager_bytes;
  protocol["credits"] = p.credits;
  protocol["serial_lanes"] = p.serial_lanes;
  if (!p.device.name.empty()) json["device"]["name"] = p.device.name;
  for (const DeviceKey& k : k_device_keys)
    if (p.device.*k.price) json["device"][std::string(k.key)] = *(p.device.*k.price);
  for (const auto& [key, by_ranks] : p.corrections.all())
    for (const auto& [ranks, knots] : by_ranks) {
      Json& list = json["corrections"][key.world][std::string(name(key.collective))][key.algorithm]
                       [std::to_string(ranks)];
      for (const auto& [bytes, factors] : knots)
        list.push_back({bytes, factors.simulated, factors.closed});
    }
  return json.dump(compact ? -1 : 2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tutti
