#include "topology/load.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>

#include "topology/hwloc_xml.h"
#include "topology/nccl_xml.h"
#include "topology/spec.h"
#include "topology/xml.h"

namespace tutti {
namespace {

// The spec without its comment lines, which become blank so that columns stay where they are.
std::string without_comments(std::string_view text) {
  std::string out;
  bool comment = false, line_begin = true;
  for (char c : text) {
    if (line_begin) comment = c == '#';
    line_begin = c == '\n';
    out += comment || c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

bool is_xml(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n\xef\xbb\xbf");
  return first != std::string_view::npos && text[first] == '<';
}

Result<Cluster> from_text(std::string_view text, uint32_t copies) {
  Cluster cluster;
  if (!is_xml(text)) {
    if (copies != 1)
      return Status(Code::invalid_argument, "a spec says itself how many hosts there are");
    Result<Topology> topology = make_cluster(without_comments(text));
    if (!topology) return topology.status();
    cluster.topology = std::move(*topology);
    cluster.source = "spec";
    return cluster;
  }
  Result<std::vector<Machine>> machines = parse_machines(text);
  if (!machines) return machines.status();
  cluster.machines = std::move(*machines);
  for (Machine& m : cluster.machines) {
    simplify(&m);
    if (copies == 1) continue;
    if (m.switch_spans_hosts || cluster.machines.size() > 1)
      return Status(Code::invalid_argument, "a machine of several hosts cannot be multiplied");
    m.copies = copies;
  }
  for (const Machine& m : cluster.machines)
    cluster.missing.insert(cluster.missing.end(), m.missing.begin(), m.missing.end());
  Result<Topology> topology = build_topology(cluster.machines, {}, &cluster.missing);
  if (!topology) return topology.status();
  cluster.topology = std::move(*topology);
  return cluster;
}

bool is_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

bool is_file(const std::string& path) {
  struct stat s {};
  return stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode);
}

// Whether it cannot be a spec.
bool is_name_or_path(const std::string& what) {
  const bool spec_like = what.find_first_of(":{ ") != std::string::npos;
  return is_word(what.substr(0, what.rfind('*'))) ||
         (what.find('/') != std::string::npos && !spec_like);
}

Status unknown(const std::string& what) {
  std::string names;
  for (const RecordedMachine& m : recorded_machines())
    names += (names.empty() ? "" : ", ") + std::string(m.name);
  return Status(Code::invalid_argument,
                fmt::format("'{}' is no recorded machine ({}), no file and no spec such as "
                            "'node:4{{nics=8x100Gb/s}} gpu:8{{bw=48GB/s}}'",
                            what, names));
}

Result<Machine> machine_from_text(std::string_view text) {
  if (!is_xml(text)) {
    const std::string plain = without_comments(text);
    const Result<ClusterSpec> spec = parse_cluster(plain);
    if (!spec) return spec.status();
    TUTTI_RETURN_IF_ERROR(build_cluster(*spec).status());
    Machine machine;
    machine.inside = to_text(*spec);
    return machine;
  }
  Result<std::vector<Machine>> machines = parse_machines(text);
  if (!machines) return machines.status();
  if (machines->size() != 1)
    return Status(Code::invalid_argument,
                  fmt::format("describes {} hosts; this is one", machines->size()));
  return std::move(machines->front());
}

}  // namespace

const RecordedMachine* find_recorded_machine(std::string_view name) {
  for (const RecordedMachine& m : recorded_machines())
    if (m.name == name) return &m;
  return nullptr;
}

std::string title_of(const RecordedMachine& machine) {
  std::string_view text = machine.text;
  text.remove_prefix(std::min(text.size(), text.find_first_not_of("<!-# \n")));
  return std::string(text.substr(0, text.find_first_of(".\n")));
}

Result<std::vector<Machine>> parse_machines(std::string_view xml) {
  const Result<XmlElement> document = parse_xml(xml);
  if (!document) return document.status();
  if (document->name == "topology") {
    Result<Machine> machine = read_hwloc_xml(*document);
    if (!machine) return machine.status();
    return std::vector<Machine>{std::move(*machine)};
  }
  if (document->name != "system")
    return xml_error(document->place, "<system> (NCCL) or <topology> (hwloc)",
                     "<" + document->name + ">");
  return read_nccl_xml(*document);
}

Result<Cluster> parse_cluster_text(std::string_view text) { return from_text(text, 1); }

Result<std::string> read_topology_file(const std::string& path) {
  auto bad = [&](const std::string& why) {
    return Status(Code::invalid_argument, fmt::format("{}: {}", path, why));
  };
  std::ifstream file(path, std::ios::binary);
  if (!file) return bad(std::strerror(errno));
  std::string text(k_max_xml_bytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return bad("cannot be read");
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > k_max_xml_bytes) return bad(fmt::format("more than {} bytes", k_max_xml_bytes));
  return text;
}

Result<Cluster> load_cluster(const std::string& what) {
  const size_t star = what.rfind('*');
  const std::string_view name = std::string_view(what).substr(0, star);
  if (const RecordedMachine* machine = find_recorded_machine(name)) {
    uint32_t copies = 1;
    if (star != std::string::npos) {
      const char* end = what.data() + what.size();
      const auto [stop, error] = std::from_chars(what.data() + star + 1, end, copies);
      if (error != std::errc() || stop != end || copies == 0 || copies > 1u << 17)
        return Status(
            Code::invalid_argument,
            fmt::format("cluster '{}', column {}: expected how many of them (1 to 131072)", what,
                        star + 2));
    }
    Result<Cluster> cluster = from_text(machine->text, copies);
    if (!cluster) return cluster.status().with_context("recorded machine " + what);
    cluster->source = "recorded machine " + what;
    cluster->recorded = machine;
    return cluster;
  }
  if (is_file(what)) {
    const Result<std::string> text = read_topology_file(what);
    if (!text) return text.status();
    Result<Cluster> cluster = from_text(*text, 1);
    if (!cluster) return cluster.status().with_context(what);
    cluster->source = what;
    return cluster;
  }
  if (is_name_or_path(what)) return unknown(what);
  return from_text(what, 1);
}

bool names_spec(const std::string& what) {
  return !what.empty() && find_recorded_machine(what.substr(0, what.rfind('*'))) == nullptr &&
         !is_file(what) && !is_name_or_path(what);
}

Result<Machine> load_machine(const std::string& what) {
  if (names_spec(what)) return machine_from_text(what);
  const RecordedMachine* machine = find_recorded_machine(what);
  if (machine == nullptr && find_recorded_machine(what.substr(0, what.rfind('*'))) != nullptr)
    return Status(Code::invalid_argument,
                  fmt::format("'{}' is several hosts; this is one of them", what));
  if (machine == nullptr && !is_file(what) && what.find('/') == std::string::npos)
    return unknown(what);
  const Result<std::string> text =
      machine != nullptr ? std::string(machine->text) : read_topology_file(what);
  if (!text) return text.status();
  Result<Machine> loaded = machine_from_text(*text);
  return loaded ? std::move(loaded) : loaded.status().with_context(what);
}

}  // namespace tutti
