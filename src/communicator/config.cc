// The only file that reads the environment: settings and their checks, and did-you-mean.
#include "tutti/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>

#include "src/communicator/bootstrap/id.h"
#include "src/communicator/environment.h"
#include "topology/machine.h"

extern "C" char** environ;

namespace tutti {
namespace {

// Read here or by detect_launch(), by `tutti run` and by the tests of this project.
constexpr std::array k_known_variables = {
    "TUTTI_TRANSPORTS",     "TUTTI_SOCKET_IFNAME",
    "TUTTI_SOCKET_FAMILY",  "TUTTI_SOCKET_CONNECTIONS",
    "TUTTI_HOST_ID",        "TUTTI_PROCESS_VM",
    "TUTTI_INIT_TIMEOUT",   "TUTTI_LATE_AFTER",
    "TUTTI_TIMEOUT",        "TUTTI_TUNE",
    "TUTTI_DETERMINISTIC",  "TUTTI_SLOT_BYTES",
    "TUTTI_SPIN",           "TUTTI_TOPO",
    "TUTTI_SWITCHES",       "TUTTI_GPU",
    "TUTTI_FAULT",          "TUTTI_DEBUG",
    "TUTTI_DEBUG_FILE",     "TUTTI_RANK",
    "TUTTI_SIZE",           "TUTTI_LOCAL_RANK",
    "TUTTI_LOCAL_SIZE",     "TUTTI_ID",
    "TUTTI_ID_FD",          "TUTTI_ROOT",
    "TUTTI_PORT",           "TUTTI_SECRET",
    "TUTTI_SECRET_FILE",    "TUTTI_PROCESS_VM_BYTES",
    "TUTTI_REPORT_VERSION", "TUTTI_NCCL_FALLBACK",
    "TUTTI_NCCL_REAL",      "TUTTI_PROFILE",
    "TUTTI_FEEDBACK",       "TUTTI_MULTI_RANK_GPU",
    "TUTTI_GPU_BLOCKS",     "TUTTI_GPU_COPY_ENGINE_BYTES",
    "TUTTI_GPU_SHOTS",
};

constexpr size_t k_most_switches = 4;
constexpr std::array<std::string_view, 3> k_transports = {"local", "shm", "tcp"};

// Reads variables into settings and keeps the first complaint.
class Reader {
 public:
  explicit Reader(const Variables& variables) : variables_(variables) {}
  const Status& status() const { return status_; }

  // The value of the first of `names` that is set and not empty; name_ says which.
  const std::string* find(std::initializer_list<const char*> names) {
    for (const char* name : names) {
      auto found = variables_.find(name);
      if (found == variables_.end() || found->second.empty()) continue;
      name_ = name;
      return &found->second;
    }
    return nullptr;
  }

  void text(std::initializer_list<const char*> names, std::string* setting) {
    if (const std::string* value = find(names)) *setting = *value;
  }

  void one_of(std::initializer_list<const char*> names,
              std::initializer_list<std::string_view> allowed, std::string* setting) {
    const std::string* value = find(names);
    if (value == nullptr) return;
    if (std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) {
      *setting = *value;
      return;
    }
    std::string list;
    for (std::string_view one : allowed) list += (list.empty() ? "" : ", ") + std::string(one);
    complain(*value, "one of " + list);
  }

  void flag(const char* name, bool* setting) {
    const std::string* value = find({name});
    if (value == nullptr) return;
    if (*value != "0" && *value != "1") return complain(*value, "0 or 1");
    *setting = *value == "1";
  }

  // A count, with an optional binary K, M or G behind it.
  template <class T>
  void number(const char* name, T least, T most, T* setting) {
    const std::string* value = find({name});
    if (value == nullptr) return;
    std::string expected =
        "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    uint64_t count = 0;
    const char* end = value->data() + value->size();
    auto [rest, error] = std::from_chars(value->data(), end, count);
    size_t unit = std::string_view("KMG").find(rest != end ? *rest : '-');
    uint64_t scale = 1;
    if (unit != std::string_view::npos && rest + 1 == end) {
      scale = uint64_t{1} << (10 * (unit + 1));
      ++rest;
    }
    bool sound =
        error == std::errc() && rest == end && count <= most / scale && count * scale >= least;
    if (!sound) return complain(*value, expected);
    *setting = static_cast<T>(count * scale);
  }

