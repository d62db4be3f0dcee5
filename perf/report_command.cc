// `tutti report A.json [B.json]`, see report_command.h.
#include "perf/report_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "perf/peers/ratio_table.h"
#include "perf/statistics.h"

namespace {

using nlohmann::json;

// What makes two points comparable.
struct Key {
  std::string collective, type, op, place;
  size_t bytes = 0;
  auto tie() const { return std::tie(collective, type, op, place, bytes); }
  bool operator<(const Key& other) const { return tie() < other.tie(); }
};

using Medians = std::map<Key, double>;

double microseconds(const json& half) {
  return half.contains("time") ? half["time"].get<double>() : half.value("cpu_time", 0.0);
}

// Reads nccl-tests' JSON, versions 2 and 3. Throws json::exception for anything else.
Medians read_results(const std::string& path) {
  std::ifstream in(path);
  const json document = json::parse(in);
  std::map<Key, std::vector<double>> samples;
  for (const json& result : document.at("results"))
    for (const char* place : {"out_of_place", "in_place"}) {
      if (!result.contains(place) || result[place].is_null()) continue;
      std::string program = result.value("experiment_name", "");
      program = program.substr(program.rfind('/') + 1);
      samples[{program, result.at("type"), result.at("redop"), place, result.at("size")}].push_back(
          microseconds(result[place]));
    }
  Medians medians;
  for (const auto& [key, values] : samples) medians[key] = tutti::perf::median(values);
  return medians;
}

void print_one(const Medians& a) {
  fmt::print("| size | type | op | place | us |\n|---|---|---|---|---|\n");
  for (const auto& [key, us] : a)
    fmt::print("| {} | {} | {} | {} | {:.2f} |\n", tutti::perf::size_label(key.bytes), key.type,
               key.op, key.place, us);
}

void print_two(const Medians& a, const Medians& b) {
  fmt::print("| size | type | op | place | A us | B us | A / B |\n|---|---|---|---|---|---|---|\n");
  std::vector<double> ratios;
  for (const auto& [key, us] : a) {
    const auto other = b.find(key);
    if (other == b.end()) continue;
    const double ratio = other->second > 0 ? us / other->second : 0;
    if (ratio > 0) ratios.push_back(ratio);
    fmt::print("| {} | {} | {} | {} | {:.2f} | {:.2f} | {:.2f} |\n",
               tutti::perf::size_label(key.bytes), key.type, key.op, key.place, us, other->second,
               ratio);
  }
  fmt::print("| geometric mean of {} points | | | | | | {:.2f} |\n", ratios.size(),
             tutti::perf::geometric_mean(ratios));
}

// "results.openmpi.ring" -> "ring"
std::string configuration_of(const std::string& file) {
  const size_t dot = file.rfind('.');
  return dot == std::string::npos ? "" : file.substr(dot + 1);
}

int report_lines(const std::vector<std::string>& files) {
  tutti::perf::RatioTable table;
  for (const std::string& file : files) {
    std::ifstream in(file);
    for (std::string text; std::getline(in, text);) {
      json line = json::parse(text, nullptr, false);
      if (line.is_object() && line.value("configuration", "").empty())
        line["configuration"] = configuration_of(file);
      if (line.is_discarded() || !table.add(line)) {
        std::fprintf(stderr, "tutti report: %s holds a line that is not a result\n", file.c_str());
        return 2;
      }
    }
  }
  for (uint32_t ranks : table.rank_counts())
    fmt::print("{}\n{}\n", table.medians_markdown(ranks), table.markdown(ranks, "Best peer"));
  return 0;
}

}  // namespace

int report_command(int argc, char** argv) {
  CLI::App app{"Prints result files (-J of the *_perf binaries) as Markdown, or compares two.",
               "tutti report"};
  std::vector<std::string> files;
  bool lines = false;
  app.add_flag("--lines", lines,
               "the files hold --json-lines results, named ANY.LIBRARY.CONFIGURATION");
  app.add_option("files", files, "A.json [B.json]")->required()->check(CLI::ExistingFile);
  CLI11_PARSE(app, argc, argv);
  if (lines) return report_lines(files);
  if (files.size() > 2) {
    std::fprintf(stderr, "tutti report: one or two files, not %zu\n", files.size());
    return 2;
  }
  std::vector<Medians> results;
  for (const std::string& file : files) {
    try {
      results.push_back(read_results(file));
    } catch (const json::exception& problem) {
      std::fprintf(stderr, "tutti report: %s is not a result file: %s\n", file.c_str(),
                   problem.what());
      return 2;
    }
  }
  if (results.size() == 1)
    print_one(results[0]);
  else
    print_two(results[0], results[1]);
  return 0;
}
