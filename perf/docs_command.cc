// Writes docs/algorithms.md and its drawings; what is in them comes from
// src/algorithms/handbook.cc.
#include "perf/docs_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "src/algorithms/handbook.h"

namespace {

bool write(const std::filesystem::path& path, const std::string& text) {
  std::error_code ignored;
  std::filesystem::create_directories(path.parent_path(), ignored);
  std::ofstream file(path, std::ios::binary);
  file << text;
  return file.flush().good();
}

}  // namespace

int docs_command(int argc, char** argv) {
  const std::filesystem::path folder = argc > 1 ? argv[1] : "docs";
  const auto files = tutti::handbook();
  if (!files.ok()) {
    fmt::print(stderr, "{}\n", files.status().to_string());
    return 1;
  }
  for (const tutti::HandbookFile& file : *files) {
    if (write(folder / file.path, file.text)) continue;
    fmt::print(stderr, "cannot write {}\n", (folder / file.path).string());
    return 1;
  }
  fmt::print("{} files written below {}\n", files->size(), folder.string());
  return 0;
}