  void seconds(const char* name, bool zero_allowed, double* setting) {
    const std::string* value = find({name});
    if (value == nullptr) return;
    char* end = nullptr;
    double parsed = std::strtod(value->c_str(), &end);
    bool sound = *end == '\0' && std::isfinite(parsed) && parsed >= 0 && parsed <= 1e7 &&
                 (parsed > 0 || zero_allowed);
    if (!sound) return complain(*value, "seconds, at most 10000000");
    *setting = parsed;
  }

  void complain(const std::string& value, const std::string& expected) {
    if (!status_.ok()) return;
    status_ = Status(Code::invalid_argument,
                     name_ + "=\"" + value.substr(0, 200) + "\" is not " + expected);
  }

 private:
  const Variables& variables_;
  std::string name_;
  Status status_;
};

void read_transports(Reader* reader, Config* config) {
  const std::string* value = reader->find({"TUTTI_TRANSPORTS"});
  if (value == nullptr) return;
  for (size_t at = 0; at <= value->size();) {
    size_t comma = std::min(value->find(',', at), value->size());
    std::string name = value->substr(at, comma - at);
    at = comma + 1;
    if (std::find(k_transports.begin(), k_transports.end(), name) == k_transports.end()) {
      return reader->complain(
          *value, "a list of transports (local, shm, tcp): \"" + name + "\" is unknown");
    }
    config->transports.push_back(name);
  }
}

// NCCL_DEBUG has levels of its own, and takes any case.
void read_debug(Reader* reader, Config* config) {
  if (reader->find({"TUTTI_DEBUG"})) {
    return reader->one_of({"TUTTI_DEBUG"}, {"WARN", "INFO", "TRACE"}, &config->debug);
  }
  const std::string* value = reader->find({"NCCL_DEBUG"});
  if (value == nullptr) return;
  std::string level = *value;
  std::transform(level.begin(), level.end(), level.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (level == "VERSION" || level == "ABORT") level = "WARN";
  if (level == "NONE") level = "";
  if (!level.empty() && level != "WARN" && level != "INFO" && level != "TRACE") {
    return reader->complain(*value, "one of VERSION, WARN, INFO, TRACE");
  }
  config->debug = level;
}

// Where `tutti tune` puts the profile unless it is told otherwise; empty where there is no home.
std::string default_profile(const Variables& variables) {
  const auto cache = variables.find("XDG_CACHE_HOME");
  if (cache != variables.end() && cache->second.starts_with('/'))
    return cache->second + "/tutti/profile.json";
  const auto home = variables.find("HOME");
  return home != variables.end() && home->second.starts_with('/')
             ? home->second + "/.cache/tutti/profile.json"
             : std::string();
}

void read_profile(Reader* reader, const Variables& variables, Config* config) {
  const std::string* named = reader->find({"TUTTI_PROFILE"});
  const std::string file = named != nullptr ? *named : default_profile(variables);
  if (named != nullptr ? file != "none" : std::ifstream(file).good()) config->profile = file;
  if (reader->find({"TUTTI_FEEDBACK"})) {
    bool on = false;
    reader->flag("TUTTI_FEEDBACK", &on);
    config->feedback = on ? "on" : "off";
  }
}

// NCCL's switches for what a rank may use, where no TUTTI_* name says otherwise.
void read_nccl_switches(Reader* reader, const Variables& variables, Config* config) {
  bool no_shm = false, no_peer_memory = false;
  reader->flag("NCCL_SHM_DISABLE", &no_shm);
  reader->flag("NCCL_P2P_DISABLE", &no_peer_memory);
  if (no_shm && config->transports.empty()) config->transports = {"local", "tcp"};
  if (no_peer_memory && variables.count("TUTTI_PROCESS_VM") == 0) config->process_vm = false;
  if (variables.count("TUTTI_SOCKET_CONNECTIONS") == 0) {
    uint32_t threads = 1, each = 1;
    reader->number<uint32_t>("NCCL_SOCKET_NTHREADS", 1, 64, &threads);
    reader->number<uint32_t>("NCCL_NSOCKS_PERTHREAD", 1, 64, &each);
    if (threads * each > 1) config->socket_connections = std::min(threads * each, 64u);
  }
  const std::string* algorithms = reader->find({"NCCL_ALGO"});
  const std::string* protocols = reader->find({"NCCL_PROTO"});
  if (config->tune.empty())
    config->tune = tune_from_nccl(algorithms == nullptr ? "" : *algorithms,
                                  protocols == nullptr ? "" : *protocols);
}

// What collectives may take of a GPU. TUTTI_* names win over NCCL's.
void read_gpu(Reader* reader, Config* config) {
  if (const std::string* gpu = reader->find({"TUTTI_GPU"})) {
    config->gpu = normal_bus_id(*gpu);
    if (config->gpu.empty()) reader->complain(*gpu, "a PCI bus id such as 0000:07:00.0");
  }
  reader->flag("NCCL_MULTI_RANK_GPU_ENABLE", &config->multi_rank_gpu);
  reader->flag("TUTTI_MULTI_RANK_GPU", &config->multi_rank_gpu);
  reader->number<uint32_t>("NCCL_MAX_CTAS", 1, 1024, &config->gpu_blocks);
  reader->number<uint32_t>("TUTTI_GPU_BLOCKS", 0, 1024, &config->gpu_blocks);
  reader->flag("TUTTI_GPU_SHOTS", &config->gpu_shots);
  uint32_t policy = 0;  // 2: no multiprocessors where it can be avoided
  reader->number<uint32_t>("NCCL_CTA_POLICY", 0, 2, &policy);
  if (policy == 2) config->gpu_copy_engine_bytes = 0;
  reader->number<size_t>("TUTTI_GPU_COPY_ENGINE_BYTES", 0, size_t{1} << 40,
                         &config->gpu_copy_engine_bytes);
}

// Lines of NAME=VALUE; "#" begins a comment. What is set already stays.
void add_nccl_file(const std::string& path, Variables* variables) {
  auto trimmed = [](const std::string& text) {
    const size_t begin = text.find_first_not_of(" \t\r");
    const size_t end = text.find_last_not_of(" \t\r");
    return begin == std::string::npos ? std::string() : text.substr(begin, end + 1 - begin);
  };
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = trimmed(line.substr(0, equals));
    if (name.starts_with("NCCL_")) variables->emplace(name, trimmed(line.substr(equals + 1)));
  }
}

// NCCL_TOPO_FILE where it names no file that can be read; NCCL goes on without it.
std::string missing_nccl_file(const Variables& variables) {
  const auto found = variables.find("NCCL_TOPO_FILE");
  const bool missing =
      found != variables.end() && !found->second.empty() && !std::ifstream(found->second).good();
  return missing ? found->second : std::string();
}

// The switches in Slurm's address of this node: "s0.s4.tux1" after "switch.switch.node". Empty
// where it has none, or none that can be read.
std::string slurm_switches(const Variables& variables) {
  const auto address = variables.find("SLURM_TOPOLOGY_ADDR");
  const auto pattern = variables.find("SLURM_TOPOLOGY_ADDR_PATTERN");
  if (address == variables.end() || pattern == variables.end()) return {};
  std::string_view names = address->second, kinds = pattern->second;
  std::vector<std::string_view> switches;
  while (!kinds.empty() && !names.empty()) {
    const size_t kind = std::min(kinds.find('.'), kinds.size());
    const size_t name = std::min(names.find('.'), names.size());
    if (name == 0) return {};
    if (kinds.substr(0, kind) == "switch") switches.push_back(names.substr(0, name));
    kinds.remove_prefix(std::min(kinds.size(), kind + 1));
    names.remove_prefix(std::min(names.size(), name + 1));
  }
  std::string text;
  for (size_t i = switches.size() > k_most_switches ? switches.size() - k_most_switches : 0;
       i < switches.size(); ++i)
    text += (text.empty() ? "" : ".") + std::string(switches[i]);
  return names_switches(text) ? text : std::string();
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

Variables read_environment() {
  Variables variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  // NCCL's settings may also stand in files.
  const auto named = variables.find("NCCL_CONF_FILE");
  const auto home = variables.find("HOME");
  if (named != variables.end()) {
    add_nccl_file(named->second, &variables);
  } else if (home != variables.end()) {
    add_nccl_file(home->second + "/.nccl.conf", &variables);
  }
  add_nccl_file("/etc/nccl.conf", &variables);
  return variables;
}

Result<Config> config_from(const Variables& variables) {
  Config config;
  Reader reader(variables);
  read_transports(&reader, &config);
  reader.text({"TUTTI_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}, &config.socket_interface);
  reader.one_of({"TUTTI_SOCKET_FAMILY", "NCCL_SOCKET_FAMILY"}, {"AF_INET", "AF_INET6"},
                &config.socket_family);
  reader.number<uint32_t>("TUTTI_SOCKET_CONNECTIONS", 1, 64, &config.socket_connections);
  reader.text({"TUTTI_HOST_ID", "NCCL_HOSTID"}, &config.host_id);
  reader.text({"TUTTI_TOPO"}, &config.topology);
  if (config.topology.empty() && missing_nccl_file(variables).empty())
    reader.text({"NCCL_TOPO_FILE"}, &config.topology);
  reader.text({"TUTTI_SWITCHES"}, &config.switches);
  if (config.switches.empty()) config.switches = slurm_switches(variables);
  reader.flag("TUTTI_PROCESS_VM", &config.process_vm);
  reader.seconds("TUTTI_INIT_TIMEOUT", false, &config.init_timeout);
  reader.seconds("TUTTI_LATE_AFTER", true, &config.late_after);
  reader.seconds("TUTTI_TIMEOUT", true, &config.timeout);
  reader.text({"TUTTI_TUNE"}, &config.tune);
  reader.flag("TUTTI_DETERMINISTIC", &config.deterministic);
  read_profile(&reader, variables, &config);
  reader.number<size_t>("TUTTI_PROCESS_VM_BYTES", 0, size_t{1} << 40, &config.process_vm_bytes);
  reader.number<size_t>("TUTTI_SLOT_BYTES", 1024, size_t{1} << 30, &config.slot_bytes);
  reader.number<uint32_t>("TUTTI_SPIN", 0, 1u << 30, &config.spin);
  reader.text({"TUTTI_FAULT"}, &config.fault);
  read_nccl_switches(&reader, variables, &config);
  read_gpu(&reader, &config);
  read_debug(&reader, &config);
  reader.text({"TUTTI_DEBUG_FILE", "NCCL_DEBUG_FILE"}, &config.debug_file);
  if (!reader.status().ok()) return reader.status();
  return config;
}

Result<Config> Config::from_environment() { return config_from(read_environment()); }

std::vector<std::string> unknown_variables(const Variables& variables) {
  std::vector<std::string> complaints;
  for (auto entry = variables.lower_bound("TUTTI_");
       entry != variables.end() && entry->first.starts_with("TUTTI_"); ++entry) {
    const std::string& name = entry->first;
    auto distance = [&](std::string_view known) { return edit_distance(name, known); };
    auto nearest =
        *std::min_element(k_known_variables.begin(), k_known_variables.end(),
                          [&](const char* a, const char* b) { return distance(a) < distance(b); });
    size_t nearest_distance = distance(nearest);
    if (nearest_distance == 0) continue;
    std::string hint = nearest_distance <= 3 ? std::string("; did you mean ") + nearest + "?" : "";
    complaints.push_back(name + " is not a setting of tutti" + hint);
  }
  if (const std::string file = missing_nccl_file(variables); !file.empty())
    complaints.push_back("NCCL_TOPO_FILE=\"" + file +
                         "\" cannot be read; the host's own view is used");
  return complaints;
}

Result<LaunchInfo> launch_from_environment() {
  Variables variables = read_environment();
  Result<Config> config = config_from(variables);
  return config.ok() ? detect_launch(variables, *config) : config.status();
}

std::string default_profile_path() { return default_profile(read_environment()); }

std::vector<std::string> Config::unknown_variables() {
  return tutti::unknown_variables(read_environment());
}

// NCCL_COMM_ID names a fixed address for every id of the job; the secret that others do not know
// has to come with it, else only the address tells jobs apart.
Result<UniqueId> UniqueId::create() {
  Variables variables = read_environment();
  Result<Config> config = config_from(variables);
  if (!config.ok()) return config.status();
  if (auto fixed = variables.find("NCCL_COMM_ID"); fixed != variables.end()) {
    auto secret = variables.find("TUTTI_SECRET");
    return from_address(fixed->second, secret != variables.end() ? secret->second
                                                                 : "NCCL_COMM_ID " + fixed->second);
  }
  IdOptions options;
  options.interface = config->socket_interface;
  options.family = config->socket_family;
  return create_id(options);
}

}  // namespace tutti
